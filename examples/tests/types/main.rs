//! Values of every type, copied by the example `replication` and held against the source, row by row, as text: at the edges of each type, and in
//! random tables that change at random.
//!
//! `HIGHWATER_SEEDS` and `HIGHWATER_STATEMENTS` set the size of the random part, `HIGHWATER_SEED` repeats one.

mod random;
mod values;

use std::time::{Duration, Instant};

use highwater::testing::postgres::Database;
use highwater_examples::built::{Example, Running};

/// No wait is longer.
const DEADLINE: Duration = Duration::from_secs(90);

/// A database, its copy, and the example between them.
struct Copy {
    source: Database,
    target: Database,
    tables: Vec<String>,
    example: Example,
    _folder: tempfile::TempDir,
}

impl Copy {
    fn new(source: Database, target: Database, tables: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let example = Example::built("replication", folder.path());
        Copy { source, target, tables, example, _folder: folder }
    }

    fn start(&self) -> Running {
        let slot = format!("types_{}", self.source.name());
        let (tables, source, target) = (self.tables.join(","), self.source.url().reveal(), self.target.url().reveal());
        self.example.start(&[
            "--source",
            source,
            "--target",
            target,
            "--tables",
            &tables,
            "--slot",
            &slot,
            "--checkpoint",
            "state",
            "--report",
            "none",
        ])
    }

    /// Waits until the copy is as the source is; says what differs if it does not come to that.
    fn wait_until_equal(&self, running: &mut Running, with: &Database, what: &str) {
        let began = Instant::now();
        loop {
            let different = self.tables.iter().find_map(|table| different(with, &self.target, table));
            let Some(different) = different else { return };
            let has_ended = running.has_ended();
            if has_ended || began.elapsed() > DEADLINE {
                let parked = self.example.run(&["parked", "list", "--checkpoint", "state"]).stdout;
                panic!("{what}: {different}\n{parked}\n{}", running.stderr());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A server has a hundred slots, and there may be more seeds.
impl Drop for Copy {
    fn drop(&mut self) {
        let slots = "from pg_replication_slots where database = current_database()";
        let began = Instant::now();
        while !std::thread::panicking()
            && began.elapsed() < DEADLINE
            && self.source.sql(&format!("select pg_drop_replication_slot(slot_name) {slots}")).is_err()
        {
            // Its last reader's session is about to end.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What differs in a table, by the text of its columns.
fn different(source: &Database, target: &Database, table: &str) -> Option<String> {
    let all = format!("set timezone = 'UTC'; set extra_float_digits = 1; select * from {table} t order by t::text");
    let (Ok(right), found) = (source.sql(&all), target.sql(&all)) else { return Some("the source is away".to_owned()) };
    let Ok(found) = found else { return Some(format!("{table} is not there yet")) };
    if right == found {
        return None;
    }
    let counts = format!("{table}: {} rows, not {}", found.len(), right.len());
    let missing = right.iter().find(|row| !found.contains(row));
    let Some(row) = missing else { return Some(counts) };
    let other = found.iter().find(|other| other[0] == row[0]);
    let column = other.and_then(|other| row.iter().zip(other).position(|(right, found)| right != found)).unwrap_or_default();
    Some(format!(
        "{counts}; of {:?} column {column}: {:.300?}, not {:.300?}",
        row[0],
        other.map(|other| &other[column]),
        row[column]
    ))
}
