//! The program of a pipeline as a person meets it: help, mistakes, signals, and what is parked.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use highwater_examples::built::{Example, Running};
use highwater_examples::orders::{InputSpec, Report, generate_customers, generate_orders, verify};
use tempfile::TempDir;

/// The main example, in a folder with an input of its own.
struct Shop {
    orders: Example,
    folder: TempDir,
}

const USUAL: &[&str] = &["--input", "orders.jsonl", "--customers", "customers.csv", "--out", "out", "--data", "state"];

impl Shop {
    fn new(events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = InputSpec { events, customers: 50, duplicates: 0.1, seed: 7 };
        generate_orders(&folder.path().join("orders.jsonl"), &spec, |_| ()).unwrap();
        generate_customers(&folder.path().join("customers.csv"), &spec).unwrap();
        Shop { orders: Example::built("orders", folder.path()), folder }
    }

    /// A folder whose input is these lines.
    fn of(input: &str) -> Self {
        let shop = Shop::new(1);
        fs::write(shop.folder.path().join("orders.jsonl"), input).unwrap();
        shop
    }

    #[track_caller]
    fn run(&self, more: &[&str]) -> String {
        self.orders.succeed(&[USUAL, more].concat())
    }

    /// Runs it to its end, and holds its outputs against the oracle.
    #[track_caller]
    fn finish(&self) -> Report {
        let report = Report::parse(&self.run(&["--report", "json"])).unwrap();
        assert!(report.unbalanced().is_empty(), "{:?}", report.unbalanced());
        let at = |name: &str| self.folder.path().join(name);
        let verdict = verify(&at("orders.jsonl"), &at("customers.csv"), &at("out")).unwrap();
        assert!(verdict.is_clean(), "{verdict}");
        report
    }

    /// Starts it on one worker, and waits until it has written something.
    #[track_caller]
    fn start_and_see_output(&self, more: &[&str]) -> Running {
        let mut running = self.orders.start(&[USUAL, &["--workers", "1"], more].concat());
        let out = self.folder.path().join("out/all");
        running.wait_until("the first output", |_| has_content(&out));
        running
    }
}

fn has_content(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 0))
}

#[track_caller]
fn check_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn help_names_commands_flags_and_examples() {
    let shop = Shop::new(1);
    let help = shop.orders.succeed(&["--help"]);
    let about = "Orders that were paid, with their customers; and every change, once";
    check_says(&help, &[about, "Usage: orders [OPTIONS]", "--checkpoint-batch-size", "--customers-count", "HIGHWATER_WORKERS"]);
    check_says(&help, &["Runs the pipeline (the default)", "Prints the shape", "Says what is wrong", "Shows what is saved"]);
    check_says(&help, &["Examples:", "orders parked list", "orders graph --dot"]);
    check_says(&shop.orders.succeed(&["run", "-h"]), &["Runs the pipeline (the default)", "--duplicates"]);
    check_says(&shop.orders.fail(2, &["parked"]), &["list", "retry", "orders parked show 17"]);
    check_says(&shop.orders.succeed(&["parked", "show", "--help"]), &["The record, by number"]);
    // Help makes no input.
    assert!(!shop.folder.path().join("data").exists());
}

#[test]
fn graph_and_check_tell_of_the_pipeline_and_run_nothing() {
    let shop = Shop::new(10);
    let graph = shop.orders.succeed(&[&["graph"], USUAL].concat());
    let expected = " 1  source jsonl  (orders.jsonl)\n \
        2  dedup  (the latest 1000000 ids)  <- source jsonl\n \
        3  lookup customer  (customers.csv)  <- dedup\n \
        4  action paid  (on closure, out/paid)  <- lookup customer\n \
        5  action all  (out/all)  <- lookup customer\n \
        6  checkpoint  (every 200ms, or 1000 changes)  <- action paid, action all\n";
    assert_eq!(graph, expected);
    let dot = shop.orders.succeed(&[&["graph", "--dot"], USUAL].concat());
    check_says(&dot, &["digraph pipeline {", "n2 [label=\"lookup customer\\ncustomers.csv\"];", "n4 -> n5;"]);
    assert_eq!(shop.orders.succeed(&[&["check"], USUAL].concat()), "the pipeline is whole: 1 source, 2 actions\n");
    assert!(!shop.folder.path().join("state").exists());
}

