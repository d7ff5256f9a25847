//! Private servers start, suffer and go.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use highwater_operators::postgres::{Connection, Pool, PoolConfig};
use highwater_operators::testing::postgres::{Proxy, Server, Settings};

/// Looks until it is so; fails after a while.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_server_starts_and_each_test_has_a_database() {
    let (one, two) = (Server::shared().database().unwrap(), Server::shared().database().unwrap());
    one.sql("create table item(id int); insert into item values (7)").unwrap();
    assert_eq!(one.one("select id from item").unwrap(), "7");
    assert_eq!(two.one("select count(*) from pg_class where relname = 'item'").unwrap(), "0");
    assert_eq!(one.one("show wal_level").unwrap(), "logical");
    let pool = Pool::new(one.url(), PoolConfig::default(), "tests").unwrap();
    assert_eq!(pool.get().await.unwrap().query_one("select id from item", &[]).await.unwrap().get::<_, i32>(0), 7);
}

#[test]
fn what_was_committed_outlives_a_kill_and_a_stop() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table item(id int); insert into item values (1)").unwrap();
    server.kill().unwrap();
    assert!(database.sql("select 1").is_err());
    server.start_again().unwrap();
    database.sql("insert into item values (2)").unwrap();
    server.stop().unwrap();
    assert!(database.sql("select 1").is_err());
    server.start_again().unwrap();
    assert_eq!(database.one("select array_agg(id order by id) from item").unwrap(), "{1,2}");
}

#[tokio::test]
async fn a_frozen_server_answers_nothing_until_it_is_thawed() {
    let server = Settings::default().fast().start().unwrap();
    let connection = Connection::open(&server.url("postgres").unwrap(), "tests").await.unwrap();
    server.freeze().unwrap();
    let mut asked = std::pin::pin!(connection.simple_query("select 1"));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err());
    server.thaw().unwrap();
    asked.await.unwrap();
}

#[tokio::test]
async fn a_line_can_be_slowed_silenced_and_cut() {
    let database = Server::shared().database().unwrap();
    let proxy = Proxy::to_server(Server::shared()).unwrap();
    let url = proxy.url(database.url());
    let connection = Connection::open(&url, "tests").await.unwrap();
    proxy.delay(Duration::from_millis(60));
    let began = Instant::now();
    connection.simple_query("select 1").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(120), "there and back: {:?}", began.elapsed());
    proxy.delay(Duration::ZERO);
    proxy.silence();
    {
        let mut asked = std::pin::pin!(connection.simple_query("select 1"));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut asked).await.is_err());
        proxy.mend();
        asked.await.unwrap();
    }
    proxy.cut();
    connection.simple_query("select 1").await.unwrap_err();
    Connection::open(&url, "tests").await.unwrap_err();
    proxy.mend();
    Connection::open(&url, "tests").await.unwrap();
}

/// Not a test of its own: what the next one starts, to be killed.
const VICTIM: &str = "HIGHWATER_TEST_VICTIM";

#[test]
fn a_server_goes_with_its_process_even_frozen_and_even_by_kill_9() {
    if std::env::var_os(VICTIM).is_some() {
        let server = Server::start().unwrap();
        println!("\n{VICTIM} {} {}", server.pid().unwrap(), server.socket_folder().display());
        server.freeze().unwrap();
        println!("\n{VICTIM} frozen");
        loop {
            std::thread::park();
        }
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_goes_with_its_process_even_frozen_and_even_by_kill_9", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said =
        BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok).filter(|line| line.starts_with(VICTIM));
    let line = said.next().expect("it says where its server is");
    let mut words = line.split(' ').skip(1);
    let pid: u32 = words.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(words.next().unwrap());
    assert!(folder.join("data").is_dir());
    said.next().expect("it says that its server is frozen");
    victim.kill().unwrap();
    victim.wait().unwrap();
    until("the server's folder is removed", || !folder.exists());
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!line.contains(folder.to_str().unwrap()), "process {pid} lives on: {line}");
}
