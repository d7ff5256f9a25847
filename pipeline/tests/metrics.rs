//! Every metric of the list is there and says what the pipeline did.

mod support;
// Each test file uses a part of it.
#[allow(dead_code)]
#[path = "support/web.rs"]
mod web;

use std::sync::Arc;

use highwater::operators::change::{Change, Parts};
use highwater::operators::clock::Clock;
use highwater::operators::guard::{Failure, Guard, GuardConfig};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, OrderOf, Partition, Read, Reader, Rejected, Source};
use highwater::operators::metrics::{ALL, Kind};
use highwater::operators::pools::{self, PoolStatus, Shown};
use highwater::operators::postgres::{Pool, PoolConfig};
use highwater::operators::queues::{self, Done, QueueStatus};
use highwater::operators::testing::redis::Server;
use highwater::operators::{Order, Position, ResumeToken};
use highwater::prelude::*;
use highwater::run::Control;
use highwater::settings::Settings;
use highwater::testing::postgres;
use tokio::sync::Semaphore;

/// Changes, a broken line among them and each tenth a duplicate; it does not end.
#[derive(Clone)]
struct Endless;

impl Source for Endless {
    fn kind(&self) -> &'static str {
        "endless"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "only".to_owned(), bytes: None }])
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let next = from.map_or(0, |token| token.order);
        Ok(Box::new(EndlessReader { partition: partition.id, next, window: window.clone() }))
    }

    fn order(&self) -> Option<OrderOf> {
        Some(|change| Order::of_place(change.position()))
    }
}

struct EndlessReader {
    partition: u32,
    next: u64,
    window: Arc<InFlight>,
}

