//! The index template and the policy that are asked for: made if they are missing, checked if they are there. What is there is never changed.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_operators::{Error, Result};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::Description;
use crate::http::{Endpoint, Policy, Prepared, Verdict, words};

/// How new indexes of some names are made, and how long they are kept.
///
/// ```
/// use highwater_sinks::IndexTemplate;
/// use std::time::Duration;
/// let template = IndexTemplate::new("orders", ["orders-*"])
///     .replicas(1)
///     .refresh_every(Duration::from_secs(5))
///     .keep_deletes(Duration::from_secs(24 * 3600))
///     .delete_after(Duration::from_secs(30 * 24 * 3600));
/// ```
#[derive(Clone, Debug)]
pub struct IndexTemplate {
    name: String,
    patterns: Vec<String>,
    settings: BTreeMap<String, String>,
    mappings: Option<Result<Value, String>>,
    delete_after: Option<Duration>,
}

impl IndexTemplate {
    /// A template of this name, for indexes whose names fit one of the patterns. What is deleted in them is remembered for 1 h.
    pub fn new<P: Into<String>>(name: impl Into<String>, patterns: impl IntoIterator<Item = P>) -> Self {
        let patterns = patterns.into_iter().map(Into::into).collect();
        let template =
            IndexTemplate { name: name.into(), patterns, settings: BTreeMap::new(), mappings: None, delete_after: None };
        template.keep_deletes(Duration::from_secs(3600))
    }

    /// A setting of the index by its own name: `number_of_shards`.
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(format!("index.{}", name.trim_start_matches("index.")), value.into());
        self
    }

    /// Copies of each shard.
    pub fn replicas(self, replicas: u32) -> Self {
        self.setting("number_of_replicas", replicas.to_string())
    }

    /// How long it may take until a search finds what was written.
    pub fn refresh_every(self, interval: Duration) -> Self {
        self.setting("refresh_interval", in_words(interval))
    }

    /// How long it is remembered of which version a deleted document was (`gc_deletes`): for so long an older operation that comes late is refused.
    /// It costs memory of the cluster for each delete within that time. Default: 1 h.
    pub fn keep_deletes(self, time: Duration) -> Self {
        self.setting("gc_deletes", in_words(time))
    }

    /// What fields are, as the cluster's own JSON: `{"properties": {"amount": {"type": "double"}}}`.
    pub fn mappings(mut self, json: &str) -> Self {
        let parsed = serde_json::from_str(json).map_err(|error| format!("mappings: it is no JSON: {error}"));
        self.mappings = Some(parsed);
        self
    }

    /// Indexes are deleted when they are so old, by a policy of the template's name (ILM of Elasticsearch, ISM of OpenSearch). For indexes by day.
    pub fn delete_after(mut self, age: Duration) -> Self {
        self.delete_after = Some(age);
        self
    }

    pub(super) fn problem(&self) -> Option<String> {
        let name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
        };
        if !name(&self.name) || self.patterns.is_empty() {
            return Some(format!(
                "index template {:?}: its name is of small letters, digits and -_. and it has a pattern",
                self.name
            ));
        }
        self.mappings.as_ref().and_then(|mappings| mappings.as_ref().err().cloned())
    }

    fn body(&self) -> Value {
        let mut template = Map::from_iter([("settings".to_owned(), json!(self.settings))]);
        if let Some(Ok(mappings)) = &self.mappings {
            template.insert("mappings".to_owned(), mappings.clone());
        }
        json!({"index_patterns": self.patterns, "priority": 200, "template": template})
    }

    /// What a template that is there has otherwise.
    fn differs(&self, found: &Value) -> Option<String> {
        let found = &found["index_templates"][0]["index_template"];
        if found["index_patterns"] != json!(self.patterns) {
            return Some(format!("its patterns are {}, not {}", found["index_patterns"], json!(self.patterns)));
        }
        let mut settings = BTreeMap::new();
        flatten("", &found["template"]["settings"], &mut settings);
        for (name, value) in &self.settings {
            let is = settings.get(name).or_else(|| settings.get(name.trim_start_matches("index.")));
            if is != Some(value) {
                return Some(format!("{name} is {}, not {value}", is.map_or("not set", String::as_str)));
            }
        }
        let asked = self.mappings.as_ref().and_then(|mappings| mappings.as_ref().ok());
        asked.filter(|asked| !contains(&found["template"]["mappings"], asked)).map(|_| "its mappings are others".to_owned())
    }
}

impl Description {
    /// Makes or checks what is asked for.
    pub(super) async fn set_up(&self, endpoint: &Endpoint) -> Result {
        let Some(template) = &self.template else { return Ok(()) };
        let mut body = template.body();
        if let Some(age) = template.delete_after {
            let about = self.get(endpoint, "/").await?.unwrap_or_default();
            let policy = match about["version"]["distribution"].as_str() {
                Some("opensearch") => Lifecycle::ism(template, age),
                _ => Lifecycle::ilm(template, age),
            };
            self.policy(endpoint, template, &policy).await?;
            if policy.in_template {
                body["template"]["settings"]["index.lifecycle.name"] = json!(template.name);
            }
        }
        let path = format!("/_index_template/{}", template.name);
        match self.get(endpoint, &path).await? {
            None => self.put(endpoint, &path, &body).await,
            Some(found) => match template.differs(&found) {
                None => Ok(()),
                Some(how) => Err(another(endpoint, &format!("index template {:?}", template.name), &how)),
            },
        }
    }

