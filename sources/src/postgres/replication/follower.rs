//! A slot that is followed by `START_REPLICATION`: what arrives, and how far it is confirmed.
//!
//! The server is told how far the slot may move by a task of its own, so that it hears of us however long nobody takes what has arrived.

use std::time::Duration;

use highwater_operators::postgres::{Incoming, Outgoing, Walsender, quote, quote_text};
use highwater_operators::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Description;
use super::lsn::Lsn;
use super::session::{PINNED, UNLIMITED};
use super::token::Identity;
use crate::postgres::AS_IT_IS;

/// How often the server is told how far the slot may move, at most.
const CONFIRM_EVERY: Duration = Duration::from_millis(50);
/// How often it hears of us although nothing has changed; less if it is less patient than usual.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Something that has arrived.
#[derive(Debug)]
pub(super) enum Arrived<'a> {
    /// A message of the log, in its order.
    Message { lsn: Lsn, text: &'a [u8] },
    /// There is nothing up to here but what has arrived.
    Alive { end: Lsn },
    /// Nothing of the log.
    Nothing,
}

/// What the server is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    /// The slot may move to here.
    end: Lsn,
    /// How often it has asked whether we are there.
    asked: u64,
}

/// A slot that is followed.
pub(super) struct Follower {
    incoming: Incoming,
    told: watch::Sender<Told>,
    teller: JoinHandle<()>,
}

impl Follower {
    /// Follows the slot from `from`. The server is told at first that all up to `durable` is.
    pub(super) async fn start(description: &Description, identity: &Identity, from: Lsn, durable: Lsn) -> Result<Follower> {
        let mut session = Walsender::open(description.url()?, "replication stream").await?;
        let system = session.query("IDENTIFY_SYSTEM").await?;
        let field = |at: usize| system.first().and_then(|row| row.get(at)?.as_deref());
        if field(0) != Some(&identity.system.to_string()) || field(1) != Some(&identity.timeline.to_string()) {
            return Err(Error::retry(format!(
                "following: the server is {} on timeline {}, and the one that was looked at is {} on timeline {}",
                field(0).unwrap_or("?"),
                field(1).unwrap_or("?"),
                identity.system,
                identity.timeline
            )));
        }
        for (name, value) in PINNED {
            session.query(&format!("set {name} = '{value}'")).await?;
        }
        session.query(UNLIMITED).await?;
        session.query(AS_IT_IS).await?;
        let limit = session.query("select setting from pg_settings where name = 'wal_sender_timeout'").await?;
        let limit = limit.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).filter(|limit| *limit > 0);
        let alive = limit.map_or(ALIVE_EVERY, |limit| ALIVE_EVERY.min(Duration::from_millis(limit) / 4));
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {}, messages 'true')",
            quote(&description.slot),
            quote_text(&quote(description.publication()))
        );
        let (incoming, outgoing) = session.stream(&command).await?;
        let told = watch::Sender::new(Told { end: durable, asked: 0 });
        let teller = tokio::spawn(tell(outgoing, told.subscribe(), alive));
        Ok(Follower { incoming, told, teller })
    }

    /// Waits until [`take`](Self::take) has something. Nothing is lost if this is dropped half-way.
    pub(super) async fn fill(&mut self) -> Result {
        self.incoming.fill().await
    }

    /// The next thing that has arrived, if there is one.
    pub(super) fn take(&mut self) -> Result<Option<Arrived<'_>>> {
        let Some(piece) = self.incoming.take()? else { return Ok(None) };
        let strange = || Error::stop("following the slot: the server sends what is no part of a stream of changes");
        let (arrived, asks) = arrived(piece).ok_or_else(strange)?;
        if asks {
            self.told.send_modify(|told| told.asked += 1);
        }
        Ok(Some(arrived))
    }

    /// The slot may move to here.
    pub(super) fn confirm(&self, end: Lsn) {
        self.told.send_if_modified(|told| {
            let is_more = end > told.end;
            told.end = told.end.max(end);
            is_more
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // With it the line is closed.
        self.teller.abort();
    }
}

/// What a piece of the stream is, and whether the server asks for an answer. `None`: it is none.
fn arrived(piece: &[u8]) -> Option<(Arrived<'_>, bool)> {
    let number = |at: usize| Some(Lsn(u64::from_be_bytes(*piece.get(at..)?.first_chunk()?)));
    match piece.first() {
        // Where it stands, how far the server is, when it was sent, and the message.
        Some(b'w') => Some((Arrived::Message { lsn: number(1)?, text: piece.get(25..)? }, false)),
        // How far the server has read, when it was sent, and whether it wants an answer.
        Some(b'k') => Some((Arrived::Alive { end: number(1)? }, *piece.get(17)? == 1)),
        None => Some((Arrived::Nothing, false)),
        Some(_) => None,
    }
}

/// Tells the server how far the slot may move, and that we are there, until nobody wants it told or the line is lost.
async fn tell(mut outgoing: Outgoing, mut told: watch::Receiver<Told>, alive: Duration) {
    loop {
        let Told { end, .. } = *told.borrow_and_update();
        let mut status = vec![b'r'];
        // Written, flushed and applied are one: what is durable here.
        [end.0, end.0, end.0, 0].iter().for_each(|number| status.extend_from_slice(&number.to_be_bytes()));
        status.push(0);
        if outgoing.send(&status).await.is_err() {
            return;
        }
        sleep(CONFIRM_EVERY).await;
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = sleep(alive) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_part_of_a_stream_is_refused() {
        let text = [&b"w"[..], &7_u64.to_be_bytes(), &[0; 16], b"rest"].concat();
        assert!(matches!(arrived(&text), Some((Arrived::Message { lsn: Lsn(7), text: b"rest" }, false))));
        let alive = [&b"k"[..], &9_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        assert!(matches!(arrived(&alive), Some((Arrived::Alive { end: Lsn(9) }, true))));
        for length in 1..18 {
            assert!(arrived(&alive[..length]).is_none() && arrived(&text[..length]).is_none());
        }
        assert!(arrived(b"x").is_none() && arrived(b"").is_some());
    }
}
