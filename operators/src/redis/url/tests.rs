use super::*;

fn parsed(text: &str) -> Url {
    Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    Url::parse(text).expect_err(text).to_string()
}

#[test]
fn a_url_is_read() {
    let url = parsed("redis://ada:s%40%2Fcret@cache.example:6380/3?response_timeout=0.5&connect_timeout=2");
    assert_eq!(url.place(), &Place::Tcp("cache.example".into(), 6380));
    assert_eq!((url.user(), url.db()), (Some("ada"), 3));
    assert_eq!(url.password.get().unwrap().as_deref(), Some("s@/cret"));
    assert_eq!((url.response_timeout(), url.connect_timeout()), (Duration::from_millis(500), Duration::from_secs(2)));
    assert_eq!(parsed("redis://").place(), &Place::Tcp("localhost".into(), 6379));
    assert_eq!(parsed("redis://[::1]:7000").place(), &Place::Tcp("::1".into(), 7000));
    assert_eq!(parsed("redis://[::1]:7000").to_string(), "redis://[::1]:7000/0");
    assert!(parsed("rediss://host").tls().is_some());
    let socket = parsed("unix:///run/redis.sock?db=2&password=x");
    assert_eq!((socket.place(), socket.db()), (&Place::Socket("/run/redis.sock".into()), 2));
    assert_eq!(socket.to_string(), "unix:///run/redis.sock?db=2");
}

#[test]
fn what_is_shown_has_no_secret() {
    let url = parsed("redis://ada:secret@host/0?client_name=secret");
    assert!(!format!("{url} {url:?}").contains("secret"));
    for wrong in [
        "redis://ada:sec/ret@host/0",
        "redis://ada:secret?@host/0",
        "redis://ada:secret%zz@host",
        "redis://ada:secret@host:x/0",
        "redis://ada:secret@host/0?secret=1x",
    ] {
        let text = refused(wrong);
        assert!(!text.contains("ret@") && !text.contains("secret%"), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (wrong, said) in [
        ("postgres://host", "redis://"),
        ("host:6379", "redis://"),
        ("redis://host:70000", "a port is a number"),
        ("redis://host/x", "the database is a number"),
        ("redis://ada@host", "a user and no password"),
        ("redis://host?rootcert=a.pem", "rediss://"),
        ("redis://host?timeout=1", "a parameter `timeout`; there are rootcert"),
        ("redis://host?response_timeout=0", "response_timeout is a number of seconds"),
        ("redis://:a@host?passfile=b", "leave one of them out"),
        ("unix://host/path", "whole path"),
    ] {
        assert!(refused(wrong).contains(said), "{wrong}: {}", refused(wrong));
    }
}

#[test]
fn another_place_keeps_the_login() {
    let url = parsed("redis://ada:secret@host:1/2?response_timeout=3").at("127.0.0.1", 9);
    assert_eq!(url.reveal(), "redis://ada:secret@127.0.0.1:9/2?response_timeout=3");
    assert_eq!(parsed(url.reveal()).to_string(), url.to_string());
}
