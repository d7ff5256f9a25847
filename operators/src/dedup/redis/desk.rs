//! The runtime's side: sends groups of ids to Redis, judges the answers, and tries again until there are some.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{MaybeDone, maybe_done};
use hashbrown::HashMap;
use redis::{Pipeline, Value, cmd};
use tokio::sync::mpsc::UnboundedReceiver;

use super::entry::{Entries, Item, Keys};
use super::written::Written;
use crate::action::call::BoxFuture;
use crate::checkpoint::store::ChangeHash;
use crate::dedup::Dedup;
use crate::dedup::seen::Seen;
use crate::dedup::stats::SeenStats;
use crate::guard::backoff::Backoff;
use crate::halt::Halt;
use crate::offload::Post;
use crate::position::{Epoch, Position};
use crate::process::Process;
use crate::redis::{Connection, Line, Url, inspect};
use crate::{Error, ErrorKind, Result};

/// Ids of several questions that go out together.
const GROUP_MAX: usize = 1_000;

/// Groups that are sent before the first of them is answered.
const UNDER_WAY_MAX: usize = 4;

/// Ids whose time in Redis is prolonged at once.
const PROLONGED_MAX: usize = 1_000;

/// The waits while Redis is away.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1) };

/// A question: which of these changes pass.
#[derive(Debug)]
pub(super) struct Ask {
    pub epoch: Epoch,
    pub items: Vec<Item>,
}

/// Answers one worker's questions, in their order.
pub(super) struct Desk {
    /// Not kept alive from here: a run that ends need not wait for Redis.
    process: Weak<Process>,
    halt: Arc<Halt>,
    pipeline: String,
    name: String,
    worker: usize,
    connection: Connection,
    keys: Keys,
    window_ms: Option<i64>,
    kept_for: Duration,
    post: Post<Vec<bool>>,
    stats: Arc<SeenStats>,
    /// The connection that Redis was looked at on.
    looked_at: u64,
    /// The connection that groups were sent on last.
    sent_on: u64,
    /// Whether ids were told to a Redis before: it should know of it.
    was_here: bool,
    /// Whether this run has begun to count its groups there.
    begun: bool,
    written: Written,
    /// Ids that were written anew, with what stands there, until no answer from before that is to come: up to which group.
    rewritten: HashMap<ChangeHash, (Entries, u64)>,
    /// After a failure: where the changes of unanswered groups stand. Of commands that were sent, some may have been refused (a server that loads its
    /// data refuses, and a moment later does not) and later ones taken, so that a copy stands there in place of its first.
    claimed: HashMap<ChangeHash, Vec<Position>>,
    /// Ids above the mark, and when their time in Redis began.
    above: VecDeque<Above>,
}

struct Above {
    epoch: Epoch,
    since: Instant,
    hashes: Vec<ChangeHash>,
}

/// Questions that go out together, under one number.
struct Group {
    number: u64,
    asks: Vec<Ask>,
    answer: Pin<Box<MaybeDone<Answer>>>,
}

/// What Redis says to a group, and on which connection.
type Answer = BoxFuture<'static, Result<(Line, Vec<Value>)>>;

impl Desk {
    #[expect(clippy::too_many_arguments, reason = "made in one place")]
    pub(super) fn new(
        process: &Arc<Process>,
        name: &str,
        worker: usize,
        dedup: &Dedup,
        url: &Url,
        post: Post<Vec<bool>>,
        stats: Arc<SeenStats>,
        was_here: bool,
    ) -> Desk {
        Desk {
            process: Arc::downgrade(process),
            halt: process.halt.clone(),
            pipeline: process.limits.pipeline.clone(),
            name: name.to_owned(),
            worker,
            connection: Connection::new(url, &format!("{name}-w{worker}")),
            keys: Keys::new(&process.hasher, name),
            window_ms: dedup.window_ms(),
            kept_for: dedup.time_in_redis(),
            post,
            stats,
            looked_at: 0,
            sent_on: 0,
            was_here,
            begun: false,
            written: Written::new(process.generation),
            rewritten: HashMap::new(),
            claimed: HashMap::new(),
            above: VecDeque::new(),
        }
    }

