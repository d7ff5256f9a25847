//! Workers: what becomes of jobs that fail, hang, panic, are broken off; and all at once, over stores that fail, with workers that die.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use highwater_operators::action::{BatchAction, Delivery, run};
use highwater_operators::checkpoint::store::Cause;
use highwater_operators::{Error, ErrorKind};
use highwater_sinks::jobs::{Counts, Enqueued, JobQueue, JobStore, MemoryJobStore, handle};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;

use crate::change;
use crate::faulty::Faulty;
use crate::places::Place;

fn in_memory() -> (Arc<dyn JobStore>, JobQueue) {
    let store: Arc<dyn JobStore> = Arc::new(MemoryJobStore::new());
    (store.clone(), quick(JobQueue::in_store(store, 4)))
}

fn quick(queue: JobQueue) -> JobQueue {
    queue.backoff(Duration::from_millis(1), Duration::from_millis(5)).lease(Duration::from_millis(500))
}

async fn put(queue: &JobQueue, n: usize) {
    let jobs = (0..n).map(|n| (format!("j{n}"), change(&format!("j{n}"), &format!("k{}", n % 3))));
    assert!(queue.enqueue_all(jobs).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_change_becomes_one_job_however_often_it_is_sent() {
    let (store, queue) = in_memory();
    let batch: Vec<Delivery> = (0..50).map(|n| Delivery::alone(change(&n.to_string(), "k"), 1)).collect();
    for _ in 0..3 {
        let answers = queue.call(&batch).await;
        assert!(answers.len() == 50 && answers.iter().all(Result::is_ok), "{answers:?}");
    }
    assert_eq!(store.counts().await.unwrap().ready, 50);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let workers = queue.work(handle(move |job| {
        notes.lock().push((job.id().to_owned(), job.change().id().to_owned()));
        async { Ok(()) }
    }));
    let done = workers.until_empty().until(std::future::pending()).await.unwrap();
    assert_eq!((done.finished, done.enqueued, done.known), (50, 50, 100));
    let keys: HashSet<String> = batch.iter().map(Delivery::idempotency_key).collect();
    assert_eq!(seen.lock().iter().map(|(id, _)| id.clone()).collect::<HashSet<_>>(), keys, "the job's id is the idempotency key");
    assert!(queue.call(&batch).await.iter().all(Result::is_ok));
    assert_eq!(store.counts().await.unwrap(), Counts::default(), "they are remembered as done");
}

#[tokio::test]
async fn a_job_that_is_too_large_is_parked_alone_and_a_store_that_is_away_uses_up_no_attempt() {
    let (store, queue) = in_memory();
    let queue = queue.job_bytes_max(200);
    let large = highwater_operators::Change::builder("x").after(&serde_json::json!({"text": "x".repeat(300)})).build().unwrap();
    let batch = [Delivery::alone(change("1", "k"), 1), Delivery::alone(large, 1), Delivery::alone(change("2", "k"), 1)];
    let answers = queue.call(&batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let error = answers[1].as_ref().unwrap_err();
    assert!(error.kind() == ErrorKind::Park && error.to_string().contains("job_bytes_max"), "{error}");
    assert_eq!(store.counts().await.unwrap().ready, 2);
    let away = JobQueue::in_store(Faulty::new(store, 2.0, 1), 1);
    let answers = away.call(&batch[..1]).await;
    assert!(!answers[0].as_ref().unwrap_err().was_asked());
}

#[tokio::test]
async fn what_fails_is_tried_again_and_parked_in_the_end_and_what_panics_is_parked_at_once() {
    let (store, queue) = in_memory();
    put(&queue, 4).await;
    let calls: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let counted = calls.clone();
    let workers = queue.clone().attempts(3).work(run(move |change| {
        let id = change.id().to_owned();
        *counted.lock().entry(id.clone()).or_default() += 1;
        async move {
            match id.as_str() {
                "j0" => Err(Error::retry("busy").with_response("come back")),
                "j1" => panic!("what now"),
                "j2" => Err(Error::park("no such customer")),
                _ => Ok(()),
            }
        }
    }));
    let done = workers.until_empty().until(std::future::pending()).await.unwrap();
    assert_eq!((done.finished, done.retried, done.parked), (1, 2, 3));
    let parked = store.parked(0, 10).await.unwrap();
    let seen: Vec<_> = parked.iter().map(|parked| (parked.change.id(), parked.cause, parked.attempts)).collect();
    assert_eq!(seen, [("j0", Cause::Failed, 3), ("j1", Cause::Panicked, 1), ("j2", Cause::Failed, 1)]);
    assert!(parked[1].error.contains("what now") && parked[0].history.response.as_deref() == Some("come back"));
    assert_eq!(*calls.lock(), BTreeMap::from([("j0", 3), ("j1", 1), ("j2", 1), ("j3", 1)].map(|(id, n)| (id.to_owned(), n))));
}

#[tokio::test]
async fn a_handler_that_says_stop_ends_the_workers_and_its_job_is_there_still() {
    let (store, queue) = in_memory();
    put(&queue, 1).await;
    let error = queue.work(run(|_| async { Err(Error::stop("the disk is gone")) })).until(std::future::pending()).await;
    assert_eq!(error.unwrap_err().to_string(), "the disk is gone");
    let taken = store.take(1, Duration::from_secs(1)).await.unwrap();
    assert_eq!(taken.jobs[0].attempt, 1, "none was made that counts");
}

#[tokio::test]
async fn what_takes_too_long_is_broken_off() {
    let (store, queue) = in_memory();
    put(&queue, 1).await;
    let workers = queue.timeout(Duration::from_millis(20)).attempts(2).work(run(|_| std::future::pending()));
    workers.until_empty().until(std::future::pending()).await.unwrap();
    let parked = store.parked(0, 10).await.unwrap();
    assert!(parked[0].error.contains("longer than 20ms") && parked[0].attempts == 2, "{parked:?}");
}

#[tokio::test]
async fn who_was_not_asked_counts_no_attempt_and_no_more_is_taken_meanwhile() {
    let (store, queue) = in_memory();
    put(&queue, 20).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let began = Instant::now();
    let workers = queue.attempts(1).work(run(move |_| {
        let is_away = began.elapsed() < Duration::from_millis(200);
        count.fetch_add(usize::from(is_away), Ordering::Relaxed);
        async move { if is_away { Err(Error::not_asked("the breaker is open", Duration::from_millis(60))) } else { Ok(()) } }
    }));
    let done = workers.until_empty().until(std::future::pending()).await.unwrap();
    assert_eq!((done.finished, done.parked), (20, 0));
    assert!(refused.load(Ordering::Relaxed) <= 5 * 4 * 2, "{refused:?}");
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

#[tokio::test]
async fn asked_to_end_they_finish_what_is_under_way_and_give_back_the_rest() {
    let (store, _) = in_memory();
    let queue = JobQueue::in_store(store.clone(), 2).lease(Duration::from_secs(3600));
    drop(queue.enqueue_all((0..50).map(|n| (n.to_string(), change(&n.to_string(), "k")))).await.unwrap());
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait, slow) = (started.clone(), go_on.clone(), Arc::new(AtomicU64::new(0)));
    let workers = queue.work(run(move |_| {
        let (tell, wait, n) = (tell.clone(), wait.clone(), slow.fetch_add(1, Ordering::Relaxed));
        async move {
            // The first ones are quick, so that more is taken ahead.
            if n >= 20 {
                tell.notify_one();
                wait.notified().await;
            }
            Ok(())
        }
    }));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(workers.until(async move { drop(ended.await) }));
    started.notified().await;
    started.notified().await;
    end.send(()).unwrap();
    // Only when the rest is given back may the two go on: it is not kept waiting for them.
    while store.counts().await.unwrap().in_flight > 2 {
        tokio::task::yield_now().await;
    }
    go_on.notify_waiters();
    let done = working.await.unwrap().unwrap();
    let counts = store.counts().await.unwrap();
    assert_eq!((done.finished, counts.in_flight, counts.later), (22, 0, 0));
    assert_eq!(counts.ready, 28);
    let next = store.take(28, Duration::from_secs(1)).await.unwrap();
    assert!(next.jobs.iter().all(|job| job.attempt == 1 && !job.returned));
}

#[tokio::test]
async fn what_does_not_end_in_time_is_broken_off_and_given_back_at_once() {
    let (store, queue) = in_memory();
    put(&queue, 3).await;
    let workers = queue.lease(Duration::from_secs(3600)).work(run(|_| std::future::pending())).drain(Duration::from_millis(30));
    let in_hand = store.clone();
    let all_in_hand = async move {
        while in_hand.counts().await.unwrap().in_flight < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    workers.until(all_in_hand).await.unwrap();
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.ready, counts.in_flight), (3, 0));
    assert_eq!(store.take(1, Duration::from_secs(1)).await.unwrap().jobs[0].attempt, 2, "the attempt counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_renew_stops_acting_before_another_begins() {
    let store: Arc<dyn JobStore> = Arc::new(MemoryJobStore::new());
    let faulty = Faulty::new(store.clone(), 0.0, 0);
    faulty.renews_nothing.store(true, Ordering::Relaxed);
    let lease = Duration::from_millis(200);
    let (cut_off, healthy) =
        (JobQueue::in_store(faulty, 1).lease(lease).attempts(10_000), JobQueue::in_store(store, 1).lease(lease).attempts(10_000));
    put(&healthy, 1).await;
    // Each notes its fence every millisecond, the first for ever.
    let acts: Arc<Mutex<Vec<u64>>> = Arc::default();
    let act = |most: usize| {
        let acts = acts.clone();
        handle(move |job| {
            let acts = acts.clone();
            async move {
                for _ in 0..most {
                    acts.lock().push(job.fence());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
        })
    };
    let first = tokio::spawn(cut_off.work(act(usize::MAX)).until(std::future::pending()));
    while acts.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let done = healthy.work(act(50)).until_empty().until(std::future::pending()).await.unwrap();
    // Who was cut off may have taken it again in between, for another while.
    assert!(done.finished == 1 && done.returned >= 1, "{done:?}");
    let acts = acts.lock().clone();
    assert!(acts.is_sorted() && acts.first() < acts.last(), "{acts:?}");
    assert!(!first.is_finished(), "it goes on to look for jobs");
    first.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_workers_is_parked_in_the_end() {
    let (store, queue) = in_memory();
    let queue = queue.attempts(3).lease(Duration::from_millis(100));
    put(&queue, 1).await;
    for _ in 0..3 {
        let began = Arc::new(Notify::new());
        let tell = began.clone();
        let workers = queue.work(run(move |_| {
            tell.notify_one();
            std::future::pending()
        }));
        let dies = tokio::spawn(workers.until(std::future::pending()));
        began.notified().await;
        dies.abort();
        assert!(dies.await.unwrap_err().is_cancelled());
    }
    let done = queue
        .work(run(|_| async { panic!("it is not tried any more") }))
        .until_empty()
        .until(std::future::pending())
        .await
        .unwrap();
    assert_eq!(done.parked, 1);
    let parked = store.parked(0, 1).await.unwrap();
    assert!(parked[0].error.contains("all 3 attempts"), "{}", parked[0].error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_it_and_what_was_done_with_it_can_be_watched() {
    let (_, queue) = in_memory();
    let queue = queue.name("watched");
    put(&queue, 3).await;
    let seen = || highwater_operators::queues::all().get("watched").copied().unwrap_or_default();
    // How it stands is counted every two seconds.
    while seen().depth < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((seen().done.enqueued, seen().in_flight, seen().parked), (3, 0, 0));
    let workers = queue.work(run(|change| async move { if change.id() == "j0" { Err(Error::park("no")) } else { Ok(()) } }));
    workers.until_empty().until(std::future::pending()).await.unwrap();
    while seen().depth > 0 || seen().parked < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = seen().done;
    assert_eq!((done.taken, done.finished, done.parked, done.returned), (3, 2, 1, 0));
    drop(queue);
    assert_eq!(seen().done.taken, 0, "it is shown for as long as it is there");
}

#[tokio::test]
async fn mistakes_are_told_before_anything_is_taken() {
    let (_, queue) = in_memory();
    for (queue, told) in [
        (queue.clone().name("a{b}"), "no name of a queue"),
        (queue.clone().lease(Duration::ZERO), "its lease is 0ns"),
        (queue.timeout(Duration::ZERO), "its timeout is 0"),
        (JobQueue::in_store(Arc::new(MemoryJobStore::new()), 0), "0 workers"),
        (highwater_sinks::RedisJobQueue::with_workers("postgres://x", 1), "redis://"),
    ] {
        let problems = queue.problems(&highwater_operators::action::call::Planned { lookups: &[], allow_private: true });
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
        assert_eq!(
            queue.work(run(|_| async { Ok(()) })).until(std::future::pending()).await.unwrap_err().kind(),
            ErrorKind::Stop
        );
    }
}

/// What happened to jobs, in order.
#[derive(Default)]
struct Seen {
    done: Mutex<Vec<String>>,
    too_early: Mutex<Vec<String>>,
}

/// Jobs in lanes and outside, over a store that fails, with pools that die and begin anew: all is done or parked, in the order of each lane.
async fn all_at_once(place: &Place, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (jobs, lanes) = (150, 6);
    let store = place.open().await;
    let faulty = || Faulty::new(store.clone(), 0.2, seed);
    let queue = |store: Arc<dyn JobStore>| quick(JobQueue::in_store(store, 5)).lease(Duration::from_millis(300)).attempts(50);
    let key = move |n: usize| format!("lane {}", n % lanes);
    let (ordered, plain) = (queue(faulty()).ordered(), queue(faulty()));
    for n in 0..jobs {
        let (target, job) = (if n % 3 == 0 { &plain } else { &ordered }, change(&n.to_string(), &key(n)));
        while target.enqueue(n.to_string(), job.clone()).await.is_err() {}
        assert!(matches!(target.enqueue(n.to_string(), job).await, Ok(Enqueued::Known) | Err(_)));
    }
    let seen = Arc::new(Seen::default());
    let work = |seed: u64| {
        let (seen, random) = (seen.clone(), Mutex::new(StdRng::seed_from_u64(seed)));
        handle(move |job| {
            let (seen, dice) = (seen.clone(), random.lock().random_range(0..80));
            let (dice, steps) = (dice % 20, dice / 20);
            let n: usize = job.change().id().parse().unwrap();
            if !n.is_multiple_of(3) {
                let done = seen.done.lock();
                let before = (0..n).filter(|m| m % 3 != 0 && m % lanes == n % lanes);
                let missing = before.map(|m| m.to_string()).filter(|m| !done.contains(m));
                seen.too_early.lock().extend(missing.map(|m| format!("{n} began before {m} was done")));
            }
            async move {
                for _ in 0..steps {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                match dice {
                    0 => Err(Error::retry("by chance")),
                    1 if n.is_multiple_of(3) => Err(Error::park("by chance")),
                    2 if n.is_multiple_of(3) => panic!("by chance"),
                    _ => {
                        seen.done.lock().push(n.to_string());
                        Ok(())
                    }
                }
            }
        })
    };
    let began = Instant::now();
    let mut pools: HashMap<u64, tokio::task::JoinHandle<_>> = HashMap::new();
    let mut kills = 0;
    loop {
        let Counts { ready, later, behind, in_flight, .. } = store.counts().await.unwrap();
        if ready + later + behind + in_flight == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "seed {seed}: {:?}", store.counts().await.unwrap());
        let slot = random.random_range(0..3);
        if let Some(pool) = pools.remove(&slot)
            && kills < 40
        {
            pool.abort();
            kills += 1;
        }
        pools
            .entry(slot)
            .or_insert_with(|| tokio::spawn(queue(faulty()).work(work(random.random())).until(std::future::pending())));
        tokio::time::sleep(Duration::from_millis(random.random_range(1..60))).await;
    }
    for pool in pools.into_values() {
        pool.abort();
    }
    let parked = store.parked(0, 1_000).await.unwrap();
    let done: HashSet<String> = seen.done.lock().iter().cloned().collect();
    let settled = done.iter().cloned().chain(parked.iter().map(|parked| parked.change.id().to_owned()));
    assert_eq!(settled.collect::<HashSet<_>>().len(), jobs, "seed {seed}");
    assert!(seen.too_early.lock().is_empty(), "seed {seed}: {:?}", seen.too_early.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_done_in_order_over_stores_that_fail_and_with_workers_that_die() {
    for place in Place::all() {
        for seed in 0..3 {
            all_at_once(&place, seed).await;
        }
    }
}
