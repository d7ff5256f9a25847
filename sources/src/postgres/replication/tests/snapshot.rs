//! Rows that were there and changes of them, without a gap and without an overlap.

use std::collections::BTreeMap;

use highwater_operators::{Change, Operation};

use super::support::{Reading, orders, slot};

/// The table as it is when the changes are applied in their order.
pub(super) fn replay(changes: &[Change]) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for change in changes {
        let key = change.key().to_owned();
        match change.operation() {
            Operation::Delete => drop(rows.remove(&key)),
            Operation::Truncate => rows.clear(),
            Operation::Message => {}
            _ => drop(rows.insert(key, change.after().raw_json().unwrap_or_default().to_owned())),
        }
    }
    rows
}

const ALL: &str =
    "select id::text, format('{\"id\":%s,\"status\":\"%s\",\"amount\":%s}', id, status, amount) from orders order by id::text";

fn table(database: &highwater_operators::testing::postgres::Database, sql: &str) -> BTreeMap<String, String> {
    let text = |value: Option<String>| value.unwrap_or_default();
    let rows = database.sql(sql).unwrap().into_iter();
    rows.map(|mut row| (text(row[0].take()), text(row[1].take()))).collect()
}

/// Goal: what is replayed is what is there, from whatever token it is begun again. Method: writers write while rows are read.
#[test]
fn rows_that_were_there_and_what_happens_to_them_make_the_table() {
    let database = orders();
    database.sql("insert into orders select n, 'old', n from generate_series(1, 20000) n").unwrap();
    let source = slot(&database).tables(["orders"]);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut tokens, mut whole) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let (database, done) = (&database, &done);
        scope.spawn(move || {
            for n in 0..60 {
                let sql = format!(
                    "begin; update orders set status = 'u{n}' where id % 60 = {n}; delete from orders where id = {n} * 7 + 1; \
                     insert into orders values (100000 + {n}, 'new', 1); update orders set id = id + 500000 where id = {n} * 13 + 5000; commit"
                );
                database.sql(&sql).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut reading = Reading::start(&source, None).unwrap();
        reading.until("rows and changes are read", |found| {
            tokens.extend(found.token.clone().map(|token| (token, found.changes.len())));
            done.load(std::sync::atomic::Ordering::Acquire)
        });
        reading.until_idle();
        whole.extend(reading.end());
    });
    let expected = table(&database, ALL);
    assert_eq!(replay(&whole), expected);
    assert!(whole.iter().filter(|change| change.operation() == Operation::Read).count() <= 20_000 + 60);
    // After a crash at any place: what was handed over before, and what comes now.
    for (token, read) in tokens.iter().step_by(tokens.len() / 4 + 1) {
        let mut rest = Reading::start(&source, Some(token)).unwrap();
        rest.until_idle();
        let all = [&whole[..*read], &rest.found.changes[..]].concat();
        assert_eq!(replay(&all), expected, "after {read}");
    }
}

#[test]
fn a_table_that_is_added_while_it_runs_is_read_beside_the_stream() {
    let database = orders();
    database
        .sql("create table later(id int primary key, note text); insert into later select n, 'x' from generate_series(1, 3000) n")
        .unwrap();
    let name = database.name().to_owned();
    database.sql(&format!("create publication \"pub {name}\" for table orders")).unwrap();
    let source = slot(&database).publication(&format!("pub {name}"));
    let mut reading = Reading::start(&source, None).unwrap();
    reading.saves = true;
    reading.until_idle();
    database.sql(&format!("alter publication \"pub {name}\" add table later; update later set note = 'y' where id = 5")).unwrap();
    database.sql("insert into orders values (1, 'a', 1)").unwrap();
    reading.until("the new table is read", |found| {
        found.changes.iter().filter(|change| change.table() == "public.later").count() >= 3000
    });
    database.sql("update later set note = 'z' where id = 6; insert into orders values (2, 'b', 1)").unwrap();
    reading
        .until("it goes on", |found| found.changes.iter().any(|change| change.key() == "2" && change.table() == "public.orders"));
    let later: Vec<Change> = reading.found.changes.iter().filter(|change| change.table() == "public.later").cloned().collect();
    let rows = replay(&later);
    assert_eq!(
        (rows.len(), rows["5"].as_str(), rows["6"].as_str()),
        (3000, "{\"id\":5,\"note\":\"y\"}", "{\"id\":6,\"note\":\"z\"}")
    );
}
