//! A call: the request, what the guard says to it, and what its answer means for the change.

use std::sync::Arc;
use std::time::SystemTime;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, BoxFuture, Delivery, Surroundings};
use highwater_operators::clock::Clock;
use highwater_operators::guard::{Entry, Failure, Guard, GuardConfig};
use highwater_operators::{Error, Result, pools};
use rustls::pki_types::ServerName;

use super::connect::{Connector, tls};
use super::exchange::{Answer, NoAnswer};
use super::policy::{Verdict, retry_after, words};
use super::pool::{Pool, PoolBounds};
use super::request::Prepared;
use super::resolve::Addresses;
use super::{Description, Webhook};

/// What is opened of a webhook, one per process.
pub(super) struct Open {
    pub guard: Arc<Guard>,
    pub pool: Arc<Pool>,
    pub clock: Clock,
}

/// How much of an answer is kept with a parked change.
const KEPT: usize = 1024;

impl Action for Webhook {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let (open, description) = (self.open()?, self.description());
            let prepared = description.prepare(&delivery)?;
            match description.ask(&open, &prepared, delivery.attempt() > 1).await? {
                (Verdict::Delivered, _) => Ok(()),
                (_, answer) => Err(description.error(&answer, &prepared)),
            }
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description().check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.opened(around);
    }
}

impl Webhook {
    pub(super) fn open(&self) -> Result<Arc<Open>> {
        // A call without a pipeline around it is a test, or a program of its own.
        let alone =
            || Surroundings { action: "webhook".to_owned(), max_parallelism: 100, clock: Clock::default(), allow_private: false };
        let opened = match self.open.get() {
            Some(opened) => opened,
            None => self.opened(&alone()),
        };
        opened.clone().map_err(Error::stop)
    }

    pub(super) fn opened(&self, around: &Surroundings) -> &Result<Arc<Open>, String> {
        self.open.get_or_init(|| Open::new(self.description(), around).map(Arc::new))
    }
}

impl Open {
    fn new(description: &Description, around: &Surroundings) -> Result<Self, String> {
        let problems = || description.problems.join("; ");
        let origin = description.origin.as_ref().filter(|_| description.problems.is_empty()).ok_or_else(problems)?;
        let every = description.resolve_every;
        let host = origin.host.to_string();
        let tls = match origin.is_tls {
            false => None,
            true => {
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|_| "the URL's host cannot have a certificate".to_owned())?;
                Some((name, tls(description.root_certificates.as_deref())?))
            }
        };
        let connector = Connector {
            addresses: Addresses::new(origin.host.clone(), origin.port, description.resolver.clone(), every),
            allow_private: description.allow_private || around.allow_private,
            timeout: description.connection_timeout,
            headers_max: description.headers_max,
            tls,
        };
        let max_connections = match description.pool.max_connections {
            0 => around.max_parallelism,
            connections => connections,
        };
        let pool = Pool::new(connector, PoolBounds { max_connections, ..description.pool });
        let name = format!("{} at {}", around.action, origin.shown);
        let shown: Arc<dyn pools::Shown> = pool.clone();
        pools::show(&name, Arc::downgrade(&shown));
        let mut config: GuardConfig = description.guard;
        config.concurrency.max = config.concurrency.max.min(around.max_parallelism);
        let guard = description.shared_guard.clone().unwrap_or_else(|| Guard::new(name, config, around.clock.clone()));
        Ok(Open { guard, pool, clock: around.clock.clone() })
    }
}

impl Description {
    /// Sends a request, if the guard lets it through, and tells it what came of that.
    pub(super) async fn ask(&self, open: &Open, prepared: &Prepared, retry: bool) -> Result<(Verdict, Answer)> {
        let entry = open.guard.enter(retry).await?;
        let limit = entry.timeout();
        match open.clock.timeout(limit, self.exchange(open, prepared)).await {
            Ok(Ok(answer)) => Ok((self.conclude(open, entry, &answer), answer)),
            Ok(Err(NoAnswer::Refused(why))) => {
                entry.nothing();
                Err(self.park(why))
            }
            Ok(Err(NoAnswer::Broken(why))) => {
                entry.failed(Failure::Connection, &why);
                Err(Error::retry(format!("{}: {why}", self.shown())))
            }
            Err(_) => {
                let why = format!("no answer within {limit:.1?}");
                entry.failed(Failure::Timeout, &why);
                Err(Error::retry(format!("{}: {why}", self.shown())))
            }
        }
    }

    fn conclude(&self, open: &Open, entry: Entry, answer: &Answer) -> Verdict {
        let verdict = self.policy.judge(answer.status);
        match (verdict, answer.status) {
            (_, 429) => entry.failed(Failure::TooMuch, "429"),
            (Verdict::Retry, 500..) => entry.failed(Failure::Server, &words(answer.status)),
            // It is there and answers, whatever it says of this change.
            _ => entry.succeeded(),
        }
        // Both speak of the endpoint, not of one change.
        if matches!(answer.status, 429 | 503)
            && let Some(wait) = self.retry_after(answer)
        {
            open.guard.pause(wait);
        }
        verdict
    }

    fn retry_after(&self, answer: &Answer) -> Option<std::time::Duration> {
        retry_after(answer.retry_after.as_deref()?, SystemTime::now(), self.retry_after_max)
    }

    /// An answer that is no success, as an error with what the endpoint said.
    pub(super) fn error(&self, answer: &Answer, prepared: &Prepared) -> Error {
        let said = self.said(answer, prepared);
        let text = format!("{}: {}{said}", self.shown(), words(answer.status));
        let error = match (self.policy.judge(answer.status), self.retry_after(answer)) {
            (Verdict::Retry, Some(wait)) => Error::retry(text).retry_after(wait),
            (Verdict::Retry, None) => Error::retry(text),
            _ => Error::park(text),
        };
        match said.strip_prefix(": ") {
            Some(response) => error.with_response(response),
            None => error,
        }
    }

    /// The beginning of an answer on one line, without what we sent in secret and it may have sent back.
    pub(super) fn said(&self, answer: &Answer, prepared: &Prepared) -> String {
        let text = String::from_utf8_lossy(&answer.body);
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let own = prepared.headers.iter().filter(|(name, _)| self.headers.iter().any(|(ours, _)| ours == *name));
        let values = own.filter_map(|(_, value)| value.to_str().ok()).flat_map(|value| [Some(value), value.split(' ').nth(1)]);
        let path = prepared.target.split('?').next();
        for secret in values.flatten().chain([prepared.target.as_str()]).chain(path).filter(|secret| secret.len() >= 6) {
            text = text.replace(secret, "***");
        }
        let text = text.trim();
        let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= KEPT).unwrap_or(text.len());
        let more = if end < text.len() || !answer.is_whole { " ..." } else { "" };
        if text.is_empty() { String::new() } else { format!(": {}{more}", &text[..end]) }
    }
}