    async fn policy(&self, endpoint: &Endpoint, template: &IndexTemplate, policy: &Lifecycle) -> Result {
        match self.get(endpoint, &policy.path).await? {
            None => self.put(endpoint, &policy.path, &policy.body).await,
            Some(found) if holds(&found, policy.age_name, &policy.age) => Ok(()),
            Some(_) => {
                let how = format!("it does not delete after {}", policy.age);
                Err(another(endpoint, &format!("policy {:?}", template.name), &how))
            }
        }
    }

    /// What is there, if anything is.
    async fn get(&self, endpoint: &Endpoint, path: &str) -> Result<Option<Value>> {
        self.ask(endpoint, Method::GET, path, Vec::new()).await
    }

    async fn put(&self, endpoint: &Endpoint, path: &str, body: &Value) -> Result {
        self.ask(endpoint, Method::PUT, path, body.to_string().into_bytes()).await.map(drop)
    }

    async fn ask(&self, endpoint: &Endpoint, method: Method, path: &str, body: Vec<u8>) -> Result<Option<Value>> {
        let what = format!("{method} {path}");
        let prepared = Prepared { method, target: path.to_owned(), headers: self.headers("application/json"), body: body.into() };
        let (verdict, answer) = endpoint.ask(prepared, false, |answer| Policy::default().judge(answer.status)).await?;
        match (verdict, answer.status) {
            (Verdict::Delivered, _) => Ok(Some(serde_json::from_slice(&answer.body).unwrap_or_default())),
            (_, 404) => Ok(None),
            (Verdict::Retry, _) | (_, 401 | 403) => {
                Err(Error::retry(format!("{}: {what}: {}{}", endpoint.shown(), words(answer.status), answer.said())))
            }
            _ => Err(Error::stop(format!("{}: {what}: {}{}", endpoint.shown(), words(answer.status), answer.said()))),
        }
    }
}

/// A policy that deletes indexes of an age.
struct Lifecycle {
    path: String,
    body: Value,
    age: String,
    /// Where a policy says it.
    age_name: &'static str,
    /// Whether indexes are told of it by their template, not the policy of its indexes.
    in_template: bool,
}

impl Lifecycle {
    fn ilm(template: &IndexTemplate, age: Duration) -> Self {
        let age = in_words(age);
        let phases = json!({"hot": {"actions": {}}, "delete": {"min_age": age, "actions": {"delete": {}}}});
        let body = json!({"policy": {"phases": phases}});
        Lifecycle { path: format!("/_ilm/policy/{}", template.name), body, age, age_name: "min_age", in_template: true }
    }

    fn ism(template: &IndexTemplate, age: Duration) -> Self {
        let age = in_words(age);
        let body = json!({"policy": {
            "description": "made by Highwater",
            "default_state": "kept",
            "states": [
                {"name": "kept", "actions": [], "transitions": [{"state_name": "old", "conditions": {"min_index_age": age}}]},
                {"name": "old", "actions": [{"delete": {}}], "transitions": []}
            ],
            "ism_template": [{"index_patterns": template.patterns, "priority": 200}]
        }});
        let path = format!("/_plugins/_ism/policies/{}", template.name);
        Lifecycle { path, body, age, age_name: "min_index_age", in_template: false }
    }
}

fn another(endpoint: &Endpoint, what: &str, how: &str) -> Error {
    Error::stop(format!(
        "{}: {what} is there and is another one: {how}. Nothing was changed: mend it there, or say here what it says",
        endpoint.shown()
    ))
}

/// A time as the cluster writes it, in the largest unit that it is whole in.
fn in_words(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, unit)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

/// Settings under their whole names, whether they are written nested or dotted; all values as text.
fn flatten(before: &str, value: &Value, to: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let name = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
            flatten(&name, value, to);
        }),
        Value::String(text) => drop(to.insert(before.to_owned(), text.clone())),
        Value::Null => {}
        other => drop(to.insert(before.to_owned(), other.to_string())),
    }
}

/// Whether all that is asked for is there.
fn contains(found: &Value, asked: &Value) -> bool {
    match (found, asked) {
        (Value::Object(found), Value::Object(asked)) => {
            asked.iter().all(|(name, asked)| found.get(name).is_some_and(|found| contains(found, asked)))
        }
        _ => found == asked,
    }
}

/// Whether a field of this name has this value, anywhere.
fn holds(found: &Value, name: &str, value: &str) -> bool {
    match found {
        Value::Object(fields) => {
            fields.get(name).is_some_and(|found| found == value) || fields.values().any(|found| holds(found, name, value))
        }
        Value::Array(items) => items.iter().any(|found| holds(found, name, value)),
        _ => false,
    }
}
