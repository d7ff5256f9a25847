//! What every store must do, one thing at a time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::checkpoint::store::Cause;
use highwater_sinks::jobs::job::{self, Content};
use highwater_sinks::jobs::{Claim, Counts, Enqueued, Fate, JobStore, Lane, Leased, NewJob, Reason, Remember, Settlement, Taken};

use crate::change;
use crate::places::Place;

pub const HOUR: Duration = Duration::from_secs(3600);

/// A job of an id, in the lane of a key if there is one.
pub fn job(id: &str, lane: Option<(&str, bool)>, delay: Duration) -> NewJob {
    let lane = lane.map(|(key, hold)| Lane { key: key.to_owned(), hold });
    let key = lane.as_ref().map_or(id, |lane| &lane.key);
    let content = Content {
        id: id.to_owned(),
        action: "test".to_owned(),
        lane: lane.as_ref().map(|lane| lane.hold),
        enqueued_ms: 1_700_000_000_000,
        change: change(id, key),
    };
    NewJob { id: id.to_owned(), action: content.action.clone(), body: job::encode(&content).unwrap(), lane, delay }
}

pub fn plain(id: &str) -> NewJob {
    job(id, None, Duration::ZERO)
}

pub fn id(leased: &Leased) -> String {
    job::decode(&leased.body).unwrap().id
}

pub fn settlement(leased: &Leased, fate: Fate) -> Settlement {
    let content = job::decode(&leased.body).unwrap();
    Settlement { claim: leased.claim, lane: content.lane(), id: content.id, fate }
}

pub fn reason(error: &str) -> Fate {
    Fate::Parked(Reason { cause: Cause::Failed, error: error.to_owned(), response: Some("said \0 no".to_owned()), attempts: 1 })
}

pub fn ids(taken: &Taken) -> Vec<String> {
    taken.jobs.iter().map(id).collect()
}

async fn settle(store: &Arc<dyn JobStore>, leased: &Leased, fate: Fate) -> bool {
    store.settle(&[settlement(leased, fate)]).await.unwrap()[0]
}

/// Runs a test at every place.
macro_rules! everywhere {
    ($(#[$doc:meta])* $name:ident, |$store:ident| $test:block) => {
        $(#[$doc])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for place in Place::all() {
                let $store = place.open().await;
                eprintln!("{}", $store.place());
                $test
            }
        }
    };
}

everywhere!(a_job_is_known_by_its_id_while_it_is_there_and_afterwards, |store| {
    let batch = [plain("a"), plain("b"), plain("a")];
    assert_eq!(store.enqueue(&batch).await.unwrap(), [Enqueued::New, Enqueued::New, Enqueued::Known]);
    assert_eq!(store.enqueue(&[plain("b"), plain("c")]).await.unwrap(), [Enqueued::Known, Enqueued::New]);
    let taken = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&taken), ["a", "b", "c"], "those that wait longest first");
    assert_eq!(store.enqueue(&[plain("a")]).await.unwrap(), [Enqueued::Known], "taken");
    assert!(settle(&store, &taken.jobs[0], Fate::Finished).await);
    assert!(settle(&store, &taken.jobs[1], reason("no")).await);
    assert_eq!(store.enqueue(&[plain("a"), plain("b")]).await.unwrap(), [Enqueued::Known; 2], "done, and parked");
    assert_eq!(store.discard(&[taken.jobs[1].claim.number]).await.unwrap(), 1);
    assert_eq!(store.enqueue(&[plain("b")]).await.unwrap(), [Enqueued::Known], "dropped");
    assert_eq!(store.enqueue(&[]).await.unwrap(), []);
    let counts = store.counts().await.unwrap();
    assert_eq!(counts, Counts { in_flight: 1, ..Counts::default() });
});

