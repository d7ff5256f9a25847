//! Slots of real servers: what is read, what is refused, what a restart finds.

mod refused;
mod rows;
mod snapshot;
mod support;

use highwater_operators::Operation;

use self::support::{Reading, orders, slot};
use super::*;

#[test]
fn changes_are_read_behind_and_near_and_every_token_continues() {
    let database = orders();
    let source = slot(&database).snapshot(Snapshot::Never).tables(["public.orders"]);
    // The slot is made with the first start.
    let mut first = Reading::start(&source, None).unwrap();
    first.until("it has begun", |found| found.token.is_some());
    let begun = first.found.token.clone().unwrap();
    drop(first);
    database.sql("insert into orders select n, 'new', n from generate_series(1, 3000) n").unwrap();
    database.sql("update orders set status = 'paid' where id = 7; delete from orders where id = 8").unwrap();
    let mut reading = Reading::start(&source, Some(&begun)).unwrap();
    let mut tokens = Vec::new();
    reading.until("what is behind is read", |found| {
        tokens.extend(found.token.clone().map(|token| (token, found.changes.len())));
        found.changes.len() == 3002
    });
    reading.until_idle();
    // Now it follows.
    database.sql("begin; insert into orders values (5000, 'x', 1); update orders set id = 5001 where id = 5000; commit").unwrap();
    reading.until("what is near is read", |found| {
        tokens.extend(found.token.clone().map(|token| (token, found.changes.len())));
        found.changes.len() == 3005
    });
    let changes = &reading.found.changes;
    assert_eq!((changes[6].operation(), changes[6].table(), changes[6].key()), (Operation::Insert, "public.orders", "7"));
    assert_eq!(changes[6].after().raw_json(), Some(r#"{"id":7,"status":"new","amount":7}"#));
    assert_eq!((changes[3000].operation(), changes[3000].after().str("status").as_deref()), (Operation::Update, Some("paid")));
    assert_eq!((changes[3001].operation(), changes[3001].key()), (Operation::Delete, "8"));
    assert_eq!((changes[3003].operation(), changes[3003].key()), (Operation::Delete, "5000"));
    assert_eq!((changes[3004].operation(), changes[3004].key()), (Operation::Insert, "5001"));
    assert!(changes[0].time_ms() > 1_700_000_000_000);
    let mut ids = reading.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3005, "every id is another");
    let changes = reading.end();
    for (token, read) in tokens {
        let mut rest = Reading::start(&source, Some(&token)).unwrap();
        rest.until("the rest is read", |found| found.changes.len() + read >= 3005);
        rest.until_idle();
        assert_eq!(rest.found.changes, changes[read..]);
    }
}
