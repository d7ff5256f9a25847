//! Where timely meets the other threads: a mailbox that wakes its operator once per burst, not once per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use timely::scheduling::SyncActivator;

/// Wakes one operator from any thread. Many wakes before the operator runs cost one activation.
#[derive(Clone)]
pub struct Wake(Arc<Inner>);

struct Inner {
    armed: AtomicBool,
    activator: SyncActivator,
}

impl Wake {
    /// A wake for the operator behind `activator`.
    pub fn new(activator: SyncActivator) -> Self {
        Wake(Arc::new(Inner { armed: AtomicBool::new(false), activator }))
    }

    /// Makes the operator run soon.
    pub fn wake(&self) {
        // The first wake since the operator last ran activates it (an allocation, a send, an unpark); the rest find it armed.
        if !self.0.armed.swap(true, Ordering::AcqRel) {
            // An error means the worker is gone, and then there is nobody to wake.
            let _ = self.0.activator.activate();
        }
    }

    /// The operator calls this first thing when it runs: before it looks at its messages, or a wake could be lost.
    pub fn ran(&self) {
        self.0.armed.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

/// The sending side of an operator's mailbox.
pub struct Post<T>(Arc<dyn Fn(T) -> bool + Send + Sync>);

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Post(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Post<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Post")
    }
}

impl<T: 'static> Post<T> {
    /// Delivers a message and wakes the operator. `false` if the operator is gone.
    pub fn send(&self, message: T) -> bool {
        (self.0)(message)
    }

    /// A post into the same mailbox that takes another type, and may find that there is nothing to deliver.
    pub fn filter_map<U: 'static>(&self, wrap: impl Fn(U) -> Option<T> + Send + Sync + 'static) -> Post<U> {
        let send = self.0.clone();
        Post(Arc::new(move |message| wrap(message).is_some_and(|message| send(message))))
    }

    /// A post into the same mailbox that takes another type.
    pub fn map<U: 'static>(&self, wrap: impl Fn(U) -> T + Send + Sync + 'static) -> Post<U> {
        let send = self.0.clone();
        Post(Arc::new(move |message| send(wrap(message))))
    }
}

/// The operator's side of its mailbox.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
}

impl<T> Inbox<T> {
    /// What has come. The operator has called [`Wake::ran`] before.
    pub fn drain(&self) -> impl Iterator<Item = T> + '_ {
        self.receiver.try_iter()
    }
}

/// A mailbox for the operator that `wake` wakes. What is sent is bounded by whoever sends: by permits and credits.
pub fn mailbox<T: Send + 'static>(wake: &Wake) -> (Post<T>, Inbox<T>) {
    let (sender, receiver) = unbounded();
    let wake = wake.clone();
    let send = move |message| {
        let sent = Sender::send(&sender, message).is_ok();
        wake.wake();
        sent
    };
    (Post(Arc::new(send)), Inbox { receiver })
}
