//! The bounds of actions and lookups as figures, so that they can be shown and set from outside the pipeline's code.

use std::time::Duration;

use crate::action::ActionSpec;
use crate::lookup::Lookup;

/// The bounds of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionBounds {
    /// Calls under way at once in one process.
    pub max_parallelism: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Attempts before a change is parked.
    pub attempts: u32,
    /// How long a change may wait for its turn before it is set aside.
    pub hold_budget: Duration,
    /// Largest batch of a batch action.
    pub batch_max: usize,
    /// Whether it may go to addresses that are not public.
    pub allow_private: bool,
}

/// The bounds of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupBounds {
    /// Entries kept, over all workers.
    pub cache_size: usize,
    /// How old a kept entry may be; `None` is for ever.
    pub cache_ttl: Option<Duration>,
    /// Attempts to ask the origin.
    pub attempts: u32,
    /// Keys asked for at once at most.
    pub batch_max: usize,
    /// How long the first key of a batch waits for others.
    pub batch_window: Duration,
}

impl ActionSpec {
    /// Its bounds.
    pub fn bounds(&self) -> ActionBounds {
        ActionBounds {
            max_parallelism: self.max_parallelism,
            timeout: self.timeout,
            attempts: self.attempts,
            hold_budget: self.hold_budget,
            batch_max: self.batch_max,
            allow_private: self.allow_private,
        }
    }
}

impl Lookup {
    /// Its bounds.
    pub fn bounds(&self) -> LookupBounds {
        LookupBounds {
            cache_size: self.cache.entries,
            cache_ttl: self.cache.ttl,
            attempts: self.attempts,
            batch_max: self.batch_max,
            batch_window: self.batch_window,
        }
    }

    /// Keeps so many entries over all workers, and leaves the rest of its cache as it is.
    pub fn cache_size(mut self, entries: usize) -> Self {
        self.cache.entries = entries.max(1);
        self
    }

    /// Keeps entries no longer than this, or for ever, and leaves the rest of its cache as it is.
    pub fn cache_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.cache.ttl = ttl;
        self
    }
}
