//! The log of a real server: what is read, what is refused, what a restart finds.

mod late;
mod refused;

use std::time::{Duration, Instant};

use highwater_operators::Change;
use highwater_operators::ingest::{Batch, Read};
use highwater_operators::postgres::Connection;
use highwater_operators::testing::postgres::{Database, Server};

use super::*;

/// The log of the first users.
pub(super) const LOG: &str = "create table tb_entity_change_log(\
     id bigint generated always as identity primary key, object_type text not null, object_id text, modification_type text not null, \
     object_data jsonb, created_at timestamptz not null default now())";

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

fn database() -> Database {
    let database = Server::shared().database().unwrap();
    database.sql(LOG).unwrap();
    database
}

fn log(database: &Database) -> PostgresChangeLog {
    PostgresChangeLog::at(database.url(), "tb_entity_change_log").look_every(Duration::from_millis(10))
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub changes: Vec<Change>,
    pub rejected: Vec<String>,
    pub token: Option<ResumeToken>,
}

/// A reader that is on its way.
pub(super) struct Reading {
    reader: Box<dyn Reader>,
    pub found: Found,
}

impl Reading {
    pub(super) fn start(log: &PostgresChangeLog, from: Option<&ResumeToken>) -> Result<Self> {
        let name = log.partitions()?.remove(0).name;
        let window = InFlight::new(u64::MAX, u64::MAX);
        Ok(Reading { reader: log.open(&Partition { id: 0, name }, from, &window)?, found: Found::default() })
    }

    /// One read.
    pub(super) fn step(&mut self) -> Result<Read> {
        let mut batch = Batch::default();
        let read = self.reader.read(&mut batch)?;
        if read == Read::Some {
            let before = self.found.token.as_ref().map_or(0, |token| token.order);
            assert!(batch.token.order > before, "tokens grow by reading");
            self.found.changes.append(&mut batch.changes);
            self.found.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
            self.found.token = Some(batch.token);
        }
        Ok(read)
    }

    /// Reads until it holds, or the time is over.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&Found) -> bool) {
        let began = Instant::now();
        while !holds(&self.found) {
            self.step().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}, after {} changes", self.found.changes.len());
        }
    }

    /// Reads until the log was asked and has nothing, some times over.
    pub(super) fn until_idle(&mut self) {
        let (began, mut idle) = (Instant::now(), 0);
        while idle < 3 {
            idle = if matches!(self.step().unwrap(), Read::Idle(_)) { idle + 1 } else { 0 };
            assert!(began.elapsed() < DEADLINE, "it does not come to rest");
        }
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.found.changes.iter().map(Change::id).collect()
    }
}

fn insert(rows: std::ops::RangeInclusive<u32>) -> String {
    format!(
        "insert into tb_entity_change_log(object_type, object_id, modification_type, object_data) \
         select 'Order', 'order-' || n, 'INSERT', jsonb_build_object('n', n) from generate_series({}, {}) n",
        rows.start(),
        rows.end()
    )
}

#[test]
fn rows_become_changes_and_every_token_continues() {
    let database = database();
    database.sql(&insert(1..=5000)).unwrap();
    let mut first = Reading::start(&log(&database).page(700), None).unwrap();
    let mut tokens = Vec::new();
    first.until("all is read", |found| {
        tokens.extend(found.token.clone().map(|token| (token, found.changes.len())));
        found.changes.len() == 5000
    });
    let change = &first.found.changes[41];
    assert_eq!((change.id(), change.table(), change.key()), ("42", "Order", "order-42"));
    assert_eq!((change.operation(), change.after().parse("n")), (Operation::Insert, Some(42)));
    assert_eq!((change.position().at, change.position().within), (42, 0));
    assert!(change.time_ms() > 1_700_000_000_000, "created_at is the time: {}", change.time_ms());
    for (token, read) in tokens {
        let mut rest = Reading::start(&log(&database), Some(&token)).unwrap();
        rest.until("the rest is read", |found| found.changes.len() + read >= 5000);
        rest.until_idle();
        assert_eq!(rest.found.changes, first.found.changes[read..]);
    }
}

