//! Lookups with a cache on disk behind the workers' own: what a run has loaded the next one finds there, and a damaged file only costs loading.

mod support;

use std::path::Path;

use highwater::prelude::*;
use support::tiers::{CUSTOMERS, tiers};

/// Runs the pipeline with this cache from the beginning; how many keys were asked for at the origin.
fn loads(cache: DiskCache) -> u64 {
    let shop = tiers(move |lookup| lookup.disk_cache(cache.clone()));
    shop.run();
    shop.loaded()
}

/// Runs it until all it has loaded stands on disk: what is told to it is told beside, and a run may end before it was.
fn fill(folder: &Path) {
    support::until("all is kept", || loads(DiskCache::in_folder(folder)) == 0);
}

#[test]
fn what_one_run_loaded_the_next_finds_there() {
    let folder = support::folder();
    let cache = DiskCache::in_folder(folder.path());
    assert!(loads(cache.clone()) >= CUSTOMERS as u64);
    fill(folder.path());
    assert_eq!(loads(cache.clone().ttl(seconds(1))), 0, "what was written keeps its life");
    assert!(loads(DiskCache::in_folder(folder.path().join("other"))) >= CUSTOMERS as u64);
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
    assert!(loads(DiskCache::in_folder(folder.path())) >= CUSTOMERS as u64, "nothing that was damaged is served");
    fill(folder.path());
}

#[test]
fn a_folder_that_cannot_be_written_costs_the_tier_alone() {
    let folder = support::folder();
    let blocked = folder.path().join("blocked");
    std::fs::create_dir_all(blocked.join("customer.redb")).unwrap();
    assert!(loads(DiskCache::in_folder(&blocked)) >= CUSTOMERS as u64);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let problems = Lookup::by("customer").disk_cache(DiskCache::in_folder(folder.path().join("file"))).problems();
    assert!(problems[0].contains("that is no folder"), "{problems:?}");
}