#[test]
fn what_is_done_is_shown_and_not_done_again() {
    let shop = Shop::new(2_000);
    let early = shop.orders.fail(1, &["checkpoint", "show", "--data", "state"]);
    check_says(&early, &["error: nothing is saved in state", "run the pipeline first", "--data DIR"]);

    let first = shop.run(&[]);
    check_says(&first, &["action", "delivered", "out/paid", "(2,000 changes in", "run 1 (new)", "hit rate", "state in state"]);
    assert!(!first.contains("parked list"), "nothing is parked:\n{first}");
    let widest = first.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 110, "{widest} columns:\n{first}");

    let shown = shop.orders.succeed(&["checkpoint", "show", "--data", "state"]);
    check_says(&shown, &["pipeline   orders", "generation 1", "save ", "read jsonl", "2,000", "part-000001-000.jsonl"]);
    assert_eq!(shop.orders.succeed(&["parked", "list", "--data", "state"]), "nothing is parked\n");

    let again = shop.run(&[]);
    check_says(&again, &["everything was done already: nothing was read", "run 2 (resumed after 2,000)", "replayed 0"]);
    let report = shop.finish();
    assert_eq!((report.read, report.replayed, report.events_per_second), (2_000, 0, 0.0));
    assert_eq!(report.actions["paid"].delivered + report.actions["paid"].filtered + report.duplicate, 2_000);
}

/// As under `| head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let shop = Shop::new(10);
    shop.run(&[]);
    for command in [&["checkpoint", "show", "--data", "state"][..], &["graph"], &["check", "--events", "10"], USUAL] {
        let mut child = shop.orders.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{command:?} ended with {}\n{said}", ended.status);
    }
}

#[test]
fn the_json_report_is_the_last_line() {
    let stdout = Shop::new(500).run(&["--report", "json"]);
    let report: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&report["read"], &report["ended"], &report["resumed_from"]),
        (&500.into(), &true.into(), &serde_json::Value::Null)
    );
    for field in ["duplicate", "replayed", "replayed_max", "saves", "seconds", "events_per_second"] {
        assert!(report[field].is_number(), "{field}: {report}");
    }
    assert!(report["cache"]["hits"].as_u64() > Some(0) && report["actions"]["all"]["delivered"].as_u64() > Some(0), "{report}");
}

#[test]
fn a_second_run_on_the_same_directory_is_refused() {
    let shop = Shop::new(100_000);
    let first = shop.start_and_see_output(&["--report", "none"]);
    let refused = shop.orders.fail(1, USUAL);
    check_says(&refused, &["error: the data directory state is in use by process "]);
    assert_eq!(refused.lines().count(), 1, "one sentence:\n{refused}");
    // Looking is allowed.
    check_says(&shop.orders.succeed(&["checkpoint", "show", "--data", "state"]), &["generation 1"]);
    let ended = first.wait();
    assert!(ended.status.success(), "{}", ended.stderr);
    shop.finish();
}

#[test]
fn a_signal_drains_saves_and_the_next_run_finishes() {
    let shop = Shop::new(100_000);
    let running = shop.start_and_see_output(&[]);
    running.signal("TERM");
    let ended = running.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    check_says(&ended.stderr, &["draining: finishing what is under way; once more ends at once"]);
    check_says(&ended.stdout, &["ended before the end of the input; the next run continues", "state in state"]);
    let shown = shop.orders.succeed(&["checkpoint", "show", "--data", "state"]);
    check_says(&shown, &["continues at", "read jsonl"]);
    assert!(!shown.contains("all sources had ended"), "{shown}");
    let report = shop.finish();
    assert_eq!((report.read, report.replayed), (100_000, 0), "a drain leaves nothing to be read again");
    assert!(report.resumed_from.is_some_and(|done| done.as_u64() > Some(0)));
}

#[test]
fn two_signals_end_at_once_and_still_nothing_is_lost() {
    // A drain can be over before the second signal comes: then it was no trial, and another is made.
    for trial in 1.. {
        assert!(trial <= 20, "every drain was over before it could be cut short");
        let shop = Shop::new(100_000);
        let running = shop.start_and_see_output(&[]);
        running.signal("TERM");
        running.signal("INT");
        let ended = running.wait();
        if ended.status.code() == Some(0) {
            continue;
        }
        assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
        check_says(&ended.stderr, &["ending at once: what is unfinished is read again by the next run"]);
        assert_eq!(shop.finish().read, 100_000);
        return;
    }
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let shop = Shop::new(10);
    let refused = |code, more: &[&str], says: &[&str]| {
        let said = shop.orders.fail(code, &[USUAL, more].concat());
        check_says(&said, says);
        assert!(!said.contains("panicked"), "{said}");
    };
    refused(2, &["--workrs", "3"], &["unexpected argument '--workrs'", "a similar argument exists: '--workers'"]);
    refused(2, &["--workers", "0"], &["invalid value '0' for '--workers <N>'", "1..=256"]);
    refused(2, &["--duplicates", "2"], &["invalid value '2' for '--duplicates <SHARE>'", "at least 0 and below 1, as in 0.1"]);
    refused(2, &["--checkpoint-batch-size", "0"], &["invalid value '0'", "--checkpoint-batch-size"]);
    check_says(&shop.orders.fail(2, &["chek"]), &["unrecognized subcommand 'chek'", "'check'"]);
    assert!(!shop.folder.path().join("state").exists(), "what is refused leaves nothing behind");

    let file = shop.orders.fail(1, &["--input", "orders.jsonl", "--customers", "customers.csv", "--data", "customers.csv"]);
    check_says(&file, &["error: customers.csv is a file; --data names the directory"]);
    let folder = shop.orders.fail(1, &["--input", ".", "--customers", "customers.csv", "--data", "other"]);
    check_says(&folder, &["error: ", "cannot read .: it is a directory; name a file of JSON lines"]);
}

