//! The main example's input: the life of many orders, interleaved, and the customers who placed them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::dice::Dice;

/// What input to make. The same spec makes the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Lines of the orders file, duplicates included.
    pub events: u64,
    /// Lines of the customers file, its header not counted.
    pub customers: u64,
    /// Share of the lines that repeat an earlier one, from 0 up to, but not, 1.
    pub duplicates: f64,
    /// Where randomness starts.
    pub seed: u64,
}

/// No duplicate stands further behind the line that it repeats.
pub const DUPLICATE_DISTANCE_MAX: u64 = 50_000;

/// So many orders are under way at the same time.
const OPEN_ORDERS_MAX: u64 = 4_000;
/// Share of the orders whose customer is not in the customers file.
const UNKNOWN_CUSTOMERS: f64 = 0.03;
/// Time of the first change, in Unix milliseconds.
const START_MS: u64 = 1_760_000_000_000;
/// Lines between two calls of `progress`.
const PROGRESS_EVERY: u64 = 8_192;

/// Notes in two halves, as they stand in the file: already escaped, for escaping them is the readers' trial, not ours.
const NOTE_BEGINNINGS: [&str; 12] = [
    "at the door",
    "gift, no invoice",
    "ring twice",
    r#"say \"hi!\" first"#,
    "für die Küche",
    r"C:\\orders\\new",
    "午後に",
    r"caf\u00e9, 1st floor",
    "second try",
    r"one\ntwo",
    "handle with care",
    "by voucher",
];
const NOTE_ENDS: [&str; 8] = ["", "", " - thanks", " (call)", " / next door", r#" \"as is\""#, " 🎁", r" \\o/"];

/// The stages of an order's life, as rows name them.
const NEW: &str = "new";
const PAID: &str = "paid";
const SHIPPED: &str = "shipped";
const CANCELLED: &str = "cancelled";

/// An order as its row is now.
#[derive(Clone, Copy)]
struct Order {
    number: u64,
    customer: u64,
    status: &'static str,
    cents: u64,
    note: (u8, u8),
}

impl Order {
    fn write(&self, line: &mut Vec<u8>) -> io::Result<()> {
        write!(
            line,
            r#"{{"order_id":"o-{:07}","customer_id":"u-{:06}","status":"{}","amount":{}.{:02},"note":"{}{}"}}"#,
            self.number,
            self.customer,
            self.status,
            self.cents / 100,
            self.cents % 100,
            NOTE_BEGINNINGS[usize::from(self.note.0)],
            NOTE_ENDS[usize::from(self.note.1)],
        )
    }
}

/// One change of one order.
struct Step {
    op: &'static str,
    before: Option<Order>,
    after: Option<Order>,
}

/// All orders that are under way, and what happens next.
struct Shop {
    dice: Dice,
    open: Vec<Order>,
    open_max: usize,
    orders: u64,
    customers: u64,
}

impl Shop {
    fn new(spec: &InputSpec) -> Self {
        // A short input still shows whole lives, not only beginnings.
        let open_max = (spec.events / 20).clamp(1, OPEN_ORDERS_MAX) as usize;
        Shop { dice: Dice::new(spec.seed), open: Vec::with_capacity(open_max), open_max, orders: 0, customers: spec.customers }
    }

    fn step(&mut self) -> Step {
        let room = self.open.len() < self.open_max;
        if self.open.is_empty() || (room && self.dice.chance(0.6)) { self.insert() } else { self.advance() }
    }

    fn insert(&mut self) -> Step {
        self.orders += 1;
        let unknown = self.customers == 0 || self.dice.chance(UNKNOWN_CUSTOMERS);
        let customer = if unknown {
            self.customers + 1 + self.dice.below(1_000)
        } else {
            // Squared: some customers order often, most seldom, which is what a cache meets in life.
            let luck = self.dice.unit();
            1 + ((luck * luck * self.customers as f64) as u64).min(self.customers - 1)
        };
        // A few are paid in advance: an insert that is paid became paid.
        let status = if self.dice.chance(0.02) { PAID } else { NEW };
        let order = Order { number: self.orders, customer, status, cents: 100 + self.dice.below(99_900), note: self.note() };
        self.open.push(order);
        Step { op: "insert", before: None, after: Some(order) }
    }

    fn advance(&mut self) -> Step {
        let at = self.dice.below(self.open.len() as u64) as usize;
        let before = self.open[at];
        let mut after = before;
        let luck = self.dice.unit();
        match before.status {
            NEW if luck < 0.85 => after.status = PAID,
            NEW if luck < 0.93 => after.status = CANCELLED,
            PAID if luck < 0.80 => after.status = SHIPPED,
            // At the end of its life an order is deleted or, more often, amended a last time and left alone.
            SHIPPED | CANCELLED if luck < 0.25 => {
                self.open.swap_remove(at);
                return Step { op: "delete", before: Some(before), after: None };
            }
            _ if luck < 0.97 => {
                after.note = self.note();
                after.cents = 100 + self.dice.below(99_900);
            }
            _ => after.cents += 1,
        }
        if matches!(before.status, SHIPPED | CANCELLED) && luck < 0.70 {
            self.open.swap_remove(at);
        } else {
            self.open[at] = after;
        }
        Step { op: "update", before: Some(before), after: Some(after) }
    }

    fn note(&mut self) -> (u8, u8) {
        (self.dice.below(NOTE_BEGINNINGS.len() as u64) as u8, self.dice.below(NOTE_ENDS.len() as u64) as u8)
    }
}

/// The last lines written, for some to be written again.
#[derive(Default)]
struct Recent {
    lines: VecDeque<(u64, Vec<u8>)>,
}

impl Recent {
    /// An emptied line to write into, reusing the one that is now too old to be repeated.
    fn take_blank(&mut self, line_number: u64) -> Vec<u8> {
        match self.lines.front() {
            Some((first, _)) if line_number - first >= DUPLICATE_DISTANCE_MAX => {
                let mut line = self.lines.pop_front().map(|(_, line)| line).unwrap_or_default();
                line.clear();
                line
            }
            _ => Vec::with_capacity(384),
        }
    }

    /// One of the lines, `None` if no line is recent enough.
    fn pick(&self, dice: &mut Dice, line_number: u64) -> Option<&[u8]> {
        let from = self.lines.partition_point(|(first, _)| line_number - first > DUPLICATE_DISTANCE_MAX);
        let count = self.lines.len() - from;
        // Cubed: most duplicates follow closely, as repeated deliveries do, and a few come late.
        let back = 1 + (dice.unit().powi(3) * count as f64) as usize;
        if back > count { None } else { self.lines.get(self.lines.len() - back).map(|(_, line)| &line[..]) }
    }
}

/// Writes the orders file: `spec.events` lines of the default envelope. `progress` hears now and then how many are done.
///
/// # Errors
///
/// What the file system answers. The file appears under its name only once it is whole.
pub fn generate_orders(path: &Path, spec: &InputSpec, mut progress: impl FnMut(u64)) -> io::Result<()> {
    write_whole(path, |file| {
        let mut shop = Shop::new(spec);
        // Dice of their own: whether a line is repeated does not change what happens to the orders.
        let mut dice = Dice::new(spec.seed ^ 0xd0b1_e5d0_b1e5);
        let mut recent = Recent::default();
        let mut changes = 0_u64;
        let mut now_ms = START_MS;
        for line_number in 0..spec.events {
            let repeated = if dice.chance(spec.duplicates) { recent.pick(&mut dice, line_number) } else { None };
            if let Some(line) = repeated {
                file.write_all(line)?;
            } else {
                changes += 1;
                now_ms += u64::from(dice.chance(0.2));
                let mut line = recent.take_blank(line_number);
                write_change(&mut line, changes, now_ms, &shop.step())?;
                file.write_all(&line)?;
                recent.lines.push_back((line_number, line));
            }
            if (line_number + 1) % PROGRESS_EVERY == 0 {
                progress(line_number + 1);
            }
        }
        progress(spec.events);
        Ok(())
    })
}

fn write_change(line: &mut Vec<u8>, change: u64, now_ms: u64, step: &Step) -> io::Result<()> {
    let order = step.after.or(step.before).map_or(0, |order| order.number);
    write!(line, r#"{{"id":"c-{change:08}","table":"orders","op":"{}","key":"o-{order:07}","ts":{now_ms},"before":"#, step.op)?;
    write_row(line, step.before)?;
    line.extend_from_slice(br#","after":"#);
    write_row(line, step.after)?;
    line.extend_from_slice(b"}\n");
    Ok(())
}

fn write_row(line: &mut Vec<u8>, row: Option<Order>) -> io::Result<()> {
    match row {
        Some(order) => order.write(line),
        None => line.write_all(b"null"),
    }
}

/// Writes the customers file: CSV with the header `id,name,tier,country`.
///
/// # Errors
///
/// What the file system answers. The file appears under its name only once it is whole.
pub fn generate_customers(path: &Path, spec: &InputSpec) -> io::Result<()> {
    const FIRST: [&str; 8] = ["Ada", "Björn", "Chloé", "Dmitri", "Ewa", "Farid", "Grace", "Hikaru"];
    const LAST: [&str; 8] = ["Lovelace", "Åkesson", "O'Neil", "Nováková", "Silva", "Tanaka", "Hopper", "Zhou"];
    const TIERS: [&str; 5] = ["free", "free", "free", "pro", "enterprise"];
    const COUNTRIES: [&str; 7] = ["DE", "FR", "GB", "JP", "BR", "SE", "US"];
    write_whole(path, |file| {
        let mut dice = Dice::new(spec.seed ^ 0xc057_0e25);
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(["id", "name", "tier", "country"])?;
        for number in 1..=spec.customers {
            let (first, last) = (dice.pick(&FIRST), dice.pick(&LAST));
            // The comma and the quotes are for the readers of CSV and the writers of JSON.
            let name = match dice.below(10) {
                0 => format!("{last}, {first}"),
                1 => format!("{first} \"{last}\" {number}"),
                _ => format!("{first} {last} {number}"),
            };
            csv.write_record([format!("u-{number:06}").as_str(), &name, dice.pick(&TIERS), dice.pick(&COUNTRIES)])?;
        }
        csv.flush()
    })
}

/// Writes a file under a temporary name and gives it its own name when it is whole, so that no one finds half a file.
fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn lines(spec: &InputSpec) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.jsonl");
        generate_orders(&path, spec, |_| ()).unwrap();
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    const SPEC: InputSpec = InputSpec { events: 20_000, customers: 500, duplicates: 0.1, seed: 7 };

    #[test]
    fn one_spec_makes_one_input() {
        assert_eq!(lines(&SPEC), lines(&SPEC));
        assert_ne!(lines(&SPEC), lines(&InputSpec { seed: 8, ..SPEC }));
    }

    #[test]
    fn small_inputs_are_inputs_too() {
        for seed in 0..100 {
            let spec = InputSpec { events: seed % 7, customers: seed % 3, duplicates: 0.9, seed };
            assert_eq!(lines(&spec).len() as u64, spec.events);
        }
    }

    #[test]
    fn every_before_row_is_the_last_after_row() {
        let mut rows: HashMap<String, Value> = HashMap::new();
        let mut seen = HashSet::new();
        let mut operations: HashMap<String, u32> = HashMap::new();
        for line in lines(&SPEC) {
            let change: Value = serde_json::from_str(&line).unwrap();
            if !seen.insert(change["id"].to_string()) {
                continue;
            }
            let key = change["key"].as_str().unwrap().to_owned();
            assert_eq!(rows.get(&key).unwrap_or(&Value::Null), &change["before"], "{line}");
            if change["after"].is_null() {
                rows.remove(&key);
            } else {
                assert_eq!(change["after"]["order_id"], key.as_str());
                rows.insert(key, change["after"].clone());
            }
            *operations.entry(change["op"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert!(["insert", "update", "delete"].iter().all(|op| operations[*op] > 500), "{operations:?}");
    }

    #[test]
    fn duplicates_are_as_many_and_as_near_as_asked() {
        for share in [0.0, 0.1, 0.9] {
            let spec = InputSpec { events: 120_000, duplicates: share, ..SPEC };
            let mut first: HashMap<String, usize> = HashMap::new();
            let mut repeats = 0;
            for (number, line) in lines(&spec).into_iter().enumerate() {
                match first.get(&line) {
                    Some(at) => {
                        repeats += 1;
                        assert!((number - at) as u64 <= DUPLICATE_DISTANCE_MAX);
                    }
                    None => _ = first.insert(line, number),
                }
            }
            let ids = first.keys().map(|line| &line[..18]).collect::<HashSet<_>>();
            assert_eq!(ids.len(), first.len(), "an id stands for two changes");
            assert!((repeats as f64 / 120_000.0 - share).abs() < 0.01, "{repeats} repeats for a share of {share}");
        }
    }

    #[test]
    fn lines_are_about_290_bytes_long() {
        let bytes: usize = lines(&SPEC).iter().map(|line| line.len() + 1).sum();
        let average = bytes as f64 / SPEC.events as f64;
        assert!((280.0..300.0).contains(&average), "{average} bytes a line");
    }
}
