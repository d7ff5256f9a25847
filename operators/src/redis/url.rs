//! Where a Redis is and who connects: read from a URL, shown without its secrets.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::open::Tls;
use super::password::Password;
use crate::{Error, Result, percent};

/// How long opening a connection may take if the URL (`connect_timeout`) does not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take if the URL (`response_timeout`) does not say.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The parameters that may follow the `?`.
const PARAMETERS: &str =
    "rootcert, passfile, client_name, connect_timeout, response_timeout, and for a socket db, user, password";

/// Where a Redis is, and who connects to it.
///
/// Shown, by `Display` as by `Debug`, it has neither its password nor its parameters.
///
/// ```
/// use highwater_operators::redis::Url;
/// let url = Url::parse("rediss://ada:secret@cache.example:6380/2?response_timeout=2")?;
/// assert_eq!(url.to_string(), "rediss://ada@cache.example:6380/2");
/// # Ok::<(), highwater_operators::Error>(())
/// ```
#[derive(Clone)]
pub struct Url {
    text: Arc<str>,
    place: Place,
    user: Option<String>,
    password: Password,
    db: u16,
    tls: Option<Tls>,
    client_name: String,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Socket(PathBuf),
}

impl Url {
    /// Reads `redis://user:password@host:port/db?parameter=value`. `rediss://` speaks TLS and checks chain and host name of the server's
    /// certificate: by the certificates of `?rootcert=FILE`, else by those that the machine trusts. `unix:///path/of/socket?db=0&user=..&password=..`
    /// names a socket. Percent signs escape as in every URL.
    ///
    /// What is left out is `localhost`, 6379, database 0, and no login; a password without a user is the one of the user `default`.
    ///
    /// | parameter | unit | default | |
    /// | --- | --- | --- | --- |
    /// | `rootcert` | file | | with `rediss`: the certificates to check the server's one by |
    /// | `passfile` | file | | holds the password and nothing else; read for each connection, so that it may change |
    /// | `client_name` | | `highwater` | how `CLIENT LIST` shows our connections, with what each is for |
    /// | `connect_timeout` | seconds | 5 | how long opening a connection may take |
    /// | `response_timeout` | seconds | 5 | how long an answer may take; a connection without one for so long is given up |
    ///
    /// # Errors
    /// Say what is wrong with the URL, without showing it.
    pub fn parse(text: &str) -> Result<Url> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("it does not begin with redis://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (tls, socket) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "unix" | "redis+unix" => (false, true),
            _ => return Err(refuse("it begins with neither redis:// nor rediss:// (TLS) nor unix:// (a socket)")),
        };
        let mut parts = Parts { socket, ..Parts::default() };
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = credentials.split_once(':').map_or((credentials, None), |(user, password)| (user, Some(password)));
        parts.user = given(decode(user)?);
        parts.password = password.map(decode).transpose()?.and_then(given);
        let place = if socket {
            if !host.is_empty() || path.len() < 2 {
                return Err(refuse("a socket is a whole path: unix:///run/redis/redis.sock"));
            }
            Place::Socket(decode(path)?.into())
        } else {
            if path.len() > 1 {
                parts.db = db(&decode(&path[1..])?)?;
            }
            tcp(host)?
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| refuse("a parameter has no value"))?;
            parts.set(name, decode(value)?)?;
        }
        parts.finish(text, place, tls)
    }

    /// The same server and the same user with passwords from this function, asked for each connection that is opened. So a password that is rotated
    /// is picked up without a restart.
    #[must_use]
    pub fn with_password(&self, ask: impl Fn() -> Result<String> + Send + Sync + 'static) -> Url {
        Url { password: Password::Asked(Arc::new(ask)), ..self.clone() }
    }

    /// The same URL at another host and port: a proxy's, say. One of a socket leads to the host then.
    #[must_use]
    pub fn at(&self, host: &str, port: u16) -> Url {
        let text = match (&self.place, self.text.split_once("://")) {
            (Place::Tcp(..), Some((scheme, rest))) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
                format!("{scheme}://{}{host}:{port}{}", &rest[..start], &rest[end..])
            }
            _ => format!("redis://{host}:{port}/{}", self.db),
        };
        Url { text: text.into(), place: Place::Tcp(host.to_owned(), port), ..self.clone() }
    }

    /// The URL as it was given, with its password if it has one: for another program's arguments, never for a log.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The number of the database.
    pub fn db(&self) -> u16 {
        self.db
    }

    /// The user of its access list who connects; `None`: `default`.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// How long opening a connection may take.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long an answer may take.
    pub fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// The same server with another limit for answers.
    #[must_use]
    pub fn with_response_timeout(&self, limit: Duration) -> Url {
        Url { response_timeout: limit, ..self.clone() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// How the server shows a connection for `purpose`: it takes neither spaces nor line ends.
    pub(super) fn client_name(&self, purpose: &str) -> String {
        let name = format!("{}:{purpose}", self.client_name);
        name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect()
    }

    /// Who logs in; asks for the password.
    pub(super) fn login(&self) -> Result<redis::RedisConnectionInfo> {
        let mut login =
            redis::RedisConnectionInfo::default().set_db(i64::from(self.db)).set_lib_name("highwater", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = self.password.get()? {
            login = login.set_password(password);
        }
        Ok(login)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        match &self.place {
            Place::Tcp(host, port) => {
                let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{user}{open}{host}{close}:{port}/{}", self.db)
            }
            Place::Socket(path) => write!(f, "unix://{user}{}?db={}", path.display(), self.db),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// What was read so far.
#[derive(Default)]
struct Parts {
    socket: bool,
    user: Option<String>,
    password: Option<String>,
    passfile: Option<PathBuf>,
    db: u16,
    root: Option<PathBuf>,
    client_name: Option<String>,
    connect_timeout: Option<Duration>,
    response_timeout: Option<Duration>,
}

impl Parts {
    fn set(&mut self, name: &str, value: String) -> Result {
        match name {
            "rootcert" => self.root = Some(value.into()),
            "passfile" => self.passfile = Some(value.into()),
            "client_name" => self.client_name = Some(value),
            "connect_timeout" => self.connect_timeout = Some(seconds(name, &value)?),
            "response_timeout" => self.response_timeout = Some(seconds(name, &value)?),
            "db" if self.socket => self.db = db(&value)?,
            "user" if self.socket => self.user = given(value),
            "password" if self.socket => self.password = given(value),
            // A password with a bare `?` ends up here: only what looks like a name is repeated.
            name if name.len() < 30 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                return Err(refuse(&format!("it has a parameter `{name}`; there are {PARAMETERS}")));
            }
            _ => return Err(refuse(&format!("it has an unknown parameter; there are {PARAMETERS}"))),
        }
        Ok(())
    }

    fn finish(self, text: &str, place: Place, tls: bool) -> Result<Url> {
        if self.root.is_some() && !tls {
            return Err(refuse("rootcert is for TLS, and it begins with rediss:// then"));
        }
        let password = match (self.password, self.passfile) {
            (Some(_), Some(_)) => return Err(refuse("it has a password and a passfile: leave one of them out")),
            (Some(password), None) => Password::Given(password.into()),
            (None, Some(path)) => Password::File(path),
            (None, None) => Password::None,
        };
        if self.user.is_some() && password.is_none() {
            return Err(refuse(
                "it has a user and no password: a user logs in with one (`user:password@`, or passfile); a password alone is written `:password@`",
            ));
        }
        Ok(Url {
            text: text.into(),
            place,
            user: self.user,
            password,
            db: self.db,
            tls: tls.then(|| Tls::new(self.root)),
            client_name: self.client_name.unwrap_or_else(|| "highwater".to_owned()),
            connect_timeout: self.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            response_timeout: self.response_timeout.unwrap_or(RESPONSE_TIMEOUT),
        })
    }
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// `a:1` with names, addresses and `[::1]`.
fn tcp(place: &str) -> Result<Place> {
    let (host, after) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) => (host, after),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match after.strip_prefix(':') {
        Some(port) => port
            .parse()
            .map_err(|_| refuse("a port is a number up to 65535 (a `/`, `:` or `@` in a password is written %2F, %3A or %40)"))?,
        None => 6379,
    };
    Ok(Place::Tcp(given(decode(host)?).unwrap_or_else(|| "localhost".to_owned()), port))
}

fn db(text: &str) -> Result<u16> {
    text.parse().map_err(|_| refuse("the database is a number, as in redis://host:6379/0"))
}

fn seconds(name: &str, text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse().unwrap_or(0.0);
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if (0.05..=86_400.0).contains(&seconds) => Ok(time),
        _ => Err(refuse(&format!("{name} is a number of seconds, from 0.05 to 86400"))),
    }
}

fn decode(text: &str) -> Result<String> {
    percent::decode(text).map_err(refuse)
}

fn refuse(why: &str) -> Error {
    Error::stop(format!("the URL of Redis cannot be read: {why}. It is written redis://user:password@host:port/db"))
}

#[cfg(test)]
mod tests;
