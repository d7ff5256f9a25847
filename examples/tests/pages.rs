//! Runs every page-long example as a process, in a folder of its own, and holds it to what its page says.

#[path = "../../sinks/tests/support/cluster.rs"]
mod cluster;
#[path = "../../sinks/tests/support/receiver.rs"]
mod receiver;
#[path = "../../sinks/tests/support/web.rs"]
mod web;
#[path = "../../sinks/tests/support/workspace.rs"]
mod workspace;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use highwater_examples::built::Example;
use highwater_examples::orders::Report;
use highwater_examples::receiver::Receiver;
use tempfile::TempDir;

/// An example that has run, with what it printed before its report.
struct Page {
    example: Example,
    _folder: TempDir,
}

impl Page {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Page { example: Example::built(name, folder.path()), _folder: folder }
    }

    /// Runs it to a good end: the lines it printed, sorted, and its report, whose books must balance.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> (Vec<String>, Report) {
        let stdout = self.example.succeed(&[arguments, &["--report", "json"]].concat());
        let report =
            stdout.lines().find(|line| line.starts_with("{\"pipeline\"")).unwrap_or_else(|| panic!("no report: {stdout}"));
        let mut lines: Vec<String> = stdout.lines().filter(|line| *line != report).map(str::to_owned).collect();
        lines.sort();
        (lines, Report::parse(report).unwrap())
    }

    #[track_caller]
    fn run_and_print(&self, arguments: &[&str], expected: &[&str]) -> Report {
        let (lines, report) = self.run(arguments);
        assert_eq!(lines, expected);
        report
    }

    /// What `parked list` shows: id, action, cause and change of each record.
    #[track_caller]
    fn parked(&self) -> Vec<[String; 4]> {
        let list = self.example.succeed(&["parked", "list"]);
        let rows = list.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        let row = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            [(); 4].map(|()| words.next().unwrap())
        };
        rows.map(row).collect()
    }
}

#[track_caller]
fn check_books(report: &Report, action: &str, [read, duplicate, filtered, delivered, parked]: [u64; 5]) {
    let books = &report.actions[action];
    assert_eq!(
        [report.read, report.duplicate, books.filtered, books.delivered, books.parked],
        [read, duplicate, filtered, delivered, parked],
        "read, duplicate, filtered, delivered, parked of {action}"
    );
    assert_eq!(read, duplicate + report.rejected + filtered + delivered + parked);
}

#[test]
fn dedup_drops_copies_and_no_change_that_is_read_again() {
    let page = Page::new("dedup");
    let [one, two, three, four] = ["c-1 insert of o-1", "c-2 update of o-1", "c-3 update of o-1", "c-4 delete of o-1"];
    let report = page.run_and_print(&[], &[one, two, three, four]);
    check_books(&report, "print", [6, 2, 0, 4, 0]);

    let page = Page::new("dedup");
    let crashed = page.example.run(&["--crash"]);
    assert!(!crashed.status.success());
    assert_eq!(crashed.stdout.lines().collect::<Vec<_>>(), [one, two, three]);
    let report = page.run_and_print(&[], &[four]);
    assert_eq!(report.replayed, 6);
    check_books(&report, "print", [6, 2, 0, 4, 0]);
}

#[test]
fn lookup_asks_in_batches_and_lets_the_unknown_pass() {
    let printed = [
        "delete o-1 by Ada (gold): 10.00 EUR",
        "insert o-1 by Ada (gold): 10.00 EUR",
        "insert o-2 by Bo (blue): 17.20 EUR",
        "insert o-3 by Ada (gold): 25.80 EUR",
        "insert o-4 by unknown (unknown): 40.00 EUR",
        "insert o-5 by Bo (blue): at no known rate",
    ];
    let report =
        Page::new("lookup").run_and_print(&["--workers", "1"], &[&printed[..], &["rates asked for EUR, USD, XXX"]].concat());
    check_books(&report, "print", [6, 0, 0, 6, 0]);
    // Each worker has a cache of its own and may ask for the same again; what is found is the same.
    let (lines, _) = Page::new("lookup").run(&["--workers", "4"]);
    assert_eq!(lines[..6], printed);
    assert!(lines[6..].iter().all(|line| line.starts_with("rates asked for ")), "{lines:?}");
}

