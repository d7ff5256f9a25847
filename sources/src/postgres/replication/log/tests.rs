use highwater_operators::{Change, Value};

use super::*;
use crate::ahead::Chunk;
use crate::postgres::replication::pgoutput::tests::Made;
use crate::postgres::replication::relation::{Column, ReplicaIdentity, Types};

fn relation(identity: ReplicaIdentity) -> Relation {
    let column = |name: &str, oid, is_key| Column::new(name.to_owned(), oid, -1, is_key, &Types::default());
    Relation::new(7, "public".into(), "t".into(), identity, vec![column("id", 20, true), column("body", 25, false)])
}

/// What of messages at these places is handed over, and what is not a row.
fn read(log: &mut Log, messages: &[(u64, Vec<u8>)]) -> Result<(Vec<Change>, Vec<String>), String> {
    let (mut chunk, mut told) = (Chunk::new(Vec::new()), Vec::new());
    for (lsn, message) in messages {
        let read = log.read(message)?;
        match log.take(Lsn(*lsn), read, message)? {
            Heard::Row(happened) => happened.write(&mut chunk)?,
            Heard::Truncate(tables, _) => told.push(format!("truncate {}", tables.len())),
            Heard::Message { prefix, .. } => told.push(String::from_utf8_lossy(prefix).into_owned()),
            Heard::End => told.push(format!("end {}", log.end())),
            Heard::Table(table) => told.push(table.name),
            Heard::Nothing => {}
        }
    }
    told.extend(chunk.rejected.drain(..).map(|refused| refused.why));
    let block = bytes::Bytes::from(chunk.block);
    let text = std::str::from_utf8(&block).unwrap();
    Ok((chunk.written.into_iter().map(|written| written.into_change(&block, text, 0).unwrap()).collect(), told))
}

fn begin(commit: u64) -> (u64, Vec<u8>) {
    (commit, Made::of(b'B').u64(commit).u64(1_000_000).u32(1).0)
}

fn commit(commit: u64) -> (u64, Vec<u8>) {
    (commit, Made::of(b'C').byte(0).u64(commit).u64(commit + 8).u64(0).0)
}

fn insert(lsn: u64, id: &str) -> (u64, Vec<u8>) {
    (lsn, Made::of(b'I').u32(7).row(b'N', &[id, "x"]).0)
}

fn log(identity: ReplicaIdentity) -> Log {
    let mut log = Log::from(Lsn(0x100), None);
    log.know(Arc::new(relation(identity)));
    log
}

fn ids(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::id).collect()
}

#[test]
fn rows_that_share_a_place_are_told_apart_and_what_was_read_is_passed_over() {
    // The first was read whole before; of the second the first three messages were.
    let messages = [
        vec![begin(0x80), insert(0x70, "0"), commit(0x80)],
        vec![begin(0x200), insert(0x150, "1"), insert(0x150, "2"), insert(0x150, "3"), insert(0x180, "4"), commit(0x200)],
    ]
    .concat();
    let mut whole = log(ReplicaIdentity::Default);
    let (changes, told) = read(&mut whole, &messages).unwrap();
    assert_eq!(ids(&changes), ["200/150/0", "200/150/2", "200/150/4", "200/180/0"]);
    assert_eq!((told, whole.end(), whole.within()), (vec!["end 0/208".to_owned()], Lsn(0x208), None));
    assert_eq!(changes[0].time_ms(), Y2000_MS + 1000);
    for known in 1..=3 {
        let mut part = Log::from(Lsn(0x100), Some((Lsn(0x200), known)));
        part.know(Arc::new(relation(ReplicaIdentity::Default)));
        assert_eq!(read(&mut part, &messages).unwrap().0, changes[known as usize..]);
    }
    let mut broken = log(ReplicaIdentity::Default);
    read(&mut broken, &messages[..6]).unwrap();
    assert_eq!(broken.within(), Some((Lsn(0x200), 2)));
    broken.begin_anew();
    broken.know(Arc::new(relation(ReplicaIdentity::Default)));
    assert_eq!(broken.within(), Some((Lsn(0x200), 2)));
    assert_eq!(ids(&read(&mut broken, &messages).unwrap().0), ["200/150/4", "200/180/0"]);
}

#[test]
fn a_transaction_that_is_another_than_it_was_is_no_continuation() {
    let begun = |known| {
        let mut log = Log::from(Lsn(0x100), Some((Lsn(0x200), known)));
        log.know(Arc::new(relation(ReplicaIdentity::Default)));
        log
    };
    let error = read(&mut begun(3), &[begin(0x200), insert(0x150, "1"), commit(0x200)]).unwrap_err();
    assert!(error.contains("has 1 messages, and 3 of it were read"), "{error}");
    let error = read(&mut begun(3), &[begin(0x300)]).unwrap_err();
    assert!(error.contains("commits at 0/200 were handed over"), "{error}");
}

