//! Every policy against a plain list of entries that does the same slowly, and what they have in common.

use super::*;
use crate::row::Fields;

const POLICIES: [Policy; 5] = [Policy::Adaptive, Policy::Lru, Policy::Lfu, Policy::Random, Policy::LruBatch { percent: 10 }];

fn cache_of(policy: Policy, entries: usize) -> Cache {
    Cache { policy, ..Cache::entries(entries) }
}

fn begin(cache: &Cache, seed: u64) -> FoundCache {
    FoundCache::with_dice(cache, 1, Arc::default(), Instant::now(), SmallRng::seed_from_u64(seed))
}

fn row(text: &str) -> Arc<Found> {
    Arc::new(Found::row_of("customer".into(), Fields::new([("value", Some(text))])))
}

fn nothing() -> Arc<Found> {
    Arc::new(Found::nothing("customer".into()))
}

/// What the cache holds under a key, and whether it is the row that was put there last.
fn text(found: &Found) -> String {
    let mut change = crate::Change::new(
        bytes::Bytes::from_static(b"1t"),
        crate::Position { partition: 0, at: 0, within: 0 },
        crate::change::Parts {
            id: "1",
            table: "t",
            key: None,
            operation: crate::Operation::Insert,
            time_ms: 0,
            before: None,
            after: None,
        },
    )
    .unwrap();
    change.attach(&Arc::new(found.clone()));
    change.found("customer").str("value").unwrap_or_default().into_owned()
}

/// Entries as a list, the next to go in front. Slow and plain.
#[derive(Default)]
struct Plain {
    entries: Vec<PlainEntry>,
    uses: u64,
}

struct PlainEntry {
    key: String,
    value: String,
    count: u32,
}

impl Plain {
    fn place(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == key)
    }

    /// The entry goes where its policy has it after a use.
    fn used(&mut self, mut entry: PlainEntry, policy: Policy, entries_max_was: usize) {
        match policy {
            Policy::Lfu => {
                entry.count = (entry.count + 1).min(u32::from(lfu::COUNT_MAX));
                let place = self.entries.iter().position(|other| other.count > entry.count).unwrap_or(self.entries.len());
                self.entries.insert(place, entry);
                self.uses += 1;
                if self.uses >= lfu::USES_PER_ENTRY * entries_max_was as u64 {
                    self.uses = 0;
                    self.entries.iter_mut().for_each(|entry| entry.count /= 2);
                }
            }
            _ => self.entries.push(entry),
        }
    }

    fn get(&mut self, key: &str, policy: Policy) -> Option<String> {
        let entry = self.entries.remove(self.place(key)?);
        let value = entry.value.clone();
        self.used(entry, policy, self.entries.len() + 1);
        Some(value)
    }

    fn put(&mut self, key: &str, value: String, policy: Policy, entries_max: usize) {
        let entry = match self.place(key) {
            Some(place) => PlainEntry { value, ..self.entries.remove(place) },
            None => {
                if self.entries.len() == entries_max {
                    let gone = match policy {
                        Policy::LruBatch { percent } => (entries_max * usize::from(percent) / 100).max(1),
                        _ => 1,
                    };
                    self.entries.drain(..gone);
                }
                PlainEntry { key: key.to_owned(), value, count: 0 }
            }
        };
        self.used(entry, policy, self.entries.len() + 1);
    }
}

