//! Changes from the program that the pipeline runs in: a bounded channel with back-pressure and receipts.
//!
//! What goes through a channel cannot be read again. What had no outcome when the process died is gone, unless whoever sent it
//! sends it again; a [`Receipt`] tells whether that is needed.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, thread};

use highwater_operators::change::Change;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::PartitionName;
use highwater_operators::ingest::{Batch, OrderOf, Partition, Read, Reader, Source};
use highwater_operators::{Order, PartitionId, Position, Result, ResumeToken};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

/// Most changes handed over at once.
const BATCH_MAX: usize = 1024;
/// How long the reader waits for changes before it looks whether the pipeline stops.
const PATIENCE: Duration = Duration::from_millis(50);

/// Makes channels.
#[derive(Debug)]
pub struct Channel;

impl Channel {
    /// A channel that holds so many changes at most: the end to send to, and the source. The source can be cloned for the closure that
    /// builds the pipeline, but is read by one run only.
    ///
    /// ```
    /// use highwater_operators::Change;
    /// use highwater_sources::Channel;
    /// let (feed, source) = Channel::bounded(1000);
    /// feed.try_send(Change::builder("c-1").key("o-1").build()?)?;
    /// # drop(source);
    /// # Ok::<(), highwater_operators::Error>(())
    /// ```
    pub fn bounded(changes: usize) -> (Feed, ChannelSource) {
        let capacity = changes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let shared = Arc::new(Shared {
            capacity,
            room: Semaphore::new(capacity),
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
        });
        (Feed(Arc::new(SendingEnd(shared.clone()))), ChannelSource(Arc::new(ReadingEnd(shared))))
    }
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// A permit per change that still fits.
    room: Semaphore,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Change, Option<oneshot::Sender<()>>)>,
    /// Receipts of what was handed over, by place.
    due: VecDeque<(u64, oneshot::Sender<()>)>,
    /// Nobody sends any more.
    closed: bool,
    opened: bool,
    /// Nobody reads any more.
    ended: bool,
}

impl Shared {
    /// Hands changes to the reader, or back if it is gone.
    fn push<I: IntoIterator<Item = (Change, Option<oneshot::Sender<()>>)>>(&self, changes: I) -> Result<(), I> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(changes);
        }
        let was_empty = state.queue.is_empty();
        state.queue.extend(changes);
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Nobody reads any more.
    fn end(&self) {
        self.room.close();
        let mut state = self.state.lock();
        state.ended = true;
        state.queue.clear();
    }
}

/// Where changes are sent to. Cheap to clone; when the last is dropped, or [`close`](Self::close) is called, the source ends once all that was
/// sent is read.
#[derive(Clone, Debug)]
pub struct Feed(Arc<SendingEnd>);

#[derive(Debug)]
struct SendingEnd(Arc<Shared>);

impl Drop for SendingEnd {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.filled.notify_one();
    }
}

/// The pipeline has ended; here is what it did not take.
pub struct Ended<T>(pub T);

impl<T> fmt::Debug for Ended<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ended")
    }
}

impl<T> fmt::Display for Ended<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipeline has ended and takes no more changes")
    }
}

impl<T> std::error::Error for Ended<T> {}

/// Why a change was not taken at once; it is given back.
pub enum NotNow<T> {
    /// The channel is full.
    Full(T),
    /// The pipeline has ended.
    Ended(T),
}

impl<T> fmt::Debug for NotNow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotNow::Full(_) => "Full",
            NotNow::Ended(_) => "Ended",
        })
    }
}

impl<T> fmt::Display for NotNow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotNow::Full(_) => "the channel is full; the pipeline is behind",
            NotNow::Ended(_) => "the pipeline has ended and takes no more changes",
        })
    }
}

impl<T> std::error::Error for NotNow<T> {}

