//! A strict server that answers `_bulk`, index templates and policies by the published rules of Elasticsearch and OpenSearch: framing, versions,
//! what is remembered of deletes, an answer per item. It is ours, not a cluster: what it takes a real one should take, no more is shown by it.

// Each test uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::web::{Reply, Seen, serve};

/// A document, or what is remembered of one that was deleted.
#[derive(Clone, Debug)]
pub struct Kept {
    pub version: i64,
    pub source: Option<Value>,
    deleted_at: u64,
}

#[derive(Default)]
pub struct State {
    pub documents: HashMap<(String, String), Kept>,
    pub templates: HashMap<String, Value>,
    pub policies: HashMap<String, Value>,
    /// All operations that were taken or refused: name, id, status.
    pub operations: Vec<(String, String, u16)>,
    pub requests: usize,
    pub gzipped: usize,
    /// Seconds; turned by the test.
    pub clock: u64,
    /// Whole requests that are answered with these statuses first.
    pub faults: Vec<u16>,
    /// How often operations on these ids are answered with 429.
    pub busy: HashMap<String, usize>,
    pub body_max: Option<usize>,
    pub authorization: Option<String>,
    pub is_opensearch: bool,
}

/// The cluster.
#[derive(Clone)]
pub struct Cluster {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Cluster {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        Cluster { address: serve(move |seen| own.lock().answer(&seen)), state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The document as it stands.
    pub fn document(&self, index: &str, id: &str) -> Option<Value> {
        self.state.lock().documents.get(&(index.to_owned(), id.to_owned()))?.source.clone()
    }

    pub fn count(&self) -> usize {
        self.state.lock().documents.values().filter(|kept| kept.source.is_some()).count()
    }
}

fn reply(status: u16, body: &Value) -> Reply {
    (status, vec![("content-type", "application/json".to_owned())], body.to_string())
}

fn refuse(status: u16, kind: &str, reason: &str) -> Reply {
    reply(status, &json!({"error": {"type": kind, "reason": reason}, "status": status}))
}

impl State {
    fn answer(&mut self, seen: &Seen) -> Reply {
        self.requests += 1;
        if let Some(authorization) = &self.authorization
            && seen.header("authorization") != authorization
        {
            return refuse(401, "security_exception", &format!("cannot authenticate {}", seen.header("authorization")));
        }
        if !self.faults.is_empty() {
            return refuse(self.faults.remove(0), "fault", "as the test asks for");
        }
        if self.body_max.is_some_and(|most| seen.body.len() > most) {
            return (413, Vec::new(), String::new());
        }
        let get =
            |kept: Option<&Value>| kept.map_or(refuse(404, "resource_not_found_exception", "none"), |kept| reply(200, kept));
        match (seen.method.as_str(), seen.path.split('/').skip(1).collect::<Vec<_>>()[..].as_ref()) {
            ("GET", [""]) if self.is_opensearch => {
                reply(200, &json!({"version": {"distribution": "opensearch", "number": "2.19.0"}}))
            }
            ("GET", [""]) => reply(200, &json!({"version": {"number": "8.19.0"}})),
            ("POST", ["_bulk"]) => self.bulk(seen),
            ("GET", ["_index_template", name]) => get(self.templates.get(*name)),
            ("PUT", ["_index_template", name]) => {
                let Ok(mut body) = serde_json::from_slice::<Value>(&seen.body) else {
                    return refuse(400, "parse_exception", "no JSON");
                };
                // As a cluster gives them back: nested under their first name.
                let settings = body["template"]["settings"].take();
                for (name, value) in settings.as_object().into_iter().flatten() {
                    body["template"]["settings"]["index"][name.trim_start_matches("index.")] = value.clone();
                }
                let kept = json!({"index_templates": [{"name": name, "index_template": body}]});
                self.templates.insert((*name).to_owned(), kept);
                reply(200, &json!({"acknowledged": true}))
            }
            ("GET", ["_ilm", "policy", name]) if !self.is_opensearch => get(self.policies.get(*name)),
            ("GET", ["_plugins", "_ism", "policies", name]) if self.is_opensearch => get(self.policies.get(*name)),
            ("PUT", ["_ilm", "policy", name]) if !self.is_opensearch => self.put_policy(name, seen),
            ("PUT", ["_plugins", "_ism", "policies", name]) if self.is_opensearch => self.put_policy(name, seen),
            _ => refuse(400, "illegal_argument_exception", "no handler found for this URI"),
        }
    }

    fn put_policy(&mut self, name: &str, seen: &Seen) -> Reply {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert!(body["policy"].is_object(), "{body}");
        self.policies.insert(name.to_owned(), body);
        reply(200, &json!({"acknowledged": true}))
    }

