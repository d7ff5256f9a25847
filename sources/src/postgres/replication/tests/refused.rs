//! What is refused, each with what was found, what was expected and what one can do.

use highwater_operators::testing::postgres::{Database, Server, Settings};

use super::super::*;
use super::support::{Reading, orders, slot};

/// A slot that was read to some place, which is durable.
fn begun(database: &Database) -> (PostgresReplication, ResumeToken) {
    let source = slot(database).tables(["orders"]);
    let mut reading = Reading::start(&source, None).unwrap();
    reading.saves = true;
    database.sql("insert into orders values (1, 'a', 1)").unwrap();
    reading.until("a row is read", |found| !found.changes.is_empty());
    reading.until_idle();
    let token = reading.found.token.clone().unwrap();
    reading.end();
    database.released();
    (source, token)
}

/// What is said when it begins there.
fn said(source: &PostgresReplication, from: Option<&ResumeToken>) -> String {
    match Reading::start(source, from) {
        Err(error) => error.to_string(),
        Ok(mut reading) => reading.error(),
    }
}

fn check(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
}

/// Waits until nobody holds the slot.
trait Released {
    fn released(&self);
}

impl Released for Database {
    fn released(&self) {
        let began = std::time::Instant::now();
        while self.one("select count(*) from pg_replication_slots where active and slot_type = 'logical' and database = current_database()").unwrap() != "0" {
            assert!(began.elapsed() < super::support::DEADLINE, "the slot is held");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_slot_that_is_missing_made_anew_or_moved_ahead() {
    let database = orders();
    let (source, token) = begun(&database);
    let name = format!("slot_{}", database.name());
    database.sql("insert into orders values (2, 'b', 2)").unwrap();
    database.sql(&format!("select pg_replication_slot_advance('{name}', pg_current_wal_lsn())")).unwrap();
    check(&said(&source, Some(&token)), &["was moved ahead: it is confirmed up to", "the checkpoint is at", "resnapshot"]);
    database.sql(&format!("select pg_drop_replication_slot('{name}')")).unwrap();
    check(&said(&source, Some(&token)), &["there is no such slot", "resnapshot"]);
    database.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')")).unwrap();
    check(&said(&source, Some(&token)), &["was moved ahead", "made anew"]);
}

#[test]
fn a_slot_of_another_kind() {
    let database = orders();
    let name = format!("other_{}", database.name());
    let source = || PostgresReplication::at(database.url(), &name).tables(["orders"]);
    database.sql(&format!("select pg_create_physical_replication_slot('{name}')")).unwrap();
    check(&said(&source(), None), &["is physical, and must be logical"]);
    database
        .sql(&format!(
            "select pg_drop_replication_slot('{name}'); select pg_create_logical_replication_slot('{name}', 'test_decoding')"
        ))
        .unwrap();
    check(&said(&source(), None), &["has the plugin test_decoding, and must have pgoutput"]);
    let elsewhere = Server::shared().database().unwrap();
    elsewhere.sql("create table orders(id int primary key)").unwrap();
    database
        .sql(&format!(
            "select pg_drop_replication_slot('{name}'); select pg_create_logical_replication_slot('{name}', 'pgoutput')"
        ))
        .unwrap();
    check(&said(&PostgresReplication::at(elsewhere.url(), &name).tables(["orders"]), None), &["is of the database number"]);
    check(&said(&PostgresReplication::at(database.url(), "No Name"), None), &["is no name of a slot"]);
}

#[test]
fn a_publication_that_is_missing_or_changed() {
    let database = orders();
    check(&said(&slot(&database), None), &["there is no publication", "create publication", ".tables(..)"]);
    let (source, token) = begun(&database);
    let name = format!("slot_{}", database.name());
    database.sql(&format!("alter publication {name} set (publish = 'insert')")).unwrap();
    check(&said(&source, Some(&token)), &["publishes something else", "now: insert, via root", "resnapshot"]);
    database.sql(&format!("alter publication {name} set (publish = 'insert, update, delete, truncate')")).unwrap();
    database.sql(&format!("alter publication {name} drop table orders")).unwrap();
    let by_name = slot(&database).publication(&name);
    check(&said(&by_name, Some(&token)), &["has read public.orders", "does not have any more"]);
    database.sql(&format!("drop publication {name}")).unwrap();
    check(&said(&source, Some(&token)), &["there is no publication", "it was dropped", "resnapshot"]);
}

#[test]
fn a_publication_that_is_changed_while_it_is_read() {
    let database = orders();
    let source = slot(&database).tables(["orders"]);
    let mut reading = Reading::start(&source, None).unwrap();
    reading.until_idle();
    database.sql(&format!("alter publication slot_{} set (publish = 'insert')", database.name())).unwrap();
    check(&reading.error(), &["publishes something else"]);
}

#[test]
fn tables_that_cannot_be_read() {
    let database = orders();
    database
        .sql("create table bare(a int); create unlogged table loose(a int primary key); create view seen as select 1 as a")
        .unwrap();
    for (table, parts) in [
        ("nothing", &["there is no table", "mend the name"][..]),
        ("bare", &["has no replica identity", "replica identity full"]),
        ("loose", &["it is unlogged", "set logged"]),
        ("seen", &["it is no table"]),
    ] {
        check(&said(&slot(&database).tables([table]), None), parts);
    }
    database.sql("alter table bare replica identity full").unwrap();
    check(&said(&slot(&database).tables(["bare"]), None), &["without_snapshot"]);
    let mut reading = Reading::start(&slot(&database).tables(["bare"]).without_snapshot("bare"), None).unwrap();
    reading.until_idle();
    database.sql("insert into bare values (1); update bare set a = 2; delete from bare").unwrap();
    reading.until("changes are read", |found| found.changes.len() == 3);
    let changes = &reading.found.changes;
    assert!(changes.iter().all(|change| change.key() == change.id()), "without a key the id is the key");
    assert_eq!(changes[1].before().raw_json(), Some("{\"a\":1}"));
}

#[test]
fn another_server_or_history() {
    let database = orders();
    let (source, token) = begun(&database);
    let mut place = token::read(&token.detail).unwrap();
    let with = |place: &token::Place| ResumeToken {
        order: token.order,
        detail: token::write(place, &token::write_tables(&place.tables)),
    };
    place.identity.timeline += 1;
    check(&said(&source, Some(&with(&place))), &["on timeline 2, and the server is on timeline 1", ".after_failover(1)"]);
    Reading::start(&source.clone().after_failover(1), Some(&with(&place))).unwrap().until_idle();
    place.identity.system += 1;
    check(&said(&source, Some(&with(&place))), &["another log", "this is the server"]);
    let broken = ResumeToken { order: 1, detail: b"\x07".as_slice().into() };
    check(&said(&source, Some(&broken)), &["none of a slot"]);
}

#[test]
fn a_server_that_cannot_do_it_and_a_user_who_may_not() {
    let server = Settings::default().set("wal_level", "replica").fast().start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table orders(id int primary key)").unwrap();
    check(&said(&slot(&database).tables(["orders"]), None), &["wal_level = replica", "alter system"]);
    let database = orders();
    Server::shared().user("reader", "x").unwrap();
    let url = database.url_of("reader", "x", "sslmode=disable").unwrap();
    check(
        &said(&PostgresReplication::at(&url, "s").tables(["orders"]), None),
        &["may not read by replication", "alter role reader replication"],
    );
    Server::shared().sql("alter role reader replication").unwrap();
    let name = format!("of_reader_{}", database.name());
    check(
        &said(&PostgresReplication::at(&url, &name).tables(["orders"]), None),
        &["create publication", "somebody who owns the tables"],
    );
}

#[test]
fn a_slot_whose_log_is_gone() {
    let server = Settings::default()
        .set("max_slot_wal_keep_size", "1MB")
        .set("max_wal_size", "32MB")
        .set("min_wal_size", "32MB")
        .fast()
        .start()
        .unwrap();
    let database = server.database().unwrap();
    database.sql("create table orders(id bigint primary key, status text, amount numeric)").unwrap();
    let (source, token) = begun(&database);
    for _ in 0..4 {
        database.sql("select pg_switch_wal(); create table filler as select n from generate_series(1, 1000) n; drop table filler; checkpoint").unwrap();
    }
    check(&said(&source, Some(&token)), &["is lost", "max_slot_wal_keep_size", "resnapshot"]);
}

#[test]
fn a_slot_that_somebody_else_holds_is_waited_for() {
    let database = orders();
    let (source, token) = begun(&database);
    let mut first = Reading::start(&source, Some(&token)).unwrap();
    first.until_idle();
    let mut second = Reading::start(&source, Some(&token)).unwrap();
    database.sql("insert into orders values (7, 'x', 1)").unwrap();
    // What is there can be read beside the first; then it waits for the slot.
    second.until("what is there is read", |found| !found.changes.is_empty());
    second.nothing_comes();
    first.end();
    second.until_idle();
}

#[test]
fn a_server_that_is_killed_and_comes_back_is_read_on() {
    let server = Settings::default().start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table orders(id bigint primary key, status text, amount numeric)").unwrap();
    let (source, token) = begun(&database);
    let mut reading = Reading::start(&source, Some(&token)).unwrap();
    reading.saves = true;
    reading.until_idle();
    for n in 0..2 {
        database.sql(&format!("insert into orders values (10 + {n}, 'x', 1)")).unwrap();
        server.kill().unwrap();
        server.start_again().unwrap();
        database.sql(&format!("insert into orders values (20 + {n}, 'x', 1)")).unwrap();
        reading.until("both are read", |found| found.changes.len() == 2 * (n + 1));
    }
    let keys: Vec<&str> = reading.found.changes.iter().map(highwater_operators::Change::key).collect();
    assert_eq!(keys, ["10", "20", "11", "21"]);
}

#[test]
fn an_idle_slot_moves_to_what_is_durable_and_no_further() {
    let database = orders();
    let source = slot(&database).tables(["orders"]).heartbeat(std::time::Duration::from_millis(20));
    let mut reading = Reading::start(&source, None).unwrap();
    reading.until_idle();
    let confirmed = || {
        database
            .one(&format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'slot_{}'", database.name()))
            .unwrap()
    };
    let before: lsn::Lsn = confirmed().parse().unwrap();
    database.sql("create table other as select n from generate_series(1, 5000) n").unwrap();
    let written: lsn::Lsn = database.one("select pg_current_wal_lsn()").unwrap().parse().unwrap();
    reading.until("it is read that there is nothing", |found| {
        found.token.as_ref().is_some_and(|token| token::read(&token.detail).unwrap().end >= written)
    });
    assert_eq!(confirmed().parse(), Ok(before), "nothing is durable yet");
    reading.save();
    let began = std::time::Instant::now();
    while confirmed().parse::<lsn::Lsn>().unwrap() < written {
        let _ = reading.step().unwrap();
        assert!(began.elapsed() < super::support::DEADLINE, "the slot does not move");
    }
}