impl Feed {
    /// Sends a change, and waits for room.
    ///
    /// # Errors
    /// The pipeline has ended. A change that was taken may still be lost if the process dies; ask for a receipt where that matters.
    pub async fn send(&self, change: Change) -> Result<(), Ended<Change>> {
        match self.shared().room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(Ended(change)),
        }
        self.shared().push([(change, None)]).map_err(|[(change, _)]| Ended(change))
    }

    /// Sends a change, waits for room, and returns a receipt, which comes true when the change is done durably.
    ///
    /// # Errors
    /// The pipeline has ended.
    pub async fn send_for_receipt(&self, change: Change) -> Result<Receipt, Ended<Change>> {
        match self.shared().room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(Ended(change)),
        }
        let (tell, told) = oneshot::channel();
        self.shared().push([(change, Some(tell))]).map_err(|[(change, _)]| Ended(change))?;
        Ok(Receipt(told))
    }

    /// Sends many changes in order, with one wait per as many as the channel holds.
    ///
    /// # Errors
    /// The pipeline has ended; the changes that it did not take are given back.
    pub async fn send_all(&self, changes: Vec<Change>) -> Result<(), Ended<Vec<Change>>> {
        let mut left = changes.into_iter();
        while left.len() > 0 {
            let many = left.len().min(self.shared().capacity);
            match self.shared().room.acquire_many(many as u32).await {
                Ok(permits) => permits.forget(),
                Err(_) => return Err(Ended(left.collect())),
            }
            let sent = self.shared().push(left.by_ref().take(many).map(|change| (change, None)));
            if let Err(not_sent) = sent.map_err(|not_sent| not_sent.map(|(change, _)| change).collect::<Vec<_>>()) {
                return Err(Ended(not_sent.into_iter().chain(left).collect()));
            }
        }
        Ok(())
    }

    /// [`send`](Self::send) for a thread that may block. Never call it on an asynchronous runtime's thread.
    ///
    /// # Errors
    /// The pipeline has ended.
    pub fn blocking_send(&self, change: Change) -> Result<(), Ended<Change>> {
        block_on(self.send(change))
    }

    /// [`send_all`](Self::send_all) for a thread that may block.
    ///
    /// # Errors
    /// The pipeline has ended; the changes that it did not take are given back.
    pub fn blocking_send_all(&self, changes: Vec<Change>) -> Result<(), Ended<Vec<Change>>> {
        block_on(self.send_all(changes))
    }

    /// Sends a change if there is room at once.
    ///
    /// # Errors
    /// The channel is full, or the pipeline has ended.
    pub fn try_send(&self, change: Change) -> Result<(), NotNow<Change>> {
        match self.shared().room.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(tokio::sync::TryAcquireError::NoPermits) => return Err(NotNow::Full(change)),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(NotNow::Ended(change)),
        }
        self.shared().push([(change, None)]).map_err(|[(change, _)]| NotNow::Ended(change))
    }

    /// Ends the source once all that was sent is read; what other clones send later is refused.
    pub fn close(&self) {
        self.shared().room.close();
        self.shared().state.lock().closed = true;
        self.shared().filled.notify_one();
    }

    /// Changes that still fit.
    pub fn room(&self) -> usize {
        self.shared().room.available_permits()
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }
}

/// Comes true when the change it was given for lies below a saved mark: every action has a durable outcome for it
/// (delivered, filtered or parked), and no crash makes it undone. That takes as long as the checkpoint's interval.
#[derive(Debug)]
#[must_use = "a receipt says something only when it is awaited"]
pub struct Receipt(oneshot::Receiver<()>);

/// The run ended before the change was below a saved mark: whether it was done is not known, and it is not read again. Send it again to
/// the next run; its id lets dedup and receivers recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipeline ended before the change was saved as done; send it again to the next run")
    }
}

impl std::error::Error for Unknown {}

impl Future for Receipt {
    type Output = Result<(), Unknown>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|told| told.map_err(|_| Unknown))
    }
}

impl Receipt {
    /// Waits on a thread that may block.
    ///
    /// # Errors
    /// The run ended before.
    pub fn blocking_wait(self) -> Result<(), Unknown> {
        block_on(self)
    }
}

/// The source of a channel.
#[derive(Clone, Debug)]
pub struct ChannelSource(Arc<ReadingEnd>);

#[derive(Debug)]
struct ReadingEnd(Arc<Shared>);

impl Drop for ReadingEnd {
    fn drop(&mut self) {
        if !self.0.state.lock().opened {
            self.0.end();
        }
    }
}

impl Source for ChannelSource {
    fn kind(&self) -> &'static str {
        "channel"
    }

    fn place(&self) -> String {
        "this process".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "channel".to_owned(), bytes: None }])
    }

    fn order(&self) -> Option<OrderOf> {
        Some(|change| Order::of_place(change.position()))
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let shared = self.0.0.clone();
        if std::mem::replace(&mut shared.state.lock().opened, true) {
            let error = "a channel is read by one run only; make a new one for the next run";
            return Err(highwater_operators::Error::stop(error));
        }
        // No place may mean two changes, also not one of a run whose checkpoint never came. Nobody sends a change per nanosecond.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let next = from.map_or(0, |token| token.order).max(now);
        Ok(Box::new(ChannelReader { shared, partition: partition.id, next }))
    }

    fn can_be_read_again(&self) -> bool {
        false
    }

    fn saved(&self, _: &Partition, token: &ResumeToken) {
        let mut state = self.0.0.state.lock();
        while let Some((_, told)) = state.due.pop_front_if(|(at, _)| *at < token.order) {
            // Who has dropped the receipt does not want to know.
            let _ = told.send(());
        }
    }

    fn over(&self) {
        self.0.0.state.lock().due.clear();
        self.0.0.end();
    }
}

