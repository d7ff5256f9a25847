//! How many calls an endpoint gets at once: a limit that finds its own level.
//!
//! Additive increase, multiplicative decrease, as TCP does it: while calls succeed and the limit is in use it rises by one
//! per round; an answer that says "too much" (429, a reset, a timeout) lowers it by a third, once per round. Beside that, `seek` finds whether
//! fewer calls would be answered as well. Who finds no room waits in line, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::seek::{Seek, SeekConfig};

/// The bounds of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConcurrencyConfig {
    /// The least. Default: 1.
    pub min: usize,
    /// The most, and the level at the start. Default: no bound of its own (the action's `max_parallelism` bounds it).
    pub max: usize,
    /// What a sign of too much leaves of it, 0 to 1. Default: 0.7.
    pub decrease: f64,
    /// How it is tried whether calls only wait for each other; `None`: it is not. Default: every 30 s, where answers take 50 ms and more.
    pub seek: Option<SeekConfig>,
}

impl Default for ConcurrencyConfig {
    fn default() -> Self {
        ConcurrencyConfig { min: 1, max: usize::MAX, decrease: 0.7, seek: Some(SeekConfig::default()) }
    }
}

/// A limit of calls at once.
#[derive(Clone, Debug)]
pub struct Concurrency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ConcurrencyConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    in_use: usize,
    line: VecDeque<oneshot::Sender<Slot>>,
    lowered: Option<Instant>,
    /// Made when the first call is answered, by the time that calls go by.
    seek: Option<Seek>,
}

/// Room for one call. Given back when it is dropped.
#[derive(Debug)]
pub struct Slot(Option<Concurrency>);

impl Concurrency {
    /// A limit that stands at its most.
    pub fn new(config: ConcurrencyConfig) -> Self {
        let limit = config.max as f64;
        Concurrency(Arc::new(Inner {
            config,
            state: Mutex::new(State { limit, in_use: 0, line: VecDeque::new(), lowered: None, seek: None }),
        }))
    }

    /// Room, if there is some and nobody waits.
    pub fn try_enter(&self) -> Option<Slot> {
        let mut state = self.0.state.lock();
        (state.line.is_empty() && state.has_room()).then(|| {
            state.in_use += 1;
            Slot(Some(self.clone()))
        })
    }

    /// Room, when there is some. Who gives up waiting leaves the line.
    pub async fn enter(&self) -> Slot {
        if let Some(slot) = self.try_enter() {
            return slot;
        }
        let (give, given) = oneshot::channel();
        self.0.state.lock().line.push_back(give);
        self.serve();
        given.await.unwrap_or_else(|_| unreachable!("whoever stands in the line is served"))
    }

    /// A call succeeded.
    pub fn succeeded(&self) {
        let mut state = self.0.state.lock();
        // A level that is not in use says nothing of what would be too much.
        if (state.in_use as f64) >= state.limit * 0.8 {
            state.limit = (state.limit + 1.0 / state.limit).min(self.0.config.max as f64);
        }
        drop(state);
        self.serve();
    }

    /// A call that began at this instant succeeded.
    pub fn answered(&self, began: Instant, now: Instant) {
        if let Some(config) = self.0.config.seek {
            let mut state = self.0.state.lock();
            let in_use = state.in_use;
            state.seek.get_or_insert_with(|| Seek::new(config, self.0.config.max, now)).answered(began, in_use, now);
        }
        self.succeeded();
    }

    /// A call that began at this instant met a sign of too much.
    pub fn too_much(&self, began: Instant, now: Instant) {
        let mut state = self.0.state.lock();
        // Calls of the same round say it once: only one that began at the lowered level says that it is still too much.
        if state.lowered.is_some_and(|lowered| began < lowered) {
            return;
        }
        state.lowered = Some(now);
        let level = state.limit.min(state.in_use as f64);
        state.limit = (level * self.0.config.decrease).max(self.0.config.min.max(1) as f64);
    }

    /// The level it has found.
    pub fn limit(&self) -> usize {
        self.0.state.lock().level()
    }

    /// Calls under way, and calls that wait.
    pub fn in_use(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        (state.in_use, state.line.len())
    }

