//! Pools and connections: settings, logins, TLS, and what each error means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::postgres::{Connection, Pool, PoolConfig, Url, failed, is_away};
use highwater_operators::testing::postgres::{Database, Proxy, Server, Settings};
use highwater_operators::{Error, ErrorKind, pools};
use parking_lot::Mutex;

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

fn config(min_connections: usize, max_connections: usize) -> PoolConfig {
    PoolConfig { min_connections, max_connections, connection_timeout: seconds(5.0), idle_timeout: seconds(60.0) }
}

/// Looks until it is so; fails after a while.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + seconds(20.0);
    while !so() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn ping(pool: &Pool) -> Result<(), Error> {
    pool.get().await?.simple_query("select 1").await.map(drop).map_err(|error| failed("asking", error))
}

#[tokio::test]
async fn enough_are_kept_ready_and_what_rests_too_long_is_closed() {
    let database = Server::shared().database().unwrap();
    let pool = Pool::new(database.url(), PoolConfig { idle_timeout: seconds(0.3), ..config(2, 6) }, "ready").unwrap();
    assert_eq!(pool.status().opened, 0, "nothing is opened before it is needed");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(pool.get().await.unwrap());
    }
    assert_eq!(pool.status().active, 5);
    assert!((pool.status().utilisation() - 5.0 / 6.0).abs() < 1e-9);
    let shown =
        "select count(*) from pg_stat_activity where application_name = 'highwater ready' and datname = current_database()";
    assert!(database.one(shown).unwrap().parse::<u32>().unwrap() >= 5);
    drop(held);
    until("two are left", || (pool.status().idle, pool.status().active) == (2, 0)).await;
    until("the server sees two", || database.one(shown).unwrap() == "2").await;
    assert_eq!(pools::all()["ready"].idle, 2);
    drop(pool);
    until("they go with the pool", || database.one(shown).unwrap() == "0").await;
}

#[tokio::test]
async fn who_finds_none_free_waits_no_longer_than_was_said() {
    let database = Server::shared().database().unwrap();
    let pool = Pool::new(database.url(), PoolConfig { connection_timeout: seconds(2.0), ..config(0, 1) }, "narrow").unwrap();
    let held = pool.get().await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { ping(&pool).await }
    });
    until("one waits", || pool.status().waiting == 1).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("for narrow") && error.to_string().contains("max_connections"), "{error}");
    pool.resize(2);
    ping(&pool).await.unwrap();
    let second = pool.get().await.unwrap();
    pool.resize(1);
    drop((held, second));
    assert_eq!((pool.status().idle, pool.status().max_connections), (1, 1));
}

