//! A limit in bytes is a limit of memory: what the process takes is measured, in a process of its own.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use highwater_operators::change::Found;
use highwater_operators::lookup::cache::{Cache, CacheStats, FoundCache};
use highwater_operators::row::Fields;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bytes of memory this process holds.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Goal: with a limit of 32 MiB, rows of some 70 MB pass through and the memory stays near the limit. Method: seeded rows of
/// random size, keys short and long, every policy after the other.
#[test]
fn a_limit_in_bytes_holds_the_memory_of_the_process() {
    const LIMIT: u64 = 32 << 20;
    let names: Arc<[Box<str>]> = ["name", "text"].map(Box::from).into();
    type Make = fn(usize) -> Cache;
    let policies: [(&str, Make); 5] = [
        ("adaptive", Cache::entries),
        ("lru", Cache::lru),
        ("lfu", Cache::lfu),
        ("random", Cache::random),
        ("lru_batch", Cache::lru_batch),
    ];
    for (name, make) in policies {
        let before = resident();
        let mut cache = FoundCache::new(&make(1 << 40).bytes(LIMIT), 1, Arc::new(CacheStats::default()), Instant::now());
        let mut dice = SmallRng::seed_from_u64(11);
        let mut most = 0;
        for step in 0..200_000_u64 {
            let key = if step % 3 == 0 { format!("{step:040}") } else { step.to_string() };
            let text = "x".repeat(dice.random_range(0..600));
            cache.put(&key, Arc::new(Found::row_of("customer".into(), Fields::named(names.clone(), [Some("a"), Some(&text)]))));
            if step % 20_000 == 0 {
                most = most.max(resident());
            }
        }
        let grown = most.saturating_sub(before);
        assert!(cache.bytes() <= LIMIT && cache.bytes() > LIMIT / 4 * 3, "{name}: {} bytes by its own count", cache.bytes());
        assert!(grown < LIMIT / 2 * 3, "{name}: {grown} bytes of memory under a limit of {LIMIT}");
    }
}