    /// Gives room to those in the line, as far as there is some.
    fn serve(&self) {
        loop {
            let mut state = self.0.state.lock();
            if !state.has_room() {
                return;
            }
            let Some(next) = state.line.pop_front() else { return };
            state.in_use += 1;
            drop(state);
            if let Err(mut slot) = next.send(Slot(Some(self.clone()))) {
                // It has given up waiting; the next one may be served.
                slot.0 = None;
                self.0.state.lock().in_use -= 1;
            }
        }
    }
}

impl State {
    fn level(&self) -> usize {
        let ceiling = self.seek.as_ref().map_or(usize::MAX, Seek::ceiling);
        ceiling.min(self.limit as usize)
    }

    fn has_room(&self) -> bool {
        self.in_use < self.level()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(limit) = self.0.take() {
            limit.0.state.lock().in_use -= 1;
            limit.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn who_waits_is_served_in_order_and_may_give_up() {
        let limit = Concurrency::new(ConcurrencyConfig { max: 1, ..ConcurrencyConfig::default() });
        let first = limit.try_enter().unwrap();
        let (mut second, mut third) = (Box::pin(limit.enter()), Box::pin(limit.enter()));
        let mut fourth = Box::pin(limit.enter());
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        assert_eq!(limit.in_use(), (1, 3));
        drop(second);
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none());
        let third = third.now_or_never().unwrap();
        assert!(limit.try_enter().is_none());
        drop(third);
        drop(fourth.now_or_never().unwrap());
        assert_eq!(limit.in_use(), (0, 0));
    }

    #[test]
    fn one_round_of_bad_answers_lowers_it_once() {
        let limit = Concurrency::new(ConcurrencyConfig { max: 100, ..ConcurrencyConfig::default() });
        let (began, slots) = (Instant::now(), (0..100).map(|_| limit.try_enter().unwrap()).collect::<Vec<_>>());
        let later = began + Duration::from_millis(5);
        (0..50).for_each(|_| limit.too_much(began, later));
        assert_eq!(limit.limit(), 70);
        limit.too_much(later, later);
        assert_eq!(limit.limit(), 49);
        drop(slots);
    }

    /// A server that answers `capacity` calls at once and refuses what exceeds that. Returns the mean level of the second half, the
    /// share of refused calls in it, and the share of the server in use.
    fn simulate(capacity: usize, seed: u64) -> (f64, f64, f64) {
        let mut random = StdRng::seed_from_u64(seed);
        let limit = Concurrency::new(ConcurrencyConfig { max: 256, ..ConcurrencyConfig::default() });
        let start = Instant::now();
        let mut under_way: Vec<(u64, Instant, Slot, bool)> = Vec::new();
        let (mut levels, mut refused, mut calls, mut used, mut serving) = (0.0, 0_u32, 0_u32, 0.0, 0_usize);
        for ms in 0..10_000_u64 {
            let now = start + Duration::from_millis(ms);
            for (_, began, slot, good) in under_way.extract_if(.., |(until, ..)| *until <= ms) {
                serving -= usize::from(good);
                if good {
                    limit.succeeded()
                } else {
                    limit.too_much(began, now)
                }
                drop(slot);
            }
            while let Some(slot) = limit.try_enter() {
                let good = serving < capacity;
                serving += usize::from(good);
                let takes = if good { random.random_range(20..60) } else { random.random_range(1..4) };
                under_way.push((ms + takes, now, slot, good));
                calls += u32::from(ms >= 5_000);
                refused += u32::from(ms >= 5_000 && !good);
            }
            if ms >= 5_000 {
                levels += limit.limit() as f64 / 5_000.0;
                used += serving as f64 / capacity as f64 / 5_000.0;
            }
        }
        (levels, f64::from(refused) / f64::from(calls), used)
    }

    #[test]
    fn it_finds_the_level_of_a_server() {
        for seed in 0..3 {
            for capacity in [4, 20, 60, 200] {
                let (level, refused, used) = simulate(capacity, seed);
                let ratio = level / capacity as f64;
                assert!((0.7..1.1).contains(&ratio), "seed {seed}: level {level:.1} for a capacity of {capacity}");
                assert!(refused < 0.12 && used > 0.7, "seed {seed}, capacity {capacity}: {refused:.3} refused, {used:.2} used");
            }
        }
    }
}
