//! A connection of one's own, for what needs its session: listening, locks, replication, a transaction over many calls.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Notification};

use super::connect::Opener;
use super::failure::failed;
use super::url::Url;
use crate::{Error, Result};

/// Notifications that may wait to be taken.
const NOTIFICATIONS_MAX: usize = 1024;

/// A connection that belongs to one user. It is closed when this is dropped; the server then rolls back what was not committed.
///
/// When the connection is lost, or the server answers nobody for longer than `connect_timeout`, all calls on it fail with an error of which
/// [`is_away`](super::is_away) is true; open another one then.
pub struct Connection {
    client: Client,
    backend_pid: i32,
    notifications: Receiver<Notification>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Opens one. The server shows it as `highwater PURPOSE` (`application_name` in `pg_stat_activity`).
    ///
    /// # Errors
    /// Of kind *retry* if the server is away or does not answer within the URL's `connect_timeout`; of kind *stop* if it refuses for good (wrong
    /// password, no such database).
    pub async fn open(url: &Url, purpose: &str) -> Result<Connection> {
        Self::open_within(url, purpose, url.connect_timeout()).await
    }

    /// Opens one within `patience`, which counts later too: no call hangs longer than that if the server answers nobody.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_within(url: &Url, purpose: &str, patience: Duration) -> Result<Connection> {
        let opener = Opener::new(url, purpose, patience, Arc::new(AtomicUsize::new(1)));
        let (sender, notifications) = channel(NOTIFICATIONS_MAX);
        let (client, task) = opener.open(Some(sender)).await?;
        let mut connection = Connection { client, backend_pid: 0, notifications, task };
        let row = connection.client.query_one("select pg_backend_pid()", &[]).await;
        connection.backend_pid = row.map_err(|error| failed(&format!("connecting to {url}"), error))?.get(0);
        Ok(connection)
    }

    /// The process that serves it, as `pg_stat_activity` and `pg_terminate_backend` know it.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// What was notified after `listen`. Ends (`None`) when the connection does.
    ///
    /// A notification is a reason to look, not a message: when 1,024 wait to be taken, further ones are dropped.
    pub fn notifications(&mut self) -> &mut Receiver<Notification> {
        &mut self.notifications
    }

    /// Waits for the next notification. Nothing is lost if this is dropped half-way.
    ///
    /// # Errors
    /// Of kind *retry* when the connection has ended.
    pub async fn notified(&mut self) -> Result<Notification> {
        self.notifications.recv().await.ok_or_else(|| Error::retry("the connection that listens to the database was lost"))
    }
}

impl Deref for Connection {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What is queued (a roll-back, say) is of no use any more: the server rolls back by itself.
        self.task.abort();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection(backend {})", self.backend_pid)
    }
}
