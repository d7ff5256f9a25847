//! Programs that write tables while somebody reads them: transactions of all kinds, some of them open for long.

use std::time::Duration;

use highwater::operators::postgres::{Connection, Url};
use highwater::operators::testing::postgres::Database;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The tables, alike in source and target: a key of its own kind each, a number that only grows, a value that is stored apart, and a note.
pub const TABLES: [Table; 4] = [
    Table { name: "orders", columns: "id int primary key", keys: &["id"], places: |k| format!("{k}") },
    Table {
        name: "lines",
        columns: "a int, b text collate \"en-x-icu\", primary key (b, a)",
        keys: &["a", "b"],
        places: |k| format!("{}, '{}{}'", k % 7, if k % 3 == 0 { 'K' } else { 'k' }, k / 7),
    },
    Table { name: "notes", columns: "id uuid primary key", keys: &["id"], places: |k| format!("md5('{k}')::uuid") },
    Table {
        name: "late",
        columns: "day date, at numeric, primary key (day, at)",
        keys: &["day", "at"],
        places: |k| format!("date '2024-02-27' + {}, {}.{}0", k % 5, k / 5, k % 2),
    },
];

/// A table.
pub struct Table {
    pub name: &'static str,
    columns: &'static str,
    pub keys: &'static [&'static str],
    /// The values of its key, of a number.
    places: fn(u32) -> String,
}

impl Table {
    /// Makes it.
    pub fn create(&self, database: &Database) {
        let Table { name, columns, .. } = self;
        let sql = format!(
            "create table {name} ({columns}, v bigint not null, body text, note text); alter table {name} alter body set storage external"
        );
        database.sql(&sql).unwrap();
    }

    /// Fills it with rows of every writer's keys.
    pub fn fill(&self, database: &Database, rows: u32) {
        let columns = self.keys.join(", ");
        let values: Vec<String> =
            (0..rows).map(|k| format!("({}, nextval('versions'), {}, 'first')", (self.places)(k), body(k % 3 == 0))).collect();
        if rows > 0 {
            let name = self.name;
            database.sql(&format!("insert into {name} ({columns}, v, body, note) values {}", values.join(", "))).unwrap();
        }
    }

    /// Something that may be done to a row.
    fn operation(&self, rng: &mut StdRng, key: u32, other: u32) -> String {
        let (name, columns, place) = (self.name, self.keys.join(", "), (self.places)(key));
        let large = body(rng.random_bool(0.4));
        match rng.random_range(0..100) {
            0..35 => format!(
                "insert into {name} ({columns}, v, body, note) values ({place}, nextval('versions'), {large}, 'new') on conflict do nothing"
            ),
            35..60 => format!("update {name} set v = nextval('versions'), note = note || '+' where ({columns}) = ({place})"),
            60..72 => format!("update {name} set v = nextval('versions'), body = {large} where ({columns}) = ({place})"),
            72..86 => format!("delete from {name} where ({columns}) = ({place})"),
            _ => {
                let to = (self.places)(other);
                format!(
                    "update {name} set ({columns}) = row({to}), v = nextval('versions') where ({columns}) = ({place}) \
                     and not exists (select from {name} where ({columns}) = ({to}))"
                )
            }
        }
    }
}

/// A value; a large one is stored apart from its row, and not sent where it does not change.
fn body(is_large: bool) -> &'static str {
    if is_large { "(select string_agg(md5(random()::text), '') from generate_series(1, 90))" } else { "md5(random()::text)" }
}

/// Writers that are under way. Each has keys of its own, so that the numbers of a key grow in the order of the commits.
pub struct Writers(Vec<std::thread::JoinHandle<()>>);

impl Writers {
    /// So many transactions of each writer, on these tables.
    pub fn start(url: &Url, seed: u64, writers: u32, transactions: u32, tables: &'static [Table], truncates: bool) -> Self {
        let start = |writer| {
            let url = url.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let mut rng = StdRng::seed_from_u64(seed * 1_000 + u64::from(writer));
                runtime.block_on(async {
                    let connection = Connection::open(&url, "writer").await.unwrap();
                    for _ in 0..transactions {
                        let key = |rng: &mut StdRng| rng.random_range(0..60) * writers + writer;
                        write(&connection, &mut rng, tables, truncates, key).await;
                    }
                });
            })
        };
        Writers((0..writers).map(start).collect())
    }

    pub fn end(self) {
        self.0.into_iter().for_each(|writer| writer.join().unwrap());
    }
}

async fn write(connection: &Connection, rng: &mut StdRng, tables: &[Table], truncates: bool, key: impl Fn(&mut StdRng) -> u32) {
    let run = async |sql: &str| connection.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run("begin").await;
    for _ in 0..rng.random_range(1..5) {
        let table = &tables[rng.random_range(0..tables.len())];
        let (one, other) = (key(rng), key(rng));
        let operation = table.operation(rng, one, other);
        match rng.random_range(0..20) {
            0 => run(&format!("savepoint s; {operation}; rollback to s")).await,
            1 => run(&format!("savepoint s; {operation}; release s")).await,
            _ => run(&operation).await,
        }
        let pause = if rng.random_bool(0.05) { rng.random_range(0..60_000) } else { rng.random_range(0..2_000) };
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    match rng.random_range(0..10) {
        0 => run("rollback").await,
        _ => run("commit").await,
    }
    if truncates && rng.random_bool(0.01) {
        run(&format!("truncate {}", tables[rng.random_range(0..tables.len())].name)).await;
    }
}
