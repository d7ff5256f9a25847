//! Documents in Elasticsearch or OpenSearch: a batch of changes is one `_bulk` request, with an answer for each.
//!
//! A change becomes an `operation` with a `version` that tells newer from older; `bulk` sends operations and reads what became of each;
//! `setup` makes the index template and the policy that are asked for, or checks those that are there.

mod bulk;
mod operation;
mod settings;
mod setup;
mod version;

use std::collections::HashMap;

use highwater_operators::position::PartitionId;
use hyper::header::HeaderValue;
use parking_lot::Mutex;

pub use self::setup::IndexTemplate;
pub use self::version::Version;
use self::version::Versioning;
use crate::http::{Endpoint, Origin, Reach};
use crate::network::opened::Opened;
use crate::template::Template;

/// A document for each key, as its row stands; or one for each change.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::{Elasticsearch, IndexTemplate};
///
/// let search = Elasticsearch::index(["https://search-1.example:9200", "https://search-2.example:9200"], "orders")
///     .api_key("a key, from the environment")
///     .template(IndexTemplate::new("orders", ["orders"]).replicas(1));
/// action("search", search);
///
/// // One document per change, in an index per day.
/// let history = Elasticsearch::append(["https://search-1.example:9200"], "history-{time:%Y.%m.%d}");
/// action("history", history);
/// ```
///
/// # Guarantee
/// Each change is applied at least once, those of one key in source order. A repeat does no harm: each document carries the [`Version`] of
/// the change it was made of, deletes too, and the index refuses what is older (409), which counts as delivered. Appended documents have an
/// id of their own each, and are there once.
///
/// What of a delete is remembered for how long is a setting of the index (`gc_deletes`, 60 s unless a [`IndexTemplate`] says more): after that an older
/// operation that comes late would bring the document back. [`soft_delete`](Self::soft_delete) keeps it for ever.
///
/// # What an answer means
/// For each item: 2xx and 409 delivered; 429 and 5xx tried again; everything else parked with the reason. For a whole request: 413 and 400 send
/// halves, until the cause is alone and parked; 401 and 403 make all wait, for they say nothing of a change.
#[derive(Clone)]
pub struct Elasticsearch {
    description: Description,
    /// Made by the first worker.
    open: Opened<Open>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    origins: Vec<Origin>,
    index: Template,
    id: Template,
    document: Document,
    versioning: Versioning,
    /// The field that says that a row was deleted, if its document stays.
    soft_delete: Option<String>,
    append: bool,
    authorization: Option<HeaderValue>,
    template: Option<IndexTemplate>,
    gzip: bool,
    batch_max: usize,
    bytes_max: usize,
    reach: Reach,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

/// What a document is made of.
#[derive(Clone)]
enum Document {
    /// The row as it stands.
    Row,
    Template(Template),
}

/// What is open of it, one per process.
struct Open {
    endpoint: Endpoint,
    /// Set once template and policy are there.
    ready: tokio::sync::OnceCell<()>,
    /// The partition from which the changes of each table come.
    partitions: Mutex<HashMap<String, PartitionId>>,
}

impl std::fmt::Debug for Elasticsearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Elasticsearch({})", self.description.shown())
    }
}
