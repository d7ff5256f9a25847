//! What processes tell each other many times a second: epochs that were left, room in the window, and whether sources may end.
//!
//! **Why a source that has read all may not simply end.** A change of its may yet be set aside by another process for lack of room,
//! and is to be taken up again by this run: somebody must keep an epoch open. A process that sets a change aside counts it as
//! backlog first, gives its room back second; and a tally takes what is due *before* it looks whether there is a backlog. So
//! whoever gets the room back has heard of the backlog, and keeps its sources open.

use std::sync::atomic::Ordering;

use super::message::{Busy, Tally};
use super::{Cluster, Shared};

const BEGINS: u8 = 1;
const BACKLOG: u8 = 2;
const TAKEN_UP: u8 = 4;
const FULL: u8 = 8;

/// Of a process that has said nothing yet.
pub(super) const UNKNOWN: u8 = BEGINS;

impl Busy {
    fn bits(self) -> u8 {
        let bit = |is: bool, bit| if is { bit } else { 0 };
        bit(self.begins, BEGINS) | bit(self.backlog, BACKLOG) | bit(self.taken_up, TAKEN_UP) | bit(self.full, FULL)
    }

    fn of(bits: u8) -> Self {
        Busy { begins: bits & BEGINS > 0, backlog: bits & BACKLOG > 0, taken_up: bits & TAKEN_UP > 0, full: bits & FULL > 0 }
    }
}

impl Cluster {
    /// What any other process is busy with, as far as it was heard.
    pub(crate) fn others_are_busy(&self) -> Busy {
        Busy::of(self.0.place.others().fold(0, |all, process| all | self.0.busy[process].load(Ordering::Acquire)))
    }
}

impl Shared {
    /// What is to be told to the process at the other end of a link.
    pub(super) fn tally(&self, peer: usize) -> Tally {
        let left = self.left.load(Ordering::Acquire);
        let pays = match (&self.debts, self.place.leads()) {
            (None, _) => Vec::new(),
            (Some(debts), true) => debts.take(peer).into_iter().collect(),
            (Some(debts), false) => self.place.others().filter_map(|process| debts.take(process)).collect(),
        };
        let own = self.process().map_or(Busy::of(UNKNOWN), |process| process.busy());
        let own = (self.place.process as u32, own);
        let busy = match self.place.leads() {
            false => vec![own],
            true => {
                let known = self.place.others().filter(|process| *process != peer);
                known.map(|process| (process as u32, Busy::of(self.busy[process].load(Ordering::Acquire)))).chain([own]).collect()
            }
        };
        Tally { busy, left, pays }
    }

    pub(super) fn tallied(&self, from: usize, tally: Tally) {
        let Tally { busy, left, pays } = tally;
        let mut news = false;
        for (process, busy) in busy {
            if let Some(known) = self.busy.get(process as usize) {
                news |= known.swap(busy.bits(), Ordering::AcqRel) != busy.bits();
            }
        }
        let process = self.process();
        if self.left.fetch_max(left, Ordering::AcqRel) < left {
            if let Some(process) = &process {
                process.clock.observe(left);
                process.clock.wake_all();
            }
            news = true;
        }
        for pay in pays {
            match pay.to as usize == self.place.process {
                true => process.iter().for_each(|process| process.in_flight.repaid(pay.units, pay.bytes)),
                // Told together with what was heard above, or after it.
                false => self.debts.iter().for_each(|debts| debts.forward(pay)),
            }
        }
        // The leader passes on what it heard; a member tells nobody.
        if news && self.place.leads() {
            let others = self.links.get().into_iter().flatten().filter(|link| link.peer != from);
            others.for_each(|link| link.outbox.nudge());
        }
    }
}