#[test]
fn any_table_can_be_a_log_by_its_columns() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create schema sales; create table sales.\"Events\"(\"Seq\" serial unique, entity varchar(20), who uuid, kind text, payload text, \
             was json, at bigint, event text primary key)",
        )
        .unwrap();
    database
        .sql(
            "insert into sales.\"Events\"(entity, who, kind, payload, was, at, event) values \
             ('order', '00000000-0000-0000-0000-000000000007', 'changed', '{\"a\": 2}', '{\"a\": 1}', 1700000000000, 'e-1'), \
             ('order', null, 'gone', null, '{\"a\": 2}', 5, 'e-2'), ('order', null, 'odd', '{}', null, 5, 'e-3'), \
             ('order', null, 'changed', 'no json', null, 5, 'e-4')",
        )
        .unwrap();
    let events = PostgresChangeLog::at(database.url(), "sales.\"Events\"")
        .id("Seq")
        .object_type("entity")
        .object_id("who")
        .modification("kind")
        .data("payload")
        .before("was")
        .time("at")
        .change_id("event")
        .operations([("changed", Operation::Update), ("gone", Operation::Delete)]);
    let mut reading = Reading::start(&events, None).unwrap();
    reading.until("all is read", |found| found.changes.len() + found.rejected.len() == 4);
    let [changed, gone] = &reading.found.changes[..] else { panic!("{:?}", reading.found.changes) };
    assert_eq!(
        (changed.id(), changed.key(), changed.time_ms()),
        ("e-1", "00000000-0000-0000-0000-000000000007", 1_700_000_000_000)
    );
    assert_eq!((changed.before().parse("a"), changed.after().parse("a")), (Some(1), Some(2)));
    assert_eq!((gone.operation(), gone.key(), gone.before().parse("a")), (Operation::Delete, "e-2", Some(2)));
    let [odd, broken] = &reading.found.rejected[..] else { panic!("{:?}", reading.found.rejected) };
    assert!(odd.contains("row 3 of sales.\"Events\": the column \"kind\" is \"odd\"; it must be changed or gone"), "{odd}");
    assert!(broken.contains("row 4") && broken.contains("no JSON"), "{broken}");
    let stopping = events.on_reject(OnReject::Stop);
    let mut reading = Reading::start(&stopping, None).unwrap();
    let error = std::iter::repeat_with(|| reading.step()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("row 3 of sales.\"Events\" is no change"), "{error}");
    assert_eq!(reading.ids(), ["e-1", "e-2"]);
}

#[test]
fn a_new_row_is_seen_at_once_where_somebody_notifies() {
    let database = database();
    let log = log(&database).notify("News").look_every(Duration::from_secs(3600));
    let mut reading = Reading::start(&log, None).unwrap();
    reading.until_idle();
    database.sql(&format!("begin; {}; notify \"News\"; commit", insert(1..=1))).unwrap();
    reading.until("the row is read", |found| found.changes.len() == 1);
}

#[test]
fn what_init_makes_can_be_made_twice_and_read_by_its_role() {
    let database = Server::shared().database().unwrap();
    database.sql("create schema audit").unwrap();
    let role = format!("reader of {}", database.name());
    let init = Init::table("audit.\"Change's log\"").unwrap().notify("it's news").role(&role);
    init.apply(database.url()).unwrap();
    init.apply(database.url()).unwrap();
    database.sql(&format!("alter role \"{role}\" password 'secret'")).unwrap();
    let url = database.url_of(&role.replace(' ', "%20"), "secret", "sslmode=disable").unwrap();
    let log = PostgresChangeLog::at(&url, "audit.\"Change's log\"").notify("it's news").look_every(Duration::from_secs(3600));
    let mut reading = Reading::start(&log, None).unwrap();
    reading.until_idle();
    database.sql("insert into audit.\"Change's log\" (object_type, modification_type) values ('a', 'INSERT')").unwrap();
    reading.until("the trigger wakes the reader", |found| found.changes.len() == 1);
    assert!(
        database.sql("insert into audit.\"Change's log\" (id, object_type, modification_type) values (9, 'a', 'I')").is_err()
    );
}

#[test]
fn a_partitioned_log_is_read_whole_also_what_is_written_straight_into_a_partition() {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table tb_entity_change_log(id bigserial, object_type text, object_id text, modification_type text, object_data jsonb, \
             day date not null default '2024-01-01', primary key (id, day)) partition by range (day); \
             create table log_1 partition of tb_entity_change_log for values from ('2024-01-01') to ('2024-01-02'); \
             create table log_2 partition of tb_entity_change_log for values from ('2024-01-02') to ('2024-01-03')",
        )
        .unwrap();
    let late = late::Open::begin(
        &database,
        "insert into log_2(object_type, object_id, modification_type, day) values ('a', 'late', 'u', '2024-01-02')",
    );
    database.sql(&insert(1..=3)).unwrap();
    let mut reading = Reading::start(&log(&database), None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 3);
    reading.until_idle();
    late.end("commit");
    reading.until("what comes late is read", |found| found.changes.len() == 4);
    assert_eq!(reading.ids(), ["2", "3", "4", "1"]);
}

#[test]
fn a_row_that_is_no_text_is_rejected_and_its_neighbours_are_read() {
    let server = Server::shared();
    server.sql("create database unspoken template template0 encoding 'SQL_ASCII' locale 'C'").unwrap();
    let url = server.url("unspoken").unwrap();
    let rows = "insert into tb_entity_change_log (object_type, object_id, modification_type) \
         values ('order', '1', 'INSERT'), ('order', E'\\xff', 'INSERT'), ('order', '3', 'INSERT')";
    let fill = async || Connection::open(&url, "a test").await.unwrap().batch_execute(&format!("{LOG}; {rows}")).await.unwrap();
    crate::ahead::runtime().unwrap().block_on(fill());
    let mut reading = Reading::start(&PostgresChangeLog::at(&url, "tb_entity_change_log"), None).unwrap();
    reading.until("all is read", |found| found.changes.len() + found.rejected.len() == 3);
    let keys: Vec<&str> = reading.found.changes.iter().map(Change::key).collect();
    assert_eq!(keys, ["1", "3"]);
    assert!(reading.found.rejected[0].contains("\"object_id\" is not UTF-8"), "{:?}", reading.found.rejected);
}