#[test]
fn fan_out_keeps_three_actions_apart() {
    let page = Page::new("fan_out");
    let (lines, report) = page.run(&[]);
    let banked: Vec<String> = (1..=6).map(|n| format!("bank  o-{n} is known at attempt 2")).collect();
    assert_eq!(lines[..6], banked);
    let mailed: Vec<&str> = lines[6..].iter().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(mailed, ["mail  o-1 is paid", "mail  o-2 is paid", "mail  o-3 is paid", "mail  o-4 is paid"]);
    assert!(lines[6..].iter().all(|line| line.ends_with("(1 at once)") || line.ends_with("(2 at once)")), "{lines:?}");
    check_books(&report, "mail", [10, 0, 6, 4, 0]);
    check_books(&report, "bank", [10, 0, 4, 6, 0]);
    check_books(&report, "archive", [10, 0, 0, 10, 0]);
    let files = std::fs::read_dir(page.example.folder().join("out/fan_out/archive")).unwrap();
    let archived: usize = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count()).sum();
    assert_eq!(archived, 10);
}

#[test]
fn parked_changes_are_retried_or_dropped() {
    let page = Page::new("parked");
    let report = page.run_and_print(&[], &["o-1 Ada 10.00", "o-3 Cy 30.00", "o-5 Ed 50.00"]);
    check_books(&report, "print", [5, 0, 0, 3, 2]);
    let mut parked = page.parked();
    parked.sort_by(|one, other| one[3].cmp(&other[3]));
    let [lots, nobody] = parked.try_into().unwrap();
    assert_eq!([&lots[1..], &nobody[1..]], [["print", "failed", "c-2"], ["print", "panicked", "c-4"]]);
    let shown = page.example.succeed(&["parked", "show", &nobody[0]]);
    for part in ["every order has a customer", "examples/parked.rs:", r#"{"customer":null,"amount":40}"#] {
        assert!(shown.contains(part), "{shown}");
    }

    page.example.succeed(&["parked", "retry", &lots[0]]);
    let refused = page.example.fail(1, &["parked", "edit", &nobody[0], "--row", "[40]"]);
    assert!(refused.contains("stays as it was: the row is a list"), "{refused}");
    page.example.succeed(&["parked", "edit", &nobody[0], "--row", r#"{"customer":"Di","amount":40}"#]);
    let list = page.example.succeed(&["parked", "list"]);
    assert!(list.contains("failed, retry asked") && list.contains("panicked, edit asked"), "{list}");
    let report = page.run_and_print(&["--lenient"], &["o-2 Bo 0.00"]);
    check_books(&report, "print", [5, 0, 0, 4, 1]);
    assert!(page.example.succeed(&["parked", "show", &nobody[0]]).contains(r#"{"customer":"Di","amount":40}"#));

    let meant = page.example.succeed(&["parked", "retry", "--cause", "panicked", "--dry-run"]);
    assert!(meant.contains("1 record meant"), "{meant}");
    let asks = page.example.fail(1, &["parked", "retry", "--cause", "panicked"]);
    assert!(asks.contains("say --yes"), "{asks}");
    page.example.succeed(&["parked", "retry", "--cause", "panicked", "--yes"]);
    let report = page.run_and_print(&[], &["o-4 Di 40.00"]);
    check_books(&report, "print", [5, 0, 0, 5, 0]);
    assert!(page.parked().is_empty());
}

#[test]
fn order_per_key_releases_or_holds() {
    let page = Page::new("order_per_key");
    let (lines, report) = page.run(&[]);
    let expected = [
        "hold: a-1 sets account a to 1",
        "hold: b-1 sets account b to 7",
        "hold: b-2 sets account b to 8",
        "release: a-1 sets account a to 1",
        "release: a-3 sets account a to 3",
        "release: b-1 sets account b to 7",
        "release: b-2 sets account b to 8",
    ];
    assert_eq!(lines, expected);
    check_books(&report, "release", [5, 0, 0, 4, 1]);
    check_books(&report, "hold", [5, 0, 0, 3, 2]);
    let mut parked: Vec<_> =
        page.parked().into_iter().map(|[_, action, cause, change]| [action, cause, change].join(" ")).collect();
    parked.sort();
    assert_eq!(parked, ["hold failed a-2", "hold held a-3", "release failed a-2"]);

    page.example.succeed(&["parked", "retry", "--action", "hold", "--yes"]);
    // Not sorted: the second comes before the third.
    let printed = page.example.succeed(&["--mended", "--report", "none"]);
    assert_eq!(printed.lines().collect::<Vec<_>>(), ["hold: a-2 sets account a to -1", "hold: a-3 sets account a to 3"]);
    assert_eq!(page.parked().len(), 1);
}

#[test]
fn checkpoint_loses_nothing_and_repeats_few_at_any_batch_size() {
    for (batch_size, replayed_at_least) in [("100", 1), ("40000", 25_000)] {
        let page = Page::new("checkpoint");
        let settings = ["--checkpoint-batch-size", batch_size, "--in-flight-changes", "1000"];
        let crashed = page.example.run(&[&settings[..], &["--crash-after", "30000"]].concat());
        assert!(!crashed.status.success());
        let (lines, report) = page.run(&settings);
        check_books(&report, "send", [40_000, 0, 0, 40_000, 0]);
        assert!(report.replayed >= replayed_at_least, "batch size {batch_size}: replayed {}", report.replayed);
        let repeated = lines[0].strip_prefix("received: 40000 changes, ").and_then(|rest| rest.strip_suffix(" of them twice"));
        let repeated: u64 = repeated.unwrap_or_else(|| panic!("{lines:?}")).parse().unwrap();
        assert!(repeated <= 50, "{repeated} changes were sent twice");
    }
}

#[test]
fn exactly_once_kills_itself_and_has_each_change_once() {
    let page = Page::new("exactly_once");
    let said = page.example.succeed(&[]);
    assert_eq!(said.matches("was killed").count(), 5, "{said}");
    assert!(said.contains("orders: 475 rows, 475 of them as a plain program has them, which has 475"), "{said}");
    assert!(said.contains("history: 30000 rows of 30000 changes, of 30000"), "{said}");
}

#[test]
fn filter_counts_what_does_not_pass() {
    let report = Page::new("filter").run_and_print(&[], &["o-1 is large: 100", "o-2 is large: 400"]);
    check_books(&report, "print", [9, 0, 7, 2, 0]);
}

#[test]
fn follow_reads_on_as_the_log_grows_and_is_rotated() {
    let page = Page::new("follow");
    let (log, out) = (page.example.folder().join("data/follow/app.log"), page.example.folder().join("out/follow"));
    let line = |id| format!("{{\"id\":{id},\"op\":\"insert\",\"key\":\"door-{id}\",\"after\":{{\"state\":\"open\"}}}}\n");
    let written = || -> usize {
        let files = std::fs::read_dir(&out).into_iter().flatten().flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default().lines().count()).sum()
    };
    let mut running = page.example.start(&["--report", "none"]);
    running.wait_until("the first lines", |_| written() == 3);
    std::fs::write(&log, std::fs::read_to_string(&log).unwrap() + &line(4)).unwrap();
    running.wait_until("a line more", |_| written() == 4);
    std::fs::rename(&log, log.with_file_name("app.log.1")).unwrap();
    std::fs::write(&log, line(5)).unwrap();
    running.wait_until("the first line of the new log", |_| written() == 5);
    running.signal("TERM");
    let printed = running.wait();
    assert!(printed.status.success(), "{}", printed.stderr);
    let mut doors: Vec<&str> = printed.stdout.lines().collect();
    doors.sort_unstable();
    assert_eq!(doors, ["door-1 is shut", "door-2 is open", "door-3 is shut", "door-4 is open", "door-5 is open"]);
    // What came while nobody read is read by the next run.
    std::fs::write(&log, line(5) + &line(6)).unwrap();
    let mut running = page.example.start(&["--report", "none"]);
    running.wait_until("the line in between", |_| written() == 6);
    running.signal("INT");
    assert_eq!(running.wait().stdout, "door-6 is open\n");
}

#[test]
fn change_log_reads_the_first_order_last() {
    let page = Page::new("change_log");
    let stdout = page.example.succeed(&["--until-idle", "3", "--report", "none"]);
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let ids: Vec<String> = stdout.lines().map(id).collect();
    assert_eq!((ids.len(), ids.last().map(String::as_str)), (20, Some("1")));
}

#[test]
fn redis_stream_reads_what_another_program_left_and_what_follows() {
    let page = Page::new("redis_stream");
    let stdout = page.example.succeed(&["--until-idle", "2", "--report", "none"]);
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = stdout.lines().map(id).collect();
    ids.sort();
    let mut expected: Vec<String> = (5..=20).chain([2]).map(|order: u32| format!("c-{order}")).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

#[test]
fn replication_copies_a_shop_that_is_open() {
    let page = Page::new("replication");
    let stdout = page.example.succeed(&["--until-idle", "3", "--report", "none"]);
    assert_eq!(stdout, "the copy is as the shop is: 30 orders\n");
}

#[test]
fn enrich_gives_each_order_the_row_it_saw_unless_it_is_kept_for_a_while() {
    let page = Page::new("enrich");
    let told = |kind: &str| page.example.succeed(&["--kind", kind, "--out", kind, "--until-idle", "3", "--report", "none"]);
    assert_eq!(told("table"), "0 of 238 orders were given another row than they saw\n");
    let stale = told("ttl");
    assert!(stale.ends_with(" of 238 orders were given another row than they saw\n") && !stale.starts_with("0 "), "{stale}");
}

#[test]
fn stdout_prints_what_comes_by_standard_input_and_says_that_it_cannot_be_read_again() {
    let page = Page::new("stdout");
    let said = "standard input, which cannot be read again";
    assert!(page.example.succeed(&["graph", "--stdin"]).contains(said));
    assert!(page.example.succeed(&["check", "--stdin"]).contains(said));
    let line = |n: u64| format!("{{\"id\":{n},\"op\":\"insert\",\"key\":\"lamp\",\"after\":{{\"state\":\"on\"}}}}\n");
    // Each run's input is another one; a run is not held up by what an earlier one has read.
    for (run, ends_by_itself) in [(0, true), (1, true), (2, false)] {
        let mut child = page.example.command(&["--stdin", "--report", "none"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        for n in 0..3 {
            // Line by line: none waits for the next.
            stdin.write_all(line(run * 10 + n).as_bytes()).unwrap();
            assert!(stdout.next().unwrap().unwrap().trim_start().starts_with(&format!("{}  lamp", run * 10 + n)));
        }
        if ends_by_itself {
            drop(stdin);
        } else {
            let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
            assert!(sent.success());
        }
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success() && stderr.contains(said), "{stderr}");
        assert_eq!(stdout.count(), 0);
    }
}

#[test]
fn own_operator_passes_on_the_last_of_each_key() {
    let page = Page::new("own_operator");
    let expected = ["account a stands at 4", "account b stands at 6", "account c stands at 8"];
    let report = page.run_and_print(&[], &expected);
    assert_eq!((report.read, report.actions["print"].delivered), (8 + 3, 3));

    let input = page.example.folder().join("data/own_operator.jsonl");
    let more = r#"{"id":9,"op":"update","key":"b","after":{"balance":10}}"#;
    std::fs::write(&input, std::fs::read_to_string(&input).unwrap() + more).unwrap();
    page.run_and_print(&[], &["account b stands at 10"]);
}

#[test]
fn stdout_prints_a_line_per_change() {
    let page = Page::new("stdout");
    let (lines, report) = page.run(&[]);
    let ids: Vec<u32> = lines.iter().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    check_books(&report, "print", [20, 0, 0, 20, 0]);

    let page = Page::new("stdout");
    let json = page.example.succeed(&["--json", "--report", "none"]);
    let ids =
        json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned());
    assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 20);
}

#[test]
fn embedded_answers_each_client_when_its_order_is_done() {
    let page = Page::new("embedded");
    let stdout = page.example.succeed(&[]);
    let mut lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.pop(), Some("3 read, 2 mailed, 1 parked"));
    lines.sort_unstable();
    let mails = ["mail to ada@example.com: thank you, Ada", "mail to eve@example.com: thank you, Eve"];
    assert_eq!(lines, [&["202 accepted o-1", "202 accepted o-2", "202 accepted o-3"][..], &mails].concat());
}

#[test]
fn webhooks_parks_what_a_dead_endpoint_does_not_take_and_delivers_it_later() {
    let page = Page::new("webhooks");
    let receiver = |name: &str| Receiver::start(env!("CARGO_BIN_EXE_receiver"), page.example.folder().join(name));
    let (well, mut dead) = (receiver("well"), receiver("dead"));
    dead.refuse();
    let urls = [well.url("/"), dead.url("/")];
    let said = page.example.fail(2, &["--url", &urls[0]]);
    assert!(said.contains("is loopback: refused"), "{said}");
    let arguments = ["--url", &urls[0], "--url", &urls[1], "--allow-private", "--give-up", "1", "--rest", "1"];
    let (_, report) = page.run(&arguments);
    check_books(&report, "hook-1", [20, 0, 0, 20, 0]);
    check_books(&report, "hook-2", [20, 0, 0, 0, 20]);
    assert_eq!((well.came().len(), dead.came().len()), (20, 0));
    // Once more: nothing is read, and nothing is sent.
    let printed = page.example.succeed(&[&arguments[..], &["--report", "json"]].concat());
    let again: serde_json::Value = serde_json::from_str(printed.trim()).unwrap();
    let hook = &again["actions"]["hook-1"];
    let figures = ["delivered", "parked", "retried", "repeated"].map(|figure| hook[figure].as_u64().unwrap());
    assert_eq!((again["read_now"].as_u64(), figures), (Some(0), [20, 0, 0, 0]));
    dead.slow(0);
    page.example.succeed(&["parked", "retry", "--all", "--yes"]);
    let (_, report) = page.run(&arguments);
    check_books(&report, "hook-2", [20, 0, 0, 20, 0]);
    let first: std::collections::BTreeSet<String> = dead.came().into_iter().map(|request| request.idempotency_key).collect();
    assert_eq!((first.len(), dead.came().len(), well.came().len()), (20, 20, 20));
    assert!(page.parked().is_empty());
}

#[test]
fn webhooks_reads_what_it_can_of_a_bad_file_and_says_where_there_is_none() {
    let page = Page::new("webhooks");
    let receiver = Receiver::start(env!("CARGO_BIN_EXE_receiver"), page.example.folder().join("received"));
    let (url, folder) = (receiver.url("/"), page.example.folder());
    let line = |id| format!("{{\"id\":{id},\"op\":\"insert\",\"key\":\"k\",\"after\":{{}}}}\n");
    std::fs::write(folder.join("bad.jsonl"), line(1) + "no change\n{\"id\":2,\n" + &line(3)).unwrap();
    let arguments = ["--url", &url, "--allow-private", "--input", "bad.jsonl", "--data", "bad"];
    let (_, report) = page.run(&arguments);
    check_books(&report, "hook-1", [4, 0, 0, 2, 0]);
    assert_eq!((report.rejected, receiver.came().len()), (2, 2));
    let said = page.example.fail(1, &["--url", &url, "--allow-private", "--input", "none.jsonl", "--data", "none"]);
    assert!(said.contains("none.jsonl"), "{said}");
}

#[test]
fn notify_tells_each_whom_it_concerns() {
    let (cluster, workspace, receiver) =
        (cluster::Cluster::start(), workspace::Workspace::start(), receiver::Receiver::start(&[]));
    let database = highwater::testing::postgres::Server::shared().database().unwrap();
    let forgets = "create table forgotten(key text primary key, because text);
        create function forget_order(key text, because text) returns void language sql as
        'insert into forgotten values (key, because) on conflict do nothing'";
    database.sql(forgets).unwrap();
    let (search, slack, mail) = (cluster.url(), workspace.url(), format!("smtp://127.0.0.1:{}", receiver.port()));
    let mut page = Page::new("notify");
    page.example = page.example.with_variable("SLACK_TOKEN", workspace::TOKEN);
    let places = ["--search", &search, "--slack", &slack, "--mail", &mail, "--database", database.url().reveal()];
    let settings = ["--without-tls", "--allow-private"];
    let (_, report) = page.run(&[&places[..], &settings].concat());
    for (action, filtered, delivered) in [("print", 0, 6), ("search", 0, 6), ("receipt", 4, 2), ("tell", 4, 2), ("forget", 5, 1)]
    {
        check_books(&report, action, [6, 0, filtered, delivered, 0]);
    }
    let order = |key: &str| cluster.document("orders", key).map(|order| order["status"].as_str().unwrap().to_owned());
    assert_eq!(["o-1", "o-2", "o-3"].map(order), [Some("paid".to_owned()), Some("paid".to_owned()), None]);
    let mut mails: Vec<_> = receiver.mails().iter().map(|mail| format!("{} to {}", mail["subject"], mail["to"][0][1])).collect();
    mails.sort();
    let receipts = [r#""Your order o-1" to "ada@example.com""#, r#""Your order o-2" to "bo@example.com""#];
    assert_eq!(mails, receipts);
    let mut told: Vec<_> = workspace.messages().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect();
    told.sort();
    let large = ["*o-2* of Bo &lt;b&gt;, 250 EUR", "*o-3* of Cy &lt;b&gt;, 120 EUR"];
    assert_eq!(told, large.map(|order| format!("A large order: {order}")));
    assert_eq!(database.one("select key || ': ' || because from forgotten").unwrap(), "o-3: changed my mind");
}