/// Goal: the policies whose choice is defined keep exactly what a plain list keeps. Method: seeded random keys, few and many,
/// asked singly and by batch, removed by hand now and then.
#[test]
fn oracle_policies_keep_what_a_plain_list_keeps() {
    for policy in [Policy::Lru, Policy::Lfu, Policy::LruBatch { percent: 10 }, Policy::LruBatch { percent: 100 }] {
        for seed in 0..60 {
            let mut dice = SmallRng::seed_from_u64(seed);
            let (entries_max, keys) = (dice.random_range(1..60), dice.random_range(1..120_u32));
            let mut cache = begin(&cache_of(policy, entries_max), seed);
            let mut plain = Plain::default();
            for step in 0..3_000 {
                // Low numbers more often, and long keys among the short.
                let most = dice.random_range(0..keys);
                let number = dice.random_range(0..=most);
                let key = format!("{number:0width$}", width = if number % 3 == 0 { 30 } else { 1 });
                let told = format!("{policy:?}, seed {seed}, step {step}, key {key}, {entries_max} entries");
                match dice.random_range(0..20) {
                    0 => {
                        let asked = Asked::of(key.as_bytes(), &cache.hashes);
                        with!(&mut cache.store, store => store.remove(&asked));
                        plain.place(&key).map(|place| plain.entries.remove(place));
                    }
                    1 => {
                        let value = step.to_string();
                        cache.put(&key, row(&value));
                        plain.put(&key, value, policy, entries_max);
                    }
                    2..10 => {
                        let mut batch = Keys::default();
                        batch.push(Some(&key));
                        batch.push(None);
                        let mut found = Vec::new();
                        cache.find(&batch, &mut found);
                        assert_eq!(found.len(), 2, "{told}");
                        assert_eq!(found[0].as_deref().map(text), plain.get(&key, policy), "{told}");
                        assert!(found[1].is_none(), "{told}");
                    }
                    _ => {
                        let expected = plain.get(&key, policy);
                        assert_eq!(cache.get(&key).as_deref().map(text), expected, "{told}");
                        if expected.is_none() {
                            cache.put(&key, row(&key));
                            plain.put(&key, key.clone(), policy, entries_max);
                        }
                    }
                }
                assert_eq!(cache.len(), plain.entries.len(), "{told}");
            }
        }
    }
}

/// Goal: whatever a policy drops, what it gives is what was put last, never more than there is room for, and its counts
/// add up. Method: seeded random keys and rows of random size, limits of entries and bytes.
#[test]
fn oracle_nothing_false_is_found_and_no_limit_is_passed() {
    for policy in POLICIES {
        for seed in 0..40 {
            let mut dice = SmallRng::seed_from_u64(seed);
            let (entries_max, bytes_max) = (dice.random_range(1..60), dice.random_range(500..20_000));
            let cache = cache_of(policy, entries_max).bytes(bytes_max);
            let mut cache = begin(&cache, seed);
            let mut last: hashbrown::HashMap<String, String> = hashbrown::HashMap::new();
            let mut largest_refused = false;
            for step in 0..2_000 {
                let key = dice.random_range(0..100_u32).to_string();
                let told = format!("{policy:?}, seed {seed}, step {step}");
                if dice.random() {
                    let value = format!("{step}-{}", "x".repeat(dice.random_range(0..600)));
                    cache.put(&key, row(&value));
                    largest_refused |= cache.get(&key).is_none();
                    last.insert(key, value);
                } else if let Some(found) = cache.get(&key) {
                    assert_eq!(Some(&text(&found)), last.get(&key), "{told}");
                }
                assert!(cache.len() <= entries_max, "{told}: {} of {entries_max} entries", cache.len());
                assert!(cache.bytes() <= bytes_max, "{told}: {} of {bytes_max} bytes", cache.bytes());
                assert_eq!(cache.is_empty(), cache.bytes() == 0, "{told}");
            }
            cache.flush("customer");
            let counts = cache.stats.counts();
            assert_eq!((counts.entries, counts.bytes), (cache.len() as u64, cache.bytes()), "{policy:?}, seed {seed}");
            assert!(counts.inserted >= counts.evicted + counts.entries, "{policy:?}, seed {seed}: {counts:?}");
            assert!(counts.fill() <= 1.0 && counts.bytes_max == Some(bytes_max), "{policy:?}, seed {seed}: {counts:?}");
            assert!(largest_refused || bytes_max > 1_000, "{policy:?}, seed {seed}: no row was too large");
        }
    }
}

