//! Keys of any type: paging and the question whether a key was read agree with each other, and both with the table.

use super::*;
use crate::postgres::replication::relation::ReplicaIdentity;

/// Reads a table in two rounds, the first of them cut off. Every row is read once; and between them, of each row it is told rightly whether it was read.
fn is_read_once(database: &Database, table: &str, key: &[&str], min_ranges: usize) {
    runtime().block_on(async {
        let options = options(database, 7);
        let begun = planned(&options, database, table).await;
        let ranges = if let Parts::Ranges(ranges) = &begun.parts { ranges.len() } else { 0 };
        assert!(ranges >= min_ranges, "{table} is read in {ranges} ranges");
        let expected = database.sql(&format!("select * from {table}")).unwrap();
        let mut round = Round::begin(&options, std::slice::from_ref(&begun), None).await.unwrap();
        let (mut read, mut progress) = (Vec::new(), Progress::new(&options.url, &[begun]));
        while read.len() < expected.len() / 2 {
            let page = round.next().await.unwrap().unwrap();
            read.extend(texts(&page));
            progress.take(&page);
        }
        drop(round);
        let now = progress.tables().remove(0);
        let columns: Vec<_> = database
            .sql(&format!(
                "select attname, atttypid from pg_attribute where attrelid = '{table}'::regclass and attnum > 0 order by attnum"
            ))
            .unwrap()
            .into_iter()
            .map(|row| {
                let name = row[0].clone().unwrap();
                let is_key = key.contains(&name.as_str());
                super::super::super::relation::Column::new(
                    name,
                    row[1].as_ref().unwrap().parse().unwrap(),
                    -1,
                    is_key,
                    &Types::default(),
                )
            })
            .collect();
        let relation = Relation::new(now.oid, "public".into(), table.into(), ReplicaIdentity::Default, columns);
        for row in &expected {
            let values: Vec<&str> = relation.key.iter().map(|at| row[*at].as_deref().unwrap()).collect();
            let is_read = progress.is_read(&relation, &values).await.unwrap();
            assert_eq!(is_read, read.contains(row), "{table}: {row:?}, when {now:?}");
        }
        let (rest, after) = all(&options, &[now], None).await;
        assert_eq!(after[0].parts, Parts::Done);
        let mut whole = [read, rest].concat();
        let mut expected = expected;
        whole.sort();
        expected.sort();
        assert_eq!(whole, expected, "{table}");
    });
}

#[test]
fn keys_of_all_kinds_are_paged_in_their_own_order() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create extension citext; create collation nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             create type mood as enum ('zest', 'calm', 'awe'); create domain small as int check (value > -1000); \
             create schema odd; create type odd.\"Pa ir\" as (a int, b text); \
             create table ints(id int primary key, v text); insert into ints select g * 3 - 500, g from generate_series(1, 500) g; \
             create table texts(v int, id text collate \"en-x-icu\" primary key); \
             insert into texts select g, chr(97 + g % 26) || case g % 3 when 0 then upper(md5(g::text)) else md5(g::text) end from generate_series(1, 500) g; \
             create table folded(id citext, n int, primary key (id, n)); insert into folded select case g % 2 when 0 then 'Key' else 'kEY' end || g % 10, g \
               from generate_series(1, 500) g; \
             create table nondet(id text collate nd primary key); insert into nondet select case g % 2 when 0 then 'K' else 'k' end || g from generate_series(1, 500) g; \
             create table uuids(id uuid primary key); insert into uuids select md5(g::text)::uuid from generate_series(1, 500) g; \
             create table numbers(id numeric primary key); insert into numbers select case when g = 1 then 'NaN' when g % 2 = 0 then g / 10.0 else (g::text || '.100')::numeric end \
               from generate_series(1, 500) g; \
             create table floats(id float8 primary key); insert into floats values ('-0'), ('NaN'), ('Infinity'), ('-Infinity'), (0.1); \
             insert into floats select random() * 1000 - 500 from generate_series(1, 500); \
             create table times(at timestamptz, day date, span interval, primary key (day, at, span)); \
             insert into times select '2024-03-31 00:00+01'::timestamptz + g * interval '7 min', '2024-01-01'::date + g % 5, g * interval '1 month 1 day' from generate_series(1, 500) g; \
             create table blanks(id char(8), flag bool, primary key (flag, id)); insert into blanks select 'a' || g % 250, g > 250 from generate_series(1, 500) g; \
             create table moods(m mood, raw bytea, primary key (m, raw)); \
             insert into moods select (enum_range(null::mood))[1 + g % 3], decode(md5(g::text), 'hex') from generate_series(1, 500) g; \
             create table domains(id small primary key); insert into domains select g from generate_series(1, 500) g; \
             create table pairs(id odd.\"Pa ir\" primary key); insert into pairs select row(g % 20, E'it''s \\\\ ' || g)::odd.\"Pa ir\" from generate_series(1, 500) g; \
             create table lists(id int[] primary key); insert into lists select array[g % 7, g] from generate_series(1, 500) g; \
             create publication pub for all tables; analyze",
        )
        .unwrap();
    for (table, key, ranges) in [
        ("ints", &["id"][..], 4),
        ("texts", &["id"], 4),
        ("folded", &["id", "n"], 4),
        ("nondet", &["id"], 4),
        ("uuids", &["id"], 4),
        ("numbers", &["id"], 4),
        ("floats", &["id"], 4),
        ("times", &["at", "day", "span"], 4),
        ("blanks", &["id", "flag"], 2),
        ("moods", &["m", "raw"], 3),
        ("domains", &["id"], 4),
        ("pairs", &["id"], 1),
        ("lists", &["id"], 4),
    ] {
        is_read_once(&database, table, key, ranges);
    }
}

#[test]
fn rows_that_are_wanted_again_come_alone() {
    let database = Server::shared().database().unwrap();
    database
        .sql("create table t(a int, b text, v text, primary key (b, a)); insert into t select g, 'k' || g, 'v' || g from generate_series(1, 100) g; create publication pub for table t")
        .unwrap();
    runtime().block_on(async {
        let options = options(&database, 10);
        let column =
            |name: &str, is_key| super::super::super::relation::Column::new(name.into(), 25, -1, is_key, &Types::default());
        let columns = vec![column("a", true), column("b", true), column("v", false)];
        let oid = oid(&database, "t");
        let relation = Relation::new(oid, "public".into(), "t".into(), ReplicaIdentity::Default, columns);
        let mut progress = Progress::new(&options.url, &[TableProgress { oid, parts: Parts::Done }]);
        assert!(!progress.holds(oid));
        for key in [["7", "k7"], ["8", "gone"]] {
            progress.read_again(&relation, &key).await.unwrap();
        }
        assert!(progress.holds(oid) && progress.is_read(&relation, &["6", "k6"]).await.unwrap());
        assert!(!progress.is_read(&relation, &["7", "k7"]).await.unwrap());
        assert!(progress.leaves_out(highwater_operators::change::Operation::Update, &relation, &["7", "k7"]).await.unwrap());
        assert!(!progress.leaves_out(highwater_operators::change::Operation::Delete, &relation, &["7", "k7"]).await.unwrap());
        let (rows, after) = all(&options, &progress.tables(), Some(BESIDE)).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][2].as_deref(), Some("v7"));
        assert_eq!(after[0].parts, Parts::Done);
    });
}
