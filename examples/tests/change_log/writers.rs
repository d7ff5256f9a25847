//! Twenty writers: transactions of any length, undone ones, savepoints, a slow trigger, prepared transactions, sessions that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use highwater::Result;
use highwater::operators::postgres::{Connection, Url};
use highwater::sources::postgres::change_log::Init;
use highwater::testing::postgres::Database;
use highwater_examples::orders::dice::Dice;

const WRITERS: u64 = 20;

/// Makes a log whose sequence gives so many ids at once, with a trigger that is slow now and then.
pub fn make_log(database: &Database, log: &str, cache: u64) {
    Init::table(log).unwrap().apply(database.url()).unwrap();
    let sql = format!(
        "alter sequence {log}_id_seq cache {cache}; \
         create function dawdle() returns trigger language plpgsql as $$ \
         begin if random() < 0.01 then perform pg_sleep(random() * 0.02); end if; return new; end $$; \
         create trigger dawdle before insert on {log} for each row execute function dawdle()"
    );
    database.sql(&sql).unwrap();
}

/// The writers, and who holds a prepared transaction all the time.
pub struct Writers<'s> {
    threads: Vec<ScopedJoinHandle<'s, ()>>,
    written: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
    database: Database,
    log: String,
}

impl<'s> Writers<'s> {
    /// Starts them; they end when so many rows were written, those that are undone included. Nothing is written before it is
    /// [allowed](Self::allow).
    pub fn start(scope: &'s Scope<'s, '_>, database: &Database, log: &str, seed: u64, rows: u64) -> Self {
        let (written, allowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        // Prepared before all others, committed after all.
        database.sql(&format!("begin; {}; prepare transaction 'throughout {}'", insert(log, 3, 0), database.name())).unwrap();
        let threads = (0..WRITERS).map(|number| {
            let writer = Writer {
                url: database.url().clone(),
                log: log.to_owned(),
                dice: Dice::new(seed.wrapping_mul(31) ^ number),
                written: written.clone(),
                allowed: allowed.clone(),
                rows,
                name: format!("{} {number}", database.name()),
            };
            scope.spawn(move || writer.write())
        });
        Writers { threads: threads.collect(), written, allowed, database: database.clone(), log: log.to_owned() }
    }

    /// Rows written so far, those that are undone included.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// They may write on until so many rows were written.
    pub fn allow(&self, rows: u64) {
        self.allowed.fetch_max(rows, Ordering::Relaxed);
    }

    /// Waits for their end, ends what is prepared, and gives the number of ids that were drawn.
    pub fn finish(self) -> u64 {
        self.allow(u64::MAX);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let prepared = "select gid from pg_prepared_xacts where database = current_database()";
        for row in self.database.sql(prepared).unwrap() {
            self.database.sql(&format!("commit prepared '{}'", row[0].as_deref().unwrap())).unwrap();
        }
        self.database.one(&format!("select last_value from {}_id_seq", self.log)).unwrap().parse().unwrap()
    }
}

fn insert(log: &str, rows: u64, key: u64) -> String {
    format!(
        "insert into {log} (object_type, object_id, modification_type, object_data) \
         select 'Order', 'order-{key}', 'UPDATE', jsonb_build_object('n', n) from generate_series(1, {rows}) n"
    )
}

struct Writer {
    url: Url,
    log: String,
    dice: Dice,
    written: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
    rows: u64,
    name: String,
}

impl Writer {
    /// Writes, on a new connection whenever the old one is gone.
    fn write(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while self.written.load(Ordering::Relaxed) < self.rows {
                if self.session().await.is_err() {
                    // A server that is away is back soon.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }

    /// A session of some transactions.
    async fn session(&mut self) -> Result {
        let connection = Connection::open(&self.url, "writer").await?;
        for number in 0..10 + self.dice.below(100) {
            if self.written.load(Ordering::Relaxed) >= self.rows {
                break;
            }
            while self.written.load(Ordering::Relaxed) >= self.allowed.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.transaction(&connection, number).await?;
        }
        // Now and then it ends in the middle of a transaction.
        if self.dice.chance(0.2) {
            connection.batch_execute(&format!("begin; {}", insert(&self.log, 2, 1))).await?;
        }
        Ok(())
    }

    async fn transaction(&mut self, connection: &Connection, number: u64) -> Result {
        connection.batch_execute("begin").await?;
        for _ in 0..1 + self.dice.below(3) {
            let rows = if self.dice.chance(0.05) { 100 } else { 1 + self.dice.below(6) };
            let insert = insert(&self.log, rows, self.dice.below(500));
            let undone = self.dice.chance(0.1);
            let sql = if undone { format!("savepoint s; {insert}; rollback to s") } else { insert };
            connection.batch_execute(&sql).await?;
            self.written.fetch_add(rows, Ordering::Relaxed);
            let pause = match self.dice.below(100) {
                0..70 => 0,
                70..97 => self.dice.below(15),
                _ => 50 + self.dice.below(500),
            };
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        let end = match self.dice.below(100) {
            0..85 => "commit".to_owned(),
            85..95 => "rollback".to_owned(),
            _ => {
                let name = format!("{} {number} {}", self.name, self.dice.bits());
                connection.batch_execute(&format!("prepare transaction '{name}'")).await?;
                tokio::time::sleep(Duration::from_millis(self.dice.below(200))).await;
                // What is left prepared is committed in the end.
                match self.dice.below(4) {
                    0 => return Ok(()),
                    1 => format!("rollback prepared '{name}'"),
                    _ => format!("commit prepared '{name}'"),
                }
            }
        };
        Ok(connection.batch_execute(&end).await?)
    }
}