/// Goal: random removes every entry sooner or later, also the newest and the oldest.
#[test]
fn random_spares_no_entry() {
    let mut cache = begin(&Cache::random(10), 7);
    let mut gone = [0_u32; 10];
    for round in 0..400 {
        (0..10).for_each(|key| cache.put(&key.to_string(), row("")));
        cache.put(&format!("another {round}"), row(""));
        for (key, gone) in gone.iter_mut().enumerate() {
            *gone += u32::from(cache.get(&key.to_string()).is_none());
        }
    }
    assert!(gone.iter().all(|times| *times > 10), "{gone:?}");
}

/// Goal: the adaptive policy keeps what is used often while keys that come once pass through.
#[test]
fn a_scan_does_not_drive_out_what_is_used_often() {
    let mut cache = begin(&Cache::entries(100), 1);
    let favourites: Vec<String> = (0..50).map(|key| format!("favourite {key}")).collect();
    for round in 0..5_000 {
        let key = &favourites[round % 50];
        if cache.get(key).is_none() {
            cache.put(key, row(key));
        }
        cache.put(&format!("once {round}"), row(""));
    }
    let left = favourites.iter().filter(|key| cache.get(key).is_some()).count();
    assert!(left >= 45, "{left} of 50 are left");
}

/// Goal: entries are used until their time, give or take a tenth, and not beyond; "there is none" has a time of its own.
#[test]
fn rows_and_their_absence_expire_each_in_its_time() {
    let began = Instant::now();
    let after = |seconds: f64| began + Duration::from_secs_f64(seconds);
    for policy in POLICIES {
        let cache = cache_of(policy, 1_000).ttl(Duration::from_secs(100)).negative_ttl(Duration::from_secs(10));
        let mut cache = FoundCache::with_dice(&cache, 1, Arc::default(), began, SmallRng::seed_from_u64(5));
        let keys: Vec<String> = (0..200).map(|key| key.to_string()).collect();
        for (index, key) in keys.iter().enumerate() {
            cache.put(key, if index < 100 { row(key) } else { nothing() });
        }
        let mut present = |seconds: f64| {
            cache.tick(after(seconds));
            let mut batch = Keys::default();
            keys.iter().for_each(|key| batch.push(Some(key)));
            let mut found = Vec::new();
            cache.find(&batch, &mut found);
            (found[..100].iter().flatten().count(), found[100..].iter().flatten().count())
        };
        assert_eq!(present(8.9), (100, 100), "{policy:?}");
        let (rows, absent) = present(10.0);
        assert!(rows == 100 && (1..100).contains(&absent), "{policy:?}: {rows} and {absent}; the times are spread");
        assert_eq!(present(11.1), (100, 0), "{policy:?}");
        let (rows, _) = present(100.0);
        assert!((1..100).contains(&rows), "{policy:?}: {rows}");
        assert_eq!(present(111.0), (0, 0), "{policy:?}");

        cache.flush("customer");
        assert!(cache.get("1").is_none());
        cache.put("1", row("new"));
        assert_eq!(cache.get("1").as_deref().map(text).as_deref(), Some("new"), "{policy:?}");
        cache.flush("customer");
        let counts = cache.stats.counts();
        assert_eq!((counts.expired, counts.misses, counts.inserted), (1, 1, 201), "{policy:?}");
    }
}

#[test]
fn an_answer_that_is_not_to_be_kept_replaces_the_one_that_was() {
    for policy in POLICIES {
        let mut cache = begin(&cache_of(policy, 10).negative_ttl(Duration::ZERO), 3);
        cache.put("a", row("1"));
        cache.put("b", nothing());
        assert!(cache.get("a").is_some() && cache.get("b").is_none(), "{policy:?}");
        cache.put("a", nothing());
        assert!(cache.get("a").is_none() && cache.is_empty(), "{policy:?}");
    }
}

