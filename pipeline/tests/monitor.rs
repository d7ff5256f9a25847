//! What a running pipeline tells over HTTP is what it does.

mod support;
#[path = "support/web.rs"]
mod web;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use support::input::{Input, Item, Script};
use tokio::sync::Semaphore;

/// A pipeline whose action waits at a gate: `done` changes pass at once, the others when the gate is opened.
fn gated(gate: &Arc<Semaphore>) -> Build {
    let input = Arc::new(Input::of((0..50).map(|n| Item::good(format!("c{n}"), format!("k{n}")))));
    let gate = gate.clone();
    support::build(move |flow| {
        let gate = gate.clone();
        let waits = run(move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(())
            }
        });
        flow.source(Script { input: input.clone(), seed: 3 })
            .dedup(Dedup::latest(100))
            .fan_out([action("gate", waits).timeout(hours(1)), action("free", run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    })
}

fn settings(data: std::path::PathBuf, stall_after: Duration) -> Settings {
    Settings { listen: web::anywhere(), stall_after, ..support::settings(data, 2) }
}

#[test]
fn books_status_why_and_health_tell_of_an_action_that_hangs() {
    let (folder, gate) = (support::folder(), Arc::new(Semaphore::new(20)));
    let data = folder.path().join("data");
    let running = support::start(&settings(data.clone(), millis(300)), &gated(&gate), Control::default());
    let url = web::monitor(&data);

    let books = web::wait("twenty delivered by the gate, all by the other", || {
        let books = web::json(&format!("{url}/api/books"));
        assert_eq!(books["balanced"], true, "{books}");
        let delivered = |action: &str| books["actions"][action]["delivered"].as_u64();
        (delivered("gate") == Some(20) && delivered("free") == Some(50)).then_some(books)
    });
    let of_gate = &books["actions"]["gate"];
    assert_eq!((&of_gate["read"], &of_gate["in_flight"], &of_gate["parked"]), (&50.into(), &30.into(), &0.into()));
    assert_eq!(books["sources"]["script"]["read"], 50);

    let ill = web::wait("the mark stands still", || {
        let (code, text) = web::get(&format!("{url}/healthz"));
        (code == 503).then_some(text)
    });
    assert!(ill.contains("stood still for more than 300ms (stall_after)") && ill.contains("action gate"), "{ill}");
    let why = web::json(&format!("{url}/api/why"));
    assert_eq!(
        (&why["state"], &why["held_by"]["action"], &why["held_by"]["kind"]),
        (&"held".into(), &"gate".into(), &"call".into())
    );
    let status = web::json(&format!("{url}/api/status"));
    assert_eq!((&status["state"], &status["in_flight"]["changes_limit"]), (&"running".into(), &32_768.into()));
    assert!(status["still_seconds"].as_f64() > Some(0.3), "{status}");
    let (code, metrics) = web::get(&format!("{url}/metrics"));
    assert!(code == 200 && metrics.contains("\nobserver_events_processed_total{"), "{metrics}");

    gate.add_permits(30);
    let report = running.end().unwrap();
    assert_eq!((report.actions["gate"].delivered, report.actions["gate"].in_flight), (50, 0));
    assert!(!data.join("monitor.json").exists(), "the notice is taken down at the end");
}

#[test]
fn clients_that_send_nothing_too_much_or_nonsense_are_bounded() {
    let (folder, gate) = (support::folder(), Arc::new(Semaphore::new(0)));
    let data = folder.path().join("data");
    let running = support::start(&settings(data.clone(), hours(1)), &gated(&gate), Control::default());
    let url = web::monitor(&data);
    let address = url.trim_start_matches("http://");

    let answer = |request: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        // The other side may answer and close before all is written.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(web::get(&format!("{url}/healthz")).0, 200, "the silent ones keep nobody from asking");
    drop(silent);
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    assert!(answer(format!("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n{close}").as_bytes()).contains("405"));
    assert!(answer(format!("GET /../secret HTTP/1.1\r\n{close}").as_bytes()).contains("404"));
    assert!(answer(format!("GET / HTTP/1.1\r\nX: {}\r\n{close}", "x".repeat(64 << 10)).as_bytes()).contains("431"));
    assert!(answer(b"nonsense\r\n\r\n").contains("400"));
    assert!(web::get(&url).1.contains("href=\"/api/books\""));
    assert_eq!(web::get(&format!("{url}/nothing")).0, 404);

    gate.add_permits(50);
    running.end().unwrap();
}

#[test]
fn an_address_that_is_taken_ends_the_run_before_anything_is_opened() {
    let (folder, gate) = (support::folder(), Arc::new(Semaphore::new(50)));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = highwater::config::Listen::At(taken.local_addr().unwrap());
    let settings = Settings { listen, ..support::settings(folder.path().join("data"), 1) };
    let error = support::run(&settings, &gated(&gate)).unwrap_err().to_string();
    assert!(error.contains("cannot listen at 127.0.0.1:") && error.contains("another program has it"), "{error}");
    assert!(!folder.path().join("data").exists());
}
