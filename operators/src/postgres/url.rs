//! Where a database is and who connects: read from a URL, shown without its secrets.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::password::Password;
use super::tls::{SslMode, Tls};
use crate::{Error, Result, percent};

/// How long opening a connection may take if neither the URL (`connect_timeout`) nor a pool says.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The parameters that may follow the `?`.
const PARAMETERS: &str = "sslmode, sslrootcert, host, port, user, password, passfile, dbname, application_name, connect_timeout, \
                          keepalives_idle, keepalives_interval, keepalives_retries, tcp_user_timeout, target_session_attrs, options";

/// Where a Postgres database is, and who connects to it.
///
/// Shown, by `Display` as by `Debug`, it has neither its password nor its parameters.
///
/// ```
/// use highwater_operators::postgres::Url;
/// let url = Url::parse("postgres://ada:secret@db.example:5433/shop?sslmode=verify-full")?;
/// assert_eq!(url.to_string(), "postgres://ada@db.example:5433/shop");
/// # Ok::<(), highwater_operators::Error>(())
/// ```
#[derive(Clone)]
pub struct Url {
    text: Arc<str>,
    hosts: Vec<(String, u16)>,
    user: String,
    database: String,
    password: Password,
    tls: Tls,
    application: String,
    connect_timeout: Duration,
    /// All but user, password, hosts and application name, which are set for each connection.
    config: Config,
}

impl Url {
    /// Reads `postgres://user:password@host:port/database?parameter=value`. Several hosts are separated by commas; a socket's folder is
    /// given as `?host=/folder`. Percent signs escape as in every URL.
    ///
    /// What is left out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE`, then is `localhost`, 5432, `postgres`, and the user's name. A
    /// password that is left out comes from `PGPASSWORD`, else from the file that `passfile` or `PGPASSFILE` names, else from
    /// `~/.pgpass`; files are read again for each connection.
    ///
    /// # Errors
    /// Say what is wrong with the URL, without showing it.
    pub fn parse(text: &str) -> Result<Url> {
        Self::parse_with(text, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn parse_with(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Url> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or_else(|| refuse("it does not begin with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, places) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (credentials, None),
        };
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut parts = Parts {
            user: given(decode(user)?),
            password,
            database: given(decode(path)?),
            hosts: hosts(places)?,
            port: None,
            passfile: None,
            ssl_mode: SslMode::Prefer,
            root: None,
            application: "highwater".to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            config: Config::new(),
        };
        parts.config.keepalives(true).keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
        parts.config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(60));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| refuse("a parameter has no value"))?;
            parts.set(name, decode(value)?)?;
        }
        parts.finish(text, env)
    }

    /// The same database and the same user with passwords from this function, asked for each connection that is opened. So a password that is
    /// rotated is picked up without a restart.
    #[must_use]
    pub fn with_password(&self, ask: impl Fn() -> Result<String> + Send + Sync + 'static) -> Url {
        Url { password: Password::Asked(Arc::new(ask)), ..self.clone() }
    }

    /// The same URL at another host and port: a proxy's, say.
    #[must_use]
    pub fn at(&self, host: &str, port: u16) -> Url {
        let text = match self.text.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
                format!("{scheme}://{}{host}:{port}{}", &rest[..start], &rest[end..])
            }
            None => self.text.to_string(),
        };
        Url { text: text.into(), hosts: vec![(host.to_owned(), port)], ..self.clone() }
    }

    /// The URL as it was given, with its password if it has one: for another program's arguments, never for a log.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Who connects.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// How long opening a connection may take.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Whether another password may be got without a restart.
    pub(super) fn password_may_change(&self) -> bool {
        self.password.may_change()
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(super) fn hosts(&self) -> &[(String, u16)] {
        &self.hosts
    }

    /// How the server shows a connection for `purpose`.
    pub(super) fn application(&self, purpose: &str) -> String {
        format!("{} {purpose}", self.application)
    }

    pub(super) fn options(&self) -> Option<&str> {
        self.config.get_options()
    }

    /// The password, asked for now.
    pub(super) fn password(&self) -> Result<Option<String>> {
        let (host, port) = self.hosts.first().map_or(("", 0), |(host, port)| (host.as_str(), *port));
        self.password.get(host, port, &self.database, &self.user)
    }

    /// What a connection for `purpose` is opened with; asks for the password.
    pub(super) fn config(&self, purpose: &str) -> Result<Config> {
        let mut config = self.config.clone();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        config.user(&self.user).dbname(&self.database).ssl_mode(self.tls.mode().for_driver());
        config.application_name(self.application(purpose));
        if let Some(password) = self.password()? {
            config.password(password);
        }
        Ok(config)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.user)?;
        for (n, (host, port)) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}:{port}", if n == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// What was read so far.
