//! What cannot be read without loss is refused, with the ways out; so is a log that is another one than it was.

use super::*;

/// What starting to read a log of this shape says.
fn refusal(sql: &str, say: impl FnOnce(PostgresChangeLog) -> PostgresChangeLog) -> String {
    let database = Server::shared().database().unwrap();
    database.sql(sql).unwrap();
    match log_of(&database, say).partitions() {
        Ok(partitions) => panic!("{sql} was not refused: {partitions:?}"),
        Err(error) => error.to_string(),
    }
}

fn log_of(database: &Database, say: impl FnOnce(PostgresChangeLog) -> PostgresChangeLog) -> PostgresChangeLog {
    say(PostgresChangeLog::at(database.url(), "log"))
}

const COLUMNS: &str = "object_type text, object_id text, modification_type text, object_data jsonb";

#[test]
fn ids_that_are_not_drawn_one_by_one_are_refused_with_the_ways_out() {
    let table = |id: &str| format!("create table log(id {id}, {COLUMNS})");
    let ways_out = ["one sequence", "logical replication", ".gap_hold("];
    let cases = [
        (table("bigint primary key"), "id has no default"),
        (table("bigint primary key default (random() * 1e15)::bigint"), "not a draw from a sequence"),
        (
            format!("create sequence s; {}", table("bigint primary key default nextval('s') * 2")),
            "not the plain draw from public.s",
        ),
        (table("bigint generated always as identity (increment 2) primary key"), "counts by 2"),
    ];
    for (sql, expected) in cases {
        let said = refusal(&sql, |log| log);
        assert!(said.contains(expected), "{said}");
        assert!(ways_out.iter().all(|way| said.contains(way)), "{said}");
        let database = Server::shared().database().unwrap();
        database.sql(&sql).unwrap();
        log_of(&database, |log| log.gap_hold(Duration::from_secs(5))).partitions().unwrap();
    }
    let cycle =
        refusal(&table("bigint generated always as identity (cycle) primary key"), |log| log.gap_hold(Duration::from_secs(5)));
    assert!(cycle.contains("cycles") && cycle.contains("alter sequence public.log_id_seq increment 1 no cycle"), "{cycle}");
    let down = refusal(&table("bigint generated always as identity (increment -1) primary key"), |log| {
        log.gap_hold(Duration::from_secs(5))
    });
    assert!(down.contains("counts down"), "{down}");
    let by_trigger = format!("create sequence s; {}", table("bigint primary key"));
    let database = Server::shared().database().unwrap();
    database.sql(&by_trigger).unwrap();
    log_of(&database, |log| log.sequence("s")).partitions().unwrap();
    assert!(
        log_of(&database, |log| log.sequence("other")).partitions().unwrap_err().to_string().contains("there is no sequence")
    );
}

#[test]
fn tables_that_are_none_or_lack_something_are_refused() {
    let good = format!("id bigint generated always as identity primary key, {COLUMNS}");
    let cases = [
        ("create table other()".to_owned(), "there is no table \"log\" in database"),
        (format!("create table t({good}); create view log as select * from t"), "it is a view"),
        (format!("create unlogged table log({good})"), "it is unlogged"),
        (format!("create table log(id bigint generated always as identity, {COLUMNS})"), "has no primary key of one column"),
        (format!("create table log(id text primary key, {COLUMNS})"), "ids must be bigint"),
        (
            "create table log(id bigserial primary key, object_type text)".to_owned(),
            "has no column \"object_id\"; its columns are id, object_type",
        ),
        (
            format!("create table log({}, object_data bytea)", good.replace(", object_data jsonb", "")),
            "rows are jsonb, json, or text",
        ),
    ];
    for (sql, expected) in cases {
        let said = refusal(&sql, |log| log);
        assert!(said.contains(expected), "{said}");
    }
    let said = refusal(&format!("create table log(other bigserial, {good})"), |log| log.id("other"));
    assert!(said.contains("no unique index of its own"), "{said}");
}

