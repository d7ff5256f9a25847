//! A server that is killed, frozen, cut off or secured: it costs time and nothing else.

use highwater_operators::testing::redis::{Keeps, Settings};

use super::*;

#[test]
fn a_server_that_fails_in_every_way_costs_time_and_nothing_else() {
    let server = Settings::default().keeps(Keeps::All).start().unwrap();
    let line = server.proxy().unwrap();
    let url = server.url_by(&line).with_response_timeout(Duration::from_secs(1));
    let streams = RedisStreams::at(&url, ["orders"]).group("billing");
    let mut reading = Reading::start(&streams, &[None]).unwrap();
    let faults: [(&str, &dyn Fn()); 5] = [
        ("restarted", &|| {
            server.stop().unwrap();
            server.start_again().unwrap();
        }),
        ("killed", &|| {
            server.kill().unwrap();
            server.start_again().unwrap();
        }),
        ("frozen", &|| {
            server.freeze().unwrap();
            std::thread::sleep(Duration::from_millis(2500));
            server.thaw().unwrap();
        }),
        ("cut off", &|| {
            line.cut();
            std::thread::sleep(Duration::from_millis(100));
            line.mend();
        }),
        ("silent", &|| {
            line.silence();
            std::thread::sleep(Duration::from_millis(2500));
            line.mend();
        }),
    ];
    let mut added = 0;
    for (fault, strike) in faults {
        for times in 0..2 {
            add(&server, "orders", added + 1..=added + 500);
            added += 500;
            if times == 0 {
                reading.until_read(added as usize);
                reading.save();
            }
            strike();
            add(&server, "orders", added + 1..=added + 10);
            added += 10;
            reading.until(fault, |found| found[0].changes.len() as u64 >= added);
        }
    }
    reading.until_idle();
    let expected: Vec<String> = (1..=added).map(|number| format!("c-{number}")).collect();
    assert_eq!(reading.found[0].ids(), expected);
    reading.save();
    reading.source.over();
    let groups = server.ask(&["XINFO", "GROUPS", "orders"]).unwrap();
    assert!(groups.contains(&format!("1-{added}")), "{groups}");
}

#[test]
fn while_the_server_is_away_a_stream_is_not_idle() {
    let server = Settings::default().keeps(Keeps::All).start().unwrap();
    add(&server, "orders", 1..=10);
    let mut reading = Reading::start(&orders(&server), &[None]).unwrap();
    reading.until_read(10);
    reading.until_idle();
    server.kill().unwrap();
    let began = Instant::now();
    while !matches!(reading.step().unwrap(), Read::Away(_)) {
        assert!(began.elapsed() < DEADLINE);
    }
    // A run begins without it, and waits.
    let token = reading.token();
    drop(reading);
    let mut later = Reading::start(&orders(&server), &[token]).unwrap();
    assert!(matches!(later.step().unwrap(), Read::Away(_)));
    server.start_again().unwrap();
    add(&server, "orders", 11..=12);
    later.until_read(2);
    assert_eq!(later.found[0].ids(), ["c-11", "c-12"]);
}

#[test]
fn a_fail_over_that_lost_nothing_is_passed_and_one_that_lost_the_end_is_refused() {
    let primary = server();
    let replica = Settings::default().replica_of(&primary).start().unwrap();
    add(&primary, "orders", 1..=100);
    // All that was sent is there.
    let began = Instant::now();
    while primary.ask(&["WAIT", "1", "100"]).unwrap() != "1" || replica.ask(&["XLEN", "orders"]).unwrap() != "100" {
        assert!(began.elapsed() < DEADLINE);
    }
    let read = |server: &Server, entries| {
        let mut reading = Reading::start(&orders(server), &[None]).unwrap();
        reading.until_read(entries);
        reading.token()
    };
    let whole = read(&primary, 100);
    replica.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    add(&primary, "orders", 101..=105);
    let ahead = read(&primary, 105);
    add(&replica, "orders", 101..=101);
    let mut reading = Reading::start(&orders(&replica), &[whole]).unwrap();
    reading.until_read(1);
    assert_eq!(reading.found[0].ids(), ["c-101"]);
    let said = Reading::start(&orders(&replica), &[ahead]).err().unwrap().to_string();
    assert!(said.contains("ends at 1-101, and the checkpoint stands at its entry 1-105") && said.contains("fail-over"), "{said}");
}

#[test]
fn rights_are_few_and_tls_is_spoken() {
    let server = Settings::default()
        .tls()
        .user("plain on >secret ~orders* -@all +info +xinfo|stream +xread +xrange +multi +exec")
        .user("grouped on >secret ~orders* -@all +info +xinfo|stream +xinfo|groups +xread +xrange +multi +exec +xgroup|create +xgroup|setid +xpending +xclaim +xack")
        .start()
        .unwrap();
    add(&server, "orders", 1..=10);
    let read = |streams: &RedisStreams| {
        let mut reading = Reading::start(streams, &[None]).unwrap();
        reading.until_read(10);
        reading.until_idle();
        reading.save();
        reading.source.over();
    };
    let by = |user: &str| {
        let root = server.root_certificate();
        Url::parse(&format!("rediss://{user}:secret@localhost:{}/0?rootcert={}", server.port(), root.display())).unwrap()
    };
    read(&RedisStreams::at(&by("plain"), ["orders"]));
    let grouped = RedisStreams::at(&by("grouped"), ["orders"]).group("billing");
    server.ask(&["XGROUP", "CREATE", "orders", "billing", "0"]).unwrap();
    server.ask(&["XREADGROUP", "GROUP", "billing", "a", "COUNT", "4", "STREAMS", "orders", ">"]).unwrap();
    read(&grouped);
    assert_eq!(server.ask(&["XPENDING", "orders", "billing"]).unwrap().lines().next(), Some("0"));
    let said = Reading::start(&RedisStreams::at(&by("plain"), ["orders"]).group("billing"), &[None]).err().unwrap().to_string();
    assert!(said.contains("NOPERM") && !said.contains("secret"), "{said}");
}
