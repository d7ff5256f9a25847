//! What a server is, and what of it weakens what we promise.

use redis::cmd;

use super::line::Line;
use crate::{Error, Result};

/// The oldest version there are tests for.
const OLDEST: (u32, u32) = (7, 0);

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its version: `7.0.15`.
    pub version: String,
    /// Made anew with each start: another one behind the same name has another.
    pub run_id: String,
    /// Whether it takes writes.
    pub role: Role,
    /// What it removes when its memory is full; `noeviction`: nothing, it refuses writes instead.
    pub maxmemory_policy: String,
    /// Bytes it may use; 0: no limit.
    pub maxmemory: u64,
    /// Whether it logs each write (`appendonly`), so that a restart brings back what was there.
    pub aof: bool,
    /// How often that log is synced (`always`, `everysec`, `no`); `None`: it may not be asked.
    pub appendfsync: Option<String>,
    /// When it writes snapshots, as `save` has it; empty: never. `None`: it may not be asked.
    pub save: Option<String>,
}

/// Whether a server takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Primary,
    /// It copies another one.
    Replica,
}

impl Found {
    /// Whether it may remove what was written before its time, for want of memory.
    pub fn evicts(&self) -> bool {
        self.maxmemory_policy != "noeviction"
    }

    /// Whether it forgets what was written when it is restarted.
    pub fn forgets(&self) -> bool {
        !self.aof && self.save.as_deref().is_none_or(str::is_empty)
    }

    /// What of it weakens a part that keeps more there than it could do without (`what`: "the seen-set"): a sentence each, with what to do.
    pub fn weaknesses(&self, what: &str) -> Vec<String> {
        let mut weak = Vec::new();
        if self.evicts() {
            weak.push(format!(
                "Redis removes keys when its memory is full (maxmemory-policy {}), and {what} with them: set maxmemory-policy noeviction",
                self.maxmemory_policy
            ));
        }
        if !self.aof {
            let kept = match self.save.as_deref() {
                Some("") => "nothing is kept",
                Some(_) => "what was written since its last snapshot is not kept",
                None => "it is not known what is kept",
            };
            weak.push(format!(
                "Redis does not log its writes (appendonly no): when it is restarted {kept} of {what}; set appendonly yes"
            ));
        }
        weak
    }
}

/// Asks a server what it is: `INFO`, and `CONFIG GET` where that is allowed.
///
/// # Errors
/// Of kind *retry* if it is away; of kind *stop* if it is older than 7.0, or `INFO` is not allowed.
pub async fn inspect(line: &Line) -> Result<Found> {
    let what = "asking Redis what it is";
    let info: String = line.query(what, cmd("INFO").arg("everything")).await?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
    // Renamed or not allowed: then it is not known.
    let config: Vec<String> = line.query(what, cmd("CONFIG").arg("GET").arg("save").arg("appendfsync")).await.unwrap_or_default();
    let setting = |name: &str| config.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1).cloned());
    let found = Found {
        version: field("redis_version").to_owned(),
        run_id: field("run_id").to_owned(),
        role: if field("role") == "master" { Role::Primary } else { Role::Replica },
        maxmemory_policy: field("maxmemory_policy").to_owned(),
        maxmemory: field("maxmemory").parse().unwrap_or(0),
        aof: field("aof_enabled") == "1",
        appendfsync: setting("appendfsync"),
        save: setting("save"),
    };
    let mut numbers = found.version.split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(Error::stop(format!(
            "this Redis is {}, and 7.0 or later is needed: install a later one, or name another server",
            if found.version.is_empty() { "of an unknown version" } else { &found.version }
        )));
    }
    Ok(found)
}
