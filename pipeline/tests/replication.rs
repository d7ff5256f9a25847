//! A table by logical replication into a table of another database, exactly once: rows that were there, and all that happens to them.

mod support;

use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::report::Report;
use highwater::settings::Settings;
use highwater::sinks::PostgresTable;

const TABLE: &str = "create table t(id int, part text, n numeric, many numeric[], f float8, j jsonb, docs jsonb[], raw json, at timestamptz, \
     took interval, bytes bytea, texts text[], spans int4range[], b boolean, body text not null, primary key (id, part)); \
     alter table t alter body set storage external";

/// Copies and follows until nothing comes any more.
fn run(source: &Database, target: &Database, data: &std::path::Path) -> Result<Report> {
    let slot = PostgresReplication::at(source.url(), &format!("pipe_{}", source.name())).tables(["t"]);
    let url = target.url().reveal().to_owned();
    let build = support::build(move |flow| {
        let table = PostgresTable::upsert(&url, "t").key(["id", "part"]);
        flow.source(slot.clone()).fan_out([action("table", table)]).checkpoint(Checkpoint::every(millis(20)));
        Ok(())
    });
    let settings = Settings { until_idle: Some(std::time::Duration::from_millis(500)), ..support::settings(data.to_owned(), 2) };
    support::run(&settings, &build)
}

fn rows(database: &Database) -> Vec<Vec<Option<String>>> {
    database.sql("select t::text from t order by id, part").unwrap()
}

/// Goal: the tables are equal in every value. Method: edge values, large ones that do not change, keys that do, truncation, each in a run of its own.
#[test]
fn a_table_and_its_copy_are_equal() {
    let (source, target) = (Server::shared().database().unwrap(), Server::shared().database().unwrap());
    source.sql(TABLE).unwrap();
    target.sql(TABLE).unwrap();
    let folder = support::folder();
    let long = "(select string_agg(md5(n::text), '') from generate_series(1, 300) n)";
    let values = format!(
        "0.1000000000000000000000000000001, '{{NaN,1e-20,123456789012345678901234567890}}', '-Infinity', '{{\"a\": [1, null]}}', \
         array['\"s\"', '[1, 2]', '3']::jsonb[], '{{\"x\":1,\n \"x\":2}}', 'infinity', '-1 mon +2 days 00:00:00.5', '\\x00ff', \
         '{{NULL,\"NULL\",\"a,\\\"b\\\\\",\"\"}}', array['[1,5)', null]::int4range[], null, {long}"
    );
    let steps = [
        format!("insert into t values (1, 'a', {values}), (2, 'b\"\\', {values})"),
        format!("insert into t values (3, 'c', {values}); update t set n = 'NaN', b = true where id = 1"),
        "update t set id = 20 where id = 2; delete from t where id = 3; update t set texts = '[0:1]={x,y}', many = '{}'"
            .to_owned(),
        format!("truncate t; insert into t values (4, 'd', {values})"),
    ];
    for step in steps {
        source.sql(&step).unwrap();
        let report = run(&source, &target, folder.path()).unwrap();
        assert_eq!(report.actions["table"].parked, 0, "{:?}", support::books::parked_words(folder.path()));
        assert_eq!(rows(&target), rows(&source), "{step}");
    }
}