    fn bulk(&mut self, seen: &Seen) -> Reply {
        if !matches!(seen.header("content-type"), "application/x-ndjson" | "application/json") {
            return refuse(406, "media_type_header_exception", "Content-Type is not supported");
        }
        let mut body = seen.body.to_vec();
        if seen.header("content-encoding") == "gzip" {
            self.gzipped += 1;
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            body = plain;
        }
        let Ok(text) = String::from_utf8(body) else { return refuse(400, "parse_exception", "no UTF-8") };
        if !text.ends_with('\n') {
            return refuse(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]");
        }
        let (mut lines, mut items) = (text.lines(), Vec::new());
        while let Some(line) = lines.next() {
            let action: Option<Value> = serde_json::from_str(line).ok();
            let Some((name, meta)) =
                action.as_ref().and_then(Value::as_object).filter(|o| o.len() == 1).and_then(|o| o.iter().next())
            else {
                return refuse(400, "illegal_argument_exception", &format!("Malformed action/metadata line: {line}"));
            };
            let known = ["_index", "_id", "version", "version_type"];
            if let Some(unknown) = meta.as_object().and_then(|meta| meta.keys().find(|name| !known.contains(&name.as_str()))) {
                return refuse(400, "illegal_argument_exception", &format!("unknown parameter {unknown}"));
            }
            let source = match name.as_str() {
                "delete" => None,
                "index" | "create" => match lines.next() {
                    Some(source) => Some(source.to_owned()),
                    None => return refuse(400, "illegal_argument_exception", "The bulk request ends without a source"),
                },
                _ => return refuse(400, "illegal_argument_exception", "Malformed action"),
            };
            let (status, answer) = self.apply(name, meta, source.as_deref());
            let id = meta["_id"].as_str().unwrap_or_default();
            self.operations.push((name.clone(), id.to_owned(), status));
            let mut item = json!({"_index": meta["_index"], "_id": id, "status": status});
            if let Err((kind, reason)) = answer {
                item["error"] = json!({"type": kind, "reason": reason});
            }
            items.push(json!({name: item}));
        }
        let errors = items.iter().any(|item| item.to_string().contains("\"error\""));
        reply(200, &json!({"took": 1, "errors": errors, "items": items}))
    }

    fn apply(&mut self, name: &str, meta: &Value, source: Option<&str>) -> (u16, Result<(), (&'static str, String)>) {
        let refused = |status, kind, reason: String| (status, Err((kind, reason)));
        let (Some(index), Some(id)) = (meta["_index"].as_str(), meta["_id"].as_str()) else {
            return refused(400, "action_request_validation_exception", "index or id is missing".to_owned());
        };
        if let Some(left) = self.busy.get_mut(id).filter(|left| **left > 0) {
            *left -= 1;
            return refused(429, "es_rejected_execution_exception", "rejected execution of coordinating operation".to_owned());
        }
        let document = match source.map(serde_json::from_str::<Value>) {
            None => None,
            Some(Ok(document)) if document.is_object() => Some(document),
            Some(_) => return refused(400, "document_parsing_exception", "failed to parse".to_owned()),
        };
        if document.as_ref().is_some_and(|document| document["amount"].is_string()) {
            return refused(400, "document_parsing_exception", "failed to parse field [amount] of type [double]".to_owned());
        }
        let place = (index.to_owned(), id.to_owned());
        let keeps = self.gc_deletes(index);
        let known =
            self.documents.get(&place).filter(|kept| kept.source.is_some() || self.clock < kept.deleted_at + keeps).cloned();
        let is_there = known.as_ref().is_some_and(|known| known.source.is_some());
        if name == "create" && is_there {
            return refused(409, "version_conflict_engine_exception", format!("[{id}]: document already exists"));
        }
        let version = match (meta["version_type"].as_str(), meta["version"].as_i64()) {
            (Some("external_gte"), Some(version)) if version >= 0 => {
                if let Some(known) = known.as_ref().filter(|known| known.version > version) {
                    let reason =
                        format!("[{id}]: current version [{}] is higher than the one provided [{version}]", known.version);
                    return refused(409, "version_conflict_engine_exception", reason);
                }
                version
            }
            (None, None) => known.as_ref().map_or(1, |known| known.version + 1),
            _ => return refused(400, "action_request_validation_exception", "version and version_type go together".to_owned()),
        };
        let status = match (name, is_there) {
            ("delete", false) => 404,
            ("delete", true) | ("index", true) => 200,
            _ => 201,
        };
        self.documents.insert(place, Kept { version, source: document, deleted_at: self.clock });
        (status, Ok(()))
    }

    /// For how many seconds a delete is remembered in an index.
    fn gc_deletes(&self, index: &str) -> u64 {
        let fits = |template: &Value| {
            let patterns = template["index_templates"][0]["index_template"]["index_patterns"].as_array().cloned();
            let fits = |pattern: &str| pattern.strip_suffix('*').map_or(pattern == index, |begin| index.starts_with(begin));
            patterns.unwrap_or_default().iter().any(|pattern| fits(pattern.as_str().unwrap()))
        };
        let template = self.templates.values().find(|template| fits(template));
        let text = template
            .map(|template| &template["index_templates"][0]["index_template"]["template"]["settings"]["index"]["gc_deletes"]);
        match text.and_then(Value::as_str).map(|text| text.split_at(text.len() - 1)) {
            Some((number, "h")) => number.parse::<u64>().unwrap() * 3600,
            Some((number, "d")) => number.parse::<u64>().unwrap() * 86_400,
            _ => 60,
        }
    }
}
