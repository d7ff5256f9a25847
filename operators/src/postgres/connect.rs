//! Opening a connection and driving it, so that nobody waits for ever on a server that does not answer.
//!
//! The kernel notices a line that is dead, not a server that is frozen: its kernel goes on to acknowledge. And a statement that takes long cannot be
//! told from one that is never answered by looking at its connection. So while a connection that is in use is silent, its driver asks
//! the server on a connection of its own whether it answers at all. If it does, the statement may take its time; if not, the connection
//! is closed, and whoever waits on it gets an error of kind *retry*.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification, Socket};

use super::failure::failed;
use super::url::Url;
use crate::{Error, Result};

/// How connections to one database are opened and driven.
#[derive(Clone, Debug)]
pub(super) struct Opener {
    pub url: Url,
    pub purpose: String,
    /// How long opening may take, and how long a silence on a connection in use may last if the server answers nobody.
    pub patience: Duration,
    /// Settings of each session, as statements. Empty: the server's own.
    session: &'static str,
    /// Connections in use. With none, silence means nothing.
    in_use: Arc<AtomicUsize>,
    pulse: Arc<Pulse>,
}

/// When the server was last asked whether it answers, and whether it did. Connections that fall silent together ask once.
type Pulse = Mutex<Option<(Instant, bool)>>;

impl Opener {
    pub(super) fn new(url: &Url, purpose: &str, patience: Duration, in_use: Arc<AtomicUsize>) -> Opener {
        Opener { url: url.clone(), purpose: purpose.to_owned(), patience, session: "", in_use, pulse: Arc::default() }
    }

    /// The same, with settings for each session.
    pub(super) fn with_session(self, session: &'static str) -> Opener {
        Opener { session, ..self }
    }

    /// Opens a connection; its task ends with it. Notifications go where they are wanted.
    pub(super) async fn open(&self, notifications: Option<Sender<Notification>>) -> Result<(Client, JoinHandle<()>)> {
        let config = self.url.config(&self.purpose)?;
        match self.url.tls().connector()? {
            Some(tls) => self.open_by(config, tls, notifications).await,
            None => self.open_by(config, NoTls, notifications).await,
        }
    }

    async fn open_by<T>(
        &self,
        config: Config,
        tls: T,
        notifications: Option<Sender<Notification>>,
    ) -> Result<(Client, JoinHandle<()>)>
    where
        T: MakeTlsConnect<Socket> + Send + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (client, connection) = within(self.patience, &self.url, Box::pin(config.connect(tls))).await?;
        let driver = Driver { connection, opener: self.clone(), notifications };
        let task = tokio::spawn(driver.run());
        if !self.session.is_empty() {
            within(self.patience, &self.url, client.batch_execute(self.session)).await?;
        }
        Ok((client, task))
    }

    /// Whether the server has answered since then, or does so within the limit: any answer will do, a refusal too.
    async fn answers(&self, since: Instant, limit: Duration) -> bool {
        let mut pulse = self.pulse.lock().await;
        match *pulse {
            Some((asked, answered)) if asked >= since => return answered,
            _ => {}
        }
        let asked = Instant::now();
        let answered = self.ask(limit).await;
        *pulse = Some((asked, answered));
        answered
    }

    async fn ask(&self, limit: Duration) -> bool {
        let purpose = format!("{} (does it answer?)", self.purpose);
        let (Ok(config), Ok(tls)) = (self.url.config(&purpose), self.url.tls().connector()) else { return true };
        let tried = async {
            match tls {
                Some(tls) => config.connect(tls).await.map(drop),
                None => config.connect(NoTls).await.map(drop),
            }
        };
        match timeout(limit, Box::pin(tried)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => error.as_db_error().is_some(),
            Err(_) => false,
        }
    }
}

/// Waits for a connection, but not for ever.
async fn within<T>(limit: Duration, url: &Url, connect: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match timeout(limit, connect).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) => Err(failed(&format!("connecting to {url}"), error)),
        Err(_) => Err(Error::retry(format!(
            "connecting to {url}: no answer within {limit:?}; look whether the server runs and the network lets it be reached"
        ))),
    }
}

/// Lets a connection work, and watches its silences.
struct Driver<S, T> {
    connection: tokio_postgres::Connection<S, T>,
    opener: Opener,
    notifications: Option<Sender<Notification>>,
}

impl<S, T> Driver<S, T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Ends when the client is dropped, the connection is lost, or the server no longer answers anybody.
    async fn run(mut self) {
        // A silence of half the patience, then half of it for an answer: together no longer than was promised.
        let half = self.opener.patience / 2;
        loop {
            if !self.silent_for(half).await {
                return;
            }
            if self.opener.in_use.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Asked by a task of its own, whose steps do not wake this one: it would take them for signs of life.
            let opener = self.opener.clone();
            let silent_since = Instant::now() - half;
            let asked = pin!(tokio::spawn(async move { opener.answers(silent_since, half).await }));
            match self.work_until(asked).await {
                // It answers others, or something has come here after all.
                Some((Ok(true), _) | (_, true)) => {}
                Some(_) => {
                    let (database, patience) = (&self.opener.url, self.opener.patience);
                    tracing::warn!(%database, purpose = self.opener.purpose, "no answer for {patience:?}: the connection is given up");
                    return;
                }
                None => return,
            }
        }
    }

    /// Works until nothing has happened on the connection for that long. `false`: it has ended.
    async fn silent_for(&mut self, quiet: Duration) -> bool {
        let mut timer = pin!(sleep(quiet));
        loop {
            match self.work_until(timer.as_mut()).await {
                Some(((), true)) => timer.as_mut().reset(Instant::now() + quiet),
                Some(((), false)) => return true,
                None => return false,
            }
        }
    }

    /// Works until `other` is ready; says whether anything happened on the connection meanwhile. `None`: it has ended.
    async fn work_until<O>(&mut self, mut other: Pin<&mut impl Future<Output = O>>) -> Option<(O, bool)> {
        let mut polls = 0;
        poll_fn(|cx| {
            if let Poll::Ready(value) = other.as_mut().poll(cx) {
                // The first poll is our own; each further one was woken by the connection, or by the other.
                return Poll::Ready(Some((value, polls > 1)));
            }
            polls += 1;
            loop {
                match self.connection.poll_message(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Ready(Some(Err(error))) => {
                        let error = failed(&format!("the connection to {}", self.opener.url), error);
                        tracing::debug!(purpose = self.opener.purpose, %error, "a connection has ended");
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Some(Ok(message))) => self.hear(message),
                }
            }
        })
        .await
    }

    fn hear(&self, message: AsyncMessage) {
        match message {
            AsyncMessage::Notice(notice) => {
                tracing::debug!(purpose = self.opener.purpose, "{}: {}", notice.severity(), notice.message());
            }
            AsyncMessage::Notification(notification) => {
                if let Some(wanted) = &self.notifications {
                    // A full queue is a reader that has enough to wake up for.
                    let _ = wanted.try_send(notification);
                }
            }
            _ => {}
        }
    }
}
