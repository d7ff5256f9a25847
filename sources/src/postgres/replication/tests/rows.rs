//! What a change says: schemas that change, partitions, truncation, messages, large values, types.

use highwater_operators::testing::postgres::{Database, Server};
use highwater_operators::{Change, Operation, Value};

use super::super::*;
use super::support::{Reading, orders, slot};

/// A reader that has begun, of what is there from now on.
fn reading(database: &Database, table: &str) -> Reading {
    let mut reading = Reading::start(&slot(database).snapshot(Snapshot::Never).tables([table]), None).unwrap();
    reading.saves = true;
    reading.until_idle();
    reading
}

/// What statements come to, each of them when those before were read.
fn told(reading: &mut Reading, database: &Database, sql: &str, count: usize) -> Vec<Change> {
    let before = reading.found.changes.len();
    database.sql(sql).unwrap();
    reading.until(sql, |found| found.changes.len() >= before + count);
    reading.found.changes[before..].to_vec()
}

#[test]
fn a_table_may_be_altered_while_it_is_read() {
    let database = orders();
    let mut reading = reading(&database, "orders");
    let sql = "begin; insert into orders values (1, 'a', 1); alter table orders add column note text default 'n'; insert into orders values (2, 'b', 2); \
               alter table orders drop column status; update orders set amount = 3 where id = 2; alter table orders alter column amount type text; \
               insert into orders values (3, '4', 'm'); commit; alter table orders rename to bestellungen; insert into bestellungen values (4, '5', 'o')";
    let changes = told(&mut reading, &database, sql, 5);
    let rows: Vec<&str> = changes.iter().filter_map(|change| change.after().raw_json()).collect();
    let expected = [
        r#"{"id":1,"status":"a","amount":1}"#,
        r#"{"id":2,"status":"b","amount":2,"note":"n"}"#,
        r#"{"id":2,"amount":3,"note":"n"}"#,
        r#"{"id":3,"amount":"4","note":"m"}"#,
        r#"{"id":4,"amount":"5","note":"o"}"#,
    ];
    assert_eq!(rows, expected);
    assert_eq!((changes[3].table(), changes[4].table()), ("public.orders", "public.bestellungen"));
}

#[test]
fn another_primary_key_makes_other_keys() {
    let database = Server::shared().database().unwrap();
    database.sql("create table t(a int, b text, primary key (a)); alter table t replica identity full").unwrap();
    let mut reading = reading(&database, "t");
    let before = told(&mut reading, &database, "insert into t values (1, 'x')", 1);
    let sql = "alter table t drop constraint t_pkey, add primary key (a, b); insert into t values (2, 'y')";
    let after = told(&mut reading, &database, sql, 1);
    assert_eq!((before[0].key(), after[0].key()), ("1", r#"["2","y"]"#));
}

#[test]
fn changes_of_partitions_are_changes_of_their_table() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table t(id int, day int, primary key (id, day)) partition by list (day); create table t1 partition of t for values in (1); \
             create table t2 partition of t for values in (2)",
        )
        .unwrap();
    let mut reading = reading(&database, "t");
    let sql = "insert into t values (1, 1), (2, 2); insert into t2 values (3, 2); update t set day = 2 where id = 1; truncate t1";
    let changes = told(&mut reading, &database, sql, 5);
    assert!(changes.iter().all(|change| change.table() == "public.t"), "{changes:?}");
    let operations: Vec<Operation> = changes.iter().map(Change::operation).collect();
    use Operation::{Delete, Insert};
    assert_eq!(operations, [Insert, Insert, Insert, Delete, Insert]);
}

#[test]
fn large_values_that_did_not_change_are_unchanged_or_filled_in() {
    let database = Server::shared().database().unwrap();
    let long = "(select string_agg(md5(n::text), '') from generate_series(1, 400) n)";
    database
        .sql("create table t(id int primary key, note text, body text); alter table t alter body set storage external")
        .unwrap();
    let mut reading = reading(&database, "t");
    let sql = format!("insert into t values (1, 'a', {long}); update t set note = 'b'; update t set body = null; delete from t");
    let changes = told(&mut reading, &database, &sql, 4);
    assert_eq!(changes[1].after().pick(["note", "body"]), [Some(Value::Text("b".into())), Some(Value::Unchanged)]);
    assert_eq!((changes[2].after().get("body"), changes[3].before().raw_json()), (Some(Value::Null), Some("{\"id\":1}")));
    let sql = format!(
        "alter table t replica identity full; insert into t values (2, 'a', {long}); update t set note = 'b'; update t set id = 3"
    );
    let changes = told(&mut reading, &database, &sql, 4);
    let body = changes[0].after().str("body");
    assert_eq!(body.as_ref().map(|body| body.len()), Some(12_800));
    assert_eq!((changes[1].after().str("body"), changes[1].before().str("note").as_deref()), (body.clone(), Some("a")));
    assert_eq!((changes[2].key(), changes[3].key(), changes[3].after().str("body")), ("2", "3", body));
}

