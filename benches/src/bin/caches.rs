//! The caches of lookups: what a lookup costs by policy, and how much each policy finds, all through the cache that a worker has.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use comfy_table::Table;
use highwater_benches::measure::{Outcome, median, range, thousands};
use highwater_operators::change::Found;
use highwater_operators::lookup::cache::{Cache, CacheStats, FoundCache, Keys};
use highwater_operators::row::Fields;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Measures every policy, in turns.
#[derive(Parser)]
struct Flags {
    /// Entries of the caches whose time is measured
    #[arg(long, default_value_t = 100_000)]
    entries: usize,
    /// Lookups per measurement of time
    #[arg(long, default_value_t = 1_000_000)]
    timed: usize,
    /// How often each time is measured
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Keys of the traces
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// Lookups of a trace that count; a quarter as many come before them
    #[arg(long, default_value_t = 4_000_000)]
    lookups: usize,
    /// Popularity shifts after so many lookups, in the trace that drifts
    #[arg(long, default_value_t = 500_000)]
    drift: usize,
    /// Seed of the traces
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the times
    #[arg(long)]
    times_only: bool,
}

type Make = fn(usize) -> Cache;

const POLICIES: [(&str, Make); 7] = [
    ("adaptive (default)", Cache::entries),
    ("lru", Cache::lru),
    ("lru_batch, 10 %", Cache::lru_batch),
    ("lru_batch, 15 %", |entries| Cache::lru_batch(entries).batch_eviction(15)),
    ("lfu", Cache::lfu),
    ("random", Cache::random),
    ("lru, entries and bytes", |entries| Cache::lru(entries).bytes(entries as u64 * 1_000)),
];

/// Lookups that come at once, as many as a batch of changes has.
const BATCH: usize = 512;

/// What lookups ask for, and what is found.
struct World {
    names: Vec<String>,
    rows: Vec<Arc<Found>>,
}

impl World {
    fn new(keys: usize) -> Self {
        let names: Vec<String> = (0..keys).map(|key| format!("customer-{key}")).collect();
        let fields: Arc<[Box<str>]> = ["id", "name", "tier", "country"].map(Box::from).into();
        let row = |name: &String| {
            let values = [name, "A name of some length", "gold", "NL"].map(|value: &str| Some(value));
            Arc::new(Found::row_of("customer".into(), Fields::named(fields.clone(), values)))
        };
        World { rows: names.iter().map(row).collect(), names }
    }

    /// Looks up a trace, batch by batch, as the operator does. Returns the hits.
    fn run(&self, cache: &mut FoundCache, trace: &[u32]) -> u64 {
        let (mut keys, mut found, mut hits) = (Keys::default(), Vec::new(), 0);
        for batch in trace.chunks(BATCH) {
            keys.clear();
            batch.iter().for_each(|key| keys.push(Some(&self.names[*key as usize])));
            cache.tick(Instant::now());
            cache.find(&keys, &mut found);
            for (key, answer) in batch.iter().zip(found.drain(..)) {
                let name = &self.names[*key as usize];
                if black_box(answer.or_else(|| cache.get(name))).is_none() {
                    cache.put(name, self.rows[*key as usize].clone());
                }
            }
            hits += cache.flush("customer").0;
        }
        hits
    }
}

fn begin(make: Make, entries: usize) -> FoundCache {
    FoundCache::new(&make(entries), 1, Arc::new(CacheStats::default()), Instant::now())
}

/// What finding a row takes where all fit: by the adaptive cache as the operator uses it, and by the bare crate that it stands on, one key after the other.
fn beside_the_bare_crate(flags: &Flags) {
    let world = World::new(flags.entries);
    let mut dice = SmallRng::seed_from_u64(flags.seed);
    let trace: Vec<u32> = (0..flags.timed).map(|_| dice.random_range(0..flags.entries as u32)).collect();
    let mut bare = quick_cache::unsync::Cache::<String, Arc<Found>>::new(2 * flags.entries);
    let mut ours = begin(Cache::entries, 2 * flags.entries);
    for (name, row) in world.names.iter().zip(&world.rows) {
        bare.insert(name.clone(), row.clone());
        ours.put(name, row.clone());
    }
    let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
    for _ in 0..flags.repetitions {
        let began = Instant::now();
        for key in &trace {
            black_box(bare.get(world.names[*key as usize].as_str()).cloned());
        }
        of_bare.push(began.elapsed().as_nanos() as f64 / trace.len() as f64);
        let began = Instant::now();
        let hits = world.run(&mut ours, &trace);
        of_ours.push(began.elapsed().as_nanos() as f64 / trace.len() as f64);
        assert_eq!(hits, trace.len() as u64, "all fit");
    }
    println!(
        "a hit: {:.0} ns {} as the operator finds it, {:.0} ns {} by quick_cache alone ({:.2} of it); {} runs in turns (median)\n",
        median(&of_ours),
        range(&of_ours, 0),
        median(&of_bare),
        range(&of_bare, 0),
        median(&of_ours) / median(&of_bare),
        flags.repetitions
    );
}

