//! Private servers of Redis suffer, and connections to them notice and outlive it.

use std::time::{Duration, Instant};

use highwater_operators::ErrorKind;
use highwater_operators::redis::{BlockingConnection, Connection, Role, Url, inspect};
use highwater_operators::testing::redis::{Keeps, Server, Settings};
use redis::{Value, cmd, pipe};

/// A server that is asked with little patience.
fn hasty(url: &Url) -> Url {
    url.with_response_timeout(Duration::from_millis(400))
}

async fn set(redis: &Connection, key: &str, value: &str) -> highwater_operators::Result {
    redis.query("setting a key", cmd("SET").arg(key).arg(value)).await
}

async fn get(redis: &Connection, key: &str) -> highwater_operators::Result<Option<String>> {
    redis.query("reading a key", cmd("GET").arg(key)).await
}

/// Asks until it is answered: what whoever uses a connection does.
async fn in_the_end(redis: &Connection, key: &str) -> Option<String> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match get(redis, key).await {
            Ok(value) => return value,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                assert!(Instant::now() < end, "not within 30 s: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_connection_comes_back_after_its_server_was_killed() {
    let server = Settings::default().keeps(Keeps::All).start().unwrap();
    let redis = Connection::open(&server.url(), "tests").await.unwrap();
    set(&redis, "a", "1").await.unwrap();
    let first = redis.line().await.unwrap().number();
    server.kill().unwrap();
    let error = get(&redis, "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    server.start_again().unwrap();
    assert_eq!(in_the_end(&redis, "a").await.as_deref(), Some("1"), "the log brings it back");
    assert!(redis.line().await.unwrap().number() > first);
}

#[tokio::test]
async fn without_a_log_it_starts_again_empty() {
    let server = Server::start().unwrap();
    let redis = Connection::open(&server.url(), "tests").await.unwrap();
    set(&redis, "a", "1").await.unwrap();
    let before = inspect(&redis.line().await.unwrap()).await.unwrap();
    server.kill().unwrap();
    server.start_again().unwrap();
    assert_eq!(in_the_end(&redis, "a").await, None);
    let after = inspect(&redis.line().await.unwrap()).await.unwrap();
    assert_ne!(before.run_id, after.run_id);
}

#[tokio::test]
async fn a_frozen_server_is_noticed_and_outlived() {
    let server = Server::start().unwrap();
    let redis = Connection::open(&hasty(&server.url()), "tests").await.unwrap();
    let mut own = BlockingConnection::open(&hasty(&server.url()), "tests").await.unwrap();
    server.freeze().unwrap();
    let began = Instant::now();
    let error = get(&redis, "a").await.unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
    let blocked = cmd("BLPOP").arg("list").arg(0.2).to_owned();
    let error = own.query::<Value>("waiting", &blocked, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    server.thaw().unwrap();
    assert_eq!(in_the_end(&redis, "a").await, None);
    assert_eq!(own.query::<Value>("waiting", &blocked, Duration::from_millis(200)).await.unwrap(), Value::Nil);
}

#[tokio::test]
async fn a_wait_at_the_server_is_no_silence() {
    let server = Server::start().unwrap();
    let mut own = BlockingConnection::open(&hasty(&server.url()), "tests").await.unwrap();
    let wait = Duration::from_millis(1200);
    let nothing: Value = own.query("waiting", cmd("BLPOP").arg("list").arg(1.2), wait).await.unwrap();
    assert_eq!(nothing, Value::Nil);
    assert_eq!(own.line().await.unwrap().number(), 1);
}

#[tokio::test]
async fn many_callers_share_one_connection_and_its_loss() {
    let server = Server::start().unwrap();
    let redis = Connection::open(&hasty(&server.url()), "tests").await.unwrap();
    let asking = |n: usize| {
        let redis = redis.clone();
        tokio::spawn(async move {
            set(&redis, &format!("k{n}"), "v").await?;
            get(&redis, &format!("k{n}")).await
        })
    };
    for call in (0..200).map(asking).collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().as_deref(), Some("v"));
    }
    assert_eq!(redis.line().await.unwrap().number(), 1);
    server.stop().unwrap();
    let began = Instant::now();
    for call in (0..200).map(asking).collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Retry);
    }
    // They share attempts too: one after the other would take minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_pipeline_answers_each_command() {
    let server = Server::start().unwrap();
    let redis = Connection::open(&server.url(), "tests").await.unwrap();
    let mut commands = pipe();
    commands.cmd("SET").arg("a").arg("x").cmd("INCR").arg("a").cmd("LPUSH").arg("a").arg(1).cmd("GET").arg("a");
    let line = redis.line().await.unwrap();
    let answers = line.pipeline("trying", &commands).await.unwrap();
    assert_eq!(answers.len(), 4);
    let mut answers = answers.into_iter();
    line.answer::<()>("setting", answers.next().unwrap()).unwrap();
    let error = line.answer::<i64>("counting", answers.next().unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("not an integer"), "{error}");
    let error = line.answer::<i64>("pushing", answers.next().unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("WRONGTYPE"), "{error}");
    assert_eq!(line.answer::<String>("reading", answers.next().unwrap()).unwrap(), "x");
}