struct ChannelReader {
    shared: Arc<Shared>,
    partition: PartitionId,
    next: u64,
}

impl Reader for ChannelReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let mut state = self.shared.state.lock();
        if state.queue.is_empty() && !state.closed {
            self.shared.filled.wait_for(&mut state, PATIENCE);
        }
        let many = state.queue.len().min(BATCH_MAX);
        if many == 0 {
            return Ok(if state.closed { Read::End } else { Read::Idle(Duration::ZERO) });
        }
        let State { queue, due, .. } = &mut *state;
        for (change, receipt) in queue.drain(..many) {
            if let Some(receipt) = receipt {
                due.push_back((self.next, receipt));
            }
            let position = Position { partition: self.partition, at: self.next, within: 0 };
            batch.changes.push(change.with_position(position));
            self.next += 1;
        }
        drop(state);
        self.shared.room.add_permits(many);
        batch.token = ResumeToken { order: self.next, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: usize) -> Change {
        Change::builder(n.to_string()).build().unwrap()
    }

    fn open(source: &ChannelSource, from: Option<&ResumeToken>) -> Box<dyn Reader> {
        let partition = Partition { id: 0, name: "channel".to_owned() };
        source.open(&partition, from, &InFlight::new(u64::MAX, u64::MAX)).unwrap()
    }

    fn read(reader: &mut dyn Reader) -> (Vec<String>, Batch, Read) {
        let mut batch = Batch::default();
        let read = reader.read(&mut batch).unwrap();
        (batch.changes.iter().map(|change| change.id().to_owned()).collect(), batch, read)
    }

    #[test]
    fn a_full_channel_pushes_back_until_it_is_read() {
        let (feed, source) = Channel::bounded(2);
        assert!(feed.try_send(change(0)).is_ok() && feed.try_send(change(1)).is_ok());
        assert!(matches!(feed.try_send(change(2)), Err(NotNow::Full(given_back)) if given_back.id() == "2"));
        let sender = thread::spawn(move || feed.blocking_send_all((2..50).map(change).collect()).unwrap());
        let mut reader = open(&source, None);
        let mut ids = Vec::new();
        loop {
            let (read_now, _, read) = read(&mut *reader);
            assert!(read_now.len() <= 2);
            ids.extend(read_now);
            if read == Read::End {
                break;
            }
        }
        sender.join().unwrap();
        assert_eq!(ids, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn places_differ_in_every_run() {
        let (feed, source) = Channel::bounded(9);
        feed.try_send(change(0)).unwrap();
        let token = ResumeToken { order: u64::MAX - 5, ..ResumeToken::default() };
        let (_, batch, _) = read(&mut *open(&source, Some(&token)));
        assert_eq!(batch.changes[0].position().at, token.order);
        let (feed, source) = Channel::bounded(9);
        feed.try_send(change(0)).unwrap();
        let (_, batch, _) = read(&mut *open(&source, None));
        assert!(batch.changes[0].position().at > 1_700_000_000_000_000_000);
    }

    #[test]
    fn a_receipt_waits_for_the_mark() {
        let (feed, source) = Channel::bounded(9);
        let receipts: Vec<Receipt> = (0..3).map(|n| block_on(feed.send_for_receipt(change(n))).unwrap()).collect();
        let mut reader = open(&source, None);
        let (_, batch, _) = read(&mut *reader);
        let partition = Partition { id: 0, name: "channel".to_owned() };
        let saved = ResumeToken { order: batch.token.order - 1, ..ResumeToken::default() };
        source.saved(&partition, &saved);
        drop(reader);
        source.over();
        let told: Vec<_> = receipts.into_iter().map(Receipt::blocking_wait).collect();
        assert_eq!(told, [Ok(()), Ok(()), Err(Unknown)]);
    }

    #[test]
    fn what_is_not_taken_is_given_back() {
        let (feed, source) = Channel::bounded(1);
        drop(source);
        assert!(matches!(feed.try_send(change(1)), Err(NotNow::Ended(_))));
        let (feed, source) = Channel::bounded(1);
        let reader = open(&source, None);
        drop(reader);
        assert_eq!(feed.blocking_send(change(7)).unwrap_err().0.id(), "7");
        let given_back = feed.blocking_send_all(vec![change(1), change(2)]).unwrap_err().0;
        assert_eq!(given_back.len(), 2);
    }
}