#[test]
fn flags_in_front_of_a_command_are_told_where_to_go() {
    let shop = Shop::new(10);
    let said = shop.orders.fail(2, &["--data", "state", "parked", "list"]);
    check_says(&said, &["cannot be used with '--data <DIR>'", "Put flags behind the command: `orders parked list --data state`"]);
}

#[test]
fn the_file_of_settings_is_read_and_its_mistakes_are_told_with_their_line() {
    let shop = Shop::new(10);
    let write = |text: &str| fs::write(shop.folder.path().join("highwater.toml"), text).unwrap();
    write("chekpoint_batch_size = 5\n\n[lookup.customer]\ncache_size = \"many\"\n");
    let said = shop.orders.fail(2, USUAL);
    check_says(
        &said,
        &["error: highwater.toml, line 1: unknown setting \"chekpoint_batch_size\"; did you mean \"checkpoint_batch_size\"?"],
    );
    check_says(
        &said,
        &["line 4: wrong value \"many\" for cache_size of lookup \"customer\": expected a whole number of entries"],
    );
    write("[action.piad]\ntimeout = \"1s\"\n");
    let said = shop.orders.fail(2, USUAL);
    check_says(&said, &["problem: highwater.toml, line 2: the pipeline has no action \"piad\"; did you mean \"paid\"?"]);
    assert!(!shop.folder.path().join("state").exists(), "what is refused leaves nothing behind");

    write("data = \"kept\"\nworkers = 3\n[lookup.customer]\ncache_size = 77\n");
    let inputs = ["--input", "orders.jsonl", "--customers", "customers.csv", "--out", "out"];
    let shown = shop.orders.succeed(&[&["settings", "--timeout", "3s"], &inputs[..]].concat());
    let row = |name: &str| shown.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default().to_owned();
    check_says(&row("workers"), &["3", "highwater.toml, line 2"]);
    check_says(&row("lookup.customer.cache_size"), &["77", "highwater.toml, line 4"]);
    check_says(&row("action.paid.timeout"), &["3s", "flag --timeout"]);
    check_says(&row("action.paid.attempts"), &["5", "the pipeline's code"]);
    shop.orders.succeed(&inputs);
    check_says(&shop.orders.succeed(&["checkpoint", "show"]), &["kept/journal"]);
    check_says(&shop.orders.fail(2, &["--config", "none.toml"]), &["cannot read the settings in none.toml"]);
}

#[test]
fn status_why_and_metrics_ask_the_run_and_say_when_there_is_none() {
    let shop = Shop::new(100_000);
    let early = shop.orders.fail(3, &["status", "--data", "state"]);
    check_says(&early, &["orders is not running, and nothing is saved in state"]);

    // A window of twenty changes makes it slow enough to be asked.
    let mut running = shop.start_and_see_output(&["--listen", "127.0.0.1:0", "--report", "none", "--in-flight-changes", "20"]);
    let notice = shop.folder.path().join("state/monitor.json");
    running.wait_until("the notice", |_| notice.exists());
    let ask = |command: &str| shop.orders.succeed(&[command, "--data", "state"]);
    check_says(&ask("status"), &["orders: ", "run 1, process ", "1 worker", "delivered/s", "of 20 changes"]);
    let why = ask("why");
    assert!(why.starts_with("the mark stands at ") || why.starts_with("idle: "), "{why}");
    check_says(
        &ask("metrics"),
        &["observer_cache_hit_rate{pipeline=\"orders\",lookup=\"customer\"} 0.", "process_cpu_seconds_total"],
    );
    running.signal("TERM");
    let ended = running.wait();
    assert!(ended.stderr.starts_with("monitor at http://127.0.0.1:"), "the first line says where:\n{}", ended.stderr);
    assert!(!notice.exists());

    let late = shop.orders.run(&["status", "--data", "state"]);
    assert_eq!(late.status.code(), Some(3));
    check_says(&late.stderr, &["orders is not running; this is what its last checkpoint says"]);
    check_says(&late.stdout, &["generation 1", "read jsonl"]);
    check_says(&shop.orders.fail(3, &["why", "--data", "state"]), &["`orders status` shows what its last checkpoint says"]);

    // What a killed run leaves hanging misleads nobody.
    let killed = r#"{"url":"http://127.0.0.1:1/","pid":4294967294,"pipeline":"orders","generation":1,"started_ms":0}"#;
    fs::write(&notice, killed).unwrap();
    check_says(&shop.orders.fail(3, &["metrics", "--data", "state"]), &["orders is not running"]);
}

