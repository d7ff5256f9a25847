//! Consumer groups: told what is durable, and taken over.

use highwater_operators::halt::Halt;
use highwater_operators::testing::failpoint::REDIS_STREAM;

use super::*;

fn billing(server: &Server) -> RedisStreams {
    orders(server).group("billing")
}

/// The group: last-delivered-id, entries-read, lag, pending.
fn group(server: &Server) -> [String; 4] {
    let said = server.ask(&["XINFO", "GROUPS", "orders"]).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    ["last-delivered-id", "entries-read", "lag", "pending"].map(|name| {
        let at = lines.iter().position(|line| *line == name).unwrap_or_else(|| panic!("no {name}: {said}"));
        lines[at + 1].to_owned()
    })
}

/// Waits until the group is told.
#[track_caller]
fn until_told(server: &Server, expected: [&str; 4]) {
    let began = Instant::now();
    while group(server) != expected {
        assert!(began.elapsed() < DEADLINE, "{:?}, not {expected:?}", group(server));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_group_is_made_and_told_what_is_durable_and_no_more() {
    let server = server();
    add(&server, "orders", 1..=100);
    let mut reading = Reading::start(&billing(&server), &[None]).unwrap();
    reading.until_read(100);
    assert_eq!(group(&server), ["0-0", "0", "100", "0"], "what is read is not durable yet");
    reading.save();
    until_told(&server, ["1-100", "100", "0", "0"]);
    add(&server, "orders", 101..=130);
    reading.until_read(130);
    assert_eq!(group(&server), ["1-100", "100", "30", "0"]);
    // The end of a run is told at once, also where the group was removed meanwhile.
    server.ask(&["XGROUP", "DESTROY", "orders", "billing"]).unwrap();
    reading.save();
    reading.source.over();
    assert_eq!(group(&server), ["1-130", "130", "0", "0"]);
    let token = reading.token();
    drop(reading);
    add(&server, "orders", 131..=132);
    let mut again = Reading::start(&billing(&server), &[token]).unwrap();
    again.until_read(2);
    again.until_idle();
    assert_eq!(again.found[0].ids(), ["c-131", "c-132"]);
}

/// Another program reads with the group: so many entries, of which it acknowledges those whose numbers do not divide by three.
fn other_owner(server: &Server, entries: u64) -> Vec<String> {
    for consumer in ["a", "b"] {
        let half = (entries / 2).to_string();
        server.ask(&["XREADGROUP", "GROUP", "billing", consumer, "COUNT", &half, "STREAMS", "orders", ">"]).unwrap();
    }
    let (mut acks, mut left) = (vec!["XACK".to_owned(), "orders".to_owned(), "billing".to_owned()], Vec::new());
    for number in 1..=entries {
        match number % 3 {
            0 => left.push(format!("c-{number}")),
            _ => acks.push(format!("1-{number}")),
        }
    }
    server.ask(&acks.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    left
}

#[test]
fn what_another_owner_left_pending_is_read_first_and_acknowledged_when_it_is_durable() {
    let server = server();
    add(&server, "orders", 1..=1000);
    server.ask(&["XGROUP", "CREATE", "orders", "billing", "0"]).unwrap();
    let mut expected = other_owner(&server, 900);
    expected.extend((901..=1000).map(|number| format!("c-{number}")));
    let mut reading = Reading::start(&billing(&server), &[None]).unwrap();
    reading.until_read(expected.len());
    reading.until_idle();
    assert_eq!(reading.found[0].ids(), expected);
    assert_eq!(group(&server)[3], "300", "nothing is acknowledged before it is durable");
    reading.save();
    until_told(&server, ["1-1000", "1000", "0", "0"]);
}

#[test]
fn a_take_over_goes_on_behind_each_of_its_tokens() {
    let server = server();
    add(&server, "orders", 1..=1000);
    server.ask(&["XGROUP", "CREATE", "orders", "billing", "0"]).unwrap();
    let mut expected = other_owner(&server, 900);
    expected.extend((901..=1000).map(|number| format!("c-{number}")));
    let mut reading = Reading::start(&billing(&server), &[None]).unwrap();
    let mut tokens = vec![(None, 0)];
    reading.until("all is read", |found| {
        if let Some(token) = &found[0].token {
            tokens.push((Some(token.clone()), found[0].changes.len()));
        }
        found[0].changes.len() == expected.len()
    });
    drop(reading);
    tokens.dedup();
    assert!(tokens.len() > 4, "{}", tokens.len());
    for (token, read) in tokens {
        let mut rest = Reading::start(&billing(&server), &[token]).unwrap();
        rest.until_read(expected.len() - read);
        rest.until_idle();
        assert_eq!(rest.found[0].ids(), expected[read..]);
    }
}

#[test]
fn a_take_over_that_crashes_anywhere_loses_and_repeats_nothing() {
    for failpoint in REDIS_STREAM {
        for passes in 1..=2 {
            let server = server();
            add(&server, "orders", 1..=700);
            server.ask(&["XGROUP", "CREATE", "orders", "billing", "0"]).unwrap();
            let mut expected = other_owner(&server, 600);
            expected.extend((601..=700).map(|number| format!("c-{number}")));
            let (mut all, mut token, mut crashes) = (Vec::new(), None, 0);
            for attempt in 0..4 {
                let window = InFlight::new(u64::MAX, u64::MAX);
                if attempt < 2 {
                    let halt = Arc::new(Halt::default());
                    halt.failpoints.arm(failpoint, passes);
                    window.ends_with(&halt);
                }
                let mut reading = Reading::within(&billing(&server), &[token.clone()], &window).unwrap();
                // Each batch is durable at once, and what was not is read again.
                let began = Instant::now();
                while reading.found[0].changes.len() + all.len() < expected.len() {
                    assert!(began.elapsed() < DEADLINE);
                    let Ok(_) = reading.step() else { break };
                    reading.save();
                }
                while reading.step().is_ok_and(|said| !matches!(said, Read::Idle(_))) {}
                reading.source.over();
                crashes += u64::from(reading.step().is_err());
                token = reading.token().or(token);
                all.extend(reading.found[0].ids().into_iter().map(str::to_owned));
            }
            assert_eq!(all, expected, "{failpoint}, passed {passes} times");
            assert!(crashes > 0 || passes > 1, "{failpoint} was never passed");
            assert_eq!(group(&server), ["1-700", "700", "0", "0"], "{failpoint}");
        }
    }
}

#[test]
fn what_others_are_given_below_the_mark_is_not_taken_for_ours() {
    let server = server();
    add(&server, "orders", 1..=20);
    server.ask(&["XGROUP", "CREATE", "orders", "billing", "0"]).unwrap();
    server.ask(&["XREADGROUP", "GROUP", "billing", "a", "COUNT", "10", "STREAMS", "orders", ">"]).unwrap();
    let mut reading = Reading::start(&billing(&server), &[None]).unwrap();
    reading.until_read(20);
    // Somebody sets the group back and is given an entry again: it stays theirs.
    server.ask(&["XGROUP", "SETID", "orders", "billing", "0"]).unwrap();
    server.ask(&["XACK", "orders", "billing", "1-3"]).unwrap();
    server.ask(&["XREADGROUP", "GROUP", "billing", "other", "COUNT", "3", "STREAMS", "orders", ">"]).unwrap();
    reading.save();
    until_told(&server, ["1-20", "20", "0", "3"]);
}

#[test]
fn two_owners_of_one_group_are_noticed() {
    let server = server();
    add(&server, "orders", 1..=10);
    let mut reading = Reading::start(&billing(&server), &[None]).unwrap();
    reading.until_read(10);
    reading.save();
    until_told(&server, ["1-10", "10", "0", "0"]);
    let token = reading.token();
    add(&server, "orders", 11..=20);
    server.ask(&["XREADGROUP", "GROUP", "billing", "a", "COUNT", "8", "STREAMS", "orders", ">"]).unwrap();
    server.ask(&["XACK", "orders", "billing", "1-11", "1-12"]).unwrap();
    reading.save();
    let said = reading.until_refused();
    assert!(said.contains("stands at 1-18, and all up to 1-10 is durable: another program reads with it"), "{said}");
    drop(reading);
    let said = Reading::start(&billing(&server), std::slice::from_ref(&token)).err().unwrap().to_string();
    assert!(said.contains("the group billing of the stream orders stands at 1-18, and the checkpoint at 1-10"), "{said}");
    // What it acknowledged is done; what it left is read.
    let after = billing(&server).continue_behind("orders", "1-10", "1-18");
    let mut rest = Reading::start(&after, &[token]).unwrap();
    rest.until_read(8);
    rest.until_idle();
    assert_eq!(rest.found[0].ids(), ["c-13", "c-14", "c-15", "c-16", "c-17", "c-18", "c-19", "c-20"]);
}
