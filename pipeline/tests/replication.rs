//! A table by logical replication into a table of another database, exactly once: rows that were there, and all that happens to them; what happens
//! when it falls behind, and when a row is no change.

mod support;

use highwater::operators::postgres::Connection;
use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::Control;
use highwater::settings::Settings;
use highwater::sinks::PostgresTable;

const TABLE: &str = "create table t(id int, part text, n numeric, many numeric[], f float8, j jsonb, docs jsonb[], raw json, at timestamptz, \
     took interval, bytes bytea, texts text[], spans int4range[], b boolean, body text not null, primary key (id, part)); \
     alter table t alter body set storage external";

/// Copies and follows until nothing comes any more.
fn copy(source: &Database, target: &Database, data: &std::path::Path) -> Result<Report> {
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
        let report = copy(&source, &target, folder.path()).unwrap();
        assert_eq!(report.actions["table"].parked, 0, "{:?}", support::books::parked_words(folder.path()));
        assert_eq!(rows(&target), rows(&source), "{step}");
    }
}

/// Goal: who follows and falls behind goes back to batches, and loses and repeats nothing by it. Method: a limit of nearly nothing while many
/// write; the run crashes in the second batch, which there is only if it has gone back, and the next one reads the rest.
#[test]
fn who_falls_behind_while_following_reads_on_in_batches() {
    let (source, target) = (Server::shared().database().unwrap(), Server::shared().database().unwrap());
    for database in [&source, &target] {
        database.sql("create table t(id bigint primary key, v int)").unwrap();
    }
    let (at, slot, url) = (source.url().clone(), format!("behind_{}", source.name()), target.url().reveal().to_owned());
    let build = support::build(move |flow| {
        let read = PostgresReplication::at(&at, &slot).tables(["t"]).catch_up_beyond(1000, millis(1));
        let table = PostgresTable::upsert(&url, "t").key(["id"]);
        flow.source(read).fan_out([action("table", table)]).checkpoint(Checkpoint::every(millis(20)));
        Ok(())
    });
    let folder = support::folder();
    let settings = support::settings(folder.path().join("data"), 1);
    let rows = |database: &Database| database.sql("select id::text, v::text from t order by id").unwrap();
    let control = Control::default();
    // The first is what is behind at the start: nothing.
    control.crash_at(failpoint::CATCH_UP_BATCH, 2);
    let run = support::start(&settings, &build, control);
    let mut crashed = None;
    for round in 0.. {
        source.sql(&format!("insert into t select n + {round} * 500, {round} from generate_series(1, 500) n")).unwrap();
        source.sql(&format!("update t set v = v + 1 where id % 7 = {round} % 7")).unwrap();
        crashed = crashed.or_else(|| run.ended());
        if crashed.is_some() {
            break;
        }
        assert!(round < 3000, "it does not go back to batches");
    }
    assert!(
        crashed.is_some_and(|ended| ended.map_or_else(|error| error.to_string().ends_with("crashed"), |report| !report.ended))
    );
    let run = support::start(&settings, &build, Control::default());
    support::until("the target is as the source", || rows(&target) == rows(&source));
    run.control.stop();
    let report = run.end().unwrap();
    let books = &report.actions["table"];
    assert_eq!((books.parked, books.in_flight), (0, 0), "{books:?}");
    assert_eq!(books.read, books.delivered, "{books:?}");
}

/// Goal: a row that is no change stops the pipeline where that is wanted, and nothing before it is lost; where it is not, it is parked. Method: a
/// database without an encoding, whose text is not UTF-8, in the log and among the rows that were there.
#[test]
fn a_row_that_is_no_text_stops_the_pipeline_or_is_parked() {
    let server = Server::shared();
    server.sql("create database bytes template template0 encoding 'SQL_ASCII' locale 'C'").unwrap();
    let url = server.url("bytes").unwrap();
    let sql = |text: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connection = Connection::open(&url, "a test").await.unwrap();
            connection.batch_execute(text).await.unwrap();
        });
    };
    sql("create table t(id int primary key, v text); insert into t values (1, 'a'), (2, E'\\xff')");
    let folder = support::folder();
    let read = |what: OnReject, data: &str| {
        let source = PostgresReplication::at(&url, &format!("bytes_{data}")).tables(["t"]).on_reject(what);
        let build = support::build(move |flow| {
            flow.source(source.clone())
                .fan_out([action("act", run(|_| async { Ok(()) }))])
                .checkpoint(Checkpoint::every(millis(5)));
            Ok(())
        });
        let until_idle = Some(std::time::Duration::from_millis(300));
        let settings = Settings { until_idle, ..support::settings(folder.path().join(data), 1) };
        support::run(&settings, &build)
    };
    let stopped = read(OnReject::Stop, "stops").unwrap_err().to_string();
    assert!(stopped.contains("public.t") && stopped.contains("UTF-8"), "{stopped}");
    let report = read(OnReject::Park, "parks").unwrap();
    assert_eq!((report.read, report.rejected, report.actions["act"].delivered), (2, 1, 1));
    // The same of a change in the log, on the slot that goes on.
    sql("insert into t values (3, 'c'); update t set v = E'\\xfe' where id = 3; insert into t values (4, 'd')");
    let stopped = read(OnReject::Stop, "parks").unwrap_err().to_string();
    assert!(stopped.contains("public.t") && stopped.contains("UTF-8"), "{stopped}");
    let report = read(OnReject::Park, "parks").unwrap();
    assert_eq!((report.read, report.rejected, report.actions["act"].delivered), (5, 2, 3));
    let words = support::books::parked_words(&folder.path().join("parks"));
    assert_eq!(words.len(), 2, "{words:?}");
}