#[test]
fn a_changed_key_is_a_delete_and_an_insert() {
    let update = |old: u8, before: [&str; 2], after: [&str; 2]| {
        vec![begin(0x200), (0x150, Made::of(b'U').u32(7).row(old, &before).row(b'N', &after).0), commit(0x200)]
    };
    let (changes, _) = read(&mut log(ReplicaIdentity::Default), &update(b'K', ["1", "-"], ["2", "x"])).unwrap();
    let [gone, come] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(
        (gone.operation(), gone.key(), gone.id(), come.key(), come.id()),
        (Operation::Delete, "1", "200/150/0", "2", "200/150/1")
    );
    assert!(!come.before().is_present());
    // The large value is in the row before, if that is whole.
    let mut full = Log::from(Lsn(0x100), None);
    full.know(Arc::new(relation(ReplicaIdentity::Full).with_key(&["id".to_owned()])));
    let (changes, _) = read(&mut full, &update(b'O', ["1", "long"], ["2", "~"])).unwrap();
    assert_eq!((changes[1].after().str("body").as_deref(), changes[1].before().is_present()), (Some("long"), false));
    assert_eq!(changes[0].before().str("body").as_deref(), Some("long"));
    // Else the row under its new key would lack it.
    let (changes, told) = read(&mut log(ReplicaIdentity::Default), &update(b'K', ["1", "-"], ["2", "~"])).unwrap();
    assert_eq!(changes.len(), 1);
    assert!(told[1].contains("replica identity full") && told[1].contains("200/150/1"), "{told:?}");
    // The key is told because it is large, and is the same.
    let (changes, _) = read(&mut log(ReplicaIdentity::Default), &update(b'K', ["1", "-"], ["~", "x"])).unwrap();
    assert_eq!((changes[0].operation(), changes[0].key()), (Operation::Update, "1"));
    assert_eq!(changes[0].after().get("id"), Some(Value::Unchanged));
}

#[test]
fn what_is_no_row_is_told() {
    let message = |kind, lsn, prefix| (lsn, Made::of(b'M').byte(kind).u64(lsn).name(prefix).u32(0).0);
    let messages = vec![
        message(0, 0x90, "old"),
        message(0, 0x110, "note"),
        message(0, 0x120, HEARTBEAT_PREFIX),
        begin(0x200),
        message(1, 0x150, "within"),
        (0x160, Made::of(b'T').u32(2).byte(0).u32(7).u32(7).0),
        commit(0x200),
    ];
    let mut log = log(ReplicaIdentity::Default);
    let (_, told) = read(&mut log, &messages).unwrap();
    assert_eq!(told, ["note", "end 0/120", "within", "truncate 2", "end 0/208"]);
    assert!(log.reach(Lsn(0x300)) && !log.reach(Lsn(0x300)) && log.end() == Lsn(0x300));
}

#[test]
fn a_commit_that_stands_where_a_message_ends_is_not_passed_over() {
    let message = (0x200, Made::of(b'M').byte(0).u64(0x200).name(HEARTBEAT_PREFIX).u32(0).0);
    let mut log = log(ReplicaIdentity::Default);
    let (changes, told) = read(&mut log, &[message, begin(0x200), insert(0x150, "1"), commit(0x200)]).unwrap();
    assert_eq!((ids(&changes), told), (vec!["200/150/0"], vec!["end 0/200".to_owned(), "end 0/208".to_owned()]));
}

#[test]
fn what_was_not_taken_is_read_again() {
    let messages = [begin(0x200), insert(0x150, "1"), insert(0x150, "2"), commit(0x200)];
    let mut log = log(ReplicaIdentity::Default);
    read(&mut log, &messages[..3]).unwrap();
    log.take_back();
    log.begin_anew();
    log.know(Arc::new(relation(ReplicaIdentity::Default)));
    assert_eq!(ids(&read(&mut log, &messages).unwrap().0), ["200/150/2"]);
}

#[test]
fn what_may_not_come_is_refused() {
    for (bad, why) in [
        (vec![insert(0x150, "1")], "in no transaction"),
        (vec![commit(0x200)], "ends no transaction"),
        (vec![begin(0x200), begin(0x300)], "inside the one"),
        (vec![begin(0x200), (0x150, Made::of(b'I').u32(8).row(b'N', &["1"]).0)], "not described"),
        (vec![begin(0x200), (0x150, Made::of(b'I').u32(7).row(b'N', &["1"]).0)], "1 values, and the table has 2"),
        (vec![begin(0x200), (0x150, b"?".to_vec())], "of a kind"),
    ] {
        let error = read(&mut log(ReplicaIdentity::Default), &bad).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
