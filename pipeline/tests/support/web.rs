//! The monitor of a run, as a client sees it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use highwater::config::Listen;
use serde_json::Value;

/// Anywhere on this machine.
pub fn anywhere() -> Listen {
    Listen::At(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// An answer: its code and its text.
pub fn get(url: &str) -> (u16, String) {
    let agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(Duration::from_secs(20)));
    let mut answer = agent.build().new_agent().get(url).call().unwrap_or_else(|error| panic!("GET {url}: {error}"));
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("an answer is text"))
}

/// An answer that is JSON.
pub fn json(url: &str) -> Value {
    let (code, text) = get(url);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {url}: {code} {error}\n{text}"))
}

/// Where the monitor of the run on this data directory is, once it is.
pub fn monitor(data: &Path) -> String {
    let mut url = None;
    wait("the notice of the monitor", || {
        let text = std::fs::read(data.join("monitor.json")).ok()?;
        let notice: Value = serde_json::from_slice(&text).expect("a notice is whole from the start");
        url = Some(notice["url"].as_str().expect("it has a url").trim_end_matches('/').to_owned());
        Some(())
    });
    url.expect("it was waited for")
}

/// Waits until something can be had. Looks often, and lets others run meanwhile; fails only if it never comes.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