impl Reader for EndlessReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        for at in self.next..self.next + 10 {
            let position = Position { partition: self.partition, at, within: 0 };
            if at % 100 == 7 {
                batch.rejected.push(Rejected { position, why: "no change".to_owned(), text: "{".to_owned() });
                continue;
            }
            let id = format!("c{}", if at % 10 == 9 { at - 1 } else { at });
            // All of it lies in a block of the window, so that its bytes count.
            let text = format!(r#"{id}{{"customer":"u{}"}}"#, at % 50);
            let block = self.window.block(text.clone().into_bytes(), text.len());
            let (id, row) = std::str::from_utf8(&block).expect("it was text").split_at(id.len());
            let (key, operation) = (Some(id), Operation::Insert);
            let parts = Parts { id, table: "", key, operation, time_ms: at as i64, before: None, after: Some(row) };
            batch.changes.push(Change::new(block.clone(), position, parts).expect("the pieces are short"));
        }
        self.next += 10;
        batch.bytes = 300;
        batch.token = ResumeToken { order: self.next, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

/// A pool that has failed to connect, has a connection in use and one ready, and is waited for; for as long as what it returns is kept.
fn pool_in_every_state() -> impl Drop {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = postgres::Server::shared().database().unwrap();
    let line = postgres::Proxy::to_server(postgres::Server::shared()).unwrap();
    runtime.block_on(async {
        let config = PoolConfig { min_connections: 0, max_connections: 1, ..PoolConfig::default() };
        let pools = [(); 2].map(|()| Pool::new(&line.url(database.url()), config, "metrics").unwrap());
        line.cut();
        let first = pools[0].clone();
        let failing = tokio::spawn(async move { first.get().await.map(drop) });
        web::wait("a failure to connect", || pools[0].status().away.then_some(()));
        line.mend();
        failing.await.unwrap().unwrap();
        let held = pools[1].get().await.unwrap();
        let second = pools[1].clone();
        tokio::spawn(async move {
            loop {
                // Waits, for what is held is not given back; keeps the others alive with it.
                let _ = (second.get().await, &pools, &held, &line);
            }
        });
    });
    Kept(Some(runtime))
}

/// A guard with a call under way whose breaker is open and has refused a call; and a pool that has used its connection twice.
fn guard_that_refuses() -> impl Sized {
    struct Reused;
    impl Shown for Reused {
        fn status(&self) -> PoolStatus {
            PoolStatus { opened: 1, used: 2, ..PoolStatus::default() }
        }
    }
    let pool: Arc<dyn Shown> = Arc::new(Reused);
    pools::show("reused", Arc::downgrade(&pool));
    let mut config = GuardConfig::default();
    config.concurrency.max = 100;
    config.breaker.reset_after = hours(1);
    let guard = Guard::new("metrics", config, Clock::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let under_way = runtime.block_on(async {
        let under_way = guard.enter(false).await.unwrap();
        for _ in 0..5 {
            guard.enter(false).await.unwrap().failed(Failure::Server, "503");
        }
        assert!(guard.enter(false).await.is_err());
        under_way
    });
    (pool, guard, under_way)
}

/// A queue of which everything has happened.
fn queue_in_every_state() -> Arc<dyn queues::Shown> {
    struct Busy;
    impl queues::Shown for Busy {
        fn status(&self) -> QueueStatus {
            let (enqueued, known, taken, returned) = (9, 8, 7, 6);
            let done = Done { enqueued, known, taken, returned, finished: 5, retried: 4, parked: 3, refused: 2, lost: 1 };
            QueueStatus { depth: 4, age: seconds(3), in_flight: 2, parked: 1, done }
        }
    }
    let queue: Arc<dyn queues::Shown> = Arc::new(Busy);
    queues::show("busy", Arc::downgrade(&queue));
    queue
}

/// Ends its tasks without waiting for them.
struct Kept(Option<tokio::runtime::Runtime>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.take().expect("it is there until now").shutdown_background();
    }
}

/// Goal: no metric of the list is forgotten anywhere. Method: a pipeline in which everything happens that one counts, asked by
/// HTTP until each metric has a value above nothing; run twice, the first time crashed, so that something is read again.
#[test]
fn every_metric_of_the_list_is_really_updated() {
    let folder = support::folder();
    let data = folder.path().join("data");
    let door = Arc::new(Semaphore::new(300));
    let (shut, out) = (door.clone(), folder.path().join("out"));
    let on_disk = folder.path().join("cache");
    // The other lookup's file cannot be made.
    std::fs::create_dir_all(on_disk.join("unkept.redb")).unwrap();
    // What fails in one must not keep from the other what is to fail there.
    let [seen_set, shared] = [(); 2].map(|()| Server::start().unwrap());
    let [in_redis, in_shared] = [&seen_set, &shared].map(|server| server.url().reveal().to_owned());
    let build = support::build(move |flow| {
        let door = shut.clone();
        let customers = Lookup::by("customer")
            .from(load(|keys: Vec<String>| async move {
                if rand::random_bool(0.2) {
                    return Err(Error::retry("away"));
                }
                tokio::time::sleep(millis(1)).await;
                Ok(vec![Some(Fields::new([("tier", Some("pro"))])); keys.len()])
            }))
            .attempts(100)
            .adaptive(Adaptive { interval: millis(50), ..Adaptive::default() })
            .backoff(millis(1), millis(2))
            .cache(Cache::lru(10).ttl(millis(20)).stale_while_revalidate(millis(20)))
            .shared_cache(RedisCache::at(&in_shared).ttl(millis(20)))
            .disk_cache(DiskCache::in_folder(&on_disk).entries(4));
        let calls = run(move |change| {
            let door = door.clone();
            async move {
                if rand::random_bool(0.05) {
                    return Err(Error::not_asked("busy", millis(5)));
                }
                match change.id().as_bytes().last() {
                    Some(b'3') => return Err(Error::park("never")),
                    Some(b'4') => return Err(Error::retry("not now")),
                    _ => {}
                }
                door.acquire().await?.forget();
                Ok(())
            }
        });
        let unkept = load(|keys: Vec<String>| async move { Ok(vec![None; keys.len()]) });
        let changes = flow.source(Endless);
        let rows = changes.table("");
        changes
            .dedup(Dedup::latest(1_000))
            .dedup(Dedup::within(hours(1)).in_redis(&in_redis))
            .lookup("customer", customers)
            .lookup("unkept", Lookup::by("customer").from(unkept).disk_cache(DiskCache::in_folder(&on_disk)))
            .lookup_table(
                "itself",
                &rows,
                TableLookup::by_key(|change| Some(change.key().to_owned()).filter(|key| !key.ends_with('2'))),
            )
            .fan_out([
                action("calls", calls).when(|change| !change.id().ends_with('5')).backoff(millis(300), millis(300)).attempts(2),
                action("files", JsonLines::append(&out)),
            ])
            // Rarely enough that what is done and not saved is seen.
            .checkpoint(Checkpoint::every(millis(50)));
        Ok(())
    });
    let settings = Settings { listen: web::anywhere(), in_flight_changes: 400, ..support::settings(data.clone(), 2) };
    let crashed = Control::default();
    crashed.crash_at(highwater::operators::testing::failpoint::ACTION_ANSWERED, 10);
    support::start(&settings, &build, crashed).end().expect("a crash is no error");
    door.add_permits(600);

    let _pool = pool_in_every_state();
    let _guard = guard_that_refuses();
    let _queue = queue_in_every_state();
    let running = support::start(&settings, &build, Control::default());
    let url = web::monitor(&data);
    let mut seen = std::collections::BTreeSet::new();
    const FAILED: &str = "highwater_shared_cache_failed_total";
    const AWAY: &str = "highwater_dedup_away";
    let in_outages = [FAILED, AWAY, "highwater_dedup_forgotten_total"];
    web::wait("a value for each metric", || {
        let (code, text) = web::get(&format!("{url}/metrics"));
        assert_eq!(code, 200, "{text}");
        for metric in ALL {
            let name = if metric.kind == Kind::Histogram { format!("{}_count", metric.name) } else { metric.name.to_owned() };
            let is_there = text.lines().any(|line| {
                let value = line.strip_prefix(&name).filter(|rest| rest.starts_with(['{', ' ']));
                value.and_then(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).is_some_and(|value| value > 0.0)
            });
            if is_there {
                seen.insert(metric.name);
            }
        }
        // Of one process alone there is nothing to say here, and `processes.rs` looks for them; when no more may be parked nothing
        // else moves, and `parked.rs` looks for that.
        let elsewhere = ["highwater_heartbeat_age_seconds", "highwater_units_away", "highwater_parked_full"];
        let here = ALL.iter().map(|metric| metric.name).filter(|name| !elsewhere.contains(name));
        let missing: Vec<&str> = here.filter(|name| !seen.contains(name)).collect();
        // The door stands open a crack, so that something moves while something waits; wider, once only that is to be seen that whole epochs are done.
        let is_late = missing.iter().all(|name| in_outages.contains(name) || *name == "highwater_mark_age_seconds");
        door.add_permits(if is_late { 100 } else { 1 });
        if missing.len() <= 5 {
            eprintln!("still missing: {missing:?}");
        }
        // When all else was seen, each Redis is away until that is seen too; the seen-set's has forgotten everything when it is back.
        if missing.iter().all(|name| in_outages.contains(name)) {
            for (server, name) in [(&shared, FAILED), (&seen_set, AWAY)] {
                match (server.pid(), missing.contains(&name)) {
                    (Some(_), true) => {
                        server.kill().unwrap();
                        break;
                    }
                    (None, false) => server.start_again().unwrap(),
                    (None, true) => break,
                    (Some(_), false) => {}
                }
            }
        }
        missing.is_empty().then_some(())
    });
    door.add_permits(1_000_000);
    running.control.stop();
    running.control.stop();
    running.end().expect("a run that is stopped ends without an error");
}
