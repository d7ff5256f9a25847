//! The oracle of the main example: what its outputs must hold, worked out line by line with no pipeline in sight.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// So many problems are put into words; the rest is only counted.
const PROBLEMS_SHOWN: usize = 10;

/// What the oracle found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Lines that should be in an output and are not.
    pub lost: u64,
    /// Lines that are in an output once more than they should.
    pub repeated: u64,
    /// Lines that no change asks for, that say something else than they should, or that cannot be read.
    pub wrong: u64,
    /// Lines that stand in their file behind a later change of the same key.
    pub out_of_order: u64,
    /// Lines of the input, duplicates included.
    pub read: u64,
    /// Lines that `all` must hold: the distinct changes of the input.
    pub expected_all: u64,
    /// Lines that `paid` must hold.
    pub expected_paid: u64,
    /// The first few problems in words.
    pub first_problems: Vec<String>,
}

impl Verdict {
    /// Whether there is nothing to complain of.
    pub fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.wrong + self.out_of_order == 0
    }

    fn note(&mut self, problem: impl FnOnce() -> String) {
        if self.first_problems.len() < PROBLEMS_SHOWN {
            self.first_problems.push(problem());
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { lost, repeated, wrong, out_of_order, expected_all, expected_paid, .. } = self;
        write!(f, "lost {lost}, repeated {repeated}, wrong {wrong}, out of order {out_of_order}")?;
        write!(f, " of {expected_all} in all and {expected_paid} in paid")?;
        self.first_problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

type Object = BTreeMap<String, Value>;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    before: Option<Object>,
    after: Option<Object>,
}

#[derive(Deserialize)]
struct Customer {
    id: String,
    name: String,
    tier: String,
}

/// What must become of one change. Hashes stand for texts, so that a million changes fit into some 100 MB.
struct Expected {
    position: u64,
    key: u64,
    all: u64,
    paid: Option<u64>,
    seen_all: bool,
    seen_paid: bool,
}

impl Expected {
    /// What an output must hold of this change, and whether it was met there already.
    fn in_output(&mut self, output: &str) -> (Option<u64>, &mut bool) {
        match output {
            "all" => (Some(self.all), &mut self.seen_all),
            _ => (self.paid, &mut self.seen_paid),
        }
    }
}

/// Compares everything below `out/all` and `out/paid` with what `input` and `customers` ask for.
///
/// # Errors
///
/// A file that cannot be opened or read, an input line that cannot be parsed. Whatever is amiss with the outputs is
/// told by the verdict; an output folder that is not there is an empty one.
pub fn verify(input: &Path, customers: &Path, out: &Path) -> io::Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut expected = expect(input, &read_customers(customers)?, &mut verdict)?;
    for output in ["all", "paid"] {
        for file in files_below(&out.join(output))? {
            check_file(output, &file, &mut expected, &mut verdict)?;
        }
    }
    let mut missing = Vec::new();
    for change in expected.values_mut() {
        for output in ["all", "paid"] {
            if let (Some(_), false) = change.in_output(output) {
                verdict.lost += 1;
                missing.push((change.position, output));
            }
        }
    }
    // In the order of the input, for a hole is better recognised from its beginning.
    missing.sort_unstable();
    for (position, output) in missing.into_iter().take(PROBLEMS_SHOWN) {
        verdict.note(|| format!("{output}: nothing of the change in input line {position}"));
    }
    Ok(verdict)
}

fn read_customers(path: &Path) -> io::Result<HashMap<String, Customer>> {
    let mut customers = HashMap::new();
    for customer in csv::Reader::from_path(path)?.deserialize() {
        let customer: Customer = customer?;
        customers.insert(customer.id.clone(), customer);
    }
    Ok(customers)
}

