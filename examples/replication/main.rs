//! Tables of one Postgres copied into another and kept as they are, by logical replication, each change exactly once.
//!
//! Without `--source` it starts a Postgres of its own, which ends with it, and shows that: a shop whose orders are there before, and change
//! while they are copied. With one, kill it when you like, even with `kill -9`, and start it again with the same arguments:
//!
//! ```sh
//! replication --source postgres://repl@db.example/shop --target postgres://shop@copy.example/shop --tables orders,customers --slot copy
//! ```
//!
//! Tables that the target lacks are made there, with the columns, their types and the primary key. Of a table without a primary key rows are
//! only appended, those that are inserted from now on.

mod private;
mod tables;

use highwater::operators::action::NamedAction;
use highwater::prelude::*;
use tables::Copied;

#[derive(clap::Args, Clone)]
struct Args {
    /// The database whose tables are copied [default: a private one, with a shop]
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The database that they are copied to, into tables of the same names [default: print the changes]
    #[arg(long, value_name = "URL", group = "to")]
    target: Option<String>,
    /// `none`: do nothing with the changes
    #[arg(long, value_name = "KIND", value_parser = ["none"], group = "to")]
    sink: Option<String>,
    /// The tables, with their schemas or without
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "orders,customers")]
    tables: Vec<String>,
    /// The replication slot; it is made if there is none
    #[arg(long, value_name = "NAME", default_value = "highwater")]
    slot: String,
    /// The publication; it is made if there is none [default: called as the slot]
    #[arg(long, value_name = "NAME")]
    publication: Option<String>,
}

fn main() -> highwater::Exit {
    highwater::program("replication")
        .about("Copies tables of Postgres into another one, and keeps them as they are")
        .prepare(private::prepare)
        .main_with(|flow, args: &Args| {
            let checkpoint = Checkpoint::every(millis(200));
            let (args, checkpoint) = match args.source {
                Some(_) => (args.clone(), checkpoint),
                None => (private::args(args)?, checkpoint.in_store(private::store()?)),
            };
            let copied = tables::copied(&args)?;
            let names = copied.iter().map(|table| table.name.to_string());
            let mut source = PostgresReplication::slot(args.url(), &args.slot).tables(names);
            if let Some(publication) = &args.publication {
                source = source.publication(publication);
            }
            for table in copied.iter().filter(|table| table.key.is_empty()) {
                source = source.without_snapshot(&table.name.to_string());
            }
            let actions: Vec<NamedAction> = match (&args.target, &args.sink) {
                (Some(target), _) => copied.iter().flat_map(|table| into(target, table)).collect(),
                (_, Some(_)) => vec![action("none", run(|_| async { Ok(()) })).repeatable()],
                _ => vec![action("print", Stdout::json_lines())],
            };
            flow.source(source).fan_out(actions).checkpoint(checkpoint);
            Ok(())
        })
}

impl Args {
    fn url(&self) -> &str {
        self.source.as_deref().unwrap_or_default()
    }
}

/// The actions that keep a table as its source is.
fn into(target: &str, table: &Copied) -> Vec<NamedAction> {
    let name = table.name.to_string();
    let of = |change: &Change, label: &str| change.table() == label;
    let label = table.label.clone();
    if !table.key.is_empty() {
        let copy = PostgresTable::upsert(target, &name).key(table.key.clone());
        return vec![action(&table.label, copy).when(move |change| of(change, &label))];
    }
    let is_row = |change: &Change| matches!(change.operation(), Operation::Insert | Operation::Read | Operation::Truncate);
    let other = label.clone();
    let refuse = format!(
        "table {name} has no primary key, and only rows that are inserted can be copied: add one, here and in the target"
    );
    let refuse = run(move |_| {
        let why = refuse.clone();
        async move { Err(Error::stop(why)) }
    });
    vec![
        action(&table.label, PostgresTable::append(target, &name).empty_with_source())
            .when(move |change| of(change, &label) && is_row(change)),
        action(format!("{}, not inserted", table.label), refuse).when(move |change| of(change, &other) && !is_row(change)),
    ]
}
