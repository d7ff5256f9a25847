//! `highwater slots` on real servers: what is behind, what is lost, who reads, and when it will be full.

use std::process::Command;
use std::time::Duration;

use highwater::sources::postgres::slots::{Slot, Slots};
use highwater::testing::postgres::{Database, Server, Settings};

fn slot<'s>(slots: &'s Slots, name: &str) -> &'s Slot {
    slots.slots.iter().find(|slot| slot.slot == name).unwrap_or_else(|| panic!("no {name} in {slots:?}"))
}

fn write(database: &Database) {
    database.sql("select pg_logical_emit_message(false, 'filler', repeat('x', 100000))").unwrap();
}

fn highwater(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    String::from_utf8(ended.stdout).unwrap()
}

#[test]
fn slots_tell_how_far_they_are_behind_and_whose_they_are() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    let none = Slots::look(database.url(), Duration::ZERO, None).unwrap();
    assert_eq!((none.slots.len(), none.keep_at_most_bytes, none.wal_bytes_per_second), (0, None, None));
    database.sql("select pg_create_logical_replication_slot('orders', 'pgoutput')").unwrap();
    database.sql("select pg_create_physical_replication_slot('standby', true)").unwrap();
    write(&database);
    let name = "(select system_identifier from pg_control_system()) || '-' || (select oid from pg_database where datname = current_database()) \
                || '-orders'";
    database
        .sql(&format!("create table observer_partitions as select 'shop' as listener_id, 0::bigint as partition, {name} as name"))
        .unwrap();
    let slots = Slots::look(database.url(), Duration::ZERO, None).unwrap();
    let orders = slot(&slots, "orders");
    assert_eq!((orders.plugin.as_deref(), orders.database.as_deref()), (Some("pgoutput"), Some(database.name())));
    assert!(orders.lag_bytes > Some(100_000) && orders.retained_bytes >= orders.lag_bytes, "{orders:?}");
    assert_eq!((orders.wal_status.as_deref(), orders.safe_wal_size, orders.active_pid), (Some("reserved"), None, None));
    assert_eq!(orders.pipeline.as_deref(), Some("shop"));
    let standby = slot(&slots, "standby");
    assert_eq!((&standby.plugin, &standby.confirmed, standby.lag_bytes, &standby.pipeline), (&None, &None, None, &None));

    let url = database.url().reveal();
    let printed = highwater(&["slots", url, "--measure", "0"]);
    assert!(printed.contains("nobody, \"shop\"") && printed.contains("a slot may fill the disk"), "{printed}");
    let json: serde_json::Value = serde_json::from_str(&highwater(&["slots", url, "--measure", "0", "--json"])).unwrap();
    assert_eq!(json["slots"][0]["pipeline"], "shop");
    assert!(json["slots"][0]["lag_bytes"].as_i64() >= orders.lag_bytes, "{json}");
}

#[test]
fn minutes_until_full_go_by_what_is_written_and_what_is_left() {
    let server = Settings::default().set("max_slot_wal_keep_size", "64MB").start().unwrap();
    let database = server.database().unwrap();
    database.sql("select pg_create_logical_replication_slot('orders', 'pgoutput')").unwrap();
    let writes = std::sync::atomic::AtomicBool::new(true);
    let look = |free| Slots::look(database.url(), Duration::from_millis(300), free).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while writes.load(std::sync::atomic::Ordering::Relaxed) {
                write(&database);
            }
        });
        let slots = look(None);
        let limited = look(Some(1000));
        writes.store(false, std::sync::atomic::Ordering::Relaxed);
        let orders = slot(&slots, "orders");
        let growth = slots.wal_bytes_per_second.unwrap();
        assert!(growth > 0.0 && slots.keep_at_most_bytes == Some(64 << 20), "{slots:?}");
        let expected = orders.safe_wal_size.unwrap() as f64 / growth / 60.0;
        assert_eq!(orders.minutes_until_full, Some(expected));
        assert!(slot(&limited, "orders").minutes_until_full < Some(expected), "the disk is nearly full");
    });
}

#[test]
fn a_slot_that_is_lost_says_so() {
    let server = Settings::default().set("max_slot_wal_keep_size", "1MB").start().unwrap();
    let database = server.database().unwrap();
    database.sql("select pg_create_logical_replication_slot('orders', 'pgoutput')").unwrap();
    for _ in 0..4 {
        write(&database);
        database.sql("select pg_switch_wal()").unwrap();
    }
    database.sql("checkpoint").unwrap();
    let slots = Slots::look(database.url(), Duration::from_millis(1), None).unwrap();
    let orders = slot(&slots, "orders");
    assert_eq!((orders.wal_status.as_deref(), orders.minutes_until_full), (Some("lost"), None), "{orders:?}");
}
