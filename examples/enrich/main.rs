//! Each change of an order gets its customer's row, in one of two ways: asked for at the database and kept for a while (`ttl`), or found in a table that is
//! kept from its own changes, as of the order's commit (`table`).
//!
//! Without `--source` it starts a Postgres of its own, with a shop whose customers move while they order. There each order remembers the row that it saw
//! when it was made, and at the end it is said how many were given another one. Try both kinds:
//!
//! ```sh
//! enrich --kind ttl --until-idle 2
//! enrich --kind table --until-idle 2
//! enrich --source postgres://repl@db.example/shop --tables customers,orders --kind table --out enriched --checkpoint state
//! ```

mod shop;

use clap::ValueEnum;
use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Args {
    /// The database [default: a private one, with a shop]
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The table in which rows are looked up, and the table whose changes look them up
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "customers,orders")]
    tables: Vec<String>,
    /// The column with the key of the row that is looked up
    #[arg(long, value_name = "COLUMN", default_value = "customer_id")]
    by: String,
    /// How rows are found
    #[arg(long, default_value = "table")]
    kind: Kind,
    /// How old a row may be that is asked for, in milliseconds (kind `ttl`)
    #[arg(long, value_name = "MS", default_value = "1000")]
    ttl: u64,
    /// The folder of the enriched changes
    #[arg(long, value_name = "DIR", default_value = "enriched")]
    out: String,
    /// The replication slot; it is made if there is none
    #[arg(long, value_name = "NAME", default_value = "enrich")]
    slot: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Asked for at the database, and kept for a while
    Ttl,
    /// Kept from the table's own changes: the row as of the change's commit
    Table,
}

fn main() -> highwater::Exit {
    highwater::program("enrich").about("Gives each order its customer's row").prepare(shop::prepare).main_with(
        |flow, args: &Args| {
            let is_own = args.source.is_none();
            let args = shop::args(args)?;
            let url = args.source.as_deref().unwrap_or_default();
            let [customers, orders] = &args.tables[..] else {
                return Err(Error::stop("--tables takes two: the one in which rows are looked up, and the one whose changes do"));
            };
            let [kept, looking] =
                [customers, orders].map(|table| if table.contains('.') { table.clone() } else { format!("public.{table}") });
            let changes = flow.source(PostgresReplication::slot(url, &args.slot).tables([customers, orders]));
            let rows = (args.kind == Kind::Table).then(|| changes.table(&kept));
            let orders = changes.filter(move |change| change.table() == looking);
            let enriched = match rows {
                Some(rows) => orders.lookup_table("customer", &rows, TableLookup::by(&args.by)),
                None => orders.lookup(
                    "customer",
                    Lookup::by(&args.by)
                        .from(PostgresRows::table(url, customers))
                        .cache(Cache::entries(100_000).ttl(millis(args.ttl)).negative_ttl(millis(args.ttl))),
                ),
            };
            let write = JsonLines::append(&args.out).with(|change, line| {
                line.change(change).object("customer", change.found("customer"));
            });
            let mut actions = vec![action("write", write)];
            if is_own {
                let compare = run(|change| {
                    shop::compare(&change);
                    async { Ok(()) }
                });
                actions.push(action("compare", compare).repeatable());
            }
            let checkpoint = Checkpoint::every(millis(200));
            let checkpoint = if is_own { checkpoint.in_store(shop::store()?) } else { checkpoint };
            enriched.fan_out(actions).checkpoint(checkpoint);
            Ok(())
        },
    )
}
