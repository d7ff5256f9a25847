//! Letters in Postgres: requests in a table, the notice in the row of the lease.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_postgres::GenericClient;

use super::link::Of;
use super::write::Writer;
use crate::checkpoint::place::Letters;
use crate::checkpoint::requests::{Request, RequestId};
use crate::error::{Error, Result};
use crate::postgres::failed;

pub(super) const PENDING: &str = "select id, request::text from observer_requests where listener_id = $1 order by id limit 1000";
pub(super) const NOTICE: &str = "select notice from observer_leases where listener_id = $1 and notice is not null \
                                 order by generation desc, process limit 1";
pub(super) const REMOVE: &str = "delete from observer_requests where listener_id = $1 and id = any ($2)";

/// What a run has heard and has to say. The connection that renews the lease carries it, so nobody waits for a database that
/// is away.
#[derive(Default)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    pub(super) wake: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    pending: Vec<(RequestId, Request)>,
    /// Requests that are done with, to be removed.
    done: Vec<i64>,
    /// The notice, until it hangs.
    notice: Option<Option<String>>,
    hangs: Option<String>,
}

/// The letters of a pipeline, for its run where that has a mailbox, and for people.
#[derive(Clone)]
pub(super) struct TableLetters {
    pub of: Of,
    pub run: Option<(Arc<Mailbox>, Writer)>,
}

impl Mailbox {
    /// The mailbox of a run that finds these requests at its start.
    pub(super) fn with(pending: Vec<(RequestId, Request)>) -> Self {
        let mailbox = Mailbox::default();
        mailbox.inner.lock().pending = pending;
        mailbox
    }

    /// Something is to be sent at once.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes what a renewal has brought: pairs of number and request, as JSON.
    pub(super) fn received(&self, asked: Option<&str>) {
        let asked: Vec<(i64, serde_json::Value)> = asked.and_then(|asked| serde_json::from_str(asked).ok()).unwrap_or_default();
        let mut inner = self.inner.lock();
        let done = std::mem::take(&mut inner.done);
        inner.pending = asked
            .into_iter()
            .filter(|(id, _)| !done.contains(id))
            .filter_map(|(id, request)| Some((RequestId(id.to_string()), read(id, request)?)))
            .collect();
        inner.done = done;
    }

    /// Sends what there is to send.
    pub(super) async fn send(&self, connection: &tokio_postgres::Client, of: &Of, writer: Writer) -> Result {
        let wrong = |error| failed("writing letters to the checkpoint store", error);
        let (done, notice) = {
            let inner = self.inner.lock();
            (inner.done.clone(), inner.notice.clone())
        };
        let name = &*of.pipeline;
        if !done.is_empty() {
            connection.execute(REMOVE, &[&name, &done]).await.map_err(wrong)?;
            self.inner.lock().done.retain(|id| !done.contains(id));
        }
        if let Some(notice) = notice {
            let hang = "update observer_leases set notice = $4 where listener_id = $1 and generation = $2 and process = $3";
            connection.execute(hang, &[&name, &writer.generation, &writer.process, &notice]).await.map_err(wrong)?;
            let mut inner = self.inner.lock();
            if inner.notice.as_ref() == Some(&notice) {
                inner.notice = None;
            }
        }
        Ok(())
    }
}

fn read(id: i64, request: serde_json::Value) -> Option<Request> {
    match serde_json::from_value(request) {
        Ok(request) => Some(request),
        Err(error) => {
            tracing::debug!(id, %error, "a row of observer_requests is no request");
            None
        }
    }
}

/// The requests there are.
pub(super) async fn pending(client: &impl GenericClient, name: &str) -> Result<Vec<(RequestId, Request)>, tokio_postgres::Error> {
    let request = |row: &tokio_postgres::Row| {
        let id: i64 = row.get(0);
        Some((RequestId(id.to_string()), read(id, serde_json::from_str(row.get(1)).ok()?)?))
    };
    Ok(client.query(PENDING, &[&name]).await?.iter().filter_map(request).collect())
}

impl TableLetters {
    fn ask<T>(&self, what: &str, work: impl AsyncFn(&tokio_postgres::Client) -> Result<T, tokio_postgres::Error>) -> Result<T> {
        let link = &self.of.link;
        let work = &work;
        link.insist_briefly(what, |_| async move {
            let client = link.client().await?;
            work(&client).await.map_err(|error| failed(what, error))
        })
    }
}

impl Letters for TableLetters {
    fn leave(&self, request: Request) -> Result {
        let text =
            serde_json::to_string(&request).map_err(|error| Error::stop("a request could not be written").because(error))?;
        let name = &*self.of.pipeline;
        self.ask("leaving a request", async |client| {
            let add = "insert into observer_requests (listener_id, request) values ($1, $2::text::jsonb)";
            client.execute(add, &[&name, &text]).await.map(drop)
        })
    }

    fn pending(&self) -> Result<Vec<(RequestId, Request)>> {
        if let Some((mailbox, _)) = &self.run {
            return Ok(mailbox.inner.lock().pending.clone());
        }
        let name = &*self.of.pipeline;
        self.ask("reading requests", async |client| pending(client, name).await)
    }

    fn remove(&self, id: &RequestId) -> Result {
        let number = id.0.parse::<i64>().map_err(|_| Error::stop(format!("{} is no number of a request", id.0)))?;
        if let Some((mailbox, _)) = &self.run {
            let mut inner = mailbox.inner.lock();
            inner.pending.retain(|(pending, _)| pending != id);
            inner.done.push(number);
            drop(inner);
            mailbox.wake.notify_one();
            return Ok(());
        }
        let name = &*self.of.pipeline;
        self.ask("removing a request", async |client| client.execute(REMOVE, &[&name, &vec![number]]).await.map(drop))
    }

    fn post(&self, notice: &str) -> Result {
        let Some((mailbox, _)) = &self.run else { return Err(Error::stop("only a run hangs up a notice")) };
        let mut inner = mailbox.inner.lock();
        inner.hangs = Some(notice.to_owned());
        inner.notice = Some(Some(notice.to_owned()));
        drop(inner);
        mailbox.wake.notify_one();
        Ok(())
    }

    fn notice(&self) -> Option<String> {
        let name = &*self.of.pipeline;
        let row = self.ask("looking for the running pipeline", async |client| client.query_opt(NOTICE, &[&name]).await);
        row.ok().flatten().and_then(|row| row.get(0))
    }

    fn take_down(&self, notice: &str) {
        let Some((mailbox, _)) = &self.run else { return };
        let mut inner = mailbox.inner.lock();
        if inner.hangs.as_deref() == Some(notice) {
            inner.hangs = None;
            inner.notice = Some(None);
            drop(inner);
            mailbox.wake.notify_one();
        }
    }
}
