//! Jobs in a table of Postgres: taken by `for update skip locked`, so that workers never wait for each other.

mod schema;
mod statements;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use highwater_operators::action::BoxFuture;
use highwater_operators::checkpoint::store::{Cause, Parked};
use highwater_operators::postgres::{Connection, Pool, PoolConfig, PooledClient, Url, failed};
use highwater_operators::{Change, Result};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use self::statements as sql;
use super::job::{self, Content};
use super::store::{
    BATCH_MAX, Claim, Counts, Enqueued, Fate, JobNumber, JobStore, Leased, NewJob, Reason, Remember, Settlement, Taken,
};

/// Settings of each session. No plan reads the whole table, however small it was when it was made; what is acknowledged is on disk.
const SESSION: &str = "set enable_seqscan = off; set jit = off; \
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// Ids forgotten at once, and how often that is looked at.
const FORGOTTEN_MAX: i64 = 10_000;
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Jobs in a table of a Postgres database, `highwater_jobs`, which is made if it is not there.
pub struct PostgresJobStore {
    url: Url,
    queue: String,
    pool: Pool,
    remember: Remember,
    /// Listens for jobs that come. One waits on it at a time; others look now and then.
    listener: AsyncMutex<Option<Connection>>,
    forgotten_at: Mutex<Option<Instant>>,
}

impl PostgresJobStore {
    /// The jobs of `queue` in the database of `url`. Nothing is opened yet.
    ///
    /// # Errors
    /// Of kind stop if the URL cannot be read, or the pool's settings contradict each other.
    pub fn new(url: &str, queue: &str, remember: Remember, pool: PoolConfig) -> Result<Self> {
        let url = Url::parse(url)?;
        let pool = Pool::with_session(&url, pool, &format!("queue {queue}"), SESSION)?;
        let queue = queue.to_owned();
        Ok(PostgresJobStore { url, queue, pool, remember, listener: AsyncMutex::default(), forgotten_at: Mutex::default() })
    }

    fn wrong(&self, doing: &str) -> impl Fn(tokio_postgres::Error) -> highwater_operators::Error {
        let what = format!("{doing} queue \"{}\" at {}", self.queue, self.url);
        move |error| failed(&what, error)
    }

    async fn query(&self, doing: &str, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = self.pool.get().await?;
        query(&client, statement, parameters).await.map_err(self.wrong(doing))
    }

    /// Runs a statement; if it is about lanes, under the queue's lock, and then lets the first of each go that may.
    async fn in_lanes(
        &self,
        doing: &str,
        lanes: &[&str],
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        if lanes.is_empty() {
            return self.query(doing, statement, parameters).await;
        }
        let mut client = self.pool.get().await?;
        let wrong = self.wrong(doing);
        for prepared in [statement, sql::ADVANCE, sql::LOCK] {
            client.prepare_cached(prepared).await.map_err(&wrong)?;
        }
        let within = client.build_transaction().start().await.map_err(&wrong)?;
        within.batch_execute(sql::BOUNDS).await.map_err(&wrong)?;
        let [lock, does, advances] = [
            within.prepare_cached(sql::LOCK).await.map_err(&wrong)?,
            within.prepare_cached(statement).await.map_err(&wrong)?,
            within.prepare_cached(sql::ADVANCE).await.map_err(&wrong)?,
        ];
        // Sent together: the lock is held for the server's work alone, not for ways to and fro.
        let of_lanes: [&(dyn ToSql + Sync); 2] = [&self.queue, &lanes];
        let of_lock: [&(dyn ToSql + Sync); 1] = [&self.queue];
        let all = [within.query(&lock, &of_lock), within.query(&does, parameters), within.query(&advances, &of_lanes)];
        let mut rows = try_join_all(all).await.map_err(&wrong)?;
        within.commit().await.map_err(&wrong)?;
        Ok(rows.swap_remove(1))
    }

