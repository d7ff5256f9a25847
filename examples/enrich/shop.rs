//! A Postgres of the example's own, with a shop whose customers move while they order.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::prelude::*;
use highwater::testing::postgres::{Database, Server};
use highwater_examples::orders::dice::Dice;

use crate::Args;

static SHOP: OnceLock<Result<Database, String>> = OnceLock::new();

/// Orders that were made while the shop was open: enriched so far, and those among them that were given another row than they saw.
static MET: AtomicU64 = AtomicU64::new(0);
/// Orders that were there when the shop opened, and were enriched.
static READ: AtomicU64 = AtomicU64::new(0);
static OTHER: AtomicU64 = AtomicU64::new(0);

/// Each order remembers its customer's row as it is when the order is made. It locks the row until it is committed, so that is the row as of its commit.
const TABLES: &str = "create table customers (id bigint primary key, name text not null, city text, version bigint not null default 0); \
     create table orders (id bigint primary key, customer_id bigint not null, amount numeric(10,2), seen jsonb); \
     create function remember() returns trigger language plpgsql as $$ begin \
         new.seen := (select to_jsonb(c) from (select * from customers where id = new.customer_id for share) c); return new; end $$; \
     create trigger remembers before insert or update on orders for each row execute function remember(); \
     insert into customers select n, 'Customer ' || n, 'Ulm' from generate_series(1, 5) n; \
     insert into orders select n, n % 5 + 1, n * 1.25 from generate_series(1, 20) n";
const ORDERS_BEFORE: u64 = 20;

/// Starts it, if no other is named, and lets the shop be open.
pub fn prepare(args: &Args) -> Result {
    if args.source.is_some() {
        return Ok(());
    }
    let shop = database()?.clone();
    shop.sql(TABLES)?;
    thread::spawn(move || match sell(&shop) {
        Ok(made) => tell(made),
        Err(error) => eprintln!("the shop is closed: {error}"),
    });
    Ok(())
}

/// Compares what an order was given with what it saw. Of one that was there before nobody knows what has become of its customer since.
pub fn compare(change: &Change) {
    if change.operation() == Operation::Read {
        READ.fetch_add(1, Ordering::Release);
    }
    if change.operation() == Operation::Insert {
        let seen = change.after().str("seen").unwrap_or_default().into_owned();
        let other = Row::json(seen.as_bytes()).str("version") != change.found("customer").str("version");
        OTHER.fetch_add(u64::from(other), Ordering::Relaxed);
        MET.fetch_add(1, Ordering::Release);
    }
}

/// Says how many were given another row, once all are enriched.
fn tell(made: u64) {
    while MET.load(Ordering::Acquire) < made {
        thread::sleep(Duration::from_millis(20));
    }
    println!("{} of {made} orders were given another row than they saw", OTHER.load(Ordering::Relaxed));
}

/// The arguments with its URL.
pub fn args(args: &Args) -> Result<Args> {
    match args.source {
        Some(_) => Ok(args.clone()),
        None => Ok(Args { source: Some(database()?.url().reveal().to_owned()), ..args.clone() }),
    }
}

/// It is a new one each time, and so are checkpoints.
pub fn store() -> Result<DataDirectory> {
    let name = format!("highwater-enrich-{}", std::process::id());
    database().map(|_| DataDirectory::at(std::env::temp_dir().join(name)))
}

fn database() -> Result<&'static Database> {
    let start = || {
        let server: &'static Server = Box::leak(Box::new(Server::start()?));
        server.database()
    };
    let started = SHOP.get_or_init(|| start().map_err(|error: Error| error.to_string()));
    started
        .as_ref()
        .map_err(|error| Error::stop(format!("--source names no database, and a private one cannot be started: {error}")))
}

/// Sells for a while, once all that was there is read; how many orders were made.
fn sell(shop: &Database) -> Result<u64> {
    while READ.load(Ordering::Acquire) < ORDERS_BEFORE {
        thread::sleep(Duration::from_millis(20));
    }
    let (mut dice, mut made) = (Dice::new(1), 0);
    for order in 21..=400 {
        let customer = 1 + dice.below(5);
        let kind = dice.below(3);
        made += u64::from(kind > 0);
        let sql = match kind {
            0 => format!("update customers set city = 'City {order}', version = version + 1 where id = {customer}"),
            1 => format!(
                "begin; update customers set version = version + 1 where id = {customer}; insert into orders values ({order}, {customer}, 9.99); commit"
            ),
            _ => format!("insert into orders values ({order}, {customer}, 1.00)"),
        };
        shop.sql(&sql)?;
    }
    Ok(made)
}
