//! What a job is: a change to be worked on, under an id, perhaps in a lane.

use bytes::Bytes;
use highwater_operators::checkpoint::store::{History, Parked};
use highwater_operators::{Change, Error, Result};
use serde::{Deserialize, Serialize};

use super::store::{JobNumber, Reason};

/// The jobs of one key, which are done in the order in which they were enqueued, one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lane {
    /// The key.
    pub key: String,
    /// Whether later jobs wait behind one that is parked; else they pass it.
    pub hold: bool,
}

/// What a store keeps of a job beside its number: all that does not change while it waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Its id, the idempotency key.
    pub id: String,
    /// Who enqueued it: the action's name.
    pub action: String,
    /// Whether it goes in a lane, that of the change's key, and whether that holds.
    pub lane: Option<bool>,
    /// When it was enqueued, in Unix milliseconds.
    pub enqueued_ms: u64,
    /// What it is about.
    pub change: Change,
}

/// The first byte of a job: another form would have another.
const FORM: u8 = 1;

impl Content {
    /// Its lane.
    pub fn lane(&self) -> Option<Lane> {
        self.lane.map(|hold| Lane { key: self.change.key().to_owned(), hold })
    }
}

/// A job as the bytes that a store keeps.
///
/// # Errors
/// Of kind park: a lookup attached to its change what cannot be written down.
pub fn encode(content: &Content) -> Result<Bytes> {
    let mut head = vec![FORM];
    head.reserve(256);
    let failed = |error| Error::park("the job cannot be written as bytes").because(error);
    postcard::to_extend(content, head).map(Bytes::from).map_err(failed)
}

/// The job of such bytes.
///
/// # Errors
/// Of kind park: they are damaged, or of a form that this program does not know.
pub fn decode(bytes: &[u8]) -> Result<Content> {
    match bytes.split_first() {
        Some((&FORM, rest)) => {
            let damaged = || Error::park("the job cannot be read: its bytes are damaged");
            let mut content: Content = postcard::from_bytes(rest).map_err(|_| damaged())?;
            if content.change.is_whole() { Ok(content) } else { Err(damaged()) }
        }
        Some((form, _)) => {
            Err(Error::park(format!("the job cannot be read: it has form {form}, of another version of this program")))
        }
        None => Err(Error::park("the job cannot be read: it has no bytes")),
    }
}

/// A parked job as commands show it. One that cannot be read has a change that says so, of table `unreadable`.
pub fn parked(number: JobNumber, body: &[u8], reason: Reason, parked_at_ms: u64) -> Parked {
    let content = decode(body).unwrap_or_else(|_| unreadable(number));
    let history = History { response: reason.response, ..History::default() };
    let (action, change) = (content.action, content.change);
    let Reason { cause, error, attempts, .. } = reason;
    Parked { id: number, action, cause, error, attempts, parked_at_ms, hash: 0, change, history }
}

/// What stands for a job whose bytes are damaged, so that it can be seen and dropped.
pub(super) fn unreadable(number: JobNumber) -> Content {
    let change =
        Change::builder(format!("job {number}")).table("unreadable").build().unwrap_or_else(|_| unreachable!("it is short"));
    Content { id: String::new(), action: String::new(), lane: None, enqueued_ms: 0, change }
}

/// A job as whoever works on it sees it. It derefs to its change.
#[derive(Clone, Debug)]
pub struct Job(pub(super) std::sync::Arc<super::worker::Held>);

impl std::ops::Deref for Job {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0.content.change
    }
}

impl Job {
    /// The change it is about.
    pub fn change(&self) -> &Change {
        &self.0.content.change
    }

    /// Its id: the same for every attempt and every repeat, and for no other job. Receivers that remember it can drop repeats.
    pub fn id(&self) -> &str {
        &self.0.content.id
    }

    /// The action that enqueued it.
    pub fn action(&self) -> &str {
        &self.0.content.action
    }

    /// Its number in the queue.
    pub fn number(&self) -> JobNumber {
        self.0.claim().number
    }

    /// Which attempt this is, counted from 1; attempts of workers that died are counted.
    pub fn attempt(&self) -> u32 {
        self.0.leased.attempt
    }

    /// Its fencing number: larger than that of every attempt before. What is written with it can be guarded against workers that were
    /// frozen and come back: `update .. where fence < $1`.
    pub fn fence(&self) -> u64 {
        self.0.claim().fence
    }

    /// When it was enqueued, in Unix milliseconds.
    pub fn enqueued_ms(&self) -> u64 {
        self.0.content.enqueued_ms
    }

    /// Whether this worker still holds it. A handler is not polled any more when that is over; one that works for long without awaiting
    /// anything asks here before it acts.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_comes_back_whole_and_damage_is_told() {
        let change = Change::builder("c").key("k").after(&json!({"n": 1})).build().unwrap();
        let content = Content { id: "i".to_owned(), action: "a".to_owned(), lane: Some(true), enqueued_ms: 7, change };
        let bytes = encode(&content).unwrap();
        assert_eq!(decode(&bytes).unwrap(), content);
        assert_eq!(content.lane(), Some(Lane { key: "k".to_owned(), hold: true }));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(decode(&[9, 1, 2]).unwrap_err().to_string().contains("form 9"));
    }
}
