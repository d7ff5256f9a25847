//! Connections are bounded, used again, counted, and resized while they are in use.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::Action;
use highwater_operators::clock::Clock;
use highwater_operators::pools;
use highwater_sinks::Webhook;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use super::server::{Server, reply};
use super::{around, call, delivery};

#[tokio::test]
async fn a_pool_is_bounded_counted_and_resized_in_use() {
    let (arrived, mut arrives) = unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let goes = go.clone();
    let server = Server::start(move |_| {
        arrived.send(()).unwrap();
        let goes = goes.clone();
        async move {
            goes.acquire().await.unwrap().forget();
            reply(200, "")
        }
    });
    let server = server.await;
    let webhook = Webhook::post(server.url("/")).max_connections(3);
    webhook.begin(&around("pooled", 100, Clock::default()));
    let name = format!("pooled at http://{}", server.address);
    let calls: Vec<_> = (0..10)
        .map(|n| {
            let webhook = webhook.clone();
            tokio::spawn(async move { webhook.call(delivery(&n.to_string())).await })
        })
        .collect();
    for _ in 0..3 {
        arrives.recv().await.unwrap();
    }
    // The others have nowhere to go but the line.
    while pools::all()[&name].waiting < 7 {
        tokio::task::yield_now().await;
    }
    let status = pools::all()[&name];
    assert_eq!((status.active, status.waiting, status.max_connections, status.opened), (3, 7, 3, 3));
    assert!(pools::resize(&name, 5) && !pools::resize("no such pool", 5));
    for _ in 0..2 {
        arrives.recv().await.unwrap();
    }
    assert_eq!(server.connections(), 5);
    assert!(pools::resize(&name, 2));
    go.add_permits(10);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let status = pools::all()[&name];
    assert_eq!((status.active, status.waiting, status.max_connections, status.used), (0, 0, 2, 10));
    assert!(status.idle <= 2 && status.reuse_rate().unwrap() >= 0.5, "{status:?}");
    let opened = status.opened;
    go.add_permits(20);
    for n in 0..20 {
        call(&webhook, &n.to_string()).await.unwrap();
    }
    assert!(pools::all()[&name].opened <= opened + 1);
}

#[tokio::test]
async fn old_and_idle_connections_are_made_anew() {
    let server = Server::start(|_| async { reply(200, "") }).await;
    let aged = Webhook::post(server.url("/")).allow_private().max_age(Duration::ZERO);
    for n in 0..3 {
        call(&aged, &n.to_string()).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
    let idle = Webhook::post(server.url("/")).allow_private().idle_timeout(Duration::ZERO);
    for n in 0..3 {
        call(&idle, &n.to_string()).await.unwrap();
    }
    assert_eq!(server.connections(), 6);
    let kept = Webhook::post(server.url("/")).allow_private();
    for n in 0..30 {
        call(&kept, &n.to_string()).await.unwrap();
    }
    assert_eq!(server.connections(), 7);
}
