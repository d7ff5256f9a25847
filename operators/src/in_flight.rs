//! How much may be under way at once, in changes and in bytes. When a limit is reached, sources stop reading.
//!
//! A change costs one unit for each action it can reach; each action gives its unit back when it is done with the
//! change. Bytes are counted by block, not by change: a block counts as long as one slice of it lives, because that is
//! what memory really holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::cluster::debts::Debts;
use crate::halt::Halt;
use crate::parked::Shelves;

/// Buffers kept to be used again, and the length up to which one is kept.
const SPARE_MAX: usize = 32;
const SPARE_LENGTH_MAX: usize = 1 << 20;

/// The window of one process.
#[derive(Debug)]
pub struct InFlight {
    units: AtomicU64,
    bytes: AtomicU64,
    units_max: AtomicU64,
    bytes_max: u64,
    waiting: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
    lock: Mutex<()>,
    room: Condvar,
    /// What is owed to other processes, if there are any.
    debts: OnceLock<Arc<Debts>>,
    /// What stands parked: where that is as much as may be, nothing is read.
    shelves: OnceLock<Arc<Shelves>>,
    /// What ends the process: sources have nothing else of it than this window.
    halt: OnceLock<Arc<Halt>>,
}

impl InFlight {
    /// A window of so many units and bytes.
    pub fn new(units_max: u64, bytes_max: u64) -> Arc<Self> {
        Arc::new(InFlight {
            units: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            units_max: AtomicU64::new(units_max),
            bytes_max,
            waiting: AtomicBool::new(false),
            spare: Mutex::new(Vec::new()),
            lock: Mutex::new(()),
            room: Condvar::new(),
            debts: OnceLock::new(),
            shelves: OnceLock::new(),
            halt: OnceLock::new(),
        })
    }

    /// Sets the limit in units, once it is known how many actions there are.
    pub fn set_units_max(&self, units_max: u64) {
        self.units_max.store(units_max.max(1), Ordering::Release);
    }

    /// Says what ends the process.
    pub fn ends_with(&self, halt: &Arc<Halt>) {
        let _ = self.halt.set(halt.clone());
    }

    /// Says what stands parked.
    pub fn stops_before(&self, shelves: &Arc<Shelves>) {
        let _ = self.shelves.set(shelves.clone());
    }

    /// What stands parked, if that is as much as may be.
    pub fn full_shelves(&self) -> Option<&Shelves> {
        self.shelves.get().map(|shelves| &**shelves).filter(|shelves| shelves.is_full())
    }

    /// Passes a failpoint of a source. `true`: the process has crashed here and the caller does nothing more.
    pub fn passes(&self, failpoint: &str) -> bool {
        self.halt.get().is_some_and(|halt| halt.passes(failpoint))
    }

