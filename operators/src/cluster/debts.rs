//! Room in the window that belongs to another process.
//!
//! The process that reads a change takes room for it; the process that owns its key is done with it. So the owner counts what
//! arrives from elsewhere into its own window too, and as it gives room back it pays those whose changes have arrived, in the
//! order of arrival. What it pays need not be for the very change that was done; in all it pays what arrived, no less and no
//! more. Bytes are lent when a change is sent, and paid when its last slice is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::message::Pay;
use super::place::Place;

/// What one process owes the others.
pub(crate) struct Debts {
    place: Place,
    /// Units by the process they came from, in the order of arrival, own ones too: nobody's room waits behind all of another's.
    arrived: Mutex<VecDeque<(usize, u64)>>,
    /// What is to be told to each process.
    due: Vec<Due>,
    /// Called when something has become due for a process.
    nudge: Box<dyn Fn(usize) + Send + Sync>,
}

#[derive(Default)]
struct Due {
    units: AtomicU64,
    bytes: AtomicU64,
}

impl Debts {
    pub(super) fn new(place: Place, nudge: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let due = (0..place.processes).map(|_| Due::default()).collect();
        Debts { place, arrived: Mutex::default(), due, nudge: Box::new(nudge) }
    }

    /// Changes of this process's reading have arrived, worth so many units.
    pub(crate) fn arrived(&self, from: usize, units: u64) {
        let mut arrived = self.arrived.lock();
        match arrived.back_mut() {
            Some((last, sum)) if *last == from => *sum += units,
            _ => arrived.push_back((from, units)),
        }
    }

    /// Room for so many units was given back here.
    pub(crate) fn pay(&self, mut units: u64) {
        let mut nudged = 0_u64;
        {
            let mut arrived = self.arrived.lock();
            while units > 0
                && let Some((from, owed)) = arrived.front_mut()
            {
                let (from, paid) = (*from, units.min(*owed));
                *owed -= paid;
                if *owed == 0 {
                    arrived.pop_front();
                }
                units -= paid;
                if from != self.place.process {
                    self.due[from].units.fetch_add(paid, Ordering::AcqRel);
                    nudged |= 1 << (from % 64);
                }
            }
        }
        if nudged != 0 {
            self.place.others().filter(|process| nudged & (1 << (process % 64)) != 0).for_each(|process| (self.nudge)(process));
        }
    }

    /// The last slice of a block from another process is gone.
    pub(crate) fn dropped(&self, from: usize, bytes: u64) {
        self.due[from].bytes.fetch_add(bytes, Ordering::AcqRel);
        (self.nudge)(from);
    }

    /// Passes on what somebody else owes.
    pub(super) fn forward(&self, pay: Pay) {
        let Some(due) = self.due.get(pay.to as usize) else { return };
        due.units.fetch_add(pay.units, Ordering::AcqRel);
        due.bytes.fetch_add(pay.bytes, Ordering::AcqRel);
        (self.nudge)(pay.to as usize);
    }

    /// Takes what is due to a process, to be told now.
    pub(super) fn take(&self, process: usize) -> Option<Pay> {
        let (units, bytes) = {
            let due = &self.due[process];
            (due.units.swap(0, Ordering::AcqRel), due.bytes.swap(0, Ordering::AcqRel))
        };
        (units + bytes > 0).then_some(Pay { to: process as u32, units, bytes })
    }

    /// Units that have arrived from other processes and are not paid.
    pub(crate) fn owed(&self) -> u64 {
        let arrived = self.arrived.lock();
        arrived.iter().filter(|(from, _)| *from != self.place.process).map(|(_, units)| units).sum()
    }
}

impl std::fmt::Debug for Debts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Debts")
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn in_all_everybody_is_paid_what_arrived_from_there() {
        for seed in 0..50 {
            let mut random = SmallRng::seed_from_u64(seed);
            let debts = Debts::new(Place { process: 1, processes: 3, workers: 2 }, |_| {});
            let (mut arrived, mut paid, mut held) = ([0; 3], [0; 3], 0);
            for _ in 0..1_000 {
                if random.random_bool(0.5) {
                    let (from, units) = (random.random_range(0..3), random.random_range(1..10));
                    debts.arrived(from, units);
                    arrived[from] += units;
                    held += units;
                } else if held > 0 {
                    let units = random.random_range(1..=held);
                    debts.pay(units);
                    held -= units;
                }
                for process in [0, 2] {
                    paid[process] += debts.take(process).map_or(0, |pay| pay.units);
                    assert!(paid[process] <= arrived[process], "seed {seed}: more was paid than had arrived");
                }
            }
            debts.pay(held);
            for process in [0, 2] {
                paid[process] += debts.take(process).map_or(0, |pay| pay.units);
                assert_eq!(paid[process], arrived[process], "seed {seed}");
            }
            assert_eq!(debts.owed(), 0, "seed {seed}");
        }
    }
}
