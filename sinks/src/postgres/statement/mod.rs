//! A statement in Postgres as an action: run for each change, with parameters from it. Also how a change becomes a notification.
//!
//! What a parameter is made of says `parameters`; how a batch goes through, and what an error means, says `run`.

mod parameters;
mod run;

use std::sync::{Arc, OnceLock};

use highwater_operators::action::Surroundings;
use highwater_operators::action::call::Planned;
use highwater_operators::postgres::{Pool, PoolConfig, Url};
use highwater_operators::{Error, Result};

use self::parameters::Parameter;
use crate::template::missing_lookups;

/// A statement that is run in Postgres for each change.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::PostgresStatement;
///
/// let notify = PostgresStatement::run("postgres://shop@localhost/shop", "select notify_order($1, $2, $3)")
///     .parameters(["{key}", "{after.amount}", "{idempotency_key}"]);
/// action("notify", notify);
///
/// action("wake", PostgresStatement::notify("postgres://shop@localhost/shop", "orders", r#"{"order": {key}}"#));
/// ```
///
/// # Guarantee
/// Run and committed at least once for each change, for those of one key in source order. It is run again if its answer was lost, and after a
/// crash if its success was not noted; `{idempotency_key}` is then the same, so that the statement can leave out a repeat (`insert ..
/// on conflict do nothing`). What must be there exactly once goes to a [`PostgresTable`](crate::PostgresTable).
///
/// # Parameters
/// Each is a template. One that is a place and nothing else (`{after.amount}`) is the value there, null where the change has none; the server's own
/// type of the parameter decides how it is read, so no casts are needed: JSON lists become arrays, documents JSON, `{time}` a time. What
/// has text too (`order {key}`) must find all its places. What begins as JSON does (`{"order": {key}}`), and every parameter of a
/// type of JSON, is filled as JSON.
#[derive(Clone)]
pub struct PostgresStatement {
    description: Description,
    /// Opened by the first worker.
    open: Arc<OnceLock<Result<Pool, String>>>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    url: String,
    sql: String,
    parameters: Vec<Parameter>,
    /// Whether a batch may be one transaction.
    together: bool,
    /// The channel, if it is a notification.
    channel: Option<String>,
    batch_max: usize,
    retry: Vec<String>,
    park: Vec<String>,
    pool: PoolConfig,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

impl PostgresStatement {
    /// One statement, with `$1`, `$2` and so on for its [`parameters`](Self::parameters).
    pub fn run(url: impl Into<String>, sql: impl Into<String>) -> Self {
        let pool = PoolConfig {
            min_connections: 1,
            max_connections: 4,
            connection_timeout: std::time::Duration::from_secs(10),
            ..PoolConfig::default()
        };
        let description = Description {
            url: url.into(),
            sql: sql.into(),
            parameters: Vec::new(),
            together: true,
            channel: None,
            batch_max: 100,
            retry: Vec::new(),
            park: Vec::new(),
            pool,
            problems: Vec::new(),
        };
        PostgresStatement { description, open: Arc::default() }
    }

    /// A notification (`NOTIFY`) to whoever listens to the channel, with a payload that is filled like a parameter; `{change}` is the change in the
    /// default envelope. A change whose payload has 8,000 bytes or more, which Postgres does not take, is parked.
    ///
    /// Each is a transaction of its own, since Postgres makes one of equal notifications of a transaction. Whoever is not listening at that moment hears
    /// nothing, and what was lost is not sent again: let it be a reason to look, not the message.
    pub fn notify(url: impl Into<String>, channel: impl Into<String>, payload: &str) -> Self {
        let channel = channel.into();
        let mut notify = Self::run(url, "select pg_notify($1, $2)").one_by_one();
        if channel.is_empty() || channel.len() > 63 {
            notify.description.problems.push(format!("{channel:?} is no channel: it has 1 to 63 bytes"));
        }
        let parameters = [Ok(Parameter::text(&channel)), Parameter::parse(payload)];
        notify.set_parameters(parameters.into_iter().collect());
        notify.description.channel = Some(channel);
        notify
    }

    fn with(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Arc::default();
        self
    }

    fn set_parameters(&mut self, parameters: Result<Vec<Parameter>, String>) {
        match parameters {
            Ok(parameters) => self.description.parameters = parameters,
            Err(problem) => self.description.problems.push(problem),
        }
    }

    /// What `$1`, `$2` and so on are: a template each, see [above](Self#parameters).
    pub fn parameters<T: AsRef<str>>(mut self, templates: impl IntoIterator<Item = T>) -> Self {
        self.set_parameters(templates.into_iter().map(|template| Parameter::parse(template.as_ref())).collect());
        self.open = Arc::default();
        self
    }

    /// Each run is a transaction of its own, still sent together. Default: those of a batch share one, unless one of them fails; then they are
    /// run again, each by itself. For statements that no transaction takes, and where each notification of a function is to arrive.
    pub fn one_by_one(self) -> Self {
        self.with(|description| description.together = false)
    }

    /// Changes that are sent together at most. Default: 100.
    pub fn batch(self, max: usize) -> Self {
        self.with(|description| description.batch_max = max.max(1))
    }

    /// Errors whose SQLSTATE begins like this are tried again: `["P0001"]`.
    pub fn retry_on<S: Into<String>>(self, codes: impl IntoIterator<Item = S>) -> Self {
        self.with(|description| description.retry.extend(codes.into_iter().map(Into::into)))
    }

    /// A change is parked when the SQLSTATE begins like this: `["42"]`, which stops the pipeline otherwise.
    pub fn park_on<S: Into<String>>(self, codes: impl IntoIterator<Item = S>) -> Self {
        self.with(|description| description.park.extend(codes.into_iter().map(Into::into)))
    }

    /// The pool its connections come from. Default: 1 to 4 connections, 10 s to get one.
    pub fn pool(self, pool: PoolConfig) -> Self {
        self.with(|description| description.pool = pool)
    }

    fn opened(&self, around: &Surroundings) -> &Result<Pool, String> {
        self.open.get_or_init(|| self.description.open(&around.action).map_err(|error| error.to_string()))
    }
}

impl Description {
    fn open(&self, action: &str) -> Result<Pool> {
        if !self.problems.is_empty() {
            return Err(Error::stop(self.problems.join("; ")));
        }
        Pool::new(&Url::parse(&self.url)?, self.pool, action)
    }

    fn place(&self) -> String {
        let at = Url::parse(&self.url).map_or_else(|_| "a database".to_owned(), |url| url.to_string());
        match &self.channel {
            Some(channel) => format!("channel {channel} at {at}"),
            None => format!("a statement at {at}"),
        }
    }

    fn check(&self, planned: &Planned<'_>) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(Url::parse(&self.url).err().map(|error| error.to_string()));
        if self.sql.trim().is_empty() {
            problems.push("its statement is empty".to_owned());
        }
        if let Some(code) = self.retry.iter().find(|code| self.park.contains(code)) {
            problems.push(format!("SQLSTATE {code} is said to mean two things; name it in one of retry_on and park_on"));
        }
        problems.extend(missing_lookups(self.parameters.iter().map(Parameter::template), planned));
        problems
    }
}

impl std::fmt::Debug for PostgresStatement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStatement({})", self.description.place())
    }
}
