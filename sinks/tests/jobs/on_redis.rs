//! What becomes of a queue when its Redis evicts, is killed, emptied, frozen, or lets us do little.

use std::time::{Duration, Instant};

use highwater_operators::ErrorKind;
use highwater_operators::testing::redis::{Keeps, Server, Settings};
use highwater_sinks::RedisJobQueue;
use highwater_sinks::jobs::{Enqueued, JobQueue, handle};

use crate::change;

fn queue(server: &Server) -> JobQueue {
    RedisJobQueue::with_workers(server.url().reveal(), 2).name("q").lease(Duration::from_millis(500))
}

async fn put(queue: &JobQueue, n: usize) {
    let jobs = (0..n).map(|n| (n.to_string(), change(&n.to_string(), "k")));
    assert!(queue.enqueue_all(jobs).await.unwrap().iter().all(|enqueued| matches!(enqueued, Ok(Enqueued::New))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_is_refused() {
    let server = Settings::default().set("maxmemory-policy", "allkeys-lru").start().unwrap();
    let error = queue(&server).store().await.err().unwrap();
    assert!(error.kind() == ErrorKind::Stop && error.to_string().contains("maxmemory-policy noeviction"), "{error}");
    // Volatile policies too: they evict what has a life of its own, and what refuses writes is said by noeviction alone.
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).unwrap();
    assert_eq!(queue(&server).store().await.err().unwrap().kind(), ErrorKind::Stop);
    server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    assert!(queue(&server).store().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_comes_back_has_every_job_it_took() {
    let server = Settings::default().keeps(Keeps::All).start().unwrap();
    let queue = queue(&server);
    put(&queue, 100).await;
    let store = queue.store().await.unwrap();
    assert_eq!(store.take(10, Duration::from_millis(50)).await.unwrap().jobs.len(), 10);
    server.kill().unwrap();
    assert_eq!(store.take(1, Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Retry);
    let working = tokio::spawn(queue.work(handle(|_| async { Ok(()) })).until_empty().until(std::future::pending()));
    server.start_again().unwrap();
    let done = working.await.unwrap().unwrap();
    assert_eq!((done.finished, done.returned), (100, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_freezes_is_outlived() {
    let server = Server::start().unwrap();
    let queue = RedisJobQueue::with_workers(format!("{}?response_timeout=0.3", server.url().reveal()), 2).name("q");
    put(&queue, 10).await;
    server.freeze().unwrap();
    let began = Instant::now();
    let error = queue.counts().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && began.elapsed() < Duration::from_secs(10), "{error}");
    let working = tokio::spawn(queue.work(handle(|_| async { Ok(()) })).until_empty().until(std::future::pending()));
    server.thaw().unwrap();
    assert_eq!(working.await.unwrap().unwrap().finished, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_emptied_is_a_new_queue_and_old_claims_have_no_say_in_it() {
    let server = Server::start().unwrap();
    let queue = queue(&server);
    put(&queue, 1).await;
    let store = queue.store().await.unwrap();
    let before = store.take(1, Duration::from_secs(3600)).await.unwrap().jobs.remove(0);
    server.flush().unwrap();
    put(&queue, 1).await;
    let after = store.take(1, Duration::from_secs(3600)).await.unwrap().jobs.remove(0);
    assert_eq!(before.claim.number, after.claim.number);
    assert!(before.claim.fence < after.claim.fence, "fences grow though the server has forgotten them");
    assert_eq!(store.renew(&[before.claim, after.claim], Duration::from_secs(1)).await.unwrap(), [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_more_rights_than_are_written_down() {
    let page = include_str!("../../../docs/jobs.md");
    let rights = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER jobs on >PASSWORD ")).expect("the page has them");
    let server = Settings::default().user(&format!("jobs on >secret {}", rights.replace("NAME", "q"))).start().unwrap();
    let url = server.url_of("jobs", "secret");
    let queue = RedisJobQueue::with_workers(url.reveal(), 2).name("q").ordered();
    put(&queue, 20).await;
    let workers = queue.work(handle(|job| async move {
        if job.change().id() == "3" { Err(highwater_operators::Error::park("no")) } else { Ok(()) }
    }));
    let done = workers.until_empty().until(std::future::pending()).await.unwrap();
    assert_eq!((done.finished, done.parked), (19, 1));
    let store = queue.store().await.unwrap();
    let parked = store.parked(0, 10).await.unwrap();
    assert!(store.edit(parked[0].id, &change("3", "k")).await.unwrap());
    assert_eq!(store.retry(&[parked[0].id]).await.unwrap(), 1);
    tokio::time::timeout(Duration::from_secs(5), store.arrived(Duration::from_millis(10))).await.unwrap();
    let other = RedisJobQueue::with_workers(url.reveal(), 2).name("another");
    assert_eq!(other.counts().await.unwrap_err().kind(), ErrorKind::Stop, "not those of another queue");
}
