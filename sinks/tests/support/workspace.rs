//! A strict server that takes messages by the published rules of Slack's incoming webhooks and `chat.postMessage`: shapes, lengths, its
//! rate, its errors. It is ours, not Slack.

// Each test uses a part of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::web::{Reply, Seen, serve};

pub const TOKEN: &str = "xoxb-1234-the-secret";
pub const WEBHOOK: &str = "/services/T000/B000/the-secret-of-it";

#[derive(Default)]
pub struct State {
    /// Messages that were accepted.
    pub messages: Vec<Value>,
    /// Answers of `ok: false`, or of a status, that come first.
    pub faults: Vec<Fault>,
}

#[derive(Clone, Copy)]
pub enum Fault {
    Error(&'static str),
    Status(u16, &'static str),
    /// 429, and when to come back.
    TooFast(u32),
    /// It takes the message, and the answer is lost in a proxy.
    Lost,
}

#[derive(Clone)]
pub struct Workspace {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Workspace {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        Workspace { address: serve(move |seen| own.lock().answer(&seen)), state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn webhook(&self) -> String {
        format!("{}{WEBHOOK}", self.url())
    }

    pub fn messages(&self) -> Vec<Value> {
        self.state.lock().messages.clone()
    }
}

fn error(error: &str) -> Reply {
    (200, Vec::new(), json!({"ok": false, "error": error}).to_string())
}

impl State {
    fn answer(&mut self, seen: &Seen) -> Reply {
        assert!(seen.method == "POST" && seen.header("content-type").starts_with("application/json"), "{seen:?}");
        let is_bot = seen.path == "/api/chat.postMessage";
        if !is_bot && seen.path != WEBHOOK {
            return (404, Vec::new(), "no_service".to_owned());
        }
        let fault = (!self.faults.is_empty()).then(|| self.faults.remove(0));
        match fault {
            Some(Fault::Error(name)) => return error(name),
            Some(Fault::Status(status, text)) => return (status, Vec::new(), text.to_owned()),
            Some(Fault::TooFast(seconds)) => {
                return (
                    429,
                    vec![("retry-after", seconds.to_string())],
                    json!({"ok": false, "error": "ratelimited"}).to_string(),
                );
            }
            Some(Fault::Lost) | None => {}
        }
        let refused = |name: &str| if is_bot { error(name) } else { (400, Vec::new(), name.to_owned()) };
        if is_bot && seen.header("authorization") != format!("Bearer {TOKEN}") {
            return error("invalid_auth");
        }
        let Ok(message) = serde_json::from_slice::<Value>(&seen.body) else { return refused("invalid_payload") };
        if is_bot && !matches!(message["channel"].as_str(), Some("#orders" | "C1")) {
            return error("channel_not_found");
        }
        if let Some(problem) = problem(&message) {
            return refused(problem);
        }
        self.messages.push(message);
        if matches!(fault, Some(Fault::Lost)) {
            return (502, Vec::new(), "<html>bad gateway</html>".to_owned());
        }
        if is_bot { (200, Vec::new(), json!({"ok": true, "ts": "1.2"}).to_string()) } else { (200, Vec::new(), "ok".to_owned()) }
    }
}

/// What Slack would refuse.
fn problem(message: &Value) -> Option<&'static str> {
    let length = |value: &Value| value.as_str().map_or(0, |text| text.chars().count());
    let blocks = message["blocks"].as_array();
    if length(&message["text"]) == 0 && blocks.is_none_or(Vec::is_empty) {
        return Some("no_text");
    }
    if length(&message["text"]) > 40_000 {
        return Some("msg_too_long");
    }
    for block in blocks.into_iter().flatten() {
        let most = match block["type"].as_str() {
            Some("header") => 150,
            Some("section" | "context") => 3_000,
            _ => return Some("invalid_blocks"),
        };
        let fields = block["fields"].as_array();
        let elements = block["elements"].as_array();
        if length(&block["text"]["text"]) > most
            || fields.is_some_and(|fields| fields.len() > 10 || fields.iter().any(|field| length(&field["text"]) > 2_000))
            || elements.is_some_and(|elements| elements.len() > 10)
        {
            return Some("invalid_blocks");
        }
    }
    blocks.is_some_and(|blocks| blocks.len() > 50).then_some("invalid_blocks")
}
