//! Rows that become visible after rows of larger ids.

use tokio::sync::{mpsc, oneshot};

use super::*;

/// A transaction that is open until it is told how to end.
pub(super) struct Open {
    tell: mpsc::UnboundedSender<(String, oneshot::Sender<()>)>,
    thread: std::thread::JoinHandle<()>,
}

impl Open {
    /// Begins a transaction with this.
    pub(super) fn begin(database: &Database, sql: &str) -> Open {
        let (tell, mut told) = mpsc::unbounded_channel::<(String, oneshot::Sender<()>)>();
        let url = database.url().clone();
        let thread = std::thread::spawn(move || {
            crate::ahead::runtime().unwrap().block_on(async {
                let connection = highwater_operators::postgres::Connection::open(&url, "writer").await.unwrap();
                while let Some((sql, done)) = told.recv().await {
                    connection.batch_execute(&sql).await.unwrap();
                    done.send(()).unwrap();
                }
            });
        });
        let open = Open { tell, thread };
        open.run(&format!("begin; {sql}"));
        open
    }

    /// Runs something more in it.
    pub(super) fn run(&self, sql: &str) {
        let (done, wait) = oneshot::channel();
        self.tell.send((sql.to_owned(), done)).unwrap();
        wait.blocking_recv().unwrap();
    }

    /// Ends it, and its session.
    pub(super) fn end(self, how: &str) {
        self.run(how);
        drop(self.tell);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_row_that_commits_late_is_read_when_it_does_and_not_before_a_roll_back() {
    let database = database();
    let (kept, undone) = (Open::begin(&database, &insert(1..=2)), Open::begin(&database, &insert(3..=3)));
    database.sql(&insert(4..=4)).unwrap();
    let mut reading = Reading::start(&log(&database), None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 1);
    undone.end("rollback");
    reading.until_idle();
    assert_eq!(reading.ids(), ["4"]);
    // The run ends here; the next one knows the gap.
    let token = reading.found.token.clone();
    drop(reading);
    kept.run(
        "savepoint s; insert into tb_entity_change_log(object_type, modification_type) values ('undone', 'u'); rollback to s",
    );
    let mut reading = Reading::start(&log(&database), token.as_ref()).unwrap();
    reading.until_idle();
    kept.end("commit");
    reading.until("the late rows are read", |found| found.changes.len() == 2);
    database.sql(&insert(5..=5)).unwrap();
    reading.until("the next row is read", |found| found.changes.len() == 3);
    assert_eq!(reading.ids(), ["1", "2", "6"]);
}

#[test]
fn a_prepared_transaction_is_waited_for_also_over_a_restart_of_the_server() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql(LOG).unwrap();
    Open::begin(&database, &insert(1..=1)).end("prepare transaction 'late'");
    database.sql(&insert(2..=2)).unwrap();
    let mut reading = Reading::start(&log(&database), None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 1);
    server.kill().unwrap();
    server.start_again().unwrap();
    database.sql(&insert(3..=3)).unwrap();
    reading.until("what comes after is read", |found| found.changes.len() == 2);
    reading.until_idle();
    database.sql("commit prepared 'late'").unwrap();
    reading.until("the prepared row is read", |found| found.changes.len() == 3);
    assert_eq!(reading.found.changes[2].id(), "1");
}

#[test]
fn ids_that_a_backend_has_drawn_ahead_are_waited_for() {
    let database = Server::shared().database().unwrap();
    database.sql(&LOG.replace("as identity", "as identity (cache 20)")).unwrap();
    let ahead = Open::begin(&database, &insert(1..=1));
    ahead.run("commit");
    // The backend holds 2 to 20, and no lock.
    database.sql(&insert(21..=21)).unwrap();
    let mut reading = Reading::start(&log(&database), None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 2);
    reading.until_idle();
    ahead.run(&insert(2..=2));
    reading.until("the row is read", |found| found.changes.len() == 3);
    assert_eq!(reading.ids(), ["1", "21", "2"]);
    ahead.end("select 1");
    reading.until_idle();
}

#[test]
fn ids_made_elsewhere_are_read_as_long_as_the_hold_lasts() {
    let database = Server::shared().database().unwrap();
    database.sql(&LOG.replace("generated always as identity ", "")).unwrap();
    let row = |id| format!("insert into tb_entity_change_log(id, object_type, modification_type) values ({id}, 'a', 'u')");
    database.sql(&row(1000)).unwrap();
    let mut reading = Reading::start(&log(&database).gap_hold(Duration::from_secs(20)), None).unwrap();
    reading.until("what is there is read", |found| found.changes.len() == 1);
    reading.until_idle();
    database.sql(&row(7)).unwrap();
    reading.until("an id made elsewhere is read", |found| found.changes.len() == 2);
    assert_eq!(reading.ids(), ["1000", "7"]);
}
