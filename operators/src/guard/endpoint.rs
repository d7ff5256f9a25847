//! A guard: what stands between us and one endpoint. Breaker, retry budget, rate, concurrency and timeout, in one.
//!
//! Who wants to call asks to [`enter`](Guard::enter), and gets an [`Entry`] or the time after which to ask again. A refusal asks nothing
//! of the endpoint, so it is no attempt (`Error::not_asked`). The entry is told what the call came to; one that is dropped without a word
//! counts as a timeout, for that is what drops calls.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, UNIX_EPOCH};

use parking_lot::Mutex;

use super::breaker::{Breaker, BreakerConfig, BreakerState, Probes, Ticket};
use super::budget::{Budget, BudgetConfig};
use super::concurrency::{Concurrency, ConcurrencyConfig, Slot};
use super::rate::{Rate, RateConfig};
use super::timeouts::{Timeouts, TimeoutsConfig};
use crate::clock::Clock;
use crate::epoch::unix_ms;
use crate::error::Error;

/// The bounds of all that guards an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardConfig {
    /// When nothing is asked for a while.
    pub breaker: BreakerConfig,
    /// How many retries there may be.
    pub budget: BudgetConfig,
    /// How long a call may take.
    pub timeouts: TimeoutsConfig,
    /// Calls per second.
    pub rate: RateConfig,
    /// Calls at once.
    pub concurrency: ConcurrencyConfig,
    /// How long a call waits in line for room before it is put off. Default: 5 s.
    pub patience: Duration,
    /// After so long without a success what the breaker refuses is given up (parked) instead of put off. Default: never.
    pub give_up_after: Option<Duration>,
}

impl Default for GuardConfig {
    fn default() -> Self {
        GuardConfig {
            breaker: BreakerConfig::default(),
            budget: BudgetConfig::default(),
            timeouts: TimeoutsConfig::default(),
            rate: RateConfig::default(),
            concurrency: ConcurrencyConfig::default(),
            patience: Duration::from_secs(5),
            give_up_after: None,
        }
    }
}

/// What stands before one endpoint, one per process.
pub struct Guard {
    name: String,
    config: GuardConfig,
    clock: Clock,
    concurrency: Concurrency,
    state: Mutex<State>,
}

struct State {
    breaker: Breaker,
    budget: Budget,
    timeouts: Timeouts,
    rate: Rate,
    refused: u64,
}

/// A call that was let through.
#[derive(Debug)]
pub struct Entry {
    guard: Arc<Guard>,
    ticket: Ticket,
    began: Instant,
    /// What a call may take.
    timeout: Duration,
    told: bool,
    // Given back last.
    _slot: Slot,
}

/// What a failed call failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no answer in time.
    Timeout,
    /// There was no connection, or it broke.
    Connection,
    /// The endpoint says that this is too much (429).
    TooMuch,
    /// The endpoint says that it failed (5xx).
    Server,
}

/// Why a call was not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When to ask again.
    pub wait: Duration,
    /// Why, for people.
    pub why: String,
    /// Whether it is no use to ask again.
    pub gives_up: bool,
}

/// How a guard stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardStatus {
    /// Its breaker.
    pub breaker: BreakerState,
    /// Since when that stands so, in Unix milliseconds.
    pub since: u64,
    /// How its probes go, if it is half open.
    pub probes: Option<Probes>,
    /// How often that has opened.
    pub opened: u64,
    /// When it lets calls through again, in Unix milliseconds, if it is open.
    pub open_until: Option<u64>,
    /// Why it opened last.
    pub because: Option<String>,
    /// Calls that were put off.
    pub refused: u64,
    /// Retries that are left in the budget.
    pub retries_left: f64,
    /// Calls per second there may be; `None` is no bound.
    pub rate: Option<f64>,
    /// What a call may take.
    pub timeout: Duration,
    /// Calls there may be at once; `None` as long as nothing bounds them.
    pub limit: Option<usize>,
    /// Calls under way.
    pub in_use: usize,
    /// Calls that wait in line.
    pub waiting: usize,
    /// How long the endpoint wants to be left alone.
    pub paused: Option<Duration>,
}

