//! Lookups with a cache on disk behind the workers' own: what a run has loaded the next one finds there, and a damaged file only costs loading.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater::prelude::*;
use highwater::run::Build;
use parking_lot::Mutex;
use support::input::{Input, Item, Script};

const CUSTOMERS: usize = 400;
const CHANGES: usize = 2_000;

/// A pipeline that looks up customers, every tenth of which there is not, and checks what it found.
struct Shop {
    build: Build,
    /// Keys asked for at the origin.
    loaded: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    met: Arc<AtomicU64>,
}

fn shop(cache: DiskCache) -> Shop {
    let (loaded, met, wrong) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<_>>>::default());
    let (count, record, all) = (loaded.clone(), wrong.clone(), met.clone());
    let items = (0..CHANGES)
        .map(|n| Item { customer: Some(format!("u{}", n % CUSTOMERS)), ..Item::good(format!("c{n}"), format!("k{}", n % 97)) });
    let input = Arc::new(Input::of(items));
    let build = support::build(move |flow| {
        let (count, record, all) = (count.clone(), record.clone(), all.clone());
        let origin = load(move |keys: Vec<String>| {
            count.fetch_add(keys.len() as u64, Ordering::Relaxed);
            async move { Ok(keys.iter().map(|key| tier(key).map(|tier| Fields::new([("tier", Some(tier))]))).collect()) }
        });
        let act = run(move |change: Change| {
            let number: usize = change.id()[1..].parse().expect("an id is c and a number");
            let found = change.found("customer").str("tier").map(|tier| tier.into_owned());
            if found != tier(&format!("u{}", number % CUSTOMERS)) {
                record.lock().push(format!("{}: {found:?}", change.id()));
            }
            all.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        // Next to nothing is kept here, so that the disk is asked again and again.
        let lookup = Lookup::by("customer").from(origin).cache(Cache::lru(4)).batch(50, Duration::ZERO).disk_cache(cache.clone());
        flow.source(Script { input: input.clone(), seed: 5 })
            .lookup("customer", lookup)
            .fan_out([action("act", act)])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    Shop { build, loaded, wrong, met }
}

fn tier(key: &str) -> Option<String> {
    let number: usize = key.strip_prefix('u')?.parse().ok()?;
    (!number.is_multiple_of(10)).then(|| format!("tier-{key}"))
}

impl Shop {
    /// Runs it from the beginning; how many keys were asked for at the origin.
    fn run(&self) -> u64 {
        let folder = support::folder();
        assert!(support::run(&support::settings(folder.path().join("data"), 2), &self.build).expect("no error").ended);
        assert_eq!(*self.wrong.lock(), Vec::<String>::new());
        assert_eq!(self.met.swap(0, Ordering::Relaxed), CHANGES as u64);
        self.loaded.swap(0, Ordering::Relaxed)
    }
}

/// Runs it until all it has loaded stands on disk: what is told to it is told beside, and a run may end before it was.
fn fill(folder: &Path) {
    support::until("all is kept", || shop(DiskCache::in_folder(folder)).run() == 0);
}

#[test]
fn what_one_run_loaded_the_next_finds_there() {
    let folder = support::folder();
    let cache = DiskCache::in_folder(folder.path());
    assert!(shop(cache.clone()).run() >= CUSTOMERS as u64);
    fill(folder.path());
    assert_eq!(shop(cache.clone().ttl(seconds(1))).run(), 0, "what was written keeps its life");
    assert!(shop(DiskCache::in_folder(folder.path().join("other"))).run() >= CUSTOMERS as u64);
}

#[test]
fn a_file_that_was_damaged_is_begun_anew() {
    let folder = support::folder();
    fill(folder.path());
    let file = folder.path().join("customer.redb");
    let mut bytes = std::fs::read(&file).expect("the lookup's file");
    for byte in bytes.iter_mut().step_by(97) {
        *byte ^= 0xff;
    }
    std::fs::write(&file, bytes).unwrap();
    assert!(shop(DiskCache::in_folder(folder.path())).run() >= CUSTOMERS as u64, "nothing that was damaged is served");
    fill(folder.path());
}

#[test]
fn a_folder_that_cannot_be_written_costs_the_tier_alone() {
    let folder = support::folder();
    let blocked = folder.path().join("blocked");
    std::fs::create_dir_all(blocked.join("customer.redb")).unwrap();
    assert!(shop(DiskCache::in_folder(&blocked)).run() >= CUSTOMERS as u64);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let problems = Lookup::by("customer").disk_cache(DiskCache::in_folder(folder.path().join("file"))).problems();
    assert!(problems[0].contains("that is no folder"), "{problems:?}");
}
