//! Whether jobs are safe in a Redis: looked at on each connection, since another server may stand behind the name.

use highwater_operators::redis::{Found, Line, Role, inspect};
use highwater_operators::{Error, Result};
use redis::cmd;

/// The form of the keys, as it stands in the queue's `meta`.
const FORM: &str = "1";

/// What a queue is known by: a random number that goes with its keys. Makes it if there is none.
pub(super) async fn check(line: &Line, queue: &str, prefix: &str) -> Result<String> {
    let found = inspect(line).await?;
    refuse(&found, queue)?;
    let what = "looking at a queue";
    let meta = format!("{prefix}meta");
    let mut pipeline = redis::pipe();
    let state = format!("{:032x}", rand_state());
    pipeline.cmd("HSETNX").arg(&meta).arg("form").arg(FORM);
    pipeline.cmd("HSETNX").arg(&meta).arg("state").arg(state);
    line.pipeline(what, &pipeline).await?;
    let (form, state): (Option<String>, Option<String>) =
        line.query(what, cmd("HMGET").arg(&meta).arg("form").arg("state")).await?;
    match form.as_deref() {
        Some(FORM) => Ok(state.unwrap_or_default()),
        form => Err(Error::stop(format!(
            "queue \"{queue}\" has form {}, and this program knows form {FORM}: it was made by another version; run that one until the queue is \
             empty, or take another name",
            form.unwrap_or("none")
        ))),
    }
}

fn refuse(found: &Found, queue: &str) -> Result {
    if found.role == Role::Replica {
        return Err(Error::retry(format!("queue \"{queue}\": the server is a replica and takes no jobs; name the primary")));
    }
    if found.evicts() {
        return Err(Error::stop(format!(
            "queue \"{queue}\": Redis removes keys when its memory is full (maxmemory-policy {}), and jobs with them: set maxmemory-policy \
             noeviction, or keep jobs elsewhere",
            found.maxmemory_policy
        )));
    }
    for weakness in found.weaknesses("the queue") {
        tracing::warn!(queue, "{weakness}");
    }
    if found.aof && found.appendfsync.as_deref() != Some("always") {
        tracing::warn!(
            queue,
            "Redis syncs its log once a second at most (appendfsync {}): jobs of that second are lost with its machine; set appendfsync always",
            found.appendfsync.as_deref().unwrap_or("unknown")
        );
    }
    Ok(())
}

fn rand_state() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    // Keyed anew in each call by the standard library: nobody need guess it, it need only be another.
    let half = || u128::from(RandomState::new().hash_one(std::process::id()));
    half() << 64 | half()
}
