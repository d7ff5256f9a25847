//! A database of a private server.

use std::path::{Path, PathBuf};

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use crate::postgres::{Url, failed};
use crate::{Error, Result};

/// A fresh database of a private server.
#[derive(Clone, Debug)]
pub struct Database {
    url: Url,
    folder: PathBuf,
    port: u16,
}

impl Database {
    pub(super) fn new(url: Url, folder: PathBuf, port: u16) -> Self {
        Database { url, folder, port }
    }

    /// A superuser's URL, by TCP and without TLS.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.url.database()
    }

    /// The URL of another user, by TCP with a password. `parameters` follow the `?`: `sslmode=require`, say.
    pub fn url_of(&self, user: &str, password: &str, parameters: &str) -> Result<Url> {
        let escaped: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
        Url::parse(&format!("postgres://{user}:{escaped}@localhost:{}/{}?{parameters}", self.port, self.name()))
    }

    /// Runs statements as superuser, on a connection of their own; the rows of all of them, as text. May be called from asynchronous code too;
    /// it blocks meanwhile.
    pub fn sql(&self, text: &str) -> Result<Vec<Vec<Option<String>>>> {
        sql(&self.folder, self.port, self.name(), text)
    }

    /// The first column of the only row.
    pub fn one(&self, text: &str) -> Result<String> {
        let mut rows = self.sql(text)?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row.into_iter().next().flatten().unwrap_or_default()),
            _ => Err(Error::stop(format!("not one row: {text}"))),
        }
    }
}

/// On a thread of its own, so that it works inside a runtime and without one.
pub(super) fn sql(folder: &Path, port: u16, database: &str, text: &str) -> Result<Vec<Vec<Option<String>>>> {
    let mut config = Config::new();
    config.host_path(folder).port(port).user("postgres").dbname(database);
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let shown = || text.chars().take(80).collect::<String>();
            let (client, connection) =
                config.connect(NoTls).await.map_err(|error| failed("connecting to the private server", error))?;
            let connection = tokio::spawn(connection);
            let messages = client.simple_query(text).await.map_err(|error| failed(&format!("`{}`", shown()), error))?;
            drop(client);
            // A session that has ended is gone from `pg_stat_activity` for whoever looks next.
            let _ = connection.await;
            Ok(messages.into_iter().filter_map(row).collect())
        })
    };
    std::thread::scope(|scope| scope.spawn(ask).join()).unwrap_or_else(|_| Err(Error::stop("asking the private server panicked")))
}

fn row(message: SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
        _ => None,
    }
}
