//! What becomes of a change in a row of a real table: types, columns, deletes, refusals.

mod support;

use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::report::Report;
use highwater::sinks::PostgresTable;
use support::books;
use tempfile::TempDir;

struct Case {
    folder: TempDir,
    database: Database,
}

impl Case {
    fn new(tables: &str) -> Self {
        let database = Server::shared().database().unwrap();
        database.sql(tables).unwrap();
        Case { folder: support::folder(), database }
    }

    fn url(&self) -> &str {
        self.database.url().reveal()
    }

    /// Runs changes, given as JSON lines, into the table. A second call goes on with a longer file.
    fn run(&self, sink: PostgresTable, lines: &[&str]) -> Result<Report> {
        let input = self.folder.path().join("changes.jsonl");
        std::fs::write(&input, lines.join("\n") + "\n").unwrap();
        let build = support::build(move |flow| {
            let table = action("table", sink.clone());
            flow.source(JsonLines::file(&input)).fan_out([table]).checkpoint(Checkpoint::every(millis(5)));
            Ok(())
        });
        support::run(&support::settings(self.folder.path().join("data"), 1), &build)
    }

    /// The rows that a query gives, each as one text; null is `-`.
    fn rows(&self, query: &str) -> Vec<String> {
        let text =
            |row: Vec<Option<String>>| row.into_iter().map(|cell| cell.unwrap_or("-".into())).collect::<Vec<_>>().join("|");
        self.database.sql(query).unwrap().into_iter().map(text).collect()
    }

    /// What a run that is refused says.
    fn refused(&self, sink: PostgresTable) -> String {
        self.run(sink, &[r#"{"id":"1","op":"insert","after":{"id":1}}"#]).unwrap_err().to_string()
    }
}

const TYPES: &str = "create type mood as enum ('glad', 'sad');
    create table t (id bigint primary key, n numeric, i smallint, f double precision, b boolean, s varchar(5), j jsonb, k json, l int[],
      m text[][], at timestamptz, d date, u uuid, y bytea, e mood, x text default 'as made', g bigint generated always as (id * 2) stored)";

/// Goal: every type takes its values as JSON has them, also quotes, nulls and lists. Method: one row by both ways of writing.
#[test]
fn every_type_takes_its_values() {
    let line = r#"{"id":"c","op":"insert","after":{"id":9007199254740993,"n":123456789012345678.123456789,"i":-7,"f":1.5e300,"b":true,
        "s":"a\t\\\"","j":{"a":[1,null,"ü"]},"k":"plain","l":[1,null,3],"m":[["a,b","c\"d"],["","NULL"]],"at":"2024-02-29T12:00:00.123456Z",
        "d":"2024-02-29","u":"0d5f4b5e-3f86-4c8e-9d4b-111111111111","y":"\\xdeadbeef","e":"sad","of no column":1}}"#
        .replace('\n', " ");
    let right = "9007199254740993|123456789012345678.123456789|-7|1.5e+300|t|a\t\\\"|{\"a\": [1, null, \"ü\"]}|\"plain\"|{1,NULL,3}|\
        {{\"a,b\",\"c\\\"d\"},{\"\",\"NULL\"}}|2024-02-29 12:00:00.123456+00|2024-02-29|0d5f4b5e-3f86-4c8e-9d4b-111111111111|\\xdeadbeef|\
        sad|as made|18014398509481986";
    for upserts in [true, false] {
        let case = Case::new(TYPES);
        let sink = if upserts {
            PostgresTable::upsert(case.url(), "t").key(["id"])
        } else {
            PostgresTable::append(case.url(), "public.t")
        };
        let report = case.run(sink, &[&line]).unwrap();
        assert_eq!(report.actions["table"].delivered, 1, "{:?}", books::parked_words(&case.folder.path().join("data")));
        assert_eq!(case.rows("set timezone to 'UTC'; select * from t"), [right], "upsert: {upserts}");
    }
}

