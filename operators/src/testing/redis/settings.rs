//! How a private server is set up.

use super::server::Server;
use crate::Result;

/// Settings of a server that is to be started.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) keeps: Keeps,
    pub(super) tls: bool,
    pub(super) password: Option<String>,
    pub(super) users: Vec<String>,
    pub(super) replica_of: Option<u16>,
    pub(super) set: Vec<(String, String)>,
}

/// What a restart brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All that was answered (`appendfsync always`).
    All,
    /// All that was written to the log, synced once a second (`appendfsync everysec`). A `kill -9` loses at most what was not yet answered.
    Log,
    /// Nothing: a restart is an empty server.
    Nothing,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { keeps: Keeps::Nothing, tls: false, password: None, users: Vec::new(), replica_of: None, set: Vec::new() }
    }
}

impl Settings {
    /// What a restart brings back. Default: nothing.
    #[must_use]
    pub fn keeps(mut self, keeps: Keeps) -> Self {
        self.keeps = keeps;
        self
    }

    /// Sets one of the server's settings, as in `redis.conf`: `("maxmemory-policy", "allkeys-lru")`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.set.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The password of the user `default`, who needs none otherwise.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A user, as `ACL SETUSER` takes it: `ada on >secret ~orders* +@read`. They are there again after each start.
    #[must_use]
    pub fn user(mut self, rules: &str) -> Self {
        self.users.push(rules.to_owned());
        self
    }

    /// Speaks TLS alone, with a certificate for `localhost`.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Copies the server at this port, and takes no writes.
    #[must_use]
    pub fn replica_of(mut self, primary: &Server) -> Self {
        self.replica_of = Some(primary.port());
        self
    }

    /// Starts a server with these settings.
    ///
    /// # Errors
    /// If there is no Redis on the machine (says what to install), or it does not start (with the end of its log).
    pub fn start(self) -> Result<Server> {
        Server::with(self)
    }
}