    /// Until the worker is gone.
    pub(super) async fn run(mut self, mut questions: UnboundedReceiver<Ask>) {
        let mut groups: VecDeque<Group> = VecDeque::new();
        let step = (self.kept_for / 6).clamp(Duration::from_millis(50), Duration::from_secs(60));
        let mut prolong = tokio::time::interval_at(tokio::time::Instant::now() + step, step);
        prolong.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let took = tokio::select! {
                ask = questions.recv(), if groups.len() < UNDER_WAY_MAX => match ask {
                    Some(ask) => {
                        let group = self.group(ask, &mut questions);
                        groups.push_back(group);
                        self.send(&mut groups, false).await
                    }
                    // The worker holds its epochs open until it has its answers: it is gone before its time.
                    None => return,
                },
                answer = first(&mut groups), if !groups.is_empty() => match answer {
                    Ok((line, values)) => self.take(&mut groups, &line, values).await,
                    Err(error) => Err(error),
                },
                _ = prolong.tick(), if !self.above.is_empty() => self.prolong().await,
            };
            if self.halt.is_halted() {
                return;
            }
            if let Err(error) = took
                && !self.outlive(error, &mut groups, &questions).await
            {
                return;
            }
        }
    }

    /// Redis is away: waits and asks again, from the first group that has no answer. `false`: there is nobody any more who waits, or it is no
    /// use.
    async fn outlive(&mut self, error: Error, groups: &mut VecDeque<Group>, questions: &UnboundedReceiver<Ask>) -> bool {
        let (mut error, mut failed) = (error, 0);
        self.claimed.clear();
        for item in groups.iter().flat_map(|group| &group.asks).flat_map(|ask| &ask.items) {
            self.claimed.entry(item.hash).or_default().push(item.position);
        }
        loop {
            if error.kind() != ErrorKind::Retry {
                self.halt.fail(error.context(format!("dedup \"{}\"", self.name)));
                return false;
            }
            if self.stats.is_away(self.worker, &error) {
                tracing::warn!(dedup = self.name, %error, "changes wait for the seen-set in Redis");
            }
            failed += 1;
            tokio::time::sleep(BACKOFF.wait(failed)).await;
            if self.halt.is_halted() || questions.is_closed() {
                return false;
            }
            match self.send(groups, true).await {
                Ok(()) => return true,
                Err(other) => error = other,
            }
        }
    }

    /// One question and those that came behind it.
    fn group(&mut self, ask: Ask, questions: &mut UnboundedReceiver<Ask>) -> Group {
        let mut ids = ask.items.len();
        let mut asks = vec![ask];
        while ids < GROUP_MAX
            && let Ok(ask) = questions.try_recv()
        {
            ids += ask.items.len();
            asks.push(ask);
        }
        let nothing: Answer = Box::pin(async { Err(Error::retry("not sent yet")) });
        Group { number: self.written.take(), asks, answer: Box::pin(maybe_done(nothing)) }
    }

    /// Sends the last group, or all of them again.
    async fn send(&mut self, groups: &mut VecDeque<Group>, again: bool) -> Result {
        let line = self.connection.line().await?;
        self.look(&line).await?;
        // On another connection than those before, it would overtake them: a copy would be seen before its first.
        let from = if again || self.sent_on != line.number() { 0 } else { groups.len().saturating_sub(1) };
        self.sent_on = line.number();
        for group in groups.range_mut(from..) {
            let (line, commands) = (line.clone(), self.commands(group));
            let what = format!("asking the seen-set {}", self.connection.url());
            let asked: Answer = Box::pin(async move {
                let values = line.pipeline(&what, &commands).await?;
                Ok((line, values))
            });
            group.answer = Box::pin(maybe_done(asked));
            // Begun here, so that groups go out in their order.
            poll_fn(|cx| {
                let _ = group.answer.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
        }
        Ok(())
    }

    fn commands(&self, group: &Group) -> Pipeline {
        let ids = group.asks.iter().map(|ask| ask.items.len()).sum::<usize>();
        let mut pipeline = Pipeline::with_capacity(ids + 1);
        pipeline.add_command(
            cmd("SET").arg(self.keys.written(self.worker)).arg(self.written.text(group.number)).arg("GET").to_owned(),
        );
        let (mut key, mut value, kept_ms) = (String::new(), Vec::new(), self.kept_for.as_millis().max(1) as u64);
        for item in group.asks.iter().flat_map(|ask| &ask.items) {
            self.keys.id(item.hash, &mut key);
            Entries::encode_one(item, &mut value);
            pipeline.cmd("SET").arg(&key).arg(&value).arg("NX").arg("GET").arg("PX").arg(kept_ms);
        }
        pipeline
    }

    /// Looks at Redis once per connection: what it is, and whether it knows us.
    async fn look(&mut self, line: &Line) -> Result {
        if self.looked_at == line.number() {
            return Ok(());
        }
        let what = format!("beginning with the seen-set {}", self.connection.url());
        let found = inspect(line).await?;
        let weak = found.weaknesses("the seen-set");
        if self.stats.looked_at(weak.clone()) {
            let server = self.connection.url();
            weak.iter().for_each(|weakness| tracing::warn!(dedup = self.name, %server, "{weakness}"));
        }
        if !self.begun {
            let known: Option<String> =
                line.query(&what, cmd("SET").arg(self.keys.known()).arg(&self.pipeline).arg("NX").arg("GET")).await?;
            let begin = self.written.text(0);
            line.query::<()>(&what, cmd("SET").arg(self.keys.written(self.worker)).arg(begin)).await?;
            if known.is_none() && self.was_here {
                self.has_lost("it has never heard of this pipeline");
            }
            self.begun = true;
        }
        self.looked_at = line.number();
        Ok(())
    }

    /// Makes sure that the next run does not take for news what this one has found. Lost itself, it is found once more.
    async fn known_again(&self, line: &Line) {
        let known = cmd("SET").arg(self.keys.known()).arg(&self.pipeline).to_owned();
        let _: Result = line.query("noting that the seen-set is known", &known).await;
    }

    fn has_lost(&self, how: &str) {
        self.stats.forgotten();
        let server = self.connection.url();
        tracing::warn!(
            dedup = self.name,
            %server,
            "Redis has lost ids that it was told ({how}): duplicates of those pass; nothing is lost. docs/redis.md says how it keeps them"
        );
    }

    /// Takes the answer of the first group in: judges, writes anew what is outside its window, and passes the verdicts on.
    async fn take(&mut self, groups: &mut VecDeque<Group>, line: &Line, values: Vec<Value>) -> Result {
        let what = format!("asking the seen-set {}", self.connection.url());
        let Some(group) = groups.front() else { return Ok(()) };
        let mut claimed = std::mem::take(&mut self.claimed);
        let mut values = values.into_iter();
        let before: Value = line.answer(&what, values.next().unwrap_or(Value::Nil))?;
        let mut anew: HashMap<ChangeHash, Entries> = HashMap::new();
        let mut verdicts = Vec::with_capacity(group.asks.len());
        for ask in &group.asks {
            let mut passes = Vec::with_capacity(ask.items.len());
            for item in &ask.items {
                let said: Option<Vec<u8>> = line.answer(&what, values.next().unwrap_or(Value::Nil))?;
                passes.push(match self.judge(item, said.as_deref(), &mut claimed, &mut anew)? {
                    Seen::New | Seen::Again => true,
                    Seen::Duplicate => item.has_passed,
                });
            }
            verdicts.push(passes);
        }
        if !anew.is_empty() {
            self.write_anew(line, &anew).await?;
        }
        // From here on the group is done, and not asked again.
        self.claimed = claimed;
        let sent = groups.back().map_or(0, |last| last.number);
        let Some(group) = groups.pop_front() else { return Ok(()) };
        self.rewritten.retain(|_, (_, upto)| *upto > group.number);
        self.rewritten.extend(anew.into_iter().filter(|_| sent > group.number).map(|(hash, entries)| (hash, (entries, sent))));
        if self.written.answered(group.number, &before) {
            self.has_lost("what it was told last is not there");
            self.known_again(line).await;
        }
        self.stats.answered(self.worker, group.asks.iter().map(|ask| ask.items.len() as u64).sum());
        let epoch = group.asks.iter().map(|ask| ask.epoch).max().unwrap_or_default();
        let hashes: Vec<ChangeHash> = group.asks.iter().flat_map(|ask| ask.items.iter().map(|item| item.hash)).collect();
        if !hashes.is_empty() {
            self.above.push_back(Above { epoch, since: Instant::now(), hashes });
        }
        self.forget_below();
        for passes in verdicts {
            // Nobody to tell: the worker is gone.
            let _ = self.post.send(passes);
        }
        Ok(())
    }

    /// What is known of a change: what was written anew since it was asked about, else what Redis says.
    fn judge(
        &self,
        item: &Item,
        said: Option<&[u8]>,
        claimed: &mut HashMap<ChangeHash, Vec<Position>>,
        anew: &mut HashMap<ChangeHash, Entries>,
    ) -> Result<Seen> {
        // What is left are those that come behind it.
        let later = claimed.get_mut(&item.hash).map(|claimed| {
            claimed.retain(|position| *position != item.position);
            &*claimed
        });
        if let Some(entries) = anew.get_mut(&item.hash) {
            return Ok(entries.see(item, self.window_ms));
        }
        let mut entries = match (self.rewritten.get(&item.hash), said) {
            (Some((entries, _)), _) => entries.clone(),
            (None, Some(said)) => Entries::decode(said)?,
            (None, None) => return Ok(Seen::New),
        };
        later.into_iter().flatten().for_each(|position| entries.forget(*position));
        let seen = entries.see(item, self.window_ms);
        if seen == Seen::New {
            anew.insert(item.hash, entries);
        }
        Ok(seen)
    }

    async fn write_anew(&self, line: &Line, anew: &HashMap<ChangeHash, Entries>) -> Result {
        let what = format!("writing to the seen-set {}", self.connection.url());
        let (mut pipeline, mut key) = (Pipeline::with_capacity(anew.len()), String::new());
        for (hash, entries) in anew {
            self.keys.id(*hash, &mut key);
            pipeline.cmd("SET").arg(&key).arg(entries.encode()).arg("PX").arg(self.kept_for.as_millis().max(1) as u64);
        }
        for answer in line.pipeline(&what, &pipeline).await? {
            line.answer::<()>(&what, answer)?;
        }
        Ok(())
    }

    fn forget_below(&mut self) {
        let saved = self.process.upgrade().map_or(Epoch::MAX, |process| process.saved_epoch());
        while self.above.front().is_some_and(|above| above.epoch < saved) {
            self.above.pop_front();
        }
    }

    /// Gives ids above the mark more time, before it is up: what may be read again must find what was there.
    async fn prolong(&mut self) -> Result {
        self.forget_below();
        let what = format!("prolonging ids of the seen-set {}", self.connection.url());
        let (mut key, kept_ms) = (String::new(), self.kept_for.as_millis().max(1) as u64);
        while self.above.front().is_some_and(|above| above.since.elapsed() > self.kept_for / 3) {
            let line = self.connection.line().await?;
            self.look(&line).await?;
            let Some(mut above) = self.above.pop_front() else { break };
            for hashes in above.hashes.chunks(PROLONGED_MAX) {
                let mut pipeline = Pipeline::with_capacity(hashes.len());
                for hash in hashes {
                    self.keys.id(*hash, &mut key);
                    pipeline.cmd("PEXPIRE").arg(&key).arg(kept_ms);
                }
                if let Err(error) = line.pipeline(&what, &pipeline).await {
                    self.above.push_front(above);
                    return Err(error);
                }
            }
            above.since = Instant::now();
            self.above.push_back(above);
        }
        Ok(())
    }
}

/// The answer of the first group.
async fn first(groups: &mut VecDeque<Group>) -> Result<(Line, Vec<Value>)> {
    let Some(group) = groups.front_mut() else { return std::future::pending().await };
    group.answer.as_mut().await;
    group.answer.as_mut().take_output().unwrap_or_else(|| Err(Error::retry("its answer was taken")))
}