everywhere!(nobody_else_has_a_job_while_its_lease_lasts_and_then_it_comes_back_under_a_larger_fence, |store| {
    store.enqueue(&[plain("a"), plain("b")]).await.unwrap();
    let first = store.take(10, Duration::ZERO).await.unwrap();
    let second = store.take(1, HOUR).await.unwrap();
    assert_eq!(ids(&second), ["a"]);
    let (old, new) = (&first.jobs[0], &second.jobs[0]);
    assert!(old.claim.number == new.claim.number && old.claim.fence < new.claim.fence);
    assert_eq!((old.attempt, new.attempt, old.returned, new.returned), (1, 2, false, true));
    // Whoever had it before has no say.
    assert_eq!(store.renew(&[old.claim, new.claim], HOUR).await.unwrap(), [false, true]);
    for fate in [Fate::Finished, Fate::Retry(Duration::ZERO), reason("late"), Fate::Released(Duration::ZERO)] {
        assert!(!settle(&store, old, fate).await);
    }
    // One whose lease has ended and that nobody has taken is still theirs.
    assert_eq!(store.renew(&[first.jobs[1].claim], HOUR).await.unwrap(), [true]);
    let none = store.take(10, HOUR).await.unwrap();
    assert!(none.jobs.is_empty() && none.next.is_some_and(|next| next <= HOUR), "{none:?}");
    assert!(settle(&store, new, Fate::Finished).await && !settle(&store, new, Fate::Finished).await);
    assert!(settle(&store, &first.jobs[1], Fate::Finished).await);
    assert_eq!(store.counts().await.unwrap(), Counts::default());
    assert_eq!(store.renew(&[Claim { number: 999_999, fence: 1 }], HOUR).await.unwrap(), [false]);
});

everywhere!(a_job_waits_for_its_time, |store| {
    let began = Instant::now();
    store.enqueue(&[job("later", None, HOUR), job("soon", None, Duration::from_millis(50)), plain("now")]).await.unwrap();
    let mut came = Vec::new();
    while came.len() < 2 {
        let taken = store.take(10, HOUR).await.unwrap();
        came.extend(ids(&taken));
        if taken.jobs.is_empty() {
            let next = taken.next.expect("two are there");
            assert!(next <= Duration::from_millis(50), "{next:?}");
            store.arrived(next).await;
        }
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(came, ["now", "soon"]);
    assert!(began.elapsed() >= Duration::from_millis(45));
    assert_eq!(store.counts().await.unwrap(), Counts { later: 1, in_flight: 2, ..Counts::default() });
});

everywhere!(a_job_that_failed_is_tried_again_and_one_that_was_released_was_not_tried, |store| {
    store.enqueue(&[plain("a")]).await.unwrap();
    for (fate, attempt) in [
        (Fate::Retry(Duration::ZERO), 1),
        (Fate::Released(Duration::ZERO), 2),
        (Fate::Retry(Duration::ZERO), 2),
        (Fate::Retry(HOUR), 3),
    ] {
        let taken = store.take(1, HOUR).await.unwrap();
        assert_eq!((taken.jobs[0].attempt, taken.jobs[0].returned), (attempt, false));
        assert!(settle(&store, &taken.jobs[0], fate).await);
    }
    let none = store.take(1, HOUR).await.unwrap();
    assert!(none.jobs.is_empty() && none.next.is_some_and(|next| next > HOUR / 2), "{none:?}");
});

everywhere!(jobs_of_a_lane_go_one_at_a_time_in_order, |store| {
    let lane = |id: &str| job(id, Some(("k", false)), Duration::ZERO);
    store.enqueue(&[lane("1"), lane("2"), plain("x")]).await.unwrap();
    store.enqueue(&[lane("3")]).await.unwrap();
    let taken = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&taken), ["1", "x"]);
    assert_eq!(store.counts().await.unwrap(), Counts { behind: 2, in_flight: 2, ..Counts::default() });
    // It waits for its next attempt: those behind wait too.
    settle(&store, &taken.jobs[0], Fate::Retry(Duration::ZERO)).await;
    let taken = store.take(10, Duration::ZERO).await.unwrap();
    assert_eq!(ids(&taken), ["1"]);
    // Its worker died.
    let taken = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&taken), ["1"]);
    settle(&store, &taken.jobs[0], Fate::Finished).await;
    let taken = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&taken), ["2"]);
    // It is parked, and those behind pass it; taken up again, it is the next.
    settle(&store, &taken.jobs[0], reason("no")).await;
    let third = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&third), ["3"]);
    store.enqueue(&[lane("4")]).await.unwrap();
    assert_eq!(store.retry(&[taken.jobs[0].claim.number]).await.unwrap(), 1);
    assert!(store.take(10, HOUR).await.unwrap().jobs.is_empty());
    settle(&store, &third.jobs[0], Fate::Finished).await;
    let again = store.take(10, HOUR).await.unwrap();
    assert_eq!((ids(&again), again.jobs[0].attempt), (vec!["2".to_owned()], 1));
    settle(&store, &again.jobs[0], Fate::Finished).await;
    assert_eq!(ids(&store.take(10, HOUR).await.unwrap()), ["4"]);
});

