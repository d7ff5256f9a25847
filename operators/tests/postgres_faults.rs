//! What happens to servers and lines: after each the pool works again by itself, and nothing hangs longer than was said.

use std::time::{Duration, Instant};

use highwater_operators::postgres::{Connection, Pool, PoolConfig, failed};
use highwater_operators::testing::postgres::{Proxy, Server, Settings};
use highwater_operators::{ErrorKind, Result};
use tokio::task::JoinHandle;

/// How long a call may hang in these tests.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 4;

fn config() -> PoolConfig {
    PoolConfig {
        min_connections: 2,
        max_connections: CONNECTIONS,
        connection_timeout: PATIENCE,
        idle_timeout: Duration::from_secs(60),
    }
}

/// How long a server stays frozen at least: `HIGHWATER_FROZEN_SECONDS`, else until it was noticed.
fn frozen_for() -> Duration {
    let seconds = std::env::var("HIGHWATER_FROZEN_SECONDS").map_or(0, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

async fn ask(pool: &Pool) -> Result {
    let client = pool.get().await?;
    client.simple_query("select 1").await.map(drop).map_err(|error| failed("asking", error))
}

/// Calls all the time, from as many tasks as there are connections, until told to stop. Every failure must be of kind *retry*, no call may hang.
struct Load {
    tasks: Vec<JoinHandle<(u64, u64, Duration)>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Load {
    fn on(pool: &Pool) -> Load {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let tasks = (0..CONNECTIONS).map(|_| {
            let (pool, stopped) = (pool.clone(), stopped.clone());
            tokio::spawn(async move {
                let (mut done, mut lost, mut longest) = (0, 0, Duration::ZERO);
                while !*stopped.borrow() {
                    let began = Instant::now();
                    match ask(&pool).await {
                        Ok(()) => done += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                            lost += 1;
                        }
                    }
                    longest = longest.max(began.elapsed());
                }
                (done, lost, longest)
            })
        });
        Load { tasks: tasks.collect(), stop }
    }

    /// How many calls failed. A call is at most a wait for a connection and a wait for an answer.
    async fn end(self) -> u64 {
        self.stop.send_replace(true);
        let mut lost_in_all = 0;
        for task in self.tasks {
            let (done, lost, longest) = task.await.expect("no call fails for good");
            assert!(done > 0, "nothing was done at all");
            assert!(longest <= 2 * PATIENCE + SLACK, "a call took {longest:?}");
            lost_in_all += lost;
        }
        lost_in_all
    }
}

/// Until the pool works again, by itself.
async fn works_again(pool: &Pool) {
    let end = Instant::now() + 10 * PATIENCE;
    while let Err(error) = ask(pool).await {
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        assert!(Instant::now() < end, "it does not work again: {error}");
    }
}

#[tokio::test]
async fn every_connection_terminated_in_turn() {
    let database = Server::shared().database().unwrap();
    let pool = Pool::new(database.url(), config(), "terminated").unwrap();
    ask(&pool).await.unwrap();
    let load = Load::on(&pool);
    let ours = "from pg_stat_activity where application_name = 'highwater terminated' and datname = current_database()";
    let mut terminated = 0;
    for _ in 0..5 {
        for row in database.sql(&format!("select pid {ours}")).unwrap() {
            let pid = row[0].clone().unwrap();
            terminated += database.sql(&format!("select pg_terminate_backend(pid) {ours} and pid = {pid}")).unwrap().len();
            ask(&pool).await.map_or_else(|error| assert_eq!(error.kind(), ErrorKind::Retry, "{error}"), drop);
        }
    }
    assert!(terminated >= 10, "{terminated}");
    let lost = load.end().await;
    assert!(lost <= terminated as u64 + 5, "{lost} calls failed for {terminated} connections");
    works_again(&pool).await;
}

#[tokio::test]
async fn restarted_killed_and_frozen() {
    let server = Settings::default().fast().start().unwrap();
    let pool = Pool::new(&server.url("postgres").unwrap(), config(), "faults").unwrap();
    works_again(&pool).await;
    let load = Load::on(&pool);

    server.restart().unwrap();
    works_again(&pool).await;

    server.kill().unwrap();
    // A call that is under way meanwhile loses its connection, and says only that; who finds none to be made says where.
    let names_the_server = async {
        while !ask(&pool).await.is_err_and(|error| error.to_string().contains("postgres://postgres@127.0.0.1")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, names_the_server).await.expect("an error names the server that is gone");
    tokio::time::timeout(3 * PATIENCE, async {
        while !pool.status().away {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    server.start_again().unwrap();
    works_again(&pool).await;
    assert!(!pool.status().away);

    server.freeze().unwrap();
    let began = Instant::now();
    while ask(&pool).await.is_ok() {}
    assert!(began.elapsed() <= 2 * PATIENCE + SLACK, "noticed after {:?}", began.elapsed());
    while began.elapsed() < frozen_for() {
        ask(&pool).await.unwrap_err();
    }
    server.thaw().unwrap();
    works_again(&pool).await;

    assert!(load.end().await > 0, "faults that nobody felt prove nothing");
}

#[tokio::test]
async fn a_line_cut_silenced_and_slowed() {
    let database = Server::shared().database().unwrap();
    let proxy = Proxy::to_server(Server::shared()).unwrap();
    let pool = Pool::new(&proxy.url(database.url()), config(), "line").unwrap();
    works_again(&pool).await;
    let load = Load::on(&pool);

    proxy.cut();
    let error = loop {
        if let Err(error) = ask(&pool).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    proxy.mend();
    works_again(&pool).await;

    proxy.silence();
    let began = Instant::now();
    while ask(&pool).await.is_ok() {}
    assert!(began.elapsed() <= 2 * PATIENCE + SLACK, "noticed after {:?}", began.elapsed());
    proxy.mend();
    works_again(&pool).await;

    proxy.delay(Duration::from_millis(100));
    works_again(&pool).await;
    proxy.delay(Duration::ZERO);
    assert!(load.end().await > 0, "faults that nobody felt prove nothing");
}

#[tokio::test]
async fn a_connection_of_ones_own_does_not_wait_for_ever_on_a_frozen_server() {
    let server = Settings::default().fast().start().unwrap();
    let url = server.url("postgres").unwrap();
    let mut busy = Connection::open_within(&url, "busy", PATIENCE).await.unwrap();
    let mut listening = Connection::open_within(&url, "listening", PATIENCE).await.unwrap();
    listening.batch_execute("listen c").await.unwrap();
    let transaction = busy.transaction().await.unwrap();
    server.freeze().unwrap();
    let began = Instant::now();
    let (asked, heard) = tokio::join!(transaction.simple_query("select 1"), listening.notified());
    assert!(highwater_operators::postgres::is_away(&asked.unwrap_err()));
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::Retry);
    let error = Connection::open_within(&url, "new", PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 2s"), "{error}");
    assert!(began.elapsed() <= 2 * PATIENCE + SLACK, "noticed after {:?}", began.elapsed());
    server.thaw().unwrap();
    Connection::open_within(&url, "new", PATIENCE).await.unwrap();
}
