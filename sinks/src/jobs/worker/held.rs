//! A job that this process holds, for as long as its lease lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_operators::Error;
use highwater_operators::clock::since_boot;
use tokio::sync::Notify;

use crate::jobs::job::{Content, decode, unreadable};
use crate::jobs::store::{Claim, Fate, Leased, Settlement};

/// A job that this process holds.
#[derive(Debug)]
pub(in crate::jobs) struct Held {
    pub leased: Leased,
    pub content: Content,
    /// Why it cannot be done, if its bytes are damaged.
    pub unreadable: Option<Error>,
    /// Until when, in nanoseconds since boot. Reckoned from before the store was asked, so that it ends here before it ends there.
    until: AtomicU64,
    ended: Notify,
}

impl Held {
    pub(super) fn new(leased: Leased, until: u64) -> Self {
        let (content, unreadable) = match decode(&leased.body) {
            Ok(content) => (content, None),
            // Whoever gets it parks it.
            Err(error) => (unreadable(leased.claim.number), Some(error)),
        };
        Held { leased, content, unreadable, until: AtomicU64::new(until), ended: Notify::new() }
    }

    pub(in crate::jobs) fn claim(&self) -> Claim {
        self.leased.claim
    }

    pub(in crate::jobs) fn is_held(&self) -> bool {
        since_boot() < self.until.load(Ordering::Acquire)
    }

    /// It is held until then, unless it was ended.
    pub(super) fn renew(&self, until: u64) {
        let longer = |now: u64| (now > 0).then_some(now.max(until));
        let _ = self.until.fetch_update(Ordering::AcqRel, Ordering::Acquire, longer);
    }

    /// It is another's.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
        self.ended.notify_one();
    }

    /// Returns when it is not held any more.
    pub(super) async fn lost(&self) {
        loop {
            let left = self.until.load(Ordering::Acquire).saturating_sub(since_boot());
            if left == 0 {
                return;
            }
            tokio::select! {
                () = self.ended.notified() => {}
                () = tokio::time::sleep(Duration::from_nanos(left)) => {}
            }
        }
    }

    pub(super) fn settled(&self, fate: Fate) -> Settlement {
        Settlement { claim: self.claim(), id: self.content.id.clone(), lane: self.content.lane(), fate }
    }
}
