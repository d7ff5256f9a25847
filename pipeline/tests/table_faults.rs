//! What may become of a database while a table is written: connections ended, restarted, frozen, cut off, its disk full. Nothing is parked for
//! it, the books balance, and the table is right.

mod support;

use std::time::Duration;

use highwater::operators::postgres::{PoolConfig, Url};
use highwater::operators::testing::postgres::{Database, Proxy, Server};
use highwater::prelude::*;
use highwater::run::Control;
use support::Started;

/// A pipeline that is fed by the test and writes a table, through whatever comes in between.
struct Case {
    _folder: tempfile::TempDir,
    database: Database,
    feed: Option<Feed>,
    run: Option<Started>,
    control: Control,
    sent: i64,
}

impl Case {
    fn new(server: &Server, url: impl Fn(&Url) -> Url) -> Self {
        let database = server.database().unwrap();
        database.sql("create table t (id bigint primary key, times int not null, pad text)").unwrap();
        let (folder, (feed, source)) = (support::folder(), Channel::bounded(10_000));
        let url = url(database.url()).reveal().to_owned();
        let build = support::build(move |flow| {
            // A server that is frozen is given up soon.
            let pool =
                PoolConfig { connection_timeout: seconds(2), min_connections: 1, max_connections: 6, ..PoolConfig::default() };
            let table = PostgresTable::upsert(&url, "t").key(["id"]).pool(pool);
            flow.source(source.clone())
                .fan_out([action("table", table).batch_max(50).timeout(seconds(5)).backoff(millis(5), millis(100))])
                .checkpoint(Checkpoint::every(millis(5)));
            Ok(())
        });
        let control = Control::default();
        let run = support::start(&support::settings(folder.path().join("data"), 2), &build, control.clone());
        Case { _folder: folder, database, feed: Some(feed), run: Some(run), control, sent: 0 }
    }

    /// Sends so many changes, each of a new row and each of row 0.
    fn send(&mut self, changes: i64) {
        let feed = self.feed.as_ref().unwrap();
        for _ in 0..changes {
            self.sent += 1;
            let id = if self.sent % 3 == 0 { 0 } else { self.sent };
            let row = serde_json::json!({"id": id, "times": self.sent, "pad": "x".repeat(50)});
            let change = Change::builder(format!("c{}", self.sent)).key(id.to_string()).after(&row).build().unwrap();
            feed.try_send(change).unwrap();
        }
    }

    fn count(&self) -> i64 {
        self.database.one("select count(*) from t").map_or(0, |count| count.parse().unwrap())
    }

    /// All that was sent is in the table.
    fn arrives(&self) {
        let rows = self.sent - self.sent / 3 + i64::from(self.sent >= 3);
        support::until("all that was sent", || self.count() == rows);
    }

    /// Why the mark stands, in a sentence.
    fn why_says(&self, words: &str) {
        support::until(words, || self.control.why(Duration::from_secs(1)).is_some_and(|why| why.to_string().contains(words)));
    }

    /// Ends the run: the books balance, nothing is parked, the table is right.
    fn end(mut self) {
        self.arrives();
        self.feed = None;
        let report = self.run.take().unwrap().end().unwrap();
        let books = &report.actions["table"];
        assert_eq!((books.read, books.delivered, books.parked), (self.sent as u64, self.sent as u64, 0), "{books:?}");
        let last = self.database.one("select times from t where id = 0").unwrap();
        assert_eq!(last, (self.sent / 3 * 3).to_string(), "the last change of row 0");
        let wrong = "select count(*) from t where id <> 0 and times <> id";
        assert_eq!(self.database.one(wrong).unwrap(), "0", "rows that are not as their change says");
        assert_eq!(self.database.one("select count(*) from highwater_outcomes").unwrap(), "0");
    }
}

#[test]
fn every_connection_is_ended_in_turn() {
    let mut case = Case::new(Server::shared(), Url::clone);
    for _ in 0..8 {
        case.send(400);
        let ended = "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity
             where datname = current_database() and application_name like 'highwater%' order by backend_start limit 2) oldest";
        case.database.sql(ended).unwrap();
    }
    case.end();
}

#[test]
fn the_server_is_killed_restarted_and_frozen() {
    let server = Server::start().unwrap();
    let mut case = Case::new(&server, Url::clone);
    case.send(500);
    case.arrives();
    server.kill().unwrap();
    case.send(500);
    case.why_says("action table");
    server.start_again().unwrap();
    case.send(500);
    case.arrives();
    case.send(500);
    server.restart().unwrap();
    case.arrives();
    case.send(500);
    server.freeze().unwrap();
    case.send(500);
    case.why_says("action table");
    server.thaw().unwrap();
    case.end();
}

#[test]
fn the_line_is_cut_and_falls_silent() {
    let server = Server::shared();
    let proxy = Proxy::to_server(server).unwrap();
    let mut case = Case::new(server, |url| proxy.url(url));
    case.send(500);
    case.arrives();
    case.send(500);
    proxy.cut();
    case.send(500);
    case.why_says("action table");
    proxy.mend();
    case.arrives();
    case.send(500);
    proxy.silence();
    case.send(500);
    case.why_says("action table");
    proxy.mend();
    case.end();
}

/// Goal: a disk that is full is waited for, and named. Method: a trigger that says what the server says then.
#[test]
fn the_disk_is_full() {
    let mut case = Case::new(Server::shared(), Url::clone);
    case.send(100);
    case.arrives();
    let full = "create function full_disk() returns trigger language plpgsql as
         $$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
         create trigger full_disk before insert on t for each row execute function full_disk()";
    case.database.sql(full).unwrap();
    case.send(200);
    case.why_says("No space left on device (SQLSTATE 53100)");
    case.database.sql("drop trigger full_disk on t").unwrap();
    case.end();
}

/// Goal: who holds a share of the generation and does nothing any more is ended by the run that follows; its transaction leaves nothing.
#[test]
fn a_frozen_holder_of_the_generation_is_ended() {
    let server = Server::shared();
    let database = server.database().unwrap();
    database.sql("create table t (id bigint primary key)").unwrap();
    let (folder, url) = (support::folder(), database.url().clone());
    let input = folder.path().join("changes.jsonl");
    std::fs::write(&input, "{\"id\":\"1\",\"op\":\"insert\",\"after\":{\"id\":1}}\n").unwrap();
    let target = url.reveal().to_owned();
    let build = support::build(move |flow| {
        let table = PostgresTable::upsert(&target, "t").key(["id"]).fence_patience(millis(50));
        flow.source(JsonLines::file(&input)).fan_out([action("table", table)]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    let settings = support::settings(folder.path().join("data"), 1);
    support::run(&settings, &build).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let holder = runtime.block_on(highwater::operators::postgres::Connection::open(&url, "sink t")).unwrap();
    runtime.block_on(holder.batch_execute("begin; select 1 from highwater_fence for share; insert into t values (2)")).unwrap();
    support::run(&settings, &build).unwrap();
    let late = runtime.block_on(holder.batch_execute("commit")).unwrap_err();
    assert!(highwater::operators::postgres::is_away(&late), "{late}");
    assert_eq!(database.one("select count(*) from t").unwrap(), "1");
    assert_eq!(database.one("select generation from highwater_fence").unwrap(), "2");
}