#[test]
fn the_limits_are_divided_and_the_counts_are_added_up() {
    let stats = Arc::new(CacheStats::default());
    let settings = Cache::lru(100).bytes(1 << 20);
    let mut caches: Vec<_> = (0..3).map(|_| FoundCache::new(&settings, 3, stats.clone(), Instant::now())).collect();
    for cache in &mut caches {
        (0..50).for_each(|key| cache.put(&key.to_string(), row("")));
        assert!(cache.get("49").is_some() && cache.get("0").is_none());
        cache.took(2, Duration::from_nanos(100));
        assert_eq!(cache.flush("customer"), (1, 1));
        assert_eq!(cache.flush("customer"), (0, 0));
    }
    let counts = stats.counts();
    assert_eq!((counts.hits, counts.misses, counts.inserted, counts.evicted), (3, 3, 150, 48));
    assert_eq!((counts.entries, counts.entries_max, counts.fill()), (102, 102, 1.0));
    assert_eq!(counts.bytes, caches.iter().map(FoundCache::bytes).sum::<u64>());
    assert_eq!((counts.hit_rate(), counts.lookup_mean()), (Some(0.5), Some(Duration::from_nanos(50))));
}

/// Goal: it warns when it becomes as full as was said, not again while it stays so, and not within a minute of another worker.
#[test]
fn a_full_cache_warns_once() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Warnings(Arc<AtomicUsize>);
    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    let warnings = Arc::new(AtomicUsize::new(0));
    let told = || warnings.load(Ordering::Relaxed);
    tracing::subscriber::with_default(Warnings(warnings.clone()), || {
        let began = Instant::now();
        let (settings, stats) = (Cache::lru(20).warn_at(0.8), Arc::new(CacheStats::default()));
        let mut caches = [0, 1].map(|_| FoundCache::new(&settings, 2, stats.clone(), began));
        let mut fill = |worker: usize, entries: u32, seconds: u64| {
            let cache: &mut FoundCache = &mut caches[worker];
            cache.tick(began + Duration::from_secs(seconds));
            (0..entries).for_each(|key| cache.put(&key.to_string(), row("")));
            cache.flush("customer");
        };
        fill(0, 7, 0);
        assert_eq!(told(), 0);
        fill(0, 8, 1);
        assert_eq!(told(), 1);
        fill(0, 10, 100);
        assert_eq!(told(), 1, "it stays full");
        fill(1, 8, 30);
        assert_eq!(told(), 1, "another worker, within the minute");
        fill(1, 9, 62);
        assert_eq!(told(), 2);
    });
}

#[test]
fn what_is_past_its_time_is_used_while_it_is_asked_for_anew() {
    let began = Instant::now();
    for policy in POLICIES {
        let cache = cache_of(policy, 1_000)
            .ttl(Duration::from_secs(100))
            .negative_ttl(Duration::ZERO)
            .stale_while_revalidate(Duration::from_secs(50));
        let mut cache = FoundCache::with_dice(&cache, 1, Arc::default(), began, SmallRng::seed_from_u64(5));
        cache.put("none", nothing());
        cache.put("1", row("1"));
        let mut asked = Keys::default();
        [None, Some("none"), Some("1")].into_iter().for_each(|key| asked.push(key));
        let mut find = |seconds: u64| {
            cache.tick(began + Duration::from_secs(seconds));
            let mut found = Vec::new();
            cache.find(&asked, &mut found);
            (found.iter().map(Option::is_some).collect::<Vec<_>>(), cache.stale().to_vec())
        };
        assert_eq!(find(80), (vec![false, false, true], vec![]), "{policy:?}");
        assert_eq!(find(115), (vec![false, false, true], vec![2]), "{policy:?}");
        assert_eq!(find(165), (vec![false, false, false], vec![]), "{policy:?}");
        cache.put("1", row("new"));
        cache.flush("customer");
        assert_eq!(cache.stats.counts().stale, 1, "{policy:?}");
    }
}
