//! Redis as a place where actions go: entries of streams, items of lists, messages of channels.
//!
//! | action | command | guarantee |
//! | --- | --- | --- |
//! | [`RedisAppend`] | `XADD` | at least once, with the idempotency key in a field; once within a window, if asked |
//! | [`RedisPush`] | `RPUSH`, `LPUSH` | at least once; once within a window, if asked |
//! | [`RedisPublish`] | `PUBLISH` | sent at least once to whoever listens at that moment, and to nobody else |
//!
//! All of a batch goes out in one pipeline, over one connection that comes back by itself; each change has its own answer. A server that is away, full
//! or a replica says nothing of a change, so waiting for it uses up no attempt. `docs/redis-sinks.md` has the settings and what each costs.

mod append;
mod command;
mod publish;
mod push;
mod send;

use std::time::Duration;

use highwater_operators::guard::GuardConfig;
use highwater_operators::redis::Url;

pub use self::append::RedisAppend;
pub use self::publish::RedisPublish;
pub use self::push::RedisPush;
use self::send::Sender;

/// What all of them are told of server and batch.
#[derive(Clone)]
struct Reach {
    url: Result<Url, String>,
    guard: GuardConfig,
    batch_max: usize,
    /// How long a marker keeps repeats out; `None`: there is none.
    once: Option<Duration>,
    /// What the keys of markers begin with.
    prefix: String,
}

impl Reach {
    fn new(url: &str) -> Self {
        let url = Url::parse(url).map_err(|error| error.to_string());
        let prefix = "highwater:once:".to_owned();
        Reach { url, guard: GuardConfig::default(), batch_max: 500, once: None, prefix }
    }

    fn place(&self, what: &str) -> String {
        match &self.url {
            Ok(url) => format!("{what} at {url}"),
            Err(_) => format!("{what} of Redis"),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.url.as_ref().err().cloned().into_iter().collect();
        if self.once.is_some_and(|window| window < Duration::from_millis(1)) {
            problems.push("once_within(..) wants a millisecond at least".to_owned());
        }
        problems
    }
}

/// The settings that all of them have, written once.
macro_rules! settings {
    () => {
        /// Bounds of the guard before the server: breaker, retries, rate, calls at once, timeouts.
        pub fn guard(self, guard: highwater_operators::guard::GuardConfig) -> Self {
            self.with(|description| description.reach.guard = guard)
        }

        /// Changes that are sent together at most. Default: 500.
        pub fn batch(self, max: usize) -> Self {
            self.with(|description| description.reach.batch_max = max.max(1))
        }
    };
}

/// Those of actions that can leave out repeats.
macro_rules! once {
    () => {
        /// Leaves out repeats for so long: a marker with the change's idempotency key is set in the same step, and where it is set already nothing is
        /// done. So a change that is sent again after a crash, or because its answer was lost, stands there once, if it is sent again within the
        /// window and the server still has the marker: one that was emptied, evicts keys, or lost them in a fail-over does not.
        ///
        /// Costs a key per change for the length of the window (about 150 bytes), and a script instead of a command.
        pub fn once_within(self, window: std::time::Duration) -> Self {
            self.with(|description| description.reach.once = Some(window))
        }

        /// What the keys of those markers begin with. Default: `highwater:once:`.
        pub fn once_prefix(self, prefix: impl Into<String>) -> Self {
            self.with(|description| description.reach.prefix = prefix.into())
        }
    };
}

use {once, settings};
