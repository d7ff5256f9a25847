//! On a real server.

use highwater_operators::Row;
use highwater_operators::testing::postgres::{Database, Server};

use super::*;

fn database(sql: &str) -> Database {
    let database = Server::shared().database().unwrap();
    database.sql(sql).unwrap();
    database
}

fn load(rows: &PostgresRows, keys: &[&str]) -> Result<Vec<Option<Fields>>> {
    let (rows, keys) = (rows.clone(), keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
    apart("test", move || async move { rows.load(&keys).await })
}

fn texts(found: &[Option<Fields>], field: &str) -> Vec<Option<String>> {
    found.iter().map(|row| Row::fields(row.as_ref()?).str(field).map(|text| text.into_owned())).collect()
}

#[track_caller]
fn check_refused(rows: &PostgresRows, why: &str) {
    let error = rows.open().unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

/// Goal: rows come for their keys whatever the key's type is, in order; a key that can be none finds nothing and spoils nothing for the others.
#[test]
fn each_key_finds_its_row() {
    let database = database(
        "create table item (id bigint primary key, name text, price numeric, at timestamptz, ok bool); \
         insert into item values (1, 'one', 1.50, '2026-01-02 03:04:05+00', true), (2, null, 2, null, false), (-3, 'q\"\\', 'NaN', 'infinity', null); \
         create table \"By\" (code text primary key, \"The Name\" text); insert into \"By\" values ('a,b', 'x'), ('{}', 'y'), ('', 'z'), ('ß\"\\', 'w')",
    );
    let url = database.url().reveal();
    let items = PostgresRows::table(url, "item");
    items.open().unwrap();
    let keys = ["2", "x", "1", "99999999999999999999", "-3", "5", "01", "\0", "1"];
    let found = load(&items, &keys).unwrap();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(texts(&found, "id"), [some("2"), None, some("1"), None, some("-3"), None, None, None, some("1")]);
    assert_eq!(texts(&found, "name"), [None, None, some("one"), None, some("q\"\\"), None, None, None, some("one")]);
    assert_eq!(texts(&found[2..5], "price"), [some("1.50"), None, some("NaN")]);
    assert_eq!(texts(&found[2..3], "ok"), [some("true")]);
    let by = PostgresRows::table(url, "\"By\"");
    by.open().unwrap();
    let found = load(&by, &["{}", "ß\"\\", "a,b", "", "b"]).unwrap();
    assert_eq!(texts(&found, "The Name"), [some("y"), some("w"), some("x"), some("z"), None]);
    let sums = PostgresRows::query(url, "select ok, sum(id)::text as total from item where ok = any($1) group by ok;");
    sums.open().unwrap();
    assert_eq!(texts(&load(&sums, &["true", "false"]).unwrap(), "total"), [some("1"), some("2")]);
}

/// Goal: what would be a guess, or cannot work, is refused before the run, in words that say what to do.
#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let database = database(
        "create table loose (id int, name text); create table pair (a int, b int, primary key (a, b)); create view seen as select 1 as id",
    );
    let url = database.url().reveal();
    check_refused(&PostgresRows::table(url, "loose"), "has no primary key of one column; say by .key(..)");
    check_refused(&PostgresRows::table(url, "loose").key("id"), "has no unique index of its own");
    check_refused(&PostgresRows::table(url, "pair"), "has no primary key of one column");
    check_refused(&PostgresRows::table(url, "none"), "none");
    check_refused(&PostgresRows::table(url, "a.b.c"), "is no name of a table");
    check_refused(&PostgresRows::query(url, "select 1 as id"), "it takes one, $1, the list of keys");
    check_refused(
        &PostgresRows::query(url, "select id from loose where id = any($1)").key("nam"),
        "has no column \"nam\"; its columns are: id",
    );
    check_refused(&PostgresRows::table("mysql://x", "t"), "postgres://");
    PostgresRows::table(url, "seen").key("id").open().unwrap();
    let twice = PostgresRows::query(url, "select unnest(array[1, 1]) as id where 1 = any($1)");
    twice.open().unwrap();
    let error = load(&twice, &["1"]).unwrap_err();
    assert!(error.kind() == ErrorKind::Park && error.to_string().contains("several rows for the key \"1\""), "{error}");
}

/// Goal: a server that is killed gives an error that says *try again*, and is asked again when it is back.
#[test]
fn a_server_that_was_killed_is_asked_again() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table item (id int primary key); insert into item values (1)").unwrap();
    let items = PostgresRows::table(database.url().reveal(), "item");
    items.open().unwrap();
    assert!(load(&items, &["1"]).unwrap()[0].is_some());
    server.kill().unwrap();
    assert_eq!(load(&items, &["1"]).unwrap_err().kind(), ErrorKind::Retry);
    server.start_again().unwrap();
    assert!(load(&items, &["1"]).unwrap()[0].is_some());
}
