//! A Postgres of the example's own, with a shop whose orders change.

use std::sync::OnceLock;
use std::thread;

use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::prelude::*;
use highwater::testing::postgres::{Database, Server};
use highwater_examples::orders::dice::Dice;

use crate::Args;

static DATABASES: OnceLock<Result<[Database; 2], String>> = OnceLock::new();

const SHOP: &str = "create table customers (id bigint primary key, name text not null, since timestamptz not null default now()); \
     create table orders (id bigint primary key, customer bigint, amount numeric(10,2), tags text[], note text); \
     insert into customers select n, 'Customer ' || n from generate_series(1, 5) n; \
     insert into orders select n, n % 5 + 1, n * 1.25, array['new', 'web'] from generate_series(1, 20) n";

/// Starts it, if no other is named, and lets the shop be open.
pub fn prepare(args: &Args) -> Result {
    if args.source.is_some() {
        return Ok(());
    }
    let [shop, copy] = databases()?.clone();
    shop.sql(SHOP)?;
    let tells = args.target.is_none() && args.sink.is_none();
    thread::spawn(move || {
        let told = sell(&shop).and_then(|()| if tells { tell(&shop, &copy) } else { Ok(()) });
        if let Err(error) = told {
            eprintln!("the shop is closed: {error}");
        }
    });
    Ok(())
}

/// The arguments with its URLs, and with a second database of it as the target.
pub fn args(args: &Args) -> Result<Args> {
    let [shop, copy] = databases()?;
    let mut args = args.clone();
    args.source = Some(shop.url().reveal().to_owned());
    if args.sink.is_none() {
        args.target.get_or_insert(copy.url().reveal().to_owned());
    }
    Ok(args)
}

/// It is a new one each time, and so are checkpoints.
pub fn store() -> Result<DataDirectory> {
    let name = format!("highwater-replication-{}", std::process::id());
    databases().map(|_| DataDirectory::at(std::env::temp_dir().join(name)))
}

fn databases() -> Result<&'static [Database; 2]> {
    let start = || {
        let server: &'static Server = Box::leak(Box::new(Server::start()?));
        Ok([server.database()?, server.database()?])
    };
    let started = DATABASES.get_or_init(|| start().map_err(|error: Error| error.to_string()));
    started
        .as_ref()
        .map_err(|error| Error::stop(format!("--source names no database, and a private one cannot be started: {error}")))
}

/// Orders come, change and go, some of them in one transaction.
fn sell(shop: &Database) -> Result {
    let mut dice = Dice::new(1);
    for order in 21..=60 {
        let old = 1 + dice.below(order - 1);
        let sql = match dice.below(4) {
            0 => format!(
                "begin; insert into orders values ({order}, 1, 9.99); update orders set note = 'shipped' where id < 5; commit"
            ),
            1 => format!("delete from orders where id = {old}"),
            2 => format!("update customers set name = 'Customer {order}' where id = 3"),
            _ => format!("update orders set tags = tags || array['paid'], amount = amount * 2 where id = {old}"),
        };
        shop.sql(&sql)?;
    }
    Ok(())
}

/// Says when the copy is as the shop is.
fn tell(shop: &Database, copy: &Database) -> Result {
    let whole = "select string_agg(o::text, e'\\n' order by id) from orders o";
    let right = shop.one(whole)?;
    while copy.one(whole).ok().as_ref() != Some(&right) {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("the copy is as the shop is: {} orders", copy.one("select count(*) from orders")?);
    Ok(())
}
