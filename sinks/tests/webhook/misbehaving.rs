//! Servers that are slow, refuse, cut, or speak something else.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::Action;
use highwater_operators::clock::{Clock, Hand};
use highwater_operators::{ErrorKind, guard};
use highwater_sinks::Webhook;
use tokio::sync::mpsc::unbounded_channel;

use super::server::{Server, bytes, reply};
use super::{around, call, delivery};

#[tokio::test]
async fn what_is_cut_malformed_or_oversized_is_tried_again() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(100_000)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1_000)).into_bytes();
    for (answer, what) in [
        (b"".to_vec(), "nothing"),
        (b"HTTP/1.1 200".to_vec(), "a cut status"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_vec(), "a cut body"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(), "bad chunks"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), "another protocol"),
        (long, "a long header"),
        (many, "many headers"),
    ] {
        let webhook = Webhook::post(format!("http://{}/", bytes(answer).await)).allow_private();
        let error = call(&webhook, "a").await.expect_err(what);
        assert!(error.kind() == ErrorKind::Retry && error.was_asked(), "{what}: {error}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_no_further_than_its_bound() {
    let server = Server::start(|_| async { reply(200, vec![b'x'; 30_000_000]) }).await;
    let webhook = Webhook::post(server.url("/")).allow_private().answer_max(10_000);
    for id in ["a", "b"] {
        call(&webhook, id).await.unwrap();
    }
    assert_eq!(server.connections(), 2, "a connection with the rest of an answer in it is not used again");
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_no_failure() {
    let address = bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let webhook = Webhook::post(format!("http://{address}/")).allow_private();
    for n in 0..50 {
        if let Err(error) = call(&webhook, &n.to_string()).await {
            // Sent, and closed before it was read: nobody can know whether it was taken.
            assert!(error.kind() == ErrorKind::Retry && !error.to_string().contains("breaker"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_dead_endpoint_gets_its_probes_and_no_more() {
    // A port where nobody listens any more.
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let hand = Arc::new(Hand::default());
    let webhook = Webhook::post(format!("http://{address}/")).give_up_after(Duration::from_secs(60));
    webhook.begin(&around("dead", 100, Clock::turned_by(hand.clone())));
    let (mut asked, mut put_off) = (0, 0);
    for n in 0..100 {
        match call(&webhook, &n.to_string()).await.unwrap_err() {
            error if error.was_asked() => asked += 1,
            _ => put_off += 1,
        }
    }
    assert_eq!((asked, put_off), (5, 95));
    let error = call(&webhook, "a").await.unwrap_err();
    assert_eq!(error.wait(), Some(Duration::from_secs(10)));
    let text = error.to_string();
    assert!(
        text.contains("dead at http://127.0.0.1") && text.contains("breaker is open until") && text.contains("refused"),
        "{text}"
    );
    hand.turn_to(Duration::from_secs(10));
    assert!(call(&webhook, "a").await.unwrap_err().was_asked() && !call(&webhook, "b").await.unwrap_err().was_asked());
    hand.turn_to(Duration::from_secs(75));
    assert!(call(&webhook, "a").await.unwrap_err().was_asked());
    assert_eq!(call(&webhook, "b").await.unwrap_err().kind(), ErrorKind::Park);
    let status = guard::all().into_iter().find(|(name, _)| name.starts_with("dead at")).unwrap().1;
    assert_eq!((status.opened, status.in_use), (3, 0));
}

#[tokio::test]
async fn a_slow_answer_is_given_up_when_its_time_is_over() {
    let (arrived, mut arrives) = unbounded_channel();
    let server = Server::start(move |_| {
        arrived.send(()).unwrap();
        std::future::pending()
    });
    let (server, hand) = (server.await, Arc::new(Hand::default()));
    let webhook = Webhook::post(server.url("/"));
    webhook.begin(&around("slow", 100, Clock::turned_by(hand.clone())));
    let called = tokio::spawn(async move { webhook.call(delivery("a")).await });
    arrives.recv().await.unwrap();
    hand.turn_to(Duration::from_secs(20));
    let error = called.await.unwrap().unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && error.to_string().ends_with("no answer within 20.0s"), "{error}");
}