#[tokio::test]
async fn tls_checks_who_answers() {
    let server = Settings::default().tls().password("secret").start().unwrap();
    let redis = Connection::open(&server.url(), "tests").await.unwrap();
    set(&redis, "a", "1").await.unwrap();
    assert_eq!(get(&redis, "a").await.unwrap().as_deref(), Some("1"));
    // Another name than the certificate's, and an authority that is not known.
    let other_name = server.url().at("127.0.0.1", server.port());
    let unknown = Url::parse(&format!("rediss://:secret@localhost:{}/0", server.port())).unwrap();
    for url in [other_name, unknown] {
        let error = Connection::open(&url, "tests").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stop, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    // Plain words to a port for TLS.
    let plain = Url::parse(&format!("redis://:secret@localhost:{}/0", server.port())).unwrap();
    let error = Connection::open(&plain, "tests").await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_login_that_is_refused_says_what_to_do() {
    let server = Settings::default().password("right").user("ada on >lovelace ~orders:* +get +ping").start().unwrap();
    let place = format!("127.0.0.1:{}", server.port());
    for (login, said) in [(":wrong@", "user or password is wrong"), ("ada:wrong@", "user or password is wrong")] {
        let url = Url::parse(&format!("redis://{login}{place}")).unwrap();
        let error = Connection::open(&url, "tests").await.unwrap_err();
        assert!(error.kind() == ErrorKind::Stop && error.to_string().contains(said), "{error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
    let none = Connection::new(&Url::parse(&format!("redis://{place}")).unwrap(), "tests");
    let error = get(&none, "a").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("it wants a login"), "{error}");
    let ada = Connection::open(&server.url_of("ada", "lovelace"), "tests").await.unwrap();
    assert_eq!(get(&ada, "orders:1").await.unwrap(), None);
    for error in [get(&ada, "other").await.unwrap_err(), set(&ada, "orders:1", "x").await.unwrap_err()] {
        assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("NOPERM"), "{error}");
    }
    let needless = Server::start().unwrap();
    let url = Url::parse(&format!("redis://:secret@127.0.0.1:{}", needless.port())).unwrap();
    let error = Connection::open(&url, "tests").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("the server wants none"), "{error}");
}

#[tokio::test]
async fn a_password_that_is_rotated_is_picked_up() {
    let server = Settings::default().password("one").start().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    let url = format!("redis://127.0.0.1:{}/0?passfile={}", server.port(), file.path().display());
    let redis = Connection::open(&Url::parse(&url).unwrap(), "tests").await.unwrap();
    set(&redis, "a", "1").await.unwrap();
    server.ask(&["ACL", "SETUSER", "default", "resetpass", ">two"]).unwrap();
    std::fs::write(file.path(), "two\n").unwrap();
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    assert_eq!(in_the_end(&redis, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_replica_refuses_writes_and_is_asked_for_anew() {
    let primary = Server::start().unwrap();
    let replica = Settings::default().replica_of(&primary).start().unwrap();
    let redis = Connection::open(&replica.url(), "tests").await.unwrap();
    let first = redis.line().await.unwrap();
    assert_eq!(inspect(&first).await.unwrap().role, Role::Replica);
    let error = set(&redis, "a", "1").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && error.to_string().contains("READONLY"), "{error}");
    replica.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    set(&redis, "a", "1").await.unwrap();
    assert!(redis.line().await.unwrap().number() > first.number(), "another connection, for the name may lead elsewhere");
}

#[tokio::test]
async fn what_weakens_a_server_is_found() {
    let server = Settings::default().set("maxmemory", "10mb").set("maxmemory-policy", "allkeys-lru").start().unwrap();
    let found = inspect(&Connection::new(&server.url(), "tests").line().await.unwrap()).await.unwrap();
    assert!(found.evicts() && found.forgets() && found.role == Role::Primary && found.maxmemory == 10 << 20, "{found:?}");
    let weak = found.weaknesses("the seen-set");
    assert!(weak.iter().any(|text| text.contains("maxmemory-policy allkeys-lru")), "{weak:?}");
    assert!(weak.iter().any(|text| text.contains("appendonly")), "{weak:?}");
    let kept = Settings::default().keeps(Keeps::All).start().unwrap();
    let found = inspect(&Connection::new(&kept.url(), "tests").line().await.unwrap()).await.unwrap();
    assert!(found.weaknesses("the seen-set").is_empty() && found.appendfsync.as_deref() == Some("always"), "{found:?}");
}

#[tokio::test]
async fn a_full_server_is_to_be_waited_for() {
    let server = Settings::default().set("maxmemory", "3mb").start().unwrap();
    let redis = Connection::open(&server.url(), "tests").await.unwrap();
    let big = "x".repeat(1 << 20);
    let error = loop {
        if let Err(error) = set(&redis, &rand::random::<u64>().to_string(), &big).await {
            break error;
        }
    };
    assert!(error.kind() == ErrorKind::Retry && error.to_string().contains("maxmemory"), "{error}");
}

#[tokio::test]
async fn a_socket_and_a_cut_line() {
    let server = Server::start().unwrap();
    let socket = Url::parse(&format!("unix://{}", server.socket().display())).unwrap();
    let redis = Connection::open(&socket, "tests").await.unwrap();
    set(&redis, "a", "1").await.unwrap();
    let proxy = server.proxy().unwrap();
    let far = Connection::open(&hasty(&server.url_by(&proxy)), "tests").await.unwrap();
    assert_eq!(get(&far, "a").await.unwrap().as_deref(), Some("1"));
    proxy.cut();
    assert_eq!(get(&far, "a").await.unwrap_err().kind(), ErrorKind::Retry);
    proxy.mend();
    assert_eq!(in_the_end(&far, "a").await.as_deref(), Some("1"));
    proxy.silence();
    assert_eq!(get(&far, "a").await.unwrap_err().kind(), ErrorKind::Retry);
    proxy.mend();
    assert_eq!(in_the_end(&far, "a").await.as_deref(), Some("1"));
}