    /// Whether a source may read on. Something is always admitted into an empty window, however large it is; nothing is while as
    /// much stands parked as may be.
    pub fn has_room(&self) -> bool {
        if self.full_shelves().is_some() {
            return false;
        }
        let (units, bytes) = (self.units.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire));
        (units < self.units_max.load(Ordering::Acquire) && bytes < self.bytes_max) || units == 0
    }

    /// Waits until there is room or `patience` is over; says whether there is.
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        if self.has_room() {
            return true;
        }
        let mut guard = self.lock.lock();
        self.waiting.store(true, Ordering::SeqCst);
        // Looked at again after the flag is up: a unit given back in between would otherwise wake nobody.
        if !self.has_room() {
            self.room.wait_for(&mut guard, patience);
        }
        self.has_room()
    }

    /// Takes units for changes just read.
    pub fn take(&self, units: u64) {
        self.units.fetch_add(units, Ordering::AcqRel);
    }

    /// Gives units back.
    pub fn give_back(&self, units: u64) {
        if units > 0 {
            let before = self.units.fetch_sub(units, Ordering::AcqRel);
            debug_assert!(before >= units, "{units} units given back of {before} taken");
            if let Some(debts) = self.debts.get() {
                debts.pay(units);
            }
            self.notify();
        }
    }

    /// Other processes lend room to this one, and it to them.
    pub(crate) fn owes(&self, debts: &Arc<Debts>) {
        let _ = self.debts.set(debts.clone());
    }

    /// A change is sent to another process: its bytes count here until its last slice is dropped there.
    pub(crate) fn lend(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Another process is done with what was lent.
    pub(crate) fn repaid(&self, units: u64, bytes: u64) {
        self.units.fetch_sub(units, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.notify();
    }

    /// Changes have arrived, read by this process or another one, worth so many units. They count here too if it was another.
    pub(crate) fn arrived(&self, from: usize, own: usize, units: u64) {
        if let Some(debts) = self.debts.get() {
            if from != own {
                self.take(units);
            }
            debts.arrived(from, units);
        }
    }

    /// What another process has sent, as a block that counts here and is paid there once its last slice is dropped.
    pub(crate) fn foreign(self: &Arc<Self>, content: Bytes, from: usize) -> Bytes {
        self.bytes.fetch_add(content.len() as u64, Ordering::AcqRel);
        Bytes::from_owner(Foreign { content, from, window: self.clone() })
    }

    /// The limits, in units and in bytes.
    pub fn limits(&self) -> (u64, u64) {
        (self.units_max.load(Ordering::Relaxed), self.bytes_max)
    }

    /// Units under way.
    pub fn units(&self) -> u64 {
        self.units.load(Ordering::Acquire)
    }

    /// Bytes of blocks that are alive.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// A buffer of at least this length to read into. Its content is whatever it held before: a block that is used again
    /// needs neither zeroing nor fresh pages.
    pub fn buffer(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.spare.lock().pop().unwrap_or_default();
        buffer.resize(buffer.len().max(length), 0);
        buffer
    }

    /// The first `length` bytes of a buffer as a block, which counts against the window until its last slice is dropped.
    pub fn block(self: &Arc<Self>, content: Vec<u8>, length: usize) -> Bytes {
        self.bytes.fetch_add(content.len() as u64, Ordering::AcqRel);
        Bytes::from_owner(Block { content, length, window: self.clone() })
    }

    fn notify(&self) {
        if self.waiting.load(Ordering::SeqCst) && self.has_room() && self.waiting.swap(false, Ordering::SeqCst) {
            drop(self.lock.lock());
            self.room.notify_all();
        }
    }
}

struct Foreign {
    content: Bytes,
    from: usize,
    window: Arc<InFlight>,
}

impl AsRef<[u8]> for Foreign {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let bytes = self.content.len() as u64;
        self.window.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(debts) = self.window.debts.get() {
            debts.dropped(self.from, bytes);
        }
        self.window.notify();
    }
}

struct Block {
    content: Vec<u8>,
    length: usize,
    window: Arc<InFlight>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.content[..self.length]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.window.bytes.fetch_sub(self.content.len() as u64, Ordering::AcqRel);
        let mut spare = self.window.spare.lock();
        if spare.len() < SPARE_MAX && self.content.len() <= SPARE_LENGTH_MAX {
            spare.push(std::mem::take(&mut self.content));
        }
        drop(spare);
        self.window.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_counts_until_its_last_slice_is_gone() {
        let window = InFlight::new(10, 100);
        let block = window.block(vec![0; 150], 150);
        let slice = block.slice(3..5);
        window.take(1);
        drop(block);
        assert!(!window.has_room());
        drop(slice);
        assert!(window.has_room());
    }

    #[test]
    fn an_empty_window_admits_anything() {
        let window = InFlight::new(1, 1);
        let _block = window.block(vec![0; 1000], 1000);
        assert!(window.has_room());
        window.take(5);
        assert!(!window.wait_for_room(Duration::from_millis(1)));
    }
}