    async fn enqueue_all(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        let ids: Vec<&str> = jobs.iter().map(|job| &*job.id).collect();
        let actions: Vec<&str> = jobs.iter().map(|job| &*job.action).collect();
        let lanes: Vec<Option<&str>> = jobs.iter().map(|job| job.lane.as_ref().map(|lane| &*lane.key)).collect();
        let hold: Vec<bool> = jobs.iter().map(|job| job.lane.as_ref().is_some_and(|lane| lane.hold)).collect();
        let delays: Vec<i64> = jobs.iter().map(|job| micros(job.delay)).collect();
        let bodies: Vec<&[u8]> = jobs.iter().map(|job| &*job.body).collect();
        let different: BTreeSet<&str> = lanes.iter().flatten().copied().collect();
        let different: Vec<&str> = different.into_iter().collect();
        let parameters: [&(dyn ToSql + Sync); 7] = [&self.queue, &ids, &actions, &lanes, &hold, &delays, &bodies];
        let rows = self.in_lanes("putting jobs in", &different, sql::ENQUEUE, &parameters).await?;
        let mut new: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
        if !new.is_empty() {
            // Whoever does not hear it looks by itself soon.
            let _ = self.query("telling the workers of", sql::NOTIFY, &[&self.queue]).await;
        }
        // Of two jobs of one id in a batch, the first is new.
        Ok(ids.iter().map(|id| if new.remove(*id) { Enqueued::New } else { Enqueued::Known }).collect())
    }

    async fn take_some(&self, most: usize, lease: Duration) -> Result<Taken> {
        let most = most.min(BATCH_MAX);
        let rows = self.query("taking jobs from", sql::TAKE, &[&self.queue, &(most as i64), &micros(lease)]).await?;
        let mut rows: Vec<(std::time::SystemTime, Leased)> = rows.iter().map(|row| (row.get(5), leased(row))).collect();
        rows.sort_by_key(|(due, job)| (*due, job.claim.number));
        let jobs: Vec<Leased> = rows.into_iter().map(|(_, job)| job).collect();
        let mut next = None;
        if jobs.len() < most {
            let row = self.query("looking at", sql::NEXT, &[&self.queue]).await?;
            next = row.first().map(|row| Duration::from_micros(row.get::<_, i64>(0).max(0) as u64));
            self.forget().await?;
        }
        Ok(Taken { jobs, next })
    }

    /// Forgets ids that need not be remembered any more; by whoever has nothing better to do.
    async fn forget(&self) -> Result {
        let is_time = self.forgotten_at.lock().is_none_or(|at| at.elapsed() >= FORGET_EVERY);
        if is_time {
            let (age, most) = (self.remember.time.as_secs_f64(), self.remember.most as i64);
            self.query("forgetting ids of", sql::FORGET, &[&self.queue, &age, &most, &FORGOTTEN_MAX]).await?;
            *self.forgotten_at.lock() = Some(Instant::now());
        }
        Ok(())
    }

    async fn renew_all(&self, held: &[Claim], lease: Duration) -> Result<Vec<bool>> {
        let numbers: Vec<i64> = held.iter().map(|claim| claim.number as i64).collect();
        let fences: Vec<i64> = held.iter().map(|claim| claim.fence as i64).collect();
        let rows = self.query("renewing leases of", sql::RENEW, &[&self.queue, &numbers, &fences, &micros(lease)]).await?;
        Ok(among(&numbers, &fences, &rows))
    }

    async fn settle_all(&self, settled: &[Settlement]) -> Result<Vec<bool>> {
        let numbers: Vec<i64> = settled.iter().map(|settled| settled.claim.number as i64).collect();
        let fences: Vec<i64> = settled.iter().map(|settled| settled.claim.fence as i64).collect();
        let fates: Vec<i16> = settled.iter().map(|settled| fate_number(&settled.fate)).collect();
        let waits: Vec<i64> = settled.iter().map(|settled| micros(wait(&settled.fate))).collect();
        let reasons = || settled.iter().map(|settled| reason(&settled.fate));
        let causes: Vec<Option<&str>> = reasons().map(|reason| reason.map(|reason| reason.cause.word())).collect();
        let errors: Vec<Option<String>> = reasons().map(|reason| reason.map(|reason| without_zero(&reason.error))).collect();
        let responses: Vec<Option<String>> = reasons().map(|reason| reason?.response.as_deref().map(without_zero)).collect();
        let lanes: BTreeSet<&str> = settled.iter().filter_map(|settled| settled.lane.as_ref().map(|lane| &*lane.key)).collect();
        let lanes: Vec<&str> = lanes.into_iter().collect();
        let parameters: [&(dyn ToSql + Sync); 8] = [&self.queue, &numbers, &fences, &fates, &waits, &causes, &errors, &responses];
        let rows = self.in_lanes("settling jobs of", &lanes, sql::SETTLE, &parameters).await?;
        Ok(among(&numbers, &fences, &rows))
    }

