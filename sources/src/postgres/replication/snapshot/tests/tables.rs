//! What of a table is read: the rows and columns that the stream publishes.

use super::*;

/// The rows of a table as one round reads them, in order.
fn read(database: &Database, table: &str) -> Vec<Vec<Option<String>>> {
    runtime().block_on(async {
        let options = options(database, 100);
        let table = planned(&options, database, table).await;
        let (mut rows, after) = all(&options, &[table], None).await;
        assert_eq!(after[0].parts, Parts::Done);
        rows.sort();
        rows
    })
}

fn row(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn only_what_is_published_is_read() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table plain(gone int, id int primary key, b bool, twice int generated always as (id * 2) stored, c char(4), secret text); \
             alter table plain drop column gone; insert into plain (id, b, c, secret) select g, g > 1, 'x', 's' from generate_series(1, 3) g; \
             create table child(extra int) inherits (plain); alter table child add primary key (id); insert into child (id, b, c) values (9, true, 'y'); \
             create table parted(id int, v text, primary key (id)) partition by range (id); \
             create table parted_1 partition of parted for values from (0) to (2); \
             create table parted_2 partition of parted for values from (2) to (9); insert into parted select g, 'v' || g from generate_series(1, 4) g; \
             create table by_index(id int primary key, a text not null, v int); create unique index by_a on by_index(a); \
             alter table by_index replica identity using index by_a; insert into by_index values (1, 'z', 5), (2, 'y', 6); \
             create publication pub for table only plain (id, b, c) where (id <> 2), parted where (id > 1), by_index with (publish_via_partition_root)",
        )
        .unwrap();
    assert_eq!(
        read(&database, "plain"),
        [row(&["1", "f", "x   "]), row(&["3", "t", "x   "])],
        "bool and char as the stream has them"
    );
    assert_eq!(read(&database, "parted"), [row(&["2", "v2"]), row(&["3", "v3"]), row(&["4", "v4"])]);
    assert_eq!(read(&database, "by_index").len(), 2);
    database.sql("drop publication pub; create publication pub for table parted").unwrap();
    assert_eq!(read(&database, "parted_1"), [row(&["1", "v1"])]);
    assert_eq!(read(&database, "parted_2").len(), 3);
    assert_eq!(read(&database, "child"), Vec::<Vec<Option<String>>>::new(), "it is not published, and so it is not read");
}

#[test]
fn a_table_without_key_is_refused_with_the_ways_out() {
    let database = Server::shared().database().unwrap();
    database.sql("create table loose(id int); create publication pub for table loose").unwrap();
    let error = runtime().block_on(plan(&options(&database, 10), &[oid(&database, "loose")])).err().unwrap().to_string();
    assert!(
        error.contains("public.loose has neither a primary key") && error.contains(".without_snapshot(\"public.loose\")"),
        "{error}"
    );
}

#[test]
fn rows_that_a_policy_hides_are_an_error_and_not_missing() {
    let server = Server::shared();
    let database = server.database().unwrap();
    let role = format!("policy_{}", database.name());
    server.user(&role, "secret").unwrap();
    database
        .sql(&format!(
            "alter role {role} replication; create table t(id int primary key, owner text); insert into t values (1, 'a'), (2, 'b'); \
             alter table t enable row level security; create policy own on t using (owner = 'a'); grant select on t to {role}; \
             create publication pub for table t"
        ))
        .unwrap();
    let options = Options { url: database.url_of(&role, "secret", "sslmode=disable").unwrap(), ..options(&database, 10) };
    let error = runtime().block_on(async {
        let table = planned(&options, &database, "t").await;
        Round::begin(&options, &[table], None).await.err().unwrap().to_string()
    });
    assert!(error.contains("row-level security"), "{error}");
}

#[test]
fn a_table_that_was_written_anew_since_the_snapshot_is_not_taken_for_empty() {
    let database = Server::shared().database().unwrap();
    database
        .sql("create table t(id int primary key, v text); insert into t values (1, 'a'); create publication pub for table t")
        .unwrap();
    runtime().block_on(async {
        let options = options(&database, 10);
        let reader = session::open(&options.url, "reader").await.unwrap();
        let exported = Exported::make(&options.url).await.unwrap();
        exported.begin(&reader).await.unwrap();
        database.sql("alter table t alter id type bigint").unwrap();
        let table = planned(&options, &database, "t").await;
        let found = Found::default().look(&reader, &options, &[table]).await;
        assert!(found.unwrap_err().to_string().contains("rewritten since the snapshot was taken"));
    });
    assert_eq!(read(&database, "t"), [row(&["1", "a"])]);
}

#[test]
fn what_is_read_ahead_is_bounded_and_large_rows_go_through() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table t(id int primary key, v text); insert into t select g, repeat(chr(65 + g), 1000000) from generate_series(1, 25) g; \
             create publication pub for table t",
        )
        .unwrap();
    let rows = read(&database, "t");
    assert_eq!(rows.len(), 25);
    assert!(rows.iter().all(|row| row[1].as_ref().unwrap().len() == 1_000_000));
}

/// Goal: who waits for a lock that excludes all readers, and the readers, do not wait for each other for ever. Method: a truncation waits while the round
/// has not come to the table yet.
#[test]
fn a_truncation_that_waits_for_a_round_is_not_waited_for() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table a(id int primary key, v text); insert into a select g, repeat('x', 1000000) from generate_series(1, 30) g; \
             create table c as select * from a; alter table c add primary key (id); \
             create table b(id int primary key, v text); insert into b values (1, 'one'); create publication pub for table a, b, c",
        )
        .unwrap();
    runtime().block_on(async {
        let options = options(&database, 10);
        let mut tables = Vec::new();
        for table in ["a", "c", "b"] {
            tables.push(planned(&options, &database, table).await);
        }
        let mut round = Round::begin(&options, &tables, None).await.unwrap();
        let outside = session::open(&options.url, "outside").await.unwrap();
        let truncated = tokio::spawn(async move { outside.batch_execute("truncate public.b").await });
        let waits = "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'";
        while database.one(waits).unwrap() == "0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut rows = 0;
        while let Some(page) = tokio::time::timeout(Duration::from_secs(20), round.next()).await.unwrap().unwrap() {
            rows += page.rows().count();
        }
        assert_eq!(rows, 61);
        drop(round);
        truncated.await.unwrap().unwrap();
    });
}
