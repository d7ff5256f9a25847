//! Orders that are given their customer's row while both change, by replication from a real server: customers that move, orders of them, both in one transaction,
//! customers that go; the program killed (kill -9) and started with another number of workers; and what piles up while it is down: one customer that
//! changes again and again between its orders. Each order remembers its customer's row, which it locks until it is committed, so that is the row as of its
//! commit; what it was given in the end is held against that.
//!
//! `HIGHWATER_KILLS` and `HIGHWATER_ORDERS` set the size, `HIGHWATER_SEED` repeats its decisions (not its moments).

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater::testing::postgres::{Database, Server};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::dice::Dice;
use serde_json::Value;

const SHOP: &str = "create table customers (id bigint primary key, name text not null, version bigint not null default 0, bio text not null); \
     alter table customers alter bio set storage external; \
     create table orders (id bigserial primary key, customer_id bigint not null, note text, seen jsonb); \
     create function remember() returns trigger language plpgsql as $$ begin \
         perform pg_advisory_xact_lock_shared(new.customer_id); \
         new.seen := (select to_jsonb(c) from (select * from customers where id = new.customer_id for share) c); return new; end $$; \
     create trigger remembers before insert or update on orders for each row execute function remember(); \
     insert into customers select n, 'Customer ' || n, 0, repeat('long ', 1000) || n from generate_series(1, 8) n; \
     insert into orders (customer_id) select n % 8 + 1 from generate_series(1, 200) n";

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn an_order_is_given_its_customer_as_of_its_commit() {
    let [met, stale] = prove("table");
    assert!(met > 0 && stale == 0, "{stale} of {met} orders were given another row");
}

/// The other kind shows that the proof can fail: what is kept for a while is stale.
#[test]
fn what_is_kept_for_a_while_is_stale() {
    let [met, stale] = prove("ttl");
    assert!(met > 0 && stale > 0, "none of {met} orders was given another row: the proof cannot tell");
}

/// How many orders were enriched, and how many of them were given another row than that of their commit.
fn prove(kind: &str) -> [u64; 2] {
    let (kills, orders) = (setting("HIGHWATER_KILLS", 4), setting("HIGHWATER_ORDERS", 1_500));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = setting("HIGHWATER_SEED", now);
    println!("{kind}: HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_ORDERS={orders}");
    let shop = Server::shared().database().unwrap();
    shop.sql(SHOP).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("enrich", folder.path());
    let start = |dice: &mut Dice, more: &[&str]| -> Running {
        let fixed = ["--source", shop.url().reveal(), "--tables", "customers,orders", "--kind", kind, "--slot", shop.name()];
        let (workers, size) = (dice.pick(&["1", "2", "4"]), dice.pick(&["1", "100", "10000"]));
        let sizes = ["--workers", workers, "--checkpoint-batch-size", size, "--out", "out", "--data", "state"];
        example.start(&[&fixed[..], &sizes, more].concat())
    };
    let (done, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in 0..3 {
            let (shop, done, made) = (&shop, &done, &made);
            scope.spawn(move || write(shop, &mut Dice::new(seed.wrapping_mul(7) ^ writer), done, made));
        }
        let _done = Done(&done);
        let mut dice = Dice::new(seed);
        for kill in 0..kills {
            let mut running = start(&mut dice, &["--report", "none"]);
            let before = lines(&folder.path().join("out")).len();
            let due = orders * (kill + 1) / (kills + 1);
            running.wait_until("orders are made and written", |_| {
                made.load(Ordering::Relaxed) >= due && lines(&folder.path().join("out")).len() > before
            });
            thread::sleep(Duration::from_millis(dice.below(300)));
            running.signal("KILL");
            running.wait();
            pile_up(&shop, &mut dice);
        }
    });
    let ended = start(&mut Dice::new(1), &["--until-idle", "2", "--report", "none"]).wait();
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    check(&shop, &lines(&folder.path().join("out")))
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Customers move, order, do both at once, go and come back. A row that is not there cannot be locked: who deletes one keeps its orders away meanwhile.
fn write(shop: &Database, dice: &mut Dice, done: &AtomicBool, made: &AtomicU64) {
    while !done.load(Ordering::Relaxed) {
        let customer = 1 + dice.below(8);
        let moves = format!(
            "update customers set version = version + 1, name = 'Customer {customer} of ' || version where id = {customer}"
        );
        let order = format!("insert into orders (customer_id) values ({customer})");
        let (sql, orders) = match dice.below(12) {
            0..4 => (moves, 0),
            4..8 => (order, 1),
            8 => (format!("begin; {order}; {moves}; {order}; commit"), 2),
            9 => (
                format!(
                    "update orders set note = 'again' where id = (select max(id) from orders where customer_id = {customer})"
                ),
                0,
            ),
            10 => (
                format!("update customers set bio = repeat('b', 9000) || version, version = version + 1 where id = {customer}"),
                0,
            ),
            _ => (
                format!(
                    "begin; select pg_advisory_xact_lock({customer}); delete from customers where id = {customer}; {order}; \
                     insert into customers values ({customer}, 'new', 1000000 + extract(epoch from clock_timestamp())::bigint, 'b'); {order}; commit"
                ),
                2,
            ),
        };
        // Two that wait for each other are ended by the server: then nothing was done.
        if shop.sql(&sql).is_ok() {
            made.fetch_add(orders, Ordering::Relaxed);
        } else {
            let _ = shop.sql("rollback");
        }
    }
}

/// While nobody reads: one customer changes fifty times between fifty of its orders, in as many transactions and in one.
fn pile_up(shop: &Database, dice: &mut Dice) {
    let customer = 1 + dice.below(8);
    let steps = format!(
        "update customers set version = version + 1 where id = {customer}; insert into orders (customer_id) values ({customer});"
    );
    for _ in 0..50 {
        let _ = shop.sql(&steps);
    }
    let _ = shop.sql(&format!("begin; {} commit", steps.repeat(50)));
}

/// All that was written, in the order of files.
fn lines(out: &Path) -> Vec<String> {
    let files = std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect();
    files.sort();
    let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn check(shop: &Database, lines: &[String]) -> [u64; 2] {
    let (mut met, mut stale, mut last) = (0, 0, BTreeMap::new());
    for line in lines {
        let change: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let row = &change["after"];
        last.insert(row["id"].as_u64().unwrap(), row.clone());
        // Of an order that was there before nobody knows what has become of its customer since; but there is one, and its row is read first.
        if change["op"] == "read" {
            assert!(!change["customer"].is_null(), "no customer was found for {line}");
            continue;
        }
        met += 1;
        let text = |row: &Value, field: &str| match &row[field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let (seen, given) = (&row["seen"], &change["customer"]);
        let is_same = match (seen.is_null(), given.is_null()) {
            (true, true) => true,
            (false, false) => ["id", "name", "version", "bio"].iter().all(|field| text(seen, field) == text(given, field)),
            _ => false,
        };
        if !is_same && stale < 5 {
            let short = |row: &Value| row.to_string().chars().filter(|c| *c != 'l').take(120).collect::<String>();
            println!("{} {} of {}: saw {}, was given {}", change["op"], row["id"], row["customer_id"], short(seen), short(given));
        }
        stale += u64::from(!is_same);
    }
    // And none is missing.
    let orders = shop.sql("select id, seen::text from orders").unwrap();
    assert_eq!(orders.len(), last.len());
    println!("{met} orders, {stale} were given another row");
    [met, stale]
}
