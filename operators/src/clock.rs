//! The time that waits go by: the machine's, or one that a test turns by hand.
//!
//! Retries, timeouts, the age of cached rows, hold budgets and the checkpoint's interval go by it. In production that is one look at a
//! flag per wait. Epochs go on with the machine's clock in either case, and jump when the hand is turned.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::epoch::EpochClock;

/// How often, with a hand on the clock, an operator looks again whether its time has come.
const LOOK: Duration = Duration::from_millis(1);

/// What was waited for did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer in time")
    }
}

impl std::error::Error for Elapsed {}

/// The time that waits go by, as a part of its own: for what is to know nothing of epochs.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Hand>>);

impl Clock {
    /// One that goes by a hand.
    pub fn turned_by(hand: Arc<Hand>) -> Self {
        Clock(Some(hand))
    }

    /// The instant by which ages are reckoned.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(hand) => hand.anchor + hand.now(),
        }
    }

    /// Waits.
    pub async fn sleep(&self, wait: Duration) {
        match &self.0 {
            None => tokio::time::sleep(wait).await,
            Some(hand) => hand.sleep(wait).await,
        }
    }

    /// Waits for a call, but not longer than `wait`.
    ///
    /// # Errors
    /// It took longer.
    pub async fn timeout<T>(&self, wait: Duration, call: impl Future<Output = T>) -> Result<T, Elapsed> {
        let Some(hand) = &self.0 else {
            return tokio::time::timeout(wait, call).await.map_err(|_| Elapsed);
        };
        let _calling = hand.calling();
        let (mut call, mut over) = (pin!(call), pin!(hand.sleep(wait)));
        std::future::poll_fn(|context| match call.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => over.as_mut().poll(context).map(|()| Err(Elapsed)),
        })
        .await
    }
}

/// Nanoseconds since boot, the time that the machine slept included, by which leases are measured: a laptop that was closed has none when it
/// wakes.
#[cfg(any(feature = "boottime", feature = "postgres"))]
pub fn since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl EpochClock {
    /// The same time for what is to know nothing of epochs.
    pub fn waits(&self) -> Clock {
        Clock(self.hand.get().cloned())
    }

    /// Lets waits go by this hand from now on, once and for all.
    pub fn turn_by(&self, hand: Arc<Hand>) {
        let _ = self.hand.set(hand);
    }

    /// The instant by which ages are reckoned.
    pub fn now(&self) -> Instant {
        self.waits().now()
    }

    /// Waits.
    pub async fn sleep(&self, wait: Duration) {
        self.waits().sleep(wait).await;
    }

    /// Waits for a call, but not longer than `wait`.
    ///
    /// # Errors
    /// It took longer.
    pub async fn timeout<T>(&self, wait: Duration, call: impl Future<Output = T>) -> Result<T, Elapsed> {
        self.waits().timeout(wait, call).await
    }

    /// Works on something that is no wait: a hand is not turned on meanwhile.
    pub async fn working<T>(&self, work: impl Future<Output = T>) -> T {
        let _calling = self.hand.get().map(|hand| hand.calling());
        work.await
    }

    /// How long an operator that wants to run again after `wait` may let the machine's clock run.
    pub fn look_again(&self, wait: Duration) -> Duration {
        self.hand.get().map_or(wait, |_| wait.min(LOOK))
    }

    /// The same for the next save.
    pub fn save_due_in(&self, wait: Duration) -> Duration {
        if let Some(hand) = self.hand.get() {
            let mut state = hand.state.lock();
            state.save_due = Some(state.now + wait);
        }
        self.look_again(wait)
    }
}

/// A clock's hand. It stands still until it is turned.
pub struct Hand {
    anchor: Instant,
    state: Mutex<Turned>,
    fired: AtomicU64,
    calling: Mutex<u64>,
}

#[derive(Default)]
struct Turned {
    now: Duration,
    sleepers: BTreeMap<(Duration, u64), Option<Waker>>,
    next: u64,
    save_due: Option<Duration>,
}