everywhere!(a_lane_that_holds_waits_behind_a_parked_job, |store| {
    let lane = |id: &str| job(id, Some(("k", true)), Duration::ZERO);
    store.enqueue(&[lane("1"), lane("2"), lane("3")]).await.unwrap();
    let first = store.take(10, HOUR).await.unwrap();
    settle(&store, &first.jobs[0], reason("no")).await;
    assert!(store.take(10, HOUR).await.unwrap().jobs.is_empty());
    assert_eq!(store.counts().await.unwrap(), Counts { behind: 2, parked: 1, ..Counts::default() });
    store.retry(&[first.jobs[0].claim.number]).await.unwrap();
    let again = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&again), ["1"]);
    settle(&store, &again.jobs[0], reason("no")).await;
    assert_eq!(store.discard(&[again.jobs[0].claim.number]).await.unwrap(), 1);
    assert_eq!(ids(&store.take(10, HOUR).await.unwrap()), ["2"], "the one before is given up");
});

everywhere!(a_delayed_job_of_a_lane_keeps_its_place, |store| {
    let short = Duration::from_millis(100);
    store.enqueue(&[job("1", Some(("k", false)), short), job("2", Some(("k", false)), Duration::ZERO)]).await.unwrap();
    store.enqueue(&[job("a", Some(("l", false)), Duration::ZERO), job("b", Some(("l", false)), HOUR)]).await.unwrap();
    let first = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&first), ["a"], "2 waits behind 1, and b behind a");
    settle(&store, &first.jobs[0], Fate::Finished).await;
    let began = Instant::now();
    let second = loop {
        let taken = store.take(10, HOUR).await.unwrap();
        if !taken.jobs.is_empty() {
            break taken;
        }
        store.arrived(taken.next.unwrap().min(short)).await;
        assert!(began.elapsed() < Duration::from_secs(20));
    };
    assert_eq!(ids(&second), ["1"]);
    settle(&store, &second.jobs[0], Fate::Finished).await;
    assert_eq!(ids(&store.take(10, HOUR).await.unwrap()), ["2"], "b's time has not come, though nobody is before it");
    assert_eq!(store.counts().await.unwrap(), Counts { later: 1, in_flight: 1, ..Counts::default() });
});

everywhere!(parked_jobs_can_be_seen_whole_edited_retried_and_dropped, |store| {
    store.enqueue(&(0..5).map(|n| plain(&format!("j{n}"))).collect::<Vec<_>>()).await.unwrap();
    let taken = store.take(10, HOUR).await.unwrap();
    for leased in &taken.jobs[1..] {
        assert!(settle(&store, leased, reason("no such customer")).await);
    }
    let numbers: Vec<u64> = taken.jobs[1..].iter().map(|job| job.claim.number).collect();
    let page = store.parked(0, 3).await.unwrap();
    assert_eq!(page.iter().map(|parked| parked.id).collect::<Vec<_>>(), numbers[..3]);
    assert_eq!(store.parked(numbers[2], 3).await.unwrap().len(), 1);
    let one = &page[0];
    assert_eq!((one.action.as_str(), one.cause, one.error.as_str()), ("test", Cause::Failed, "no such customer"));
    assert_eq!((one.attempts, one.change.id()), (1, "j1"));
    assert!(one.history.response.as_ref().is_some_and(|response| response.starts_with("said ")) && one.parked_at_ms > 0);
    // Only what is parked can be edited, retried or dropped.
    let other = change("j1", "j1");
    let edited = highwater_operators::parked::edited(one, r#"{"id":"mended"}"#).unwrap().change;
    assert!(store.edit(numbers[0], &edited).await.unwrap());
    assert!(!store.edit(taken.jobs[0].claim.number, &other).await.unwrap() && !store.edit(999_999, &other).await.unwrap());
    assert_eq!(store.retry(&[numbers[0], numbers[1], taken.jobs[0].claim.number, 999_999]).await.unwrap(), 2);
    assert_eq!(store.discard(&[numbers[2], taken.jobs[0].claim.number]).await.unwrap(), 1);
    assert_eq!(
        Counts { age: Duration::ZERO, ..store.counts().await.unwrap() },
        Counts { ready: 2, in_flight: 1, parked: 1, ..Counts::default() }
    );
    let again = store.take(10, HOUR).await.unwrap();
    assert_eq!(ids(&again).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["j1".to_owned(), "j2".to_owned()]));
    let mended = again.jobs.iter().find(|job| id(job) == "j1").unwrap();
    assert_eq!(job::decode(&mended.body).unwrap().change.after().str("id").as_deref(), Some("mended"));
    assert_eq!(mended.attempt, 1);
    assert!(!settle(&store, &taken.jobs[1], Fate::Finished).await, "it was given out again");
});

