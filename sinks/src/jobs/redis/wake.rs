//! Hears of jobs that come, by one read that waits at the server, however many wait here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use highwater_operators::guard::backoff::Backoff;
use highwater_operators::redis::{BlockingConnection, Url};
use redis::Value;
use tokio::sync::Notify;

/// How long a read waits at the server.
const WAIT: Duration = Duration::from_secs(5);

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Listens for as long as somebody may wait.
pub(super) fn listen(url: &Url, queue: &str, stream: String, came: &Arc<Notify>) {
    let (url, purpose, came) = (url.clone(), format!("queue {queue}"), Arc::downgrade(came));
    tokio::spawn(async move { hear(&url, &purpose, &stream, &came).await });
}

async fn hear(url: &Url, purpose: &str, stream: &str, came: &Weak<Notify>) {
    let (mut failed, mut connection, mut last) = (0, None, "$".to_owned());
    while came.strong_count() > 0 {
        match read(url, purpose, stream, &mut connection, &last).await {
            Ok(read) => {
                failed = 0;
                if let Some(id) = read {
                    last = id;
                    let Some(came) = came.upgrade() else { return };
                    came.notify_waiters();
                    came.notify_one();
                } else if last == "$" {
                    // From here on nothing is missed between two reads.
                    last = "0-0".to_owned();
                }
            }
            Err(_) => {
                // Whoever waits looks by itself meanwhile; a server that was emptied counts from the beginning.
                failed += 1;
                last = "0-0".to_owned();
                tokio::time::sleep(BACKOFF.wait(failed)).await;
            }
        }
    }
}

/// The id of the latest entry after `last`, if one came in time.
async fn read(
    url: &Url,
    purpose: &str,
    stream: &str,
    connection: &mut Option<BlockingConnection>,
    last: &str,
) -> highwater_operators::Result<Option<String>> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(BlockingConnection::open(url, purpose).await?),
    };
    let mut command = redis::cmd("XREAD");
    command.arg("BLOCK").arg(WAIT.as_millis() as u64).arg("STREAMS").arg(stream).arg(last);
    let answer: Value = connection.query("waiting for jobs", &command, WAIT).await?;
    Ok(latest(answer))
}

/// The last id in an answer of XREAD: `[[stream, [[id, fields], ..]]]`, or a map of that in the newer protocol.
fn latest(answer: Value) -> Option<String> {
    let entries = match answer {
        Value::Array(mut streams) => match streams.pop()? {
            Value::Array(mut stream) => stream.pop()?,
            _ => return None,
        },
        Value::Map(mut streams) => streams.pop()?.1,
        _ => return None,
    };
    let Value::Array(mut entries) = entries else { return None };
    let Value::Array(entry) = entries.pop()? else { return None };
    match entry.into_iter().next()? {
        Value::BulkString(id) => String::from_utf8(id).ok(),
        Value::SimpleString(id) => Some(id),
        _ => None,
    }
}
