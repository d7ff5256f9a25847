//! Rounds on a real server: what is in a snapshot, which rows are read, and how it is told whether one was.

mod keys;
mod point;
mod tables;

use highwater_operators::testing::postgres::{Database, Server};
use tokio::runtime::Runtime;

use super::*;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn options(database: &Database, page_rows: u32) -> Options {
    Options { url: database.url().clone(), publication: "pub".to_owned(), connections: 2, page_rows, first: BTreeSet::new() }
}

fn oid(database: &Database, table: &str) -> u32 {
    database.one(&format!("select '{table}'::regclass::oid")).unwrap().parse().unwrap()
}

/// A table's progress as it is planned.
async fn planned(options: &Options, database: &Database, table: &str) -> TableProgress {
    plan(options, &[oid(database, table)]).await.unwrap().remove(0)
}

/// The rows of a page, each value as text.
fn texts(page: &Page) -> Vec<Vec<Option<String>>> {
    let columns = page.relation().map_or(0, |relation| relation.columns.len());
    let text = |row: &Values<'_>, at| row.get(at).map(|text| String::from_utf8(text.to_vec()).unwrap());
    page.rows().map(|row| (0..columns).map(|at| text(&row, at)).collect()).collect()
}

/// All rows of a round, and how far its tables are after it.
async fn all(
    options: &Options,
    tables: &[TableProgress],
    limit: Option<Duration>,
) -> (Vec<Vec<Option<String>>>, Vec<TableProgress>) {
    let mut round = Round::begin(options, tables, limit).await.unwrap();
    let (mut rows, mut progress) = (Vec::new(), Progress::new(&options.url, tables));
    while let Some(page) = round.next().await.unwrap() {
        rows.extend(texts(&page));
        progress.take(&page);
    }
    (rows, progress.tables())
}