    /// Retries or gives up, whose lanes are known only afterwards: so under the lock in any case.
    async fn by_hand(&self, doing: &str, statement: &str, parked: &[JobNumber]) -> Result<u64> {
        let numbers: Vec<i64> = parked.iter().map(|number| *number as i64).collect();
        let wrong = self.wrong(doing);
        let mut client = self.pool.get().await?;
        let within = client.build_transaction().start().await.map_err(&wrong)?;
        within.batch_execute(sql::BOUNDS).await.map_err(&wrong)?;
        within.query(sql::LOCK, &[&self.queue]).await.map_err(&wrong)?;
        let rows = within.query(statement, &[&self.queue, &numbers]).await.map_err(&wrong)?;
        let lanes: BTreeSet<String> = rows.iter().filter_map(|row| row.get(1)).collect();
        let lanes: Vec<String> = lanes.into_iter().collect();
        within.query(sql::ADVANCE, &[&self.queue, &lanes]).await.map_err(&wrong)?;
        within.query(sql::NOTIFY, &[&self.queue]).await.map_err(&wrong)?;
        within.commit().await.map_err(&wrong)?;
        Ok(rows.len() as u64)
    }

    async fn edit_one(&self, parked: JobNumber, change: &Change) -> Result<bool> {
        let number = parked as i64;
        let rows = self.query("editing a job of", sql::ONE, &[&self.queue, &number]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let content = job::decode(row.get(0))?;
        let body = job::encode(&Content { change: change.clone(), ..content })?;
        let client = self.pool.get().await?;
        let edited = client.execute(sql::EDIT, &[&self.queue, &number, &&body[..]]).await;
        Ok(edited.map_err(self.wrong("editing a job of"))? > 0)
    }

    /// Waits for a notification, if nobody else does.
    async fn listen(&self) -> Result {
        let Ok(mut listener) = self.listener.try_lock() else { return std::future::pending().await };
        if listener.is_none() {
            let connection = Connection::open(&self.url, &format!("queue {}", self.queue)).await?;
            connection.batch_execute("listen highwater_jobs").await.map_err(self.wrong("listening to"))?;
            // What came while nobody listened is to be looked at first.
            *listener = Some(connection);
            return Ok(());
        }
        while let Some(connection) = &mut *listener {
            match connection.notified().await {
                Ok(notification) if notification.payload() == self.queue => return Ok(()),
                Ok(_) => {}
                Err(_) => *listener = None,
            }
        }
        Ok(())
    }
}

impl JobStore for PostgresJobStore {
    fn place(&self) -> String {
        format!("queue \"{}\" at {}", self.queue, self.url)
    }

    fn open(&self) -> BoxFuture<'_, Result> {
        Box::pin(async move {
            let mut client: PooledClient = self.pool.get().await?;
            schema::make(&mut client).await
        })
    }

    fn enqueue<'a>(&'a self, jobs: &'a [NewJob]) -> BoxFuture<'a, Result<Vec<Enqueued>>> {
        Box::pin(self.enqueue_all(jobs))
    }