struct Parts {
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    hosts: Vec<(String, Option<u16>)>,
    port: Option<u16>,
    passfile: Option<PathBuf>,
    ssl_mode: SslMode,
    root: Option<PathBuf>,
    application: String,
    connect_timeout: Duration,
    config: Config,
}

impl Parts {
    fn set(&mut self, name: &str, value: String) -> Result {
        let seconds = || number(name, &value).map(|n| Duration::from_secs(n.into()));
        match name {
            "sslmode" => self.ssl_mode = SslMode::parse(&value)?,
            "sslrootcert" => self.root = Some(value.into()),
            "host" => self.hosts = value.split(',').map(|host| (host.to_owned(), None)).collect(),
            "port" => self.port = Some(port(&value)?),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "passfile" => self.passfile = Some(value.into()),
            "dbname" => self.database = Some(value),
            "application_name" => self.application = value,
            "connect_timeout" => self.connect_timeout = seconds()?.max(Duration::from_secs(1)),
            "keepalives_idle" => _ = self.config.keepalives_idle(seconds()?),
            "keepalives_interval" => _ = self.config.keepalives_interval(seconds()?),
            "keepalives_retries" => _ = self.config.keepalives_retries(number(name, &value)?),
            "tcp_user_timeout" => _ = self.config.tcp_user_timeout(seconds()?),
            "target_session_attrs" => {
                self.config.target_session_attrs(match value.as_str() {
                    "any" => TargetSessionAttrs::Any,
                    "read-write" => TargetSessionAttrs::ReadWrite,
                    "read-only" => TargetSessionAttrs::ReadOnly,
                    _ => return Err(refuse("target_session_attrs is any, read-write or read-only")),
                });
            }
            "options" => _ = self.config.options(value),
            // A password with a bare `?` ends up here: only what looks like a name is repeated.
            name if name.len() < 30 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                return Err(refuse(&format!("it has a parameter `{name}`; there are {PARAMETERS}")));
            }
            _ => return Err(refuse(&format!("it has an unknown parameter; there are {PARAMETERS}"))),
        }
        Ok(())
    }

    fn finish(self, text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Url> {
        let default_port = match (self.port, env("PGPORT")) {
            (Some(port), _) => port,
            (None, Some(text)) => port(&text)?,
            (None, None) => 5432,
        };
        let mut hosts = self.hosts;
        if hosts.is_empty() {
            hosts.push((env("PGHOST").unwrap_or_else(|| "localhost".to_owned()), None));
        }
        let user = self.user.or_else(|| env("PGUSER")).unwrap_or_else(|| "postgres".to_owned());
        let database = self.database.or_else(|| env("PGDATABASE")).unwrap_or_else(|| user.clone());
        let password = match self.password.or_else(|| env("PGPASSWORD")) {
            Some(password) => Password::Given(password.into()),
            None => Password::file(self.passfile.or_else(|| env("PGPASSFILE").map(PathBuf::from)), env("HOME")),
        };
        Ok(Url {
            text: text.into(),
            hosts: hosts.into_iter().map(|(host, port)| (host, port.unwrap_or(default_port))).collect(),
            user,
            database,
            password,
            tls: Tls::new(self.ssl_mode, self.root),
            application: self.application,
            connect_timeout: self.connect_timeout,
            config: self.config,
        })
    }
}

/// `a:1,b` with names, addresses and `[::1]`.
fn hosts(places: &str) -> Result<Vec<(String, Option<u16>)>> {
    let mut hosts = Vec::new();
    for place in places.split(',').filter(|place| !place.is_empty()) {
        let (host, after) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, after)) => (host, after),
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = after.strip_prefix(':').map(port).transpose()?;
        hosts.push((decode(host)?, port));
    }
    Ok(hosts)
}

fn port(text: &str) -> Result<u16> {
    text.parse()
        .map_err(|_| refuse("a port is a number up to 65535 (a `/`, `:` or `@` in a password is written %2F, %3A or %40)"))
}

fn number(name: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|_| refuse(&format!("{name} is a whole number")))
}

/// Turns `%40` into `@`.
fn decode(text: &str) -> Result<String> {
    percent::decode(text).map_err(refuse)
}

fn refuse(why: &str) -> Error {
    Error::stop(format!(
        "the URL of the database cannot be read: {why}. It is written postgres://user:password@host:port/database"
    ))
}

#[cfg(test)]
mod tests;