fn expect(path: &Path, customers: &HashMap<String, Customer>, verdict: &mut Verdict) -> io::Result<HashMap<u64, Expected>> {
    let mut expected = HashMap::new();
    for_each_line(path, |number, text| {
        let line: Line<'_> = serde_json::from_slice(text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{} line {number}: {error}", path.display())))?;
        verdict.read += 1;
        let id = xxh3_64(line.id.as_bytes());
        if expected.contains_key(&id) {
            return Ok(());
        }
        let key = xxh3_64(line.key.as_bytes());
        let became_paid = has_status(line.after.as_ref(), "paid") && !has_status(line.before.as_ref(), "paid");

        let named = line.after.as_ref().or(line.before.as_ref()).and_then(|row| row.get("customer_id"));
        let customer = named.and_then(Value::as_str).and_then(|id| customers.get(id));
        let tier = customer.map_or("", |customer| &customer.tier);
        let name = customer.map_or("", |customer| &customer.name);

        let all = [("id", &*line.id), ("key", &*line.key), ("op", &*line.op), ("tier", tier)];
        let all = hash_of(&all.map(|(field, value)| (field.to_owned(), Value::from(value))).into());
        verdict.expected_all += 1;

        let paid = line.after.filter(|_| became_paid).map(|mut row| {
            verdict.expected_paid += 1;
            row.extend([("id", &*line.id), ("customer_name", name), ("tier", tier)].map(|(f, v)| (f.to_owned(), v.into())));
            hash_of(&row)
        });
        expected.insert(id, Expected { position: number, key, all, paid, seen_all: false, seen_paid: false });
        Ok(())
    })?;
    Ok(expected)
}

fn has_status(row: Option<&Object>, status: &str) -> bool {
    row.and_then(|row| row.get("status")).is_some_and(|value| value == status)
}

/// The same for two objects that say the same, however they are written.
fn hash_of(object: &Object) -> u64 {
    let canonical = serde_json::to_vec(object).unwrap_or_default();
    xxh3_64(&canonical)
}

fn check_file(output: &str, path: &Path, expected: &mut HashMap<u64, Expected>, verdict: &mut Verdict) -> io::Result<()> {
    // The input position of the latest line of each key. One file is one hand writing; between files there is no order.
    let mut latest: HashMap<u64, u64> = HashMap::new();
    for_each_line(path, |number, text| {
        let place = || format!("{output}: {} line {number}", path.display());
        let object: Object = match serde_json::from_slice(text) {
            Ok(object) => object,
            Err(error) => {
                verdict.wrong += 1;
                verdict.note(|| format!("{} cannot be read: {error}", place()));
                return Ok(());
            }
        };
        let id = object.get("id").and_then(Value::as_str).map(|id| xxh3_64(id.as_bytes()));
        let Some(change) = id.and_then(|id| expected.get_mut(&id)) else {
            verdict.wrong += 1;
            verdict.note(|| format!("{} has an id that is not in the input: {}", place(), String::from_utf8_lossy(text)));
            return Ok(());
        };
        let (position, key) = (change.position, change.key);
        let (wanted, seen) = change.in_output(output);
        if std::mem::replace(seen, true) {
            verdict.repeated += 1;
            verdict.note(|| format!("{} repeats the change in input line {position}", place()));
            // A repeat is one fault, not two: its place among its key's lines is not judged.
            return Ok(());
        }
        if wanted != Some(hash_of(&object)) {
            verdict.wrong += 1;
            let text = String::from_utf8_lossy(text);
            verdict.note(|| format!("{} is not what input line {position} asks for: {text}", place()));
        }
        let latest = latest.entry(key).or_default();
        if *latest > position {
            verdict.out_of_order += 1;
            verdict.note(|| format!("{} is of input line {position}, but follows line {latest} of the same key", place()));
        }
        *latest = position.max(*latest);
        Ok(())
    })
}

/// Calls `each` with the number, from 1, and the bytes of every line that is not empty.
fn for_each_line(path: &Path, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    let mut number = 0;
    while file.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.trim_ascii_end();
        if !text.is_empty() {
            each(number, text)?;
        }
        line.clear();
    }
    Ok(())
}

fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    // Always in the same order, so that the same fault is told in the same words.
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &[&str] = &[
        r#"{"id":"1","table":"orders","op":"insert","key":"a","ts":1,"before":null,"after":{"order_id":"a","customer_id":"u","status":"new","note":"\u00e9"}}"#,
        r#"{"id":"2","table":"orders","op":"update","key":"a","ts":2,"before":{"order_id":"a","customer_id":"u","status":"new","note":"\u00e9"},"after":{"order_id":"a","customer_id":"u","status":"paid","note":"\u00e9"}}"#,
        r#"{"id":"2","table":"orders","op":"update","key":"a","ts":2,"before":{"order_id":"a","customer_id":"u","status":"new","note":"\u00e9"},"after":{"order_id":"a","customer_id":"u","status":"paid","note":"\u00e9"}}"#,
        r#"{"id":"3","table":"orders","op":"insert","key":"b","ts":3,"before":null,"after":{"order_id":"b","customer_id":"nobody","status":"paid"}}"#,
        r#"{"id":"4","table":"orders","op":"update","key":"a","ts":4,"before":{"customer_id":"u","status":"paid"},"after":{"customer_id":"u","status":"paid"}}"#,
        r#"{"id":"5","table":"orders","op":"delete","key":"a","ts":5,"before":{"customer_id":"u","status":"paid"},"after":null}"#,
    ];
    const ALL: &[&str] = &[
        r#"{"id":"1","key":"a","op":"insert","tier":"pro"}"#,
        r#"{"id":"3","key":"b","op":"insert","tier":""}"#,
        r#"{"id":"2","key":"a","op":"update","tier":"pro"}"#,
        r#"{"tier":"pro","id":"4","key":"a","op":"update"}"#,
        r#"{"id":"5","key":"a","op":"delete","tier":"pro"}"#,
    ];
    const PAID: &[&str] = &[
        r#"{"id":"2","order_id":"a","customer_id":"u","status":"paid","note":"é","customer_name":"Uwe, \"U\"","tier":"pro"}"#,
        r#"{"id":"3","order_id":"b","customer_id":"nobody","status":"paid","customer_name":"","tier":""}"#,
    ];

    #[track_caller]
    fn check(all: &[&str], paid: &[&str], lost_repeated_wrong_disordered: [u64; 4]) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let (input, customers) = (folder.path().join("orders.jsonl"), folder.path().join("customers.csv"));
        fs::create_dir_all(out.join("all/deeper")).unwrap();
        fs::create_dir_all(out.join("paid")).unwrap();
        fs::write(&input, INPUT.join("\n")).unwrap();
        fs::write(&customers, "id,name,tier,country\nu,\"Uwe, \"\"U\"\"\",pro,DE\n").unwrap();
        fs::write(out.join("all/deeper/1.jsonl"), all.join("\n") + "\n").unwrap();
        fs::write(out.join("paid/1.jsonl"), paid.join("\n")).unwrap();
        let verdict = verify(&input, &customers, &out).unwrap();
        let Verdict { lost, repeated, wrong, out_of_order, .. } = verdict;
        assert_eq!([lost, repeated, wrong, out_of_order], lost_repeated_wrong_disordered, "{verdict}");
        assert_eq!((verdict.read, verdict.expected_all, verdict.expected_paid), (6, 5, 2));
        assert_eq!(verdict.is_clean(), verdict.first_problems.is_empty());
    }

    #[test]
    fn what_is_right_passes() {
        check(ALL, PAID, [0, 0, 0, 0]);
    }

    #[test]
    fn what_is_missing_is_lost() {
        check(&ALL[1..], PAID, [1, 0, 0, 0]);
        check(ALL, &[], [2, 0, 0, 0]);
    }

    #[test]
    fn what_stands_twice_is_repeated() {
        check(&[ALL, &[ALL[0]]].concat(), PAID, [0, 1, 0, 0]);
        check(ALL, &[PAID, PAID].concat(), [0, 2, 0, 0]);
    }

    #[test]
    fn what_says_something_else_is_wrong() {
        check(&[&[r#"{"id":"1","key":"a","op":"insert","tier":""}"#], &ALL[1..]].concat(), PAID, [0, 0, 1, 0]);
        check(ALL, &[&PAID[0].replace("Uwe", "Uwo"), PAID[1]], [0, 0, 1, 0]);
        // Paid before and after: it did not become paid.
        check(
            ALL,
            &[PAID, &[r#"{"id":"4","customer_id":"u","status":"paid","customer_name":"","tier":""}"#]].concat(),
            [0, 0, 1, 0],
        );
        check(&[ALL, &[r#"{"id":"6","key":"a","op":"insert","tier":"pro"}"#]].concat(), PAID, [0, 0, 1, 0]);
        check(&[ALL, &[r#"{"id":"5","key":"a","#]].concat(), PAID, [0, 0, 1, 0]);
    }

    #[test]
    fn what_overtakes_its_own_key_is_out_of_order() {
        check(&[ALL[0], ALL[2], ALL[4], ALL[3], ALL[1]], PAID, [0, 0, 0, 1]);
        check(ALL, &[PAID[1], PAID[0]], [0, 0, 0, 0]);
    }
}