#[test]
fn what_a_change_lacks_stays_and_null_is_null() {
    let case = Case::new("create table t (id int primary key, a text default 'd', b text)");
    let lines = [
        r#"{"id":"1","key":"1","op":"insert","after":{"id":1,"a":"x","b":"y"}}"#,
        r#"{"id":"2","key":"1","op":"update","after":{"id":1,"b":null}}"#,
        r#"{"id":"3","key":"2","op":"insert","after":{"id":2,"b":"z"}}"#,
        r#"{"id":"4","key":"3","op":"insert","after":{"id":3,"a":"old","b":"old"}}"#,
        r#"{"id":"5","key":"3","op":"delete"}"#,
        r#"{"id":"6","key":"3","op":"insert","after":{"id":3}}"#,
        r#"{"id":"7","key":"4","op":"insert","after":{"id":4}}"#,
        r#"{"id":"8","key":"4","op":"delete","before":{"id":4}}"#,
    ];
    case.run(PostgresTable::upsert(case.url(), "t").key(["id"]), &lines).unwrap();
    assert_eq!(case.rows("select * from t order by id"), ["1|x|-", "2|d|z", "3|d|-"]);
}

/// Goal: what a list or a document says in every digit and letter is written so. Method: numbers of more digits than any float has, a document that is a
/// text with escapes, keys in an order of their own.
#[test]
fn lists_and_documents_keep_every_digit_and_letter() {
    let case = Case::new("create table t (id int primary key, n numeric[], b bigint[], f float8[], k json, d json[], m text[])");
    let line = r#"{"id":"1","op":"insert","after":{"id":1,"n":[[123456789012345678901234567890.10,-0.00],[null,1e2]],"b":[9007199254740993],
        "f":["NaN",-0.0,"-Infinity"],"k":"\u0041 \u0000","d":[{"b":1.0,"a":[1]},{"x": 1}],"m":[]}}"#
        .replace('\n', " ");
    case.run(PostgresTable::upsert(case.url(), "t").key(["id"]), &[&line]).unwrap();
    let right = "1|{{123456789012345678901234567890.10,0.00},{NULL,100}}|{9007199254740993}|{NaN,-0,-Infinity}|\"\\u0041 \\u0000\"|\
        {\"{\\\"b\\\":1.0,\\\"a\\\":[1]}\",\"{\\\"x\\\": 1}\"}|{}";
    assert_eq!(case.rows("select * from t"), [right]);
}

/// Goal: an update that lacks a column which may not be null finds its row. Method: such updates of a row that is there, and of one that is not.
#[test]
fn an_update_need_not_have_what_may_not_be_null() {
    let case = Case::new("create table t (id int primary key, body text not null, n int)");
    let lines = [
        r#"{"id":"1","key":"1","op":"insert","after":{"id":1,"body":"long","n":1}}"#,
        r#"{"id":"2","key":"1","op":"update","after":{"id":1,"n":2}}"#,
        r#"{"id":"3","key":"2","op":"update","after":{"id":2,"n":3}}"#,
    ];
    let report = case.run(PostgresTable::upsert(case.url(), "t").key(["id"]), &lines).unwrap();
    assert_eq!(case.rows("select * from t"), ["1|long|2"]);
    assert_eq!(
        (report.actions["table"].delivered, report.actions["table"].parked),
        (2, 1),
        "of the row that is not there nobody knows the body"
    );
}

#[test]
fn columns_are_filled_from_paths_and_from_the_change_itself() {
    let case =
        Case::new("create table h (what text, id text, k text, at timestamptz, ms timestamp, city text, whole jsonb, src text)");
    let lines = [
        r#"{"id":"1","table":"orders","key":"k","op":"update","ts":1700000000123,"after":{"a":{"city":"Ulm","no":1}}}"#,
        r#"{"id":"2","table":"orders","key":"k","op":"delete","ts":1700000000124,"before":{"a":null}}"#,
    ];
    let sink = PostgresTable::append(case.url(), "h").columns([
        ("what", "@operation"),
        ("id", "@id"),
        ("k", "@key"),
        ("at", "@time"),
        ("ms", "@time"),
        ("src", "@table"),
        ("city", "a.city"),
        ("whole", "a"),
    ]);
    case.run(sink, &lines).unwrap();
    let right = [
        "update|1|k|2023-11-14 22:13:20.123+00|2023-11-14 22:13:20.123|Ulm|{\"no\": 1, \"city\": \"Ulm\"}|orders",
        "delete|2|k|2023-11-14 22:13:20.124+00|2023-11-14 22:13:20.124|-|-|orders",
    ];
    assert_eq!(case.rows("set timezone to 'UTC'; select * from h order by id"), right);
}

