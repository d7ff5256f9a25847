//! Addresses that are not public: refused in every form, on every connection, unless they are allowed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use highwater_operators::ErrorKind;
use highwater_operators::action::BoxFuture;
use highwater_sinks::Webhook;
use highwater_sinks::webhook::Resolve;

use super::server::{Server, reply};
use super::{call, problems};

/// Answers in turn.
struct Answers(Vec<Vec<&'static str>>, Arc<AtomicUsize>);

impl Resolve for Answers {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst);
        let answer = &self.0[turn % self.0.len()];
        let addresses = answer.iter().map(|ip| SocketAddr::from((ip.parse::<IpAddr>().unwrap(), port))).collect();
        Box::pin(async move { Ok(addresses) })
    }
}

#[test]
fn addresses_in_urls_are_refused_at_the_start_in_every_form() {
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "10.0.0.1",
        "172.20.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "１２７.0.0.1",
    ] {
        let problems = problems(&Webhook::post(format!("http://{host}:8080/latest/meta-data")));
        assert!(problems.len() == 1 && problems[0].contains("refused"), "{host}: {problems:?}");
    }
    assert_eq!(problems(&Webhook::post("http://127.0.0.1/").allow_private()), [""; 0]);
    assert_eq!(problems(&Webhook::post("http://1.1.1.1/")), [""; 0]);
}

#[tokio::test]
async fn names_that_lead_to_refused_addresses_are_refused_on_each_connection() {
    let server = Server::start(|_| async { reply(200, "") }).await;
    let port = server.address.port();
    let error = call(&Webhook::post(format!("http://localhost:{port}/")), "a").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Park && error.to_string().contains("which is loopback: refused"), "{error}");
    // An answer that is another one a moment later: what is checked is what is connected to.
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = Answers(
        vec![
            vec!["192.0.2.1"],
            vec!["127.0.0.1"],
            vec!["::ffff:127.0.0.1"],
            vec!["10.0.0.1", "::1"],
            vec!["169.254.169.254", "fd00:ec2::254"],
        ],
        asked.clone(),
    );
    let webhook = Webhook::post(format!("http://rebound.example:{port}/")).resolved_by(answers).resolve_every(Duration::ZERO);
    for n in 0..40 {
        let error = call(&webhook, &n.to_string()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Park && error.to_string().contains("refused"), "{error}");
    }
    assert_eq!((asked.load(Ordering::SeqCst), server.connections()), (40, 0));
    // Allowed, the same goes.
    let loopback = Answers(vec![vec!["127.0.0.1"]], Arc::default());
    let webhook = Webhook::post(format!("http://rebound.example:{port}/")).resolved_by(loopback).allow_private();
    call(&webhook, "a").await.unwrap();
}

#[tokio::test]
async fn of_several_addresses_the_next_is_tried_and_names_are_asked_for_again() {
    let server = Server::start(|_| async { reply(200, "") }).await;
    let asked = Arc::new(AtomicUsize::new(0));
    // Nobody listens at the first two.
    let answers = Answers(vec![vec!["127.0.0.77", "127.0.0.78", "127.0.0.1"]], asked.clone());
    let webhook = Webhook::post(format!("http://several.example:{}/", server.address.port()))
        .resolved_by(answers)
        .allow_private()
        .max_age(Duration::ZERO);
    for n in 0..6 {
        call(&webhook, &n.to_string()).await.unwrap();
    }
    assert_eq!((asked.load(Ordering::SeqCst), server.connections()), (1, 6));
    let webhook = webhook.resolve_every(Duration::ZERO);
    call(&webhook, "a").await.unwrap();
    call(&webhook, "b").await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}
