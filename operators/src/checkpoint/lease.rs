//! Whether a run may still act on what cannot be fenced: webhooks, mail, anything that asks no generation.
//!
//! A store that others can reach lends a run the right to act for a short while, again and again. A new run waits until what
//! the run before it holds has ended; and a run asks its lease before each attempt. So a process that was frozen, replaced and
//! thawed acts no more, although nobody could tell it. What its kernel had already taken may still arrive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::error::Error;
use crate::halt::Halt;

/// Whether a run may still act. Cheap to clone; to ask costs a look at a clock.
#[derive(Clone, Debug, Default)]
pub struct Lease(Option<Arc<Held>>);

/// Nanoseconds of a clock that counts on while the machine sleeps.
pub type Clock = fn() -> u64;

#[derive(Debug)]
struct Held {
    clock: Clock,
    /// From when on this run may act: the leases of the runs before it have ended.
    from: AtomicU64,
    /// Until when.
    until: AtomicU64,
    changed: Notify,
    end: Mutex<End>,
    /// Wakes who renews it.
    renewer: Arc<Notify>,
    ended: Condvar,
}

/// The side of a lease that renews it.
#[derive(Clone, Debug)]
pub struct Renewing(Weak<Held>);

/// How a run gave its lease back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// Nothing of the run is under way: the next may act at once.
    InOrder,
    /// What it had begun may still arrive: the lease ends by itself, or with the process.
    AsItStands,
}

#[derive(Debug, Default)]
struct End {
    /// Why it was lost for good.
    lost: Option<String>,
    halt: Option<Arc<Halt>>,
    given_back: Option<GivenBack>,
    renewed_no_more: bool,
}

impl Lease {
    /// A lease that never ends: of a store whose lock dies with its process.
    pub fn forever() -> Self {
        Lease(None)
    }

    /// A lease by this clock, which has not begun; `renewer` is woken when it is given back.
    pub fn by(clock: Clock, renewer: Arc<Notify>) -> (Self, Renewing) {
        let held = Arc::new(Held {
            clock,
            from: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(0),
            changed: Notify::new(),
            end: Mutex::default(),
            renewer,
            ended: Condvar::new(),
        });
        let renewing = Renewing(Arc::downgrade(&held));
        (Lease(Some(held)), renewing)
    }

    /// Whether this run may act now. To be asked before each attempt.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|held| held.holds())
    }

    /// Waits until this run may act. If it was replaced this never ends: the run does.
    pub async fn held(&self) {
        let Some(held) = &self.0 else { return };
        loop {
            let changed = held.changed.notified();
            let now = (held.clock)();
            let from = held.from.load(Ordering::Acquire);
            if held.holds() {
                return;
            }
            // One that has begun and expired is renewed, or lost, by who renews it.
            let begins = if from > now && from < u64::MAX { Duration::from_nanos(from - now) } else { Duration::from_secs(3600) };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(begins) => {}
            }
        }
    }

    /// From when on this run may act, by the lease's clock.
    pub fn begin(&self, from: u64) {
        self.change(|held| held.from.store(from, Ordering::Release));
    }

    /// Until when it may, by the lease's clock.
    pub fn renew(&self, until: u64) {
        self.change(|held| {
            held.until.fetch_max(until, Ordering::AcqRel);
        });
    }

    /// It is lost for good: the run ends with this sentence.
    pub fn lose(&self, sentence: String) {
        self.change(|held| {
            held.until.store(0, Ordering::Release);
            held.from.store(u64::MAX, Ordering::Release);
            let mut end = held.end.lock();
            let sentence = end.lost.get_or_insert(sentence).clone();
            if let Some(halt) = &end.halt {
                halt.fail(Error::stop(sentence));
            }
        });
    }

    /// What ends when the lease is lost.
    pub fn watch(&self, halt: &Arc<Halt>) {
        let Some(held) = &self.0 else { return };
        let mut end = held.end.lock();
        end.halt = Some(halt.clone());
        if let Some(lost) = &end.lost {
            halt.fail(Error::stop(lost.clone()));
        }
    }

    /// Ends it, once nothing of the run is under way that asks it. Waits a second at most for the store to know.
    pub fn give_back(&self, how: GivenBack) {
        let Some(held) = &self.0 else { return };
        let mut end = held.end.lock();
        end.given_back = Some(how);
        held.renewer.notify_one();
        if !end.renewed_no_more {
            held.ended.wait_for(&mut end, Duration::from_secs(1));
        }
    }

    fn change(&self, change: impl FnOnce(&Held)) {
        if let Some(held) = &self.0 {
            change(held);
            held.changed.notify_waiters();
        }
    }
}

impl Held {
    fn holds(&self) -> bool {
        let now = (self.clock)();
        self.from.load(Ordering::Acquire) <= now && now < self.until.load(Ordering::Acquire)
    }
}

impl Renewing {
    /// The lease, to be renewed. If there is none, how it ended.
    pub fn lease(&self) -> Result<Lease, GivenBack> {
        let held = self.0.upgrade().ok_or(GivenBack::AsItStands)?;
        let given_back = held.end.lock().given_back;
        given_back.map_or(Ok(Lease(Some(held))), Err)
    }

    /// It is renewed no more, and the store knows.
    pub fn over(&self) {
        if let Some(held) = self.0.upgrade() {
            held.end.lock().renewed_no_more = true;
            held.ended.notify_all();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewer.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NOW: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn it_holds_from_its_beginning_to_its_end_and_never_once_lost() {
        let (lease, renewing) = Lease::by(|| NOW.load(Ordering::Relaxed), Arc::default());
        assert!(Lease::forever().holds() && !lease.holds());
        lease.renew(100);
        assert!(!lease.holds(), "the run before may still act");
        lease.begin(10);
        assert!(!lease.holds());
        NOW.store(10, Ordering::Relaxed);
        assert!(lease.holds());
        NOW.store(100, Ordering::Relaxed);
        assert!(!lease.holds());
        lease.renew(200);
        assert!(lease.holds());
        let halt = Arc::new(Halt::default());
        lease.watch(&halt);
        lease.lose("run 1 was replaced".into());
        lease.renew(300);
        assert!(!lease.holds() && halt.take().unwrap_err().to_string() == "run 1 was replaced");
        assert!(renewing.lease().is_ok());
        renewing.over();
        lease.give_back(GivenBack::InOrder);
        assert_eq!(renewing.lease().unwrap_err(), GivenBack::InOrder);
        drop(lease);
        assert_eq!(renewing.lease().unwrap_err(), GivenBack::AsItStands);
    }
}