#[test]
fn with_messages_in_json_every_line_is_an_object() {
    let shop = Shop::new(10);
    let flags = ["--log", "json", "--listen", "127.0.0.1:0", "--report", "none"];
    let mut command = shop.orders.command(&[USUAL, &flags].concat());
    let ended = command.env("HIGHWATER_WORKRES", "1").output().unwrap();
    let lines = String::from_utf8(ended.stderr).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let says = |line: &serde_json::Value, text: &str| line["message"].as_str().is_some_and(|message| message.contains(text));
    assert!(ended.status.success() && lines.len() == 2, "{lines:?}");
    assert!(says(&lines[0], "did you mean HIGHWATER_WORKERS?") && lines[0]["level"] == "WARN", "{lines:?}");
    assert!(says(&lines[1], "monitor at http://127.0.0.1:") && lines[1]["level"] == "INFO", "{lines:?}");
}

#[test]
fn a_missing_column_is_named_with_those_there_are() {
    let shop = Shop::new(10);
    fs::write(shop.folder.path().join("customers.csv"), "number,name,tier\nu-1,Ada,gold\n").unwrap();
    let sentence = "lookup \"customer\": customers.csv has no column \"id\"; its columns are: number, name, tier";
    check_says(&shop.orders.fail(1, USUAL), &[&format!("error: {sentence}")]);
    let checked = shop.orders.run(&[&["check"], USUAL].concat());
    assert_eq!(checked.status.code(), Some(2));
    check_says(&checked.stdout, &[&format!("problem: {sentence}")]);
}

#[test]
fn broken_lines_are_parked_shown_and_dropped() {
    let whole = r#"{"id":"x","op":"insert","key":"o-1","after":{"order_id":"o-1","customer_id":"u-000001","status":"paid"}}"#;
    let shop = Shop::of(&[whole, r#"{"id":"y","op":"inse"#, r#"{"id":"z","op":"upsert"}"#].join("\n"));
    let first = shop.run(&[]);
    check_says(&first, &["2 changes or lines are parked: `orders parked list --data state` says why"]);

    let list = shop.orders.succeed(&["parked", "list", "--data", "state"]);
    check_says(&list, &["rejected", "orders.jsonl, line 2 (byte 105)", "orders.jsonl, line 3", "parked show ID"]);
    let widest = list.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 110, "{widest} columns:\n{list}");
    let shown = shop.orders.succeed(&["parked", "show", "2", "--data", "state"]);
    check_says(
        &shown,
        &["source    jsonl", "\"op\" is \"upsert\"; it must be \"insert\"", "line      {\"id\":\"z\",\"op\":\"upsert\"}"],
    );

    check_says(
        &shop.orders.fail(1, &["parked", "show", "9", "--data", "state"]),
        &["nothing is parked under 9", "`parked list`"],
    );
    check_says(&shop.orders.fail(1, &["parked", "drop", "--data", "state"]), &["say which: `parked drop ID..`"]);
    check_says(
        &shop.orders.fail(1, &["parked", "retry", "1", "--data", "state"]),
        &["record 1 is a line that is no change", "parked drop 1"],
    );
    check_says(
        &shop.orders.succeed(&["parked", "retry", "--all", "--yes", "--data", "state"]),
        &["left out: 2 lines", "nothing to retry"],
    );
    check_says(&shop.orders.succeed(&["parked", "drop", "--action", "no", "--data", "state"]), &["nothing to drop for \"no\""]);

    check_says(
        &shop.orders.succeed(&["parked", "drop", "1", "--data", "state"]),
        &["asked to drop 1 record", "when it is run next"],
    );
    check_says(&shop.orders.succeed(&["parked", "list", "--data", "state"]), &["rejected, drop asked"]);
    check_says(&shop.run(&[]), &["1 change or line is parked"]);
    let left = shop.orders.succeed(&["parked", "list", "--data", "state"]);
    assert!(left.contains("line 3") && !left.contains("line 2"), "{left}");
}
