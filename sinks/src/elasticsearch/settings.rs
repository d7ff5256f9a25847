//! What can be said of documents, and what is wrong with it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use highwater_operators::action::call::Planned;
use hyper::header::HeaderValue;

use super::version::Versioning;
use super::{Description, Document, Elasticsearch, IndexTemplate, Version};
use crate::http::{Origin, Reach, reach_settings};
use crate::network::opened::Opened;
use crate::template::{Template, missing_lookups};

impl Elasticsearch {
    /// A document for each key, as its row stands: indexed anew with each change, deleted with the row. The nodes are URLs, asked in turn; places
    /// may stand in the index's name.
    pub fn index<U: AsRef<str>>(nodes: impl IntoIterator<Item = U>, index: &str) -> Self {
        Self::new(nodes, index, false)
    }

    /// A document for each change, deletes too: the change in the default envelope, under its idempotency key. Nothing is ever replaced.
    pub fn append<U: AsRef<str>>(nodes: impl IntoIterator<Item = U>, index: &str) -> Self {
        Self::new(nodes, index, true).document("{change}").id("{idempotency_key}")
    }

    fn new<U: AsRef<str>>(nodes: impl IntoIterator<Item = U>, index: &str, append: bool) -> Self {
        let (mut origins, mut problems) = (Vec::new(), Vec::new());
        for node in nodes {
            match Origin::parse(node.as_ref()) {
                Ok((origin, path)) if path.plain() == Some("/") => origins.push(origin),
                Ok((origin, _)) => problems.push(format!("{}: a node's URL has no path", origin.shown)),
                Err(problem) => problems.push(problem),
            }
        }
        if origins.is_empty() && problems.is_empty() {
            problems.push("it names no node".to_owned());
        }
        let description = Description {
            origins,
            index: Template::default(),
            id: Template::default(),
            document: Document::Row,
            versioning: Versioning::By(Version::default()),
            soft_delete: None,
            append,
            authorization: None,
            template: None,
            gzip: false,
            batch_max: 500,
            bytes_max: 5 << 20,
            reach: Reach { answer_max: 16 << 20, ..Reach::default() },
            problems,
        };
        let made = Elasticsearch { description, open: Opened::default() }.id("{key}");
        made.parsed("index", index, |description, index| description.index = index)
    }

    fn with(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Opened::default();
        self
    }

    fn parsed(self, what: &str, text: &str, set: impl FnOnce(&mut Description, Template)) -> Self {
        self.with(|description| match Template::parse(text) {
            Ok(template) => set(description, template),
            Err(problem) => description.problems.push(format!("{what}: {problem}")),
        })
    }

    fn reached(self, change: impl FnOnce(&mut Reach)) -> Self {
        self.with(|description| change(&mut description.reach))
    }

    reach_settings!();

    /// The document's id. Default: the change's key. Changes that meet in one document must have one key: only so is there an order among them.
    pub fn id(self, id: &str) -> Self {
        self.parsed("id", id, |description, id| description.id = id)
    }

    /// The document, of JSON: within quotes a place is filled with text, escaped; elsewhere with the value as JSON, or null. Default: the row.
    pub fn document(self, json: &str) -> Self {
        self.parsed("document", json, |description, json| description.document = Document::Template(json))
    }

    /// What tells newer from older. Default: [`Version::Place`].
    pub fn versioned(self, version: Version) -> Self {
        self.with(|description| description.versioning = Versioning::By(version))
    }

    /// The same of something the row says: `{after.revision}`. It must not fall from change to change of a key, and a delete needs it too (`{before.revision}`
    /// is not there on an insert: take a source of whole rows, and a column that every change raises).
    pub fn version_by(self, template: &str) -> Self {
        self.parsed("version", template, |description, template| description.versioning = Versioning::Template(template))
    }

    /// A delete leaves the document, with the row as it was, and this field says so; of other documents it is false.
    pub fn soft_delete(self, field: impl Into<String>) -> Self {
        self.with(|description| description.soft_delete = Some(field.into()))
    }

    /// An API key, as the cluster gave it (base64). It is never shown.
    pub fn api_key(self, key: impl AsRef<str>) -> Self {
        self.authorized("api_key", key.as_ref(), format!("ApiKey {}", key.as_ref()))
    }

    /// User and password. They are never shown.
    pub fn basic(self, user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        let coded = BASE64_STANDARD.encode(format!("{}:{}", user.as_ref(), password.as_ref()));
        self.authorized("basic", password.as_ref(), format!("Basic {coded}"))
    }

    fn authorized(self, what: &str, secret: &str, header: String) -> Self {
        self.with(|description| match HeaderValue::from_str(&header) {
            Ok(mut value) if !secret.is_empty() => {
                value.set_sensitive(true);
                description.authorization = Some(value);
            }
            Ok(_) => description.problems.push(format!("{what}: the secret is empty (is its environment variable set?)")),
            Err(_) => description.problems.push(format!("{what}: the secret holds what no header can, such as a line break")),
        })
    }

    /// An index template, and perhaps a policy, that are made before the first request if they are missing, and checked if they are there.
    pub fn template(self, template: IndexTemplate) -> Self {
        self.with(|description| description.template = Some(template))
    }

    /// Requests are compressed.
    pub fn gzip(self) -> Self {
        self.with(|description| description.gzip = true)
    }

    /// Changes in one request at most. Default: 500.
    pub fn batch(self, max: usize) -> Self {
        self.with(|description| description.batch_max = max.max(1))
    }

    /// Bytes of one request at most, before compression; a change that alone needs more is parked. Default: 5 MiB.
    pub fn bytes_max(self, bytes: usize) -> Self {
        self.with(|description| description.bytes_max = bytes)
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }
}

impl Description {
    /// Where it goes, without what may be secret.
    pub(super) fn shown(&self) -> String {
        let nodes: Vec<&str> = self.origins.iter().map(|origin| origin.shown.as_str()).collect();
        format!("documents at {}", if nodes.is_empty() { "nowhere".to_owned() } else { nodes.join(", ") })
    }

    /// What is wrong with it, a sentence each.
    pub(super) fn check(&self, planned: &Planned<'_>) -> Vec<String> {
        let mut problems = self.problems.clone();
        let document = match &self.document {
            Document::Template(template) => Some(template),
            Document::Row => None,
        };
        let version = match &self.versioning {
            Versioning::Template(template) => Some(template),
            Versioning::By(_) => None,
        };
        problems.extend(missing_lookups([&self.index, &self.id].into_iter().chain(document).chain(version), planned));
        if self.soft_delete.is_some() && (self.append || document.is_some()) {
            problems.push("soft_delete(..) goes with the whole row as document, not with .document(..) or append(..)".to_owned());
        }
        if self.append && !matches!(self.versioning, Versioning::By(Version::Place)) {
            problems.push(
                "what is appended is never replaced, and has no version: leave out versioned(..) and version_by(..)".to_owned(),
            );
        }
        problems.extend(self.template.as_ref().and_then(IndexTemplate::problem));
        problems.extend(self.reach.problems(&self.origins, planned));
        problems
    }
}
