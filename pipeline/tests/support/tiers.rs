//! Changes that look up customers, every tenth of whom there is not, with a tier behind the workers' own caches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater::prelude::*;
use highwater::run::Build;
use parking_lot::Mutex;

use super::input::{Input, Item, Script};

pub const CUSTOMERS: usize = 400;
pub const CHANGES: usize = 2_000;

/// A pipeline that looks up customers and writes down what it found.
pub struct Tiers {
    pub build: Build,
    /// Keys asked for at the origin.
    loaded: Arc<AtomicU64>,
    found: Arc<Mutex<Vec<Looked>>>,
}

/// The id of a change, and the tier that was found for it.
type Looked = (String, Option<String>);

/// The pipeline whose lookup `with` gives the tier that is tested.
pub fn tiers(with: impl Fn(Lookup) -> Lookup + Send + Sync + 'static) -> Tiers {
    let (loaded, found) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<_>>>::default());
    let (count, record) = (loaded.clone(), found.clone());
    let items = (0..CHANGES)
        .map(|n| Item { customer: Some(format!("u{}", n % CUSTOMERS)), ..Item::good(format!("c{n}"), format!("k{}", n % 97)) });
    let input = Arc::new(Input::of(items));
    let build = super::build(move |flow| {
        let (count, record) = (count.clone(), record.clone());
        let origin = load(move |keys: Vec<String>| {
            count.fetch_add(keys.len() as u64, Ordering::Relaxed);
            async move { Ok(keys.iter().map(|key| tier(key).map(|tier| Fields::new([("tier", Some(tier))]))).collect()) }
        });
        let act = run(move |change: Change| {
            let tier = change.found("customer").str("tier").map(|tier| tier.into_owned());
            record.lock().push((change.id().to_owned(), tier));
            async { Ok(()) }
        });
        // Next to nothing is kept by the workers, so that the tier behind is asked again and again.
        let lookup = Lookup::by("customer").from(origin).cache(Cache::lru(4)).batch(50, Duration::ZERO);
        flow.source(Script { input: input.clone(), seed: 5 })
            .lookup("customer", with(lookup))
            .fan_out([action("act", act)])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    Tiers { build, loaded, found }
}

fn tier(key: &str) -> Option<String> {
    let number: usize = key.strip_prefix('u')?.parse().ok()?;
    (!number.is_multiple_of(10)).then(|| format!("tier-{key}"))
}

impl Tiers {
    /// Runs it from the beginning.
    pub fn run(&self) {
        let folder = super::folder();
        assert!(super::run(&super::settings(folder.path().join("data"), 2), &self.build).expect("no error").ended);
        self.check();
    }

    /// Each change has its row, wherever that came from.
    pub fn check(&self) {
        let mut found = self.found.lock();
        assert_eq!(found.len(), CHANGES);
        for (id, found) in found.drain(..) {
            let number: usize = id[1..].parse().unwrap();
            assert_eq!(found, tier(&format!("u{}", number % CUSTOMERS)), "{id}");
        }
    }

    /// Keys that were asked for at the origin since the last time.
    pub fn loaded(&self) -> u64 {
        self.loaded.swap(0, Ordering::Relaxed)
    }

    pub fn found(&self) -> usize {
        self.found.lock().len()
    }
}
