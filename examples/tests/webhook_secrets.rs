//! What is secret of a webhook stays so: a signing secret, a header, path and query of the URL. The example `webhooks` runs with every message it
//! can write; one endpoint sends back what it was told, another one is dead. Then everything that can be seen is searched: messages,
//! pages, commands, and the bytes on disk.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use highwater_examples::built::Example;
use highwater_examples::receiver::Receiver;

const EVENTS: usize = 12;
/// What must be found nowhere. The signing secret is said in base64.
const SIGNING: [&str; 2] = ["YS1zaWduaW5nLXNlY3JldC1vZi0zMi1ieXRlcyEhISE=", "a-signing-secret-of-32-bytes!!!!"];
const HEADER: &str = "header-secret-7f3a";
const PATH: &str = "path-secret-91bc";
const QUERY: &str = "query-secret-4d2e";

#[test]
fn secrets_are_in_no_message_no_page_no_command_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let lines = (0..EVENTS).map(|n| format!("{{\"id\":\"{n}\",\"op\":\"insert\",\"key\":\"k-{n}\",\"after\":{{\"n\":{n}}}}}\n"));
    fs::write(folder.path().join("in.jsonl"), lines.collect::<String>()).unwrap();
    let [mut echo, mut dead] =
        ["echo", "dead"].map(|name| Receiver::start(env!("CARGO_BIN_EXE_receiver"), folder.path().join(name)));
    echo.echo();
    dead.refuse();
    let example = Example::built("webhooks", folder.path());
    let urls = [&echo, &dead].map(|receiver| receiver.url(&format!("/{PATH}/{{key}}?token={QUERY}")));
    let (secret, header) = (format!("whsec_{}", SIGNING[0]), format!("authorization: Bearer {HEADER}"));
    let mut arguments = vec!["--input", "in.jsonl", "--data", "data", "--allow-private", "--give-up", "0", "--rest", "1"];
    arguments.extend(["--secret", &secret, "--header", &header, "--url", &urls[0], "--url", &urls[1]]);
    let mut running = example.start(&[&arguments[..], &["--listen", "127.0.0.1:0", "--log-level", "trace"]].concat());
    let list = ["parked", "list", "--data", "data"];
    running.wait_until("everything is parked for the first, and the breaker of the second is open", |_| {
        let parked = example.run(&list).stdout.matches("hook-1").count();
        let status = example.run(&["status", "--data", "data"]).stdout;
        parked == EVENTS && status.lines().any(|line| line.contains("guard") && line.contains("hook-2") && line.contains("open"))
    });
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    let url = monitor(&folder.path().join("data/monitor.json"));
    for page in ["/", "/metrics", "/healthz", "/api/status", "/api/books", "/api/why"] {
        seen.push((format!("page {page}"), get(&url, page)));
    }
    let mut commands: Vec<Vec<&str>> =
        vec![vec!["status"], vec!["why"], vec!["metrics"], vec!["parked", "list"], vec!["checkpoint", "show"]];
    let ids: Vec<String> = (1..=EVENTS).map(|id| id.to_string()).collect();
    commands.extend(ids.iter().map(|id| vec!["parked", "show", id]));
    for command in &mut commands {
        command.extend(["--data", "data"]);
        seen.push((format!("{command:?}"), said(&example, command)));
    }
    running.signal("TERM");
    running.signal("TERM");
    let ended = running.wait();
    seen.push(("what the run said".to_owned(), (ended.stdout + &ended.stderr).into_bytes()));
    for command in ["check", "graph", "settings"] {
        seen.push((command.to_owned(), said(&example, &[&[command], &arguments[..]].concat())));
    }
    files(&folder.path().join("data"), &mut seen);
    // The other side did get them, and what was looked through is what it is taken for.
    let came = echo.came();
    assert!(came.len() >= EVENTS && came[0].path.contains(PATH) && came[0].path.contains(QUERY), "{came:?}");
    let has = |place: &str, text: &str| {
        let found = seen.iter().filter(|(name, _)| name.contains(place)).any(|(_, bytes)| contains(bytes, text));
        assert!(found, "{place} says nothing of {text:?}");
    };
    has("show", "422");
    has("show", "***");
    has("journal", "***");
    has("page /api/status", "\"breaker\"");
    has("page /metrics", "highwater_breaker_state");
    for (place, bytes) in &seen {
        for secret in [SIGNING[0], SIGNING[1], HEADER, PATH, QUERY] {
            assert!(!contains(bytes, secret), "{place} holds {secret:?}\n{}", String::from_utf8_lossy(bytes));
        }
    }
}

fn said(example: &Example, arguments: &[&str]) -> Vec<u8> {
    let printed = example.run(arguments);
    (printed.stdout + &printed.stderr).into_bytes()
}

/// Where the monitor is.
fn monitor(notice: &Path) -> String {
    let notice: serde_json::Value = serde_json::from_slice(&fs::read(notice).unwrap()).unwrap();
    let url = notice["url"].as_str().unwrap();
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

fn get(address: &str, page: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {page} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{page}: {}", String::from_utf8_lossy(&answer));
    answer
}

/// All files of a folder, whatever they are.
fn files(folder: &Path, seen: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, seen);
        } else {
            seen.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
