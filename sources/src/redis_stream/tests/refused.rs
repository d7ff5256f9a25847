//! What is refused: nothing is skipped in silence.

use super::*;

/// Why it does not begin.
#[track_caller]
fn refusal(streams: &RedisStreams, token: Option<ResumeToken>) -> String {
    match Reading::start(streams, &[token]) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it begins"),
    }
}

/// The token behind so many entries.
fn read(server: &Server, entries: u64) -> Option<ResumeToken> {
    let mut reading = Reading::start(&orders(server), &[None]).unwrap();
    reading.until_read(entries as usize);
    reading.until_idle();
    reading.token()
}

#[test]
fn what_was_trimmed_before_it_was_read_is_told() {
    let server = server();
    add(&server, "orders", 1..=100);
    let token = read(&server, 100);
    add(&server, "orders", 101..=150);
    server.ask(&["XTRIM", "orders", "MAXLEN", "50"]).unwrap();
    let mut all = Reading::start(&orders(&server), std::slice::from_ref(&token)).unwrap();
    all.until_read(50);
    drop(all);
    server.ask(&["XTRIM", "orders", "MAXLEN", "47"]).unwrap();
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("3 entries of the stream orders were removed before they were read"), "{said}");
    assert!(said.contains("begins at 1-104 now; all up to 1-100 was read"), "{said}");
    let given_up = orders(&server).continue_behind("orders", "1-100", "1-100");
    let mut rest = Reading::start(&given_up, &[token]).unwrap();
    rest.until_read(47);
    rest.until_idle();
    assert_eq!(rest.found[0].changes[0].id(), "c-104");
    // It may stay in the program, and covers nothing that comes later.
    let token = rest.token();
    drop(rest);
    add(&server, "orders", 151..=160);
    server.ask(&["XTRIM", "orders", "MAXLEN", "5"]).unwrap();
    let said = refusal(&given_up, token);
    assert!(said.contains("5 entries of the stream orders were removed"), "{said}");
}

#[test]
fn a_producer_that_overtakes_the_reader_is_noticed_while_it_reads() {
    let server = server();
    add(&server, "orders", 1..=20_000);
    // The reader has room for some thousands.
    let mut reading = Reading::start(&orders(&server).count(100), &[None]).unwrap();
    reading.until_read(1);
    server.ask(&["XTRIM", "orders", "MAXLEN", "10"]).unwrap();
    let said = reading.until_refused();
    let read = reading.found[0].changes.len();
    assert!(said.contains(&format!("{} entries of the stream orders were removed", 20_000 - 10 - read)), "{read} read; {said}");
}

#[test]
fn an_entry_that_was_deleted_before_it_was_read_is_told() {
    let server = server();
    add(&server, "orders", 1..=10);
    let token = read(&server, 10);
    add(&server, "orders", 11..=20);
    server.ask(&["XDEL", "orders", "1-3", "1-15"]).unwrap();
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("the entry 1-15 of the stream orders was deleted before it was read"), "{said}");
    let mut rest = Reading::start(&orders(&server).continue_behind("orders", "1-10", "1-10"), &[token]).unwrap();
    rest.until_read(9);
    rest.until_idle();
    drop(rest);
    // What was gone before reading began is no loss.
    assert_eq!(read(&server, 18).unwrap().order, 18);
}

#[test]
fn an_emptied_server_and_a_stream_made_anew_are_refused() {
    let server = server();
    add(&server, "orders", 1..=10);
    let token = read(&server, 10);
    server.kill().unwrap();
    server.start_again().unwrap();
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("there is no stream orders any more, and the checkpoint stands at its entry 1-10"), "{said}");
    add(&server, "orders", 1..=4);
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("ends at 1-4, and the checkpoint stands at its entry 1-10"), "{said}");
    // Later ids, and more of them.
    server.flush().unwrap();
    add(&server, "orders", 11..=50);
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("is not the one that was read up to 1-10"), "{said}");
    // The same ids, other content.
    server.flush().unwrap();
    for number in 1..=12 {
        server.ask(&["XADD", "orders", &format!("1-{number}"), "change", "other"]).unwrap();
    }
    let said = refusal(&orders(&server), token.clone());
    assert!(said.contains("is not the one that was read up to 1-10"), "{said}");
    let mut anew = Reading::start(&orders(&server).continue_behind("orders", "1-10", "0-0"), &[token]).unwrap();
    anew.until("all is read", |found| found[0].rejected.len() == 12);
}

#[test]
fn a_run_notices_too_that_its_stream_is_gone() {
    let server = server();
    add(&server, "orders", 1..=10);
    let mut reading = Reading::start(&orders(&server), &[None]).unwrap();
    reading.until_read(10);
    server.kill().unwrap();
    server.start_again().unwrap();
    let said = reading.until_refused();
    assert!(said.contains("there is no stream orders any more"), "{said}");
}

#[test]
fn what_is_no_stream_is_refused() {
    let server = server();
    server.ask(&["SET", "orders", "1"]).unwrap();
    let said = refusal(&orders(&server), None);
    assert!(said.contains("the stream orders") && said.contains("WRONGTYPE") && said.contains("name another key"), "{said}");
    let url = server.url();
    for (streams, expected) in [
        (RedisStreams::at(&url, Vec::<String>::new()), "no stream is named"),
        (RedisStreams::at(&url, ["a", "b", "a"]), "the stream a is named twice"),
        (RedisStreams::at(&url, [""]), "a stream has an empty name"),
        (RedisStreams::at(&url, ["a"]).behind("$"), "\"$\" in .behind(..) is no id of an entry"),
        (RedisStreams::at(&url, ["a"]).group(""), "empty name"),
        (RedisStreams::at(&url, ["a"]).entries(Entries::rows().field("x")), "leave out .field(..)"),
        (RedisStreams::stream("http://localhost", "a"), "redis://"),
    ] {
        let said = refusal(&streams, None);
        assert!(said.contains(expected), "{said}");
    }
    let other = Some(ResumeToken { order: 3, detail: bytes::Bytes::from_static(b"other") });
    server.flush().unwrap();
    assert!(refusal(&orders(&server), other).contains("none of a stream of Redis"));
    server.kill().unwrap();
    assert!(refusal(&orders(&server), None).contains("look whether the server runs"));
}