everywhere!(many_who_take_at_once_get_each_job_once, |store| {
    let jobs: Vec<NewJob> = (0..600)
        .map(|n| job(&n.to_string(), (n % 2 == 0).then_some((["a", "b", "c"][n / 2 % 3], false)), Duration::ZERO))
        .collect();
    for some in jobs.chunks(200) {
        store.enqueue(some).await.unwrap();
    }
    let mut takers = Vec::new();
    for _ in 0..6 {
        let store = store.clone();
        takers.push(tokio::spawn(async move {
            let (mut mine, mut none) = (Vec::new(), 0);
            while none < 3 {
                let taken = store.take(7, HOUR).await.unwrap();
                none = if taken.jobs.is_empty() { none + 1 } else { 0 };
                let settled: Vec<Settlement> = taken.jobs.iter().map(|leased| settlement(leased, Fate::Finished)).collect();
                assert!(store.settle(&settled).await.unwrap().iter().all(|accepted| *accepted));
                mine.extend(ids(&taken));
            }
            mine
        }));
    }
    let mut all = Vec::new();
    for taker in takers {
        all.extend(taker.await.unwrap());
    }
    let different: HashSet<&String> = all.iter().collect();
    assert_eq!((all.len(), different.len()), (600, 600));
    assert_eq!(store.counts().await.unwrap(), Counts::default());
});

everywhere!(many_who_enqueue_into_lanes_at_once_leave_none_of_them_stuck, |store| {
    let mut tasks = Vec::new();
    for who in 0..4 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..30 {
                let id = |m: usize| format!("{who}-{n}-{m}");
                let jobs: Vec<NewJob> =
                    (0..5).map(|m| job(&id(m), Some((["a", "b"][m % 2], m % 3 == 0)), Duration::ZERO)).collect();
                store.enqueue(&jobs).await.unwrap();
            }
        }));
    }
    let mut done = 0;
    let began = Instant::now();
    while done < 600 {
        let taken = store.take(10, HOUR).await.unwrap();
        assert!(taken.jobs.len() <= 2, "there are two lanes");
        for leased in &taken.jobs {
            assert!(settle(&store, leased, Fate::Finished).await);
        }
        done += taken.jobs.len();
        if taken.jobs.is_empty() {
            store.arrived(Duration::from_millis(20)).await;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{done} of 600 were done: {:?}", store.counts().await.unwrap());
    }
    for task in tasks {
        task.await.unwrap();
    }
});

/// Ids are remembered, but not for ever.
#[tokio::test]
async fn ids_of_jobs_that_are_no_more_are_forgotten_in_the_end() {
    for place in Place::all() {
        let queue = place.queue(Remember { time: HOUR, most: 10 });
        let store = queue();
        store.open().await.unwrap();
        for n in 0..25 {
            store.enqueue(&[plain(&n.to_string())]).await.unwrap();
            let taken = store.take(1, HOUR).await.unwrap();
            settle(&store, &taken.jobs[0], Fate::Finished).await;
        }
        // Another process looks what may be forgotten, as it has nothing to do.
        assert!(queue().take(1, HOUR).await.unwrap().jobs.is_empty());
        let known = store.enqueue(&(0..25).map(|n| plain(&n.to_string())).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(known[..5], [Enqueued::New; 5]);
        assert_eq!(known[15..], [Enqueued::Known; 10], "the last ten, at least");
    }
}

/// What one process has put in another one finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_there_for_every_process_and_queues_are_apart() {
    for place in Place::all() {
        let queue = place.queue(Remember::default());
        let (one, two) = (queue(), queue());
        let other = place.open().await;
        one.open().await.unwrap();
        two.open().await.unwrap();
        one.enqueue(&[plain("a")]).await.unwrap();
        assert!(other.take(1, HOUR).await.unwrap().jobs.is_empty());
        assert_eq!(other.enqueue(&[plain("a")]).await.unwrap(), [Enqueued::New]);
        assert_eq!(ids(&two.take(1, HOUR).await.unwrap()), ["a"]);
    }
}