#[test]
fn a_soft_delete_marks_the_row_until_its_key_comes_back() {
    let lines = [
        r#"{"id":"1","key":"1","op":"insert","after":{"id":1,"a":"x"}}"#,
        r#"{"id":"2","key":"1","op":"delete","ts":1700000000000,"before":{"id":1}}"#,
        r#"{"id":"3","key":"2","op":"insert","after":{"id":2,"a":"y"}}"#,
        r#"{"id":"4","key":"2","op":"delete","before":{"id":2}}"#,
        r#"{"id":"5","key":"2","op":"insert","after":{"id":2,"a":"z"}}"#,
        r#"{"id":"6","key":"3","op":"delete","before":{"id":3}}"#,
    ];
    let case = Case::new("create table t (id int primary key, a text not null, gone timestamptz, was boolean)");
    case.run(PostgresTable::upsert(case.url(), "t").key(["id"]).soft_delete("gone"), &lines).unwrap();
    let rows = case.rows("set timezone to 'UTC'; select id, a, gone from t order by id");
    assert_eq!(rows, ["1|x|2023-11-14 22:13:20+00", "2|z|-"]);
    let case = Case::new("create table t (id int primary key, a text not null, gone boolean)");
    case.run(PostgresTable::upsert(case.url(), "t").key(["id"]).soft_delete("gone"), &lines).unwrap();
    assert_eq!(case.rows("select * from t order by id"), ["1|x|t", "2|z|f"]);
    let case = Case::new("create table t (id int primary key, a text not null)");
    case.run(PostgresTable::upsert(case.url(), "t").key(["id"]).ignore_deletes(), &lines).unwrap();
    assert_eq!(case.rows("select * from t order by id"), ["1|x", "2|z"]);
}

