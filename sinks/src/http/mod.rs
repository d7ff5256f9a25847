//! Requests over HTTP, whatever they mean: an [`Endpoint`] takes a [`Prepared`] request past its guard, sends it over a connection of its
//! pool, and gives the answer back. What is asked for and what an answer means is each action's own.

pub(crate) mod connect;
pub(crate) mod endpoint;
pub(crate) mod origin;
pub(crate) mod policy;
pub(crate) mod pool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_operators::action::call::Planned;
use highwater_operators::guard::{Guard, GuardConfig};
use hyper::Method;
use hyper::header::HeaderMap;

pub(crate) use self::endpoint::{Answer, Endpoint};
pub(crate) use self::origin::Origin;
pub(crate) use self::policy::{Policy, Verdict, words};
use self::pool::PoolBounds;
use crate::network::Resolve;
use crate::network::dial::literal_problem;
use crate::network::resolve::System;

/// A request that can be sent. Of headers that are marked as sensitive nothing is ever shown.
pub(crate) struct Prepared {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How an endpoint is reached: what can be said of it, whatever it is.
#[derive(Clone)]
pub(crate) struct Reach {
    pub allow_private: bool,
    pub root_certificates: Option<PathBuf>,
    pub resolver: Arc<dyn Resolve>,
    pub resolve_every: Duration,
    pub connection_timeout: Duration,
    pub pool: PoolBounds,
    pub guard: GuardConfig,
    pub shared_guard: Option<Arc<Guard>>,
    pub answer_max: usize,
    pub headers_max: usize,
    pub retry_after_max: Duration,
}

impl Default for Reach {
    fn default() -> Self {
        Reach {
            allow_private: false,
            root_certificates: None,
            resolver: Arc::new(System),
            resolve_every: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(5),
            pool: PoolBounds { max_connections: 0, idle_timeout: Duration::from_secs(60), max_age: Duration::from_secs(300) },
            guard: GuardConfig::default(),
            shared_guard: None,
            answer_max: 64 << 10,
            headers_max: 16 << 10,
            retry_after_max: Duration::from_secs(300),
        }
    }
}

impl Reach {
    /// What is wrong with going there, a sentence each.
    pub(crate) fn problems(&self, origins: &[Origin], planned: &Planned<'_>) -> Vec<String> {
        let literal = |origin: &Origin| literal_problem(&origin.host, &origin.shown, self.allow_private, planned);
        let mut problems: Vec<String> = origins.iter().filter_map(literal).collect();
        if origins.iter().any(|origin| origin.is_tls) {
            problems.extend(connect::tls(self.root_certificates.as_deref()).err());
        }
        problems
    }
}

/// Methods that say how an endpoint is reached, for a type with `fn reached(self, impl FnOnce(&mut Reach)) -> Self`.
macro_rules! reach_settings {
    () => {
        /// Lets it go to addresses that are not public. The setting `allow_private` does the same.
        pub fn allow_private(self) -> Self {
            self.reached(|reach| reach.allow_private = true)
        }

        /// Certificates to check the endpoint's one by, in PEM, instead of those that the machine trusts.
        pub fn root_certificates(self, file: impl Into<std::path::PathBuf>) -> Self {
            self.reached(|reach| reach.root_certificates = Some(file.into()))
        }

        /// Connections of HTTP/1 at most. Default: the action's `max_parallelism`.
        pub fn max_connections(self, connections: usize) -> Self {
            self.reached(|reach| reach.pool.max_connections = connections.max(1))
        }

        /// How long an idle connection is kept. Default: 60 s.
        pub fn idle_timeout(self, timeout: std::time::Duration) -> Self {
            self.reached(|reach| reach.pool.idle_timeout = timeout)
        }

        /// How long a connection is used before it is made anew. Default: 5 min.
        pub fn max_age(self, age: std::time::Duration) -> Self {
            self.reached(|reach| reach.pool.max_age = age)
        }

        /// How long connecting may take, for each address. Default: 5 s.
        pub fn connection_timeout(self, timeout: std::time::Duration) -> Self {
            self.reached(|reach| reach.connection_timeout = timeout)
        }

        /// How long the addresses of the host are used before they are asked for again. Default: 30 s.
        pub fn resolve_every(self, every: std::time::Duration) -> Self {
            self.reached(|reach| reach.resolve_every = every)
        }

        /// Finds the addresses of the host in another way than the machine's. What it finds is checked like any other.
        pub fn resolved_by(self, resolver: impl $crate::network::Resolve) -> Self {
            self.reached(|reach| reach.resolver = std::sync::Arc::new(resolver))
        }

        /// Breaker, retry budget, rate, level of calls and timeout.
        pub fn guard(self, config: highwater_operators::guard::GuardConfig) -> Self {
            self.reached(|reach| reach.guard = config)
        }

        /// Shares a guard with other actions that go to the same endpoint.
        pub fn guarded_by(self, guard: &std::sync::Arc<highwater_operators::guard::Guard>) -> Self {
            self.reached(|reach| reach.shared_guard = Some(guard.clone()))
        }

        /// Parks changes, instead of waiting, once nothing has succeeded for so long and the breaker is open. Default: it waits.
        pub fn give_up_after(self, time: std::time::Duration) -> Self {
            self.reached(|reach| reach.guard.give_up_after = Some(time))
        }

        /// The longest wait that `Retry-After` may ask for. Default: 5 min.
        pub fn retry_after_max(self, wait: std::time::Duration) -> Self {
            self.reached(|reach| reach.retry_after_max = wait)
        }
    };
}
pub(crate) use reach_settings;