impl Default for Hand {
    fn default() -> Self {
        Hand { anchor: Instant::now(), state: Mutex::default(), fired: AtomicU64::new(0), calling: Mutex::new(0) }
    }
}

impl Hand {
    /// How far it was turned.
    pub fn now(&self) -> Duration {
        self.state.lock().now
    }

    /// Turns it to a time, if that is not past, and wakes whoever waited for it.
    pub fn turn_to(&self, time: Duration) {
        let mut due = Vec::new();
        {
            let mut state = self.state.lock();
            state.now = state.now.max(time);
            let now = state.now;
            due.extend(state.sleepers.range_mut(..=(now, u64::MAX)).filter_map(|(_, waker)| waker.take()));
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// The next time that somebody waits for. `saves`: whether there is something to save.
    pub fn next(&self, saves: bool) -> Option<Duration> {
        let state = self.state.lock();
        let sleeper = state.sleepers.keys().next().map(|(until, _)| *until);
        let save = state.save_due.filter(|_| saves);
        sleeper.into_iter().chain(save).min()
    }

    /// Whether a save is due that has not begun, if there is something to save.
    pub fn save_is_due(&self) -> bool {
        let state = self.state.lock();
        state.save_due.is_some_and(|due| due <= state.now)
    }

    /// How many wait.
    pub fn sleepers(&self) -> usize {
        self.state.lock().sleepers.len()
    }

    /// Waits that have ended.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Acquire)
    }

    /// Calls under way that have neither been answered nor given up.
    pub fn calls(&self) -> u64 {
        *self.calling.lock()
    }

    /// Forgets what a run left that is no more.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.sleepers.clear();
        state.save_due = None;
        drop(state);
        *self.calling.lock() = 0;
    }

    fn calling(self: &Arc<Self>) -> Calling {
        *self.calling.lock() += 1;
        Calling(self.clone())
    }

    fn sleep(self: &Arc<Self>, wait: Duration) -> Sleep {
        let mut state = self.state.lock();
        let key = (state.now + wait, state.next);
        state.next += 1;
        state.sleepers.insert(key, None);
        drop(state);
        Sleep { hand: self.clone(), key }
    }
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand").field("now", &self.now()).field("sleepers", &self.sleepers()).finish_non_exhaustive()
    }
}

struct Calling(Arc<Hand>);

impl Drop for Calling {
    fn drop(&mut self) {
        let mut calling = self.0.calling.lock();
        *calling = calling.saturating_sub(1);
    }
}

struct Sleep {
    hand: Arc<Hand>,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.hand.state.lock();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.hand.state.lock().sleepers.remove(&self.key);
        self.hand.fired.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_hand_that_is_turned_ends_the_waits_up_to_there() {
        let clock = EpochClock::after(0);
        let (hand, before) = (Arc::new(Hand::default()), clock.mint());
        clock.turn_by(hand.clone());
        let (mut short, mut long) =
            (Box::pin(clock.sleep(Duration::from_secs(60))), Box::pin(clock.sleep(Duration::from_secs(600))));
        assert!((&mut short).now_or_never().is_none() && (&mut long).now_or_never().is_none());
        assert_eq!((hand.next(false), hand.sleepers()), (Some(Duration::from_secs(60)), 2));
        hand.turn_to(Duration::from_secs(60));
        assert!((&mut short).now_or_never().is_some() && (&mut long).now_or_never().is_none());
        assert!(clock.mint() >= before + 60_000);
        drop((short, long));
        assert_eq!(hand.sleepers(), 0);
    }

    #[test]
    fn a_call_is_given_up_when_its_time_is_over() {
        let clock = EpochClock::after(0);
        let hand = Arc::new(Hand::default());
        clock.turn_by(hand.clone());
        let mut call = Box::pin(clock.timeout(Duration::from_secs(30), std::future::pending::<()>()));
        assert!((&mut call).now_or_never().is_none());
        assert_eq!(hand.calls(), 1);
        hand.turn_to(Duration::from_secs(30));
        assert_eq!(call.now_or_never(), Some(Err(Elapsed)));
        assert_eq!(hand.calls(), 0);
    }
}
