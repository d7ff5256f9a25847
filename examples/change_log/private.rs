//! A Postgres of the example's own, and somebody who writes orders there.

use std::sync::OnceLock;
use std::thread;

use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::prelude::*;
use highwater::sources::postgres::change_log::Init;
use highwater::testing::postgres::{Database, Server};
use highwater_examples::orders::dice::Dice;

use crate::Args;

static DATABASE: OnceLock<Result<Database, String>> = OnceLock::new();

/// Starts it, if no other is named, and lets orders be written.
pub fn prepare(args: &Args) -> Result {
    if args.source.is_some() {
        return Ok(());
    }
    let database = database()?.clone();
    Init::table(&args.table)?.apply(database.url())?;
    let table = args.table.clone();
    thread::spawn(move || {
        if let Err(error) = write(&database, &table) {
            eprintln!("orders cannot be written: {error}");
        }
    });
    Ok(())
}

/// Its URL.
pub fn url() -> Result<String> {
    Ok(format!("{}?sslmode=disable", database()?.url()))
}

/// It is a new one each time, and so are checkpoints.
pub fn store() -> Result<DataDirectory> {
    let name = format!("highwater-change-log-{}", std::process::id());
    database().map(|_| DataDirectory::at(std::env::temp_dir().join(name)))
}

fn database() -> Result<&'static Database> {
    let start = || {
        let server: &'static Server = Box::leak(Box::new(Server::start()?));
        server.database()
    };
    let started = DATABASE.get_or_init(|| start().map_err(|error: Error| error.to_string()));
    started
        .as_ref()
        .map_err(|error| Error::stop(format!("--source names no database, and a private one cannot be started: {error}")))
}

/// `order-1` is written first; others come and commit before it does.
fn write(database: &Database, table: &str) -> Result {
    let mut dice = Dice::new(1);
    let mut row = |order: u64| {
        let status = dice.pick(&["new", "paid", "shipped"]);
        format!(
            "insert into {table} (object_type, object_id, modification_type, object_data) \
             values ('Order', 'order-{order}', 'INSERT', '{{\"status\": \"{status}\"}}');"
        )
    };
    let late = format!("begin; {} select pg_sleep(2); commit", row(1));
    thread::scope(|scope| {
        let late = scope.spawn(move || database.sql(&late).map(drop));
        // Not before the first has its id.
        while database.one("select count(*) from pg_locks where mode = 'RowExclusiveLock' and pid <> pg_backend_pid()")? == "0" {
            thread::yield_now();
        }
        for order in 2..=20 {
            database.sql(&row(order))?;
        }
        late.join().unwrap_or_else(|_| Err(Error::stop("the late order panicked")))
    })
}