static GUARDS: Mutex<Vec<Weak<Guard>>> = Mutex::new(Vec::new());

/// All guards of the process, by name.
pub fn all() -> Vec<(String, GuardStatus)> {
    let guards: Vec<_> = GUARDS.lock().iter().filter_map(Weak::upgrade).collect();
    let mut all: Vec<_> = guards.iter().map(|guard| (guard.name.clone(), guard.status())).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

impl Guard {
    /// A guard, shown under its name for as long as it is there.
    pub fn new(name: impl Into<String>, config: GuardConfig, clock: Clock) -> Arc<Self> {
        let now = clock.now();
        let state = State {
            breaker: Breaker::new(config.breaker, now),
            budget: Budget::new(config.budget, now),
            timeouts: Timeouts::new(config.timeouts, now),
            rate: Rate::new(config.rate, now),
            refused: 0,
        };
        let concurrency = Concurrency::new(config.concurrency);
        let guard = Arc::new(Guard { name: name.into(), config, clock, concurrency, state: Mutex::new(state) });
        let mut guards = GUARDS.lock();
        guards.retain(|guard| guard.strong_count() > 0);
        guards.push(Arc::downgrade(&guard));
        drop(guards);
        guard
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks to make a call; `retry` says whether it is not the first of its change.
    ///
    /// # Errors
    /// Not now.
    pub async fn enter(self: &Arc<Self>, retry: bool) -> Result<Entry, Refused> {
        // Before it waits in line, where those should stand who may call.
        let open = self.state.lock().breaker.refuses(self.clock.now());
        if let Some(wait) = open {
            return Err(self.refuse(wait, Because::Breaker));
        }
        let slot = match self.concurrency.try_enter() {
            Some(slot) => slot,
            None => match self.clock.timeout(self.config.patience, self.concurrency.enter()).await {
                Ok(slot) => slot,
                Err(_) => return Err(self.refuse(Duration::from_millis(100), Because::Line)),
            },
        };
        let now = self.clock.now();
        let admitted = self.state.lock().admit(now, retry);
        let (ticket, timeout) = admitted.map_err(|(wait, because)| self.refuse(wait, because))?;
        Ok(Entry { guard: self.clone(), ticket, began: now, timeout, told: false, _slot: slot })
    }

    /// The endpoint wants to be left alone for so long.
    pub fn pause(&self, wait: Duration) {
        self.state.lock().rate.pause(self.clock.now() + wait);
    }

    /// How it stands.
    pub fn status(&self) -> GuardStatus {
        let (in_use, waiting) = self.concurrency.in_use();
        let limit = Some(self.concurrency.limit()).filter(|limit| *limit < usize::MAX);
        let (state, now) = (self.state.lock(), self.clock.now());
        GuardStatus {
            breaker: state.breaker.state(),
            since: unix_ms().saturating_sub(now.saturating_duration_since(state.breaker.since()).as_millis() as u64),
            probes: state.breaker.probes(),
            opened: state.breaker.opened(),
            open_until: state.breaker.refuses(now).map(|wait| unix_ms() + wait.as_millis() as u64),
            because: Some(state.breaker.because()).filter(|because| !because.is_empty()).map(str::to_owned),
            refused: state.refused,
            retries_left: state.budget.left(),
            rate: self.config.rate.per_second,
            timeout: state.timeouts.current(),
            limit,
            in_use,
            waiting,
            paused: state.rate.paused(now),
        }
    }

    fn refuse(&self, wait: Duration, because: Because) -> Refused {
        let mut state = self.state.lock();
        state.refused += 1;
        let (breaker, now) = (&state.breaker, self.clock.now());
        let away = breaker.failing_since().map(|since| now.saturating_duration_since(since));
        let limit = self.config.give_up_after.filter(|_| because == Because::Breaker);
        let gives_up = limit.is_some_and(|limit| away >= Some(limit));
        // Not longer than until it is given up.
        let left = limit.map(|limit| limit.saturating_sub(away.unwrap_or_default()).max(Duration::from_millis(1)));
        let wait = left.map_or(wait, |left| wait.min(left));
        let open = breaker.refuses(now).filter(|_| because == Because::Breaker).unwrap_or(wait);
        let until = Time(unix_ms() + open.as_millis() as u64);
        let why = match because {
            Because::Breaker if gives_up => format!("nothing has succeeded for {:?} ({})", whole(away), breaker.because()),
            Because::Breaker => format!("its breaker is open until {until} ({})", breaker.because()),
            Because::Rate if state.rate.paused(now).is_some() => format!("it wants to be left alone until {until}"),
            Because::Rate => "its calls per second are used up".to_owned(),
            Because::Budget => "its retries are used up; each success brings a new share".to_owned(),
            Because::Line => format!("it takes {} calls at once, and more wait", self.concurrency.limit()),
        };
        Refused { wait, why: format!("{} is not asked: {why}", self.name), gives_up }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    Breaker,
    Rate,
    Budget,
    Line,
}

impl State {
    /// The breaker last: a probe that it lets through must be made.
    fn admit(&mut self, now: Instant, retry: bool) -> Result<(Ticket, Duration), (Duration, Because)> {
        if let Some(wait) = self.breaker.refuses(now) {
            return Err((wait, Because::Breaker));
        }
        self.rate.take(now).map_err(|wait| (wait, Because::Rate))?;
        // Probes are few by themselves, and what ends the trouble must not wait for a success.
        if retry && self.breaker.state() == BreakerState::Closed {
            self.budget.take(now).map_err(|wait| (wait, Because::Budget))?;
        }
        let ticket = self.breaker.admit(now).map_err(|wait| (wait, Because::Breaker))?;
        Ok((ticket, self.timeouts.current()))
    }
}

impl Entry {
    /// What the call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The endpoint did its part: also if it says that this change is none it wants.
    pub fn succeeded(mut self) {
        self.told = true;
        let now = self.guard.clock.now();
        let mut state = self.guard.state.lock();
        state.breaker.succeeded(self.ticket, now);
        state.budget.succeeded();
        state.timeouts.answered(now.saturating_duration_since(self.began), now);
        drop(state);
        self.guard.concurrency.answered(self.began, now);
    }

    /// The call failed.
    pub fn failed(mut self, failure: Failure, why: &str) {
        self.fail(failure, why);
    }

    /// The call came to nothing that says how the endpoint is.
    pub fn nothing(mut self) {
        self.told = true;
        self.guard.state.lock().breaker.nothing(self.ticket);
    }

    fn fail(&mut self, failure: Failure, why: &str) {
        self.told = true;
        let now = self.guard.clock.now();
        let mut state = self.guard.state.lock();
        match failure {
            // It is there; how much it takes is for the limit and the pause.
            Failure::TooMuch => state.breaker.nothing(self.ticket),
            Failure::Timeout => {
                state.timeouts.timed_out(now);
                state.breaker.failed(self.ticket, now, why);
            }
            Failure::Connection | Failure::Server => state.breaker.failed(self.ticket, now, why),
        }
        drop(state);
        if failure != Failure::Server {
            self.guard.concurrency.too_much(self.began, now);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.told {
            self.fail(Failure::Timeout, "no answer in time");
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        if refused.gives_up { Error::park(refused.why).unasked() } else { Error::not_asked(refused.why, refused.wait) }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("name", &self.name).field("status", &self.status()).finish_non_exhaustive()
    }
}

fn whole(time: Option<Duration>) -> Duration {
    Duration::from_secs(time.unwrap_or_default().as_secs())
}

/// A time of day for people.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::clock::Hand;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn guard(config: GuardConfig) -> (Arc<Guard>, Arc<Hand>) {
        let hand = Arc::new(Hand::default());
        (Guard::new("https://example.com", config, Clock::turned_by(hand.clone())), hand)
    }

    fn enter(guard: &Arc<Guard>, retry: bool) -> Result<Entry, Refused> {
        guard.enter(retry).now_or_never().expect("nobody waits in line here")
    }

    #[test]
    fn an_open_breaker_says_until_when_and_why_and_uses_up_no_attempt() {
        let (guard, hand) = guard(GuardConfig { give_up_after: Some(60 * SECOND), ..GuardConfig::default() });
        for _ in 0..5 {
            enter(&guard, false).unwrap().failed(Failure::Connection, "connection refused");
        }
        let refused = enter(&guard, false).unwrap_err();
        assert_eq!(refused.wait, 10 * SECOND);
        let error = Error::from(refused);
        assert_eq!((error.kind(), error.was_asked(), error.wait()), (ErrorKind::Retry, false, Some(10 * SECOND)));
        let text = error.to_string();
        assert!(text.starts_with("https://example.com is not asked: its breaker is open until 20"), "{text}");
        assert!(text.ends_with("Z (5 failures in a row, the last: connection refused)"), "{text}");
        let shown = all().into_iter().find(|(name, _)| name == "https://example.com").unwrap().1;
        assert!(shown.breaker == BreakerState::Open && shown.open_until.is_some() && shown.opened == 1);
        hand.turn_to(61 * SECOND);
        enter(&guard, false).unwrap().failed(Failure::Connection, "connection refused");
        let given_up = Error::from(enter(&guard, false).unwrap_err());
        assert_eq!((given_up.kind(), given_up.was_asked()), (ErrorKind::Park, false));
    }

    #[test]
    fn a_call_that_is_dropped_counts_as_one_without_an_answer() {
        let (guard, _hand) = guard(GuardConfig::default());
        (0..5).for_each(|_| drop(enter(&guard, false).unwrap()));
        let status = guard.status();
        assert_eq!((status.breaker, status.in_use), (BreakerState::Open, 0));
        assert_eq!(status.because.unwrap(), "5 failures in a row, the last: no answer in time");
    }

    #[test]
    fn what_the_endpoint_asks_for_holds_all_and_is_no_failure() {
        let (guard, hand) = guard(GuardConfig::default());
        for _ in 0..20 {
            enter(&guard, false).unwrap().failed(Failure::TooMuch, "429");
        }
        guard.pause(30 * SECOND);
        let refused = enter(&guard, false).unwrap_err();
        assert!(refused.wait == 30 * SECOND && refused.why.contains("wants to be left alone until"), "{refused:?}");
        hand.turn_to(30 * SECOND);
        enter(&guard, false).unwrap().succeeded();
        assert_eq!(guard.status().breaker, BreakerState::Closed);
    }

    #[test]
    fn there_is_no_storm_of_retries() {
        for seed in 0..10 {
            let (guard, hand) = guard(GuardConfig::default());
            let mut random = StdRng::seed_from_u64(seed);
            let (mut calls, mut good) = (0_u32, 0_u32);
            // Five hundred callers that try again at once, for ten minutes. Nothing answers in the first five.
            for ms in (0..600_000_u64).step_by(20) {
                hand.turn_to(Duration::from_millis(ms));
                let is_up = ms >= 300_000;
                for _ in 0..random.random_range(0..5) {
                    let Ok(entry) = enter(&guard, random.random_bool(0.8)) else { continue };
                    if is_up {
                        good += 1;
                        entry.succeeded();
                    } else {
                        calls += 1;
                        entry.failed(Failure::Connection, "connection refused");
                    }
                }
            }
            assert!(calls <= 5 + 300 / 10, "seed {seed}: {calls} calls to a dead endpoint in five minutes");
            assert!(good > 5_000, "seed {seed}: {good} calls when it was back");
        }
    }
}