#[test]
fn a_row_under_another_key_whose_large_values_were_not_sent_is_read_again() {
    let database = Server::shared().database().unwrap();
    database.sql("create table t(id int primary key, body text); alter table t alter body set storage external").unwrap();
    let mut reading = reading(&database, "t");
    let sql = "insert into t select 1, string_agg(md5(n::text), '') from generate_series(1, 400) n; update t set id = 2";
    let changes = told(&mut reading, &database, sql, 3);
    let told: Vec<(Operation, &str)> = changes.iter().map(|change| (change.operation(), change.key())).collect();
    assert_eq!(told, [(Operation::Insert, "1"), (Operation::Delete, "1"), (Operation::Read, "2")]);
    assert_eq!(changes[2].after().str("body").map(|body| body.len()), Some(12_800));
    assert!(reading.found.rejected.is_empty(), "{:?}", reading.found.rejected);
}

#[test]
fn a_truncation_goes_alone_and_waits_until_what_was_before_is_durable() {
    let database = orders();
    let mut reading = reading(&database, "orders");
    reading.saves = false;
    database.sql("insert into orders values (1, 'a', 1); truncate orders; insert into orders values (2, 'b', 2)").unwrap();
    reading.until("what is before is read", |found| found.changes.len() == 1);
    let before = reading.found.token.clone();
    reading.nothing_comes();
    reading.save();
    reading.until("the truncation is read", |found| found.changes.len() == 2);
    reading.nothing_comes();
    reading.save();
    reading.until("what is after is read", |found| found.changes.len() == 3);
    let changes = reading.end();
    assert_eq!((changes[1].operation(), changes[1].table()), (Operation::Truncate, "public.orders"));
    let mut again = Reading::start(&slot(&database).tables(["orders"]), before.as_ref()).unwrap();
    again.saves = true;
    again.until("it is read again", |found| found.changes.len() == 2);
    assert_eq!(again.found.changes, changes[1..]);
}

#[test]
fn messages_are_changes_and_what_shares_a_place_is_told_apart() {
    let database = orders();
    let mut reading = reading(&database, "orders");
    let sql = "select pg_logical_emit_message(false, 'note', 'hello'); begin; copy_in; select pg_logical_emit_message(true, 'in', 'tx'); commit";
    // Rows that are written together share one place in the log.
    let rows = "insert into orders select n, 's', n from generate_series(1, 40) n";
    let changes = told(&mut reading, &database, &sql.replace("copy_in", rows), 42);
    assert_eq!((changes[0].operation(), changes[0].after().str("content").as_deref()), (Operation::Message, Some("hello")));
    assert_eq!(changes[41].after().raw_json(), Some(r#"{"prefix":"in","content":"tx","transactional":true}"#));
    // By COPY they are.
    let script =
        "begin; create table loaded as select n as id, 's' as status, n as amount from generate_series(100, 400) n; commit";
    database.sql(script).unwrap();
    let copied = std::env::temp_dir().join(format!("highwater-copy-{}", database.name()));
    let copied = copied.display();
    database.sql(&format!("copy loaded to '{copied}'; copy orders from '{copied}'")).unwrap();
    reading.until("copied rows are read", |found| found.changes.len() >= 42 + 301);
    let mut ids = reading.ids();
    let shared = ids.iter().filter(|id| !id.ends_with("/0")).count();
    assert!(shared > 100, "rows share places: {shared}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 42 + 301);
    let _ = std::fs::remove_file(copied.to_string());
}

/// A message's place is where it ends, and that is where the commit stands that follows it.
#[test]
fn a_transaction_that_commits_right_behind_a_message_is_read() {
    let database = orders();
    let source = slot(&database).snapshot(Snapshot::Never).tables(["orders"]);
    let reading = reading(&database, "orders");
    let begun = reading.found.token.clone();
    reading.end();
    for n in 0..20 {
        let sql = format!(
            "begin; insert into orders values ({n}, 'x', 1); select pg_logical_emit_message(false, 'highwater', ''); commit"
        );
        database.sql(&sql).unwrap();
    }
    for source in [source.clone(), source.only_follow()] {
        let mut reading = Reading::start(&source, begun.as_ref()).unwrap();
        reading.until("all are read", |found| found.changes.len() == 20);
        reading.until_idle();
        assert_eq!(reading.end().len(), 20);
    }
}

/// Goal: a transaction is never collected, and a token within it continues within it. Method: one of many chunks, begun again in its midst.
#[test]
fn a_large_transaction_is_handed_over_in_pieces() {
    let database = orders();
    let source = slot(&database).snapshot(Snapshot::Never).tables(["orders"]);
    let reading = reading(&database, "orders");
    let begun = reading.found.token.clone();
    reading.end();
    database.sql("begin; insert into orders select n, 's', n from generate_series(1, 20000) n; delete from orders where id = 3; commit").unwrap();
    for source in [source.clone(), source.only_follow()] {
        let mut whole = Reading::start(&source, begun.as_ref()).unwrap();
        let mut tokens = Vec::new();
        whole.until("all of it is read", |found| {
            tokens.extend(found.token.clone().map(|token| (token, found.changes.len())));
            found.changes.len() == 20_001
        });
        let changes = whole.end();
        let within = |token: &ResumeToken| token::read(&token.detail).unwrap().within.map(|(_, read)| read as usize);
        let inside: Vec<_> = tokens.iter().filter(|(token, _)| within(token).is_some()).collect();
        assert!(inside.len() > 10, "only {} pieces", inside.len());
        assert!(inside.iter().all(|(token, read)| within(token) == Some(*read)));
        let (token, read) = inside[inside.len() / 2];
        let mut rest = Reading::start(&source, Some(token)).unwrap();
        rest.until("the rest is read", |found| found.changes.len() + read >= 20_001);
        assert_eq!(rest.end(), changes[*read..]);
    }
}