/// Sends a signal to one process of the server.
fn signal(name: &str, pid: i32) {
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn a_connection_that_rested_is_asked_before_it_is_given_out() {
    let database = Server::shared().database().unwrap();
    let pool = Pool::new(database.url(), config(0, 2), "rested").unwrap();
    let pid =
        async |pool: &Pool| -> i32 { pool.get().await.unwrap().query_one("select pg_backend_pid()", &[]).await.unwrap().get(0) };
    let first = pid(&pool).await;
    assert_eq!(pid(&pool).await, first, "it is used again");
    // Its own process alone is frozen: the line is whole, and nobody answers.
    signal("STOP", first);
    tokio::time::sleep(seconds(1.1)).await;
    let began = Instant::now();
    let second = pid(&pool).await;
    signal("CONT", first);
    assert_ne!(second, first);
    assert!(began.elapsed() < seconds(5.0), "{:?}", began.elapsed());
    assert_eq!((pool.status().opened, pool.status().idle), (2, 1));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let url = Url::parse("postgres://h/d").unwrap();
    for bad in [config(3, 2), config(0, 0), PoolConfig { connection_timeout: Duration::ZERO, ..config(0, 1) }] {
        assert_eq!(Pool::new(&url, bad, "x").unwrap_err().kind(), ErrorKind::Stop);
    }
}

#[tokio::test]
async fn passwords_by_scram_over_tls_and_what_each_mode_checks() {
    let server = Server::shared();
    let database = server.database().unwrap();
    let root = server.root_certificate().unwrap();
    let root = root.display();
    let (user, password) = ("ada_tls", "p@ss/w%rd:'1");
    server.user(user, password).unwrap();
    let used = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";
    for (parameters, tls) in [
        ("sslmode=disable".to_owned(), "false"),
        (String::new(), "true"),
        ("sslmode=require".to_owned(), "true"),
        (format!("sslmode=verify-ca&sslrootcert={root}"), "true"),
        (format!("sslmode=verify-full&sslrootcert={root}"), "true"),
    ] {
        let url = database.url_of(user, password, &parameters).unwrap();
        let connection = Connection::open(&url, "tests").await.unwrap_or_else(|error| panic!("{parameters}: {error}"));
        assert_eq!(connection.query_one(used, &[]).await.unwrap().get::<_, &str>(0), tls, "{parameters}");
    }
    // The machine's own certificates know nothing of the server's.
    for refused in ["sslmode=verify-full", "sslmode=verify-ca"] {
        let url = database.url_of(user, password, refused).unwrap();
        let error = Connection::open(&url, "tests").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stop, "{error}");
        assert!(error.to_string().contains("sslrootcert"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_taken_by_verify_ca_alone() {
    let server = Server::shared();
    let database = server.database().unwrap();
    let root = server.root_certificate().unwrap();
    // The certificate is for `localhost`; the address is the same place by another name.
    let open = async |mode: &str| {
        let url = Url::parse(&format!(
            "postgres://postgres@127.0.0.1:{}/{}?sslmode={mode}&sslrootcert={}",
            server.port(),
            database.name(),
            root.display()
        ));
        Connection::open(&url.unwrap(), "tests").await
    };
    open("verify-ca").await.unwrap();
    open("require").await.unwrap();
    let error = open("verify-full").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop, "{error}");
}

#[tokio::test]
async fn a_rotated_password_is_picked_up_without_a_restart() {
    let server = Server::shared();
    let database = server.database().unwrap();
    server.user("grace", "one").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(&file, "*:*:*:grace:one").unwrap();
    let by_file =
        Url::parse(&format!("postgres://grace@localhost:{}/{}?passfile={}", server.port(), database.name(), file.display()))
            .unwrap();
    let password = Arc::new(Mutex::new("one".to_owned()));
    let asked = password.clone();
    let by_function = database.url_of("grace", "never used", "").unwrap().with_password(move || Ok(asked.lock().clone()));
    let pools = [&by_file, &by_function].map(|url| Pool::new(url, config(0, 2), "rotation").unwrap());
    for pool in &pools {
        ping(pool).await.unwrap();
    }
    server.user("grace", "two").unwrap();
    database.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'grace'").unwrap();
    // The server knows the new password before its clients do: they go on asking.
    let waiting = pools.clone().map(|pool| {
        tokio::spawn(async move {
            // A connection that was in use a moment ago may be found lost only as it is used.
            while let Err(error) = ping(&pool).await {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
            }
        })
    });
    for pool in &pools {
        until("the old password was refused", || pool.status().errors > 0).await;
    }
    std::fs::write(&file, "*:*:*:grace:two").unwrap();
    *password.lock() = "two".to_owned();
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_that_cannot_change_stops_at_once_and_is_not_shown() {
    let server = Server::shared();
    let database = server.database().unwrap();
    server.user("linus", "right").unwrap();
    let url = database.url_of("linus", "Wr0ng", "").unwrap();
    let pool = Pool::new(&url, PoolConfig { connection_timeout: seconds(60.0), ..config(1, 2) }, "tests").unwrap();
    let error = tokio::time::timeout(seconds(20.0), pool.get()).await.expect("no waiting for what will not change").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop);
    for shown in [format!("{error} {error:?} {pool:?} {url:?} {url}"), server.log()] {
        assert!(!shown.contains("Wr0ng"), "{shown}");
    }
    assert!(error.to_string().contains("28P01") && error.to_string().contains("PGPASSWORD"), "{error}");
}

/// What a statement's error is taken for.
async fn taken_for(connection: &Connection, sql: &str) -> (ErrorKind, bool, String) {
    let error = connection.batch_execute(sql).await.unwrap_err();
    let away = is_away(&error);
    let error = failed("writing to item", error);
    (error.kind(), away, error.to_string())
}

#[tokio::test]
async fn errors_of_a_real_server_are_of_the_right_kind() {
    use ErrorKind::{Park, Retry, Stop};
    let server = Server::shared();
    let database = server.database().unwrap();
    database
        .sql("create table item(id int primary key check (id > 0), name varchar(3)); insert into item values (1, 'a')")
        .unwrap();
    database.sql("create view seen as select * from item where id < 10 with check option").unwrap();
    server.user("reader", "r").unwrap();
    let connection = Connection::open(database.url(), "tests").await.unwrap();
    let fail = |code: &str| format!("do $$ begin raise exception 'made' using errcode = '{code}'; end $$");
    for (sql, kind, away, says) in [
        ("insert into item values (1)", Park, false, "already exists"),
        ("insert into item values (0)", Park, false, "check constraint"),
        ("insert into item values (null)", Park, false, "not-null"),
        ("insert into item values (2, 'long')", Park, false, "too long"),
        ("insert into seen values (20)", Park, false, "view"),
        ("select 'x'::int", Park, false, "invalid input"),
        ("select 1 / 0", Park, false, "division"),
        ("do $$ begin raise exception 'not on Sundays'; end $$", Park, false, "not on Sundays"),
        ("select * from nothing", Stop, false, "create the table"),
        ("select nothing from item", Stop, false, "add the column"),
        ("selct", Stop, false, "syntax"),
        ("set role reader; insert into item values (3)", Stop, false, "grant the privilege"),
        (&fail("40001"), Retry, false, "made"),
        (&fail("40P01"), Retry, false, "made"),
        (&fail("55P03"), Retry, false, "lock"),
        (&fail("53100"), Retry, false, "make room"),
        (&fail("53300"), Retry, true, "max_connections"),
        (&fail("57P01"), Retry, true, "made"),
        (&fail("57P03"), Retry, true, "made"),
        ("set role postgres; select pg_terminate_backend(pg_backend_pid())", Retry, true, "57P01"),
        ("select 1", Retry, true, "closed"),
    ] {
        let (found, found_away, text) = taken_for(&connection, sql).await;
        assert_eq!((found, found_away), (kind, away), "{sql}: {text}");
        assert!(text.starts_with("writing to item: ") && text.contains(says), "{sql}: {text}");
    }
    let gone = Connection::open(&server.url("no_such_database").unwrap(), "tests").await.unwrap_err();
    assert_eq!(gone.kind(), Stop, "{gone}");
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_asked_again() {
    let server =
        Settings::default().fast().set("max_connections", "8").set("max_wal_senders", "0").set("max_replication_slots", "0");
    let server = server.set("superuser_reserved_connections", "2").start().unwrap();
    server.user("many", "m").unwrap();
    let database = server.database().unwrap();
    let url = database.url_of("many", "m", "sslmode=disable").unwrap();
    let greedy = Pool::new(&url, config(0, 6), "greedy").unwrap();
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(greedy.get().await.unwrap());
    }
    let late = Pool::new(&url, config(0, 6), "late").unwrap();
    let waiting = tokio::spawn({
        let late = late.clone();
        async move { ping(&late).await }
    });
    until("the server has refused", || late.status().errors > 0).await;
    assert!(late.status().away);
    drop((held, greedy));
    waiting.await.unwrap().unwrap();
    assert!(!late.status().away);
}

#[tokio::test]
async fn a_silent_statement_may_take_its_time_while_the_server_answers() {
    let database = Server::shared().database().unwrap();
    let patient = PoolConfig { connection_timeout: seconds(0.4), ..config(0, 2) };
    let pool = Pool::new(database.url(), patient, "tests").unwrap();
    pool.get().await.unwrap().simple_query("select pg_sleep(2)").await.unwrap();
    assert_eq!(pool.status().opened, 1);
}

#[tokio::test]
async fn notifications_come_and_end_with_their_connection() {
    let database: Database = Server::shared().database().unwrap();
    let proxy = Proxy::to_server(Server::shared()).unwrap();
    let mut listener = Connection::open(&proxy.url(database.url()), "listening").await.unwrap();
    listener.batch_execute("listen c").await.unwrap();
    database.sql("notify c, 'x'").unwrap();
    assert_eq!(listener.notified().await.unwrap().payload(), "x");
    let pid = listener.backend_pid();
    assert_eq!(
        database.one(&format!("select application_name from pg_stat_activity where pid = {pid}")).unwrap(),
        "highwater listening"
    );
    proxy.cut();
    assert_eq!(listener.notified().await.unwrap_err().kind(), ErrorKind::Retry);
}