/// Nanoseconds per lookup by policy, missing rows put in, where every key is as likely: so all policies find as much.
fn times(flags: &Flags) {
    let mut table = new_table(["policy", "hits %", "ns", "range", "hits %", "ns", "range", "hits %", "ns", "range"]);
    let shares = [1.0, 0.90, 0.57];
    let worlds = shares.map(|share| {
        let world = World::new((flags.entries as f64 / share) as usize);
        let mut dice = SmallRng::seed_from_u64(flags.seed);
        let trace: Vec<u32> = (0..flags.timed).map(|_| dice.random_range(0..world.names.len() as u32)).collect();
        (world, trace)
    });
    let mut measured: Vec<[(Vec<f64>, f64); 3]> = POLICIES.iter().map(|_| Default::default()).collect();
    for _ in 0..flags.repetitions {
        for ((_, make), measured) in POLICIES.iter().zip(&mut measured) {
            for ((world, trace), (ns, hits)) in worlds.iter().zip(measured) {
                let mut cache = begin(*make, flags.entries);
                world.run(&mut cache, &trace[..flags.timed / 2]);
                let began = Instant::now();
                let found = world.run(&mut cache, trace);
                ns.push(began.elapsed().as_nanos() as f64 / trace.len() as f64);
                *hits = found as f64 / trace.len() as f64;
            }
        }
    }
    for ((name, _), measured) in POLICIES.iter().zip(&measured) {
        let cells =
            measured.iter().flat_map(|(ns, hits)| [format!("{:.1}", 100.0 * hits), format!("{:.0}", median(ns)), range(ns, 0)]);
        table.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    println!(
        "ns per lookup, missing rows put in; {} entries, {} lookups, {} runs of each in turns (median)",
        thousands(flags.entries as f64),
        thousands(flags.timed as f64),
        flags.repetitions
    );
    println!("{table}\n");
    let of = |policy: &str, column: usize| {
        let place = POLICIES.iter().position(|(name, _)| *name == policy).unwrap_or_default();
        median(&measured[place][column].0)
    };
    for (column, share) in shares.iter().enumerate() {
        let ratio = of("lru_batch, 10 %", column) / of("lru", column);
        println!("lru_batch takes {ratio:.2} of the time of lru at {:.0} % hits", 100.0 * share);
    }
    println!();
}

/// Keys by popularity: the key of rank r is asked for in proportion to 1 / r^0.99.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize) -> Self {
        let mut sum = 0.0;
        Zipf {
            sums: (1..=keys)
                .map(|rank| {
                    sum += (rank as f64).powf(-0.99);
                    sum
                })
                .collect(),
        }
    }

    fn rank(&self, dice: &mut SmallRng) -> usize {
        let most = self.sums.last().copied().unwrap_or_default();
        let at = dice.random_range(0.0..most);
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// The traces by name: each a list of keys. Those from `keys` on are asked for once.
fn traces(flags: &Flags) -> [(&'static str, Vec<u32>); 3] {
    let zipf = Zipf::new(flags.keys);
    let length = flags.lookups + flags.lookups / 4;
    let trace = |shift_every: usize, once: f64| {
        let mut dice = SmallRng::seed_from_u64(flags.seed);
        let mut new = flags.keys as u32;
        (0..length)
            .map(|at| {
                if dice.random_bool(once) {
                    new += 1;
                    return new - 1;
                }
                // Another tenth of the keys becomes the most popular.
                let shift = at.checked_div(shift_every).unwrap_or(0) * flags.keys / 10;
                ((zipf.rank(&mut dice) + shift) % flags.keys) as u32
            })
            .collect()
    };
    [("steady", trace(0, 0.0)), ("drifting", trace(flags.drift, 0.0)), ("20 % asked for once", trace(0, 0.2))]
}

fn hit_rates(flags: &Flags) {
    let traces = traces(flags);
    let world = {
        let once = traces.iter().flat_map(|(_, trace)| trace).max().map_or(0, |key| *key as usize + 1);
        let row = Arc::new(Found::row_of("customer".into(), Fields::new([("tier", Some("gold"))])));
        World { names: (0..once).map(|key| key.to_string()).collect(), rows: vec![row; once] }
    };
    let sizes = [("1 %", flags.keys / 100), ("10 %", flags.keys / 10)];
    let columns = traces.iter().flat_map(|(name, _)| sizes.map(|(size, _)| format!("{name}, {size}")));
    let mut table = new_table(std::iter::once("policy".to_owned()).chain(columns));
    for (name, make) in &POLICIES[..POLICIES.len() - 1] {
        let mut row = vec![(*name).to_owned()];
        for (_, trace) in &traces {
            for (_, entries) in sizes {
                let mut cache = begin(*make, entries);
                let (warm_up, counted) = trace.split_at(flags.lookups / 4);
                world.run(&mut cache, warm_up);
                let hits = world.run(&mut cache, counted);
                row.push(format!("{:.1}", 100.0 * hits as f64 / counted.len() as f64));
            }
        }
        table.add_row(row);
    }
    println!(
        "hits in percent; {} lookups of {} keys by zipf(0.99); popularity drifts every {}; cache sizes as a share of the keys",
        thousands(flags.lookups as f64),
        thousands(flags.keys as f64),
        thousands(flags.drift as f64)
    );
    println!("{table}");
}

fn new_table<T: Into<comfy_table::Cell>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn main() -> Outcome {
    let flags = Flags::parse();
    beside_the_bare_crate(&flags);
    times(&flags);
    if !flags.times_only {
        hit_rates(&flags);
    }
    Ok(())
}