/// Goal: what the table refuses is parked with the server's words, all else goes through; mended, it goes in on a retry.
#[test]
fn a_row_that_is_refused_is_parked_alone() {
    let case = Case::new("create table t (id int primary key, a varchar(3), check (a <> 'no'))");
    let lines: Vec<String> = (0..50)
        .map(|n| {
            let a = if n == 7 {
                "no"
            } else if n == 31 {
                "long"
            } else {
                "ok"
            };
            let id = if n == 40 { "\"seven\"".to_owned() } else { n.to_string() };
            format!(r#"{{"id":"c{n}","key":"k{n}","op":"insert","after":{{"id":{id},"a":"{a}"}}}}"#)
        })
        .chain([r#"{"id":"keyless","op":"insert","after":{"a":"ok"}}"#.to_owned()])
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sink = PostgresTable::upsert(case.url(), "t").key(["id"]);
    let report = case.run(sink.clone(), &lines).unwrap();
    let books = &report.actions["table"];
    assert_eq!((books.delivered, books.parked, case.rows("select count(*) from t")), (47, 4, vec!["47".to_owned()]));
    let said: Vec<String> = books::parked_words(&case.folder.path().join("data"));
    let has = |words: &str| said.iter().any(|said| said.contains(words));
    assert!(has("violates check constraint") && has("too long for type character varying(3)"), "{said:?}");
    assert!(has("invalid input syntax for type integer: \"seven\"") && has("no value for column \"id\" of the key"), "{said:?}");
}

#[test]
fn a_table_that_is_altered_while_it_is_written_is_looked_at_again() {
    let case = Case::new("create table t (id int primary key, a text, b text)");
    let input = case.folder.path().join("changes.jsonl");
    std::fs::write(&input, "").unwrap();
    let (feed, source) = Channel::bounded(10);
    let sink = PostgresTable::upsert(case.url(), "t").key(["id"]);
    let build = support::build(move |flow| {
        let table = action("table", sink.clone()).backoff(millis(1), millis(5));
        flow.source(source.clone()).fan_out([table]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    let run = support::start(&support::settings(case.folder.path().join("data"), 1), &build, Default::default());
    let send = |n: i32| {
        let row = format!(r#"{{"id":{n},"a":"{n}","b":"{n}"}}"#);
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        feed.try_send(Change::builder(format!("c{n}")).after(&row).build().unwrap()).unwrap();
        support::until("the row", || case.rows(&format!("select id from t where id = {n}")).len() == 1);
    };
    send(1);
    case.database.sql("alter table t drop column b, alter column a type int using a::int").unwrap();
    send(2);
    case.database.sql("alter table t add column b text").unwrap();
    send(3);
    drop(feed);
    run.end().unwrap();
    assert_eq!(case.rows("select id, a from t order by id"), ["1|1", "2|2", "3|3"]);
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    let case =
        Case::new("create table t (id int, a text, c int generated always as (id + 1) stored); create view v as select 1 as id");
    let sink = || PostgresTable::upsert(case.url(), "t").key(["id"]);
    let said = |sink: PostgresTable, words: &str| {
        let refused = case.refused(sink);
        assert!(refused.contains(words) && refused.contains("action \"table\""), "{refused}");
    };
    said(PostgresTable::upsert(case.url(), "nowhere").key(["id"]), "table \"nowhere\" is not there: create it");
    said(PostgresTable::append(case.url(), "v"), "\"v\" is no table");
    said(sink(), "table \"t\" has no unique index on (\"id\")");
    case.database.sql("create unique index on t (id) where a is not null").unwrap();
    said(sink(), "create unique index on \"t\" (\"id\")");
    case.database.sql("create unique index on t (id) include (a)").unwrap();
    said(sink().columns([("id", "id"), ("b", "b")]), "table \"t\" has no column \"b\"; it has id, a, c");
    said(sink().columns([("a", "id")]), "column \"id\" is in the key of table \"t\", but is not filled");
    said(sink().columns([("id", "id"), ("c", "c")]), "column \"c\" of table \"t\" is computed by the server");
    said(sink().columns([("id", "@lsn")]), "`@lsn` is nothing that a change has");
    said(PostgresTable::upsert(case.url(), "t"), "an upsert needs `.key([..])`");
    said(PostgresTable::append(case.url(), "t").soft_delete("a"), "what is appended is never deleted");
    Server::shared().user("guest", "secret word").unwrap();
    let guest = case.database.url_of("guest", "secret word", "").unwrap();
    let guest = || PostgresTable::upsert(guest.reveal(), "t").key(["id"]).bookkeeping_in("guests");
    said(guest(), "(user guest needs: grant usage, create on schema \"guests\" to guest");
    assert!(!case.refused(guest()).contains("secret word"));
    case.database
        .sql("create schema guests; grant usage, create on schema guests to guest; grant select, insert on t to guest")
        .unwrap();
    said(guest(), "user guest may not write table \"t\": grant update, delete on \"t\" to \"guest\"");
    assert_eq!(case.rows("select count(*) from t"), ["0"]);
    case.run(sink(), &[r#"{"id":"1","op":"insert","after":{"id":1}}"#]).unwrap();
}

#[test]
fn a_checkpoint_that_is_not_the_tables_is_refused() {
    let case = Case::new("create table t (id int primary key)");
    let sink = || PostgresTable::upsert(case.url(), "t").key(["id"]).bookkeeping_in("kept apart");
    case.run(sink(), &[r#"{"id":"1","op":"insert","after":{"id":1}}"#]).unwrap();
    let other = Case { folder: support::folder(), database: case.database.clone() };
    let refused = other.refused(sink());
    assert!(refused.contains("is continued from another checkpoint than this run has"), "{refused}");
    let remedy = refused.split(": delete from").nth(1).unwrap();
    case.database.sql(&format!("delete from {remedy}")).unwrap();
    other.run(sink(), &[r#"{"id":"1","op":"insert","after":{"id":1}}"#]).unwrap();
}