    fn take(&self, most: usize, lease: Duration) -> BoxFuture<'_, Result<Taken>> {
        Box::pin(self.take_some(most, lease))
    }

    fn renew<'a>(&'a self, held: &'a [Claim], lease: Duration) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.renew_all(held, lease))
    }

    fn settle<'a>(&'a self, settled: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.settle_all(settled))
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts>> {
        Box::pin(async move {
            let rows = self.query("counting jobs of", sql::COUNTS, &[&self.queue]).await?;
            let mut counts = Counts::default();
            for row in rows {
                let (state, is_due, jobs): (i16, bool, i64) = (row.get(0), row.get(1), row.get(2));
                match (state, is_due) {
                    (0, true) => {
                        counts.ready += jobs as u64;
                        counts.age = Duration::from_micros(row.get::<_, i64>(3).max(0) as u64);
                    }
                    (0, false) => counts.later += jobs as u64,
                    (1, _) => counts.in_flight += jobs as u64,
                    (2, _) => counts.behind += jobs as u64,
                    _ => counts.parked += jobs as u64,
                }
            }
            Ok(counts)
        })
    }

    fn parked(&self, after: JobNumber, most: usize) -> BoxFuture<'_, Result<Vec<Parked>>> {
        Box::pin(async move {
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let rows = self.query("reading parked jobs of", sql::PARKED, &[&self.queue, &after, &(most as i64)]).await?;
            Ok(rows.iter().map(parked).collect())
        })
    }

    fn retry<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.by_hand("retrying parked jobs of", sql::RETRY, parked))
    }

    fn discard<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.by_hand("dropping parked jobs of", sql::DISCARD, parked))
    }

    fn edit<'a>(&'a self, parked: JobNumber, change: &'a Change) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.edit_one(parked, change))
    }

    fn arrived(&self, most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _ = tokio::time::timeout(most, async {
                if self.listen().await.is_err() {
                    // It cannot be heard; it can be looked.
                    tokio::time::sleep(LOOK).await;
                }
            })
            .await;
        })
    }
}

/// How often is looked where nothing is heard.
const LOOK: Duration = Duration::from_millis(200);

async fn query(
    client: &PooledClient,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = client.prepare_cached(statement).await?;
    client.query(&statement, parameters).await
}

fn leased(row: &Row) -> Leased {
    let claim = Claim { number: row.get::<_, i64>(0) as u64, fence: row.get::<_, i64>(1) as u64 };
    let body = Bytes::copy_from_slice(row.get(4));
    Leased { claim, attempt: row.get::<_, i32>(2) as u32, returned: row.get(3), body }
}

fn parked(row: &Row) -> Parked {
    let text = |column: usize| row.get::<_, Option<String>>(column);
    let reason = Reason {
        cause: text(1).and_then(|word| Cause::of(&word)).unwrap_or(Cause::Failed),
        error: text(2).unwrap_or_default(),
        response: text(3),
        attempts: row.get::<_, i32>(4) as u32,
    };
    let at_ms = row.get::<_, Option<i64>>(5).unwrap_or_default() as u64;
    job::parked(row.get::<_, i64>(0) as u64, row.get(6), reason, at_ms)
}

/// Which of these claims a statement has given back.
fn among(numbers: &[i64], fences: &[i64], rows: &[Row]) -> Vec<bool> {
    let given: HashSet<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    numbers.iter().zip(fences).map(|(number, fence)| given.contains(&(*number, *fence))).collect()
}

fn fate_number(fate: &Fate) -> i16 {
    match fate {
        Fate::Finished => 0,
        Fate::Retry(_) => 1,
        Fate::Released(_) => 2,
        Fate::Parked(_) => 3,
    }
}

fn wait(fate: &Fate) -> Duration {
    match fate {
        Fate::Retry(wait) | Fate::Released(wait) => *wait,
        Fate::Finished | Fate::Parked(_) => Duration::ZERO,
    }
}

fn reason(fate: &Fate) -> Option<&Reason> {
    match fate {
        Fate::Parked(reason) => Some(reason),
        _ => None,
    }
}

/// Text as Postgres takes it: it has no zero bytes.
fn without_zero(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn micros(time: Duration) -> i64 {
    // A thousand years are for ever.
    time.as_micros().min(1_000 * 365 * 86_400 * 1_000_000) as i64
}

impl std::fmt::Debug for PostgresJobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresJobStore({})", self.place())
    }
}