#[test]
fn a_reader_needs_few_rights_and_says_which() {
    let database = database();
    Server::shared().user("log_reader", "secret").unwrap();
    let url = database.url_of("log_reader", "secret", "sslmode=disable").unwrap();
    let reader = PostgresChangeLog::at(&url, "tb_entity_change_log");
    let said = reader.partitions().unwrap_err().to_string();
    assert!(said.contains("may not read it") && said.contains("select on the table"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    database.sql("grant select on tb_entity_change_log to log_reader").unwrap();
    let said = reader.partitions().unwrap_err().to_string();
    assert!(said.contains("may not read the sequence public.tb_entity_change_log_id_seq"), "{said}");
    database.sql("grant select on sequence tb_entity_change_log_id_seq to log_reader").unwrap();
    database.sql(&insert(1..=2)).unwrap();
    let late = late::Open::begin(&database, &insert(3..=3));
    database.sql(&insert(4..=4)).unwrap();
    let mut reading = Reading::start(&reader, None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 3);
    late.end("commit");
    reading.until("what comes late is read", |found| found.changes.len() == 4);
}

/// The token of a log that was read whole.
fn read_whole(database: &Database) -> (PostgresChangeLog, Known) {
    database.sql(&insert(1..=10)).unwrap();
    let log = log(database);
    let mut reading = Reading::start(&log, None).unwrap();
    reading.until("all is read", |found| found.changes.len() == 10);
    let name = log.partitions().unwrap().remove(0).name;
    (log, Known { name, token: reading.found.token })
}

#[test]
fn another_table_under_the_name_is_refused() {
    let database = database();
    let (log, known) = read_whole(&database);
    assert!(log.bind(std::slice::from_ref(&known)).unwrap().is_some());
    let mut reading = Reading::start(&log, known.token.as_ref()).unwrap();
    reading.until_idle();
    database.sql(&format!("drop table tb_entity_change_log; {LOG}; {}", insert(1..=20))).unwrap();
    let error = std::iter::repeat_with(|| reading.step()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("is another table than when the run began"), "{error}");
    assert_eq!(reading.found.changes.len(), 0, "nothing of it is read");
    let error = log.bind(&[known]).err().unwrap().to_string();
    assert!(error.contains("it was dropped and made anew") && error.contains("new data directory"), "{error}");
}

#[test]
fn another_server_and_another_timeline_are_refused() {
    let one = database();
    let (log, known) = read_whole(&one);
    // The token as another server would have made it.
    let made_by = |change: fn(token::Identity) -> token::Identity| {
        let token = known.token.clone().unwrap();
        let place = token::read(&token.detail).unwrap();
        let detail = token::write(&change(place.identity), place.hi, place.open.iter().copied(), 0);
        [Known { token: Some(ResumeToken { detail, ..token }), ..known.clone() }]
    };
    let server = made_by(|identity| token::Identity { system: identity.system + 1, ..identity });
    let error = log.bind(&server).err().unwrap().to_string();
    assert!(error.contains("continues another log") && error.contains("it was read on the server"), "{error}");
    let database = made_by(|identity| token::Identity { database: identity.database + 1, ..identity });
    let error = log.bind(&database).err().unwrap().to_string();
    assert!(error.contains("in the database with number"), "{error}");
    let timeline = made_by(|identity| token::Identity { timeline: identity.timeline + 1, ..identity });
    let error = log.bind(&timeline).err().unwrap().to_string();
    assert!(error.contains("on timeline 2, and the server is on timeline 1") && error.contains(".after_failover(1)"), "{error}");
    assert!(log.after_failover(1).bind(&timeline).is_ok());
}

#[test]
fn a_sequence_that_was_set_back_or_passed_by_is_refused() {
    for sql in [
        "truncate tb_entity_change_log restart identity",
        "insert into tb_entity_change_log overriding system value values (99, 'a', 'b', 'u')",
    ] {
        let database = database();
        let (log, known) = read_whole(&database);
        let mut reading = Reading::start(&log, known.token.as_ref()).unwrap();
        reading.until_idle();
        database.sql(sql).unwrap();
        let error = std::iter::repeat_with(|| reading.step()).find_map(Result::err).unwrap().to_string();
        assert!(error.contains("ids are made outside of it, or it was set back") && error.contains("setval"), "{error}");
    }
}

#[test]
fn a_log_whose_database_is_away_is_waited_for_if_it_is_known() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql(LOG).unwrap();
    let (log, known) = read_whole(&database);
    server.stop().unwrap();
    assert!(log.bind(&[]).is_err(), "nobody knows yet whose log it is");
    let bound = log.bind(std::slice::from_ref(&known)).unwrap().unwrap();
    let name = bound.partitions().unwrap().remove(0).name;
    let window = InFlight::new(u64::MAX, u64::MAX);
    let reader = bound.open(&Partition { id: 0, name }, known.token.as_ref(), &window).unwrap();
    let mut reading = Reading { reader, found: Found { token: known.token, ..Found::default() } };
    assert!(matches!(reading.step().unwrap(), Read::Away(_)));
    server.start_again().unwrap();
    database.sql(&insert(11..=12)).unwrap();
    reading.until("it comes back", |found| found.changes.len() == 2);
}
