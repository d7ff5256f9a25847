//! What an error of Redis means for the work, and what to do about it: one table by the code in front of the server's sentence.

use redis::RedisError;

use crate::ErrorKind::{Park, Retry, Stop};
use crate::{Error, ErrorKind};

/// Codes, a part of the sentence (empty: any), what it means, what to do. The first that fits counts.
const TABLE: &[(&str, &str, ErrorKind, &str)] = &[
    ("LOADING", "", Retry, "the server reads its data; work goes on by itself then"),
    (
        "READONLY",
        "",
        Retry,
        "the server is a replica, perhaps since a fail-over: the host's name is resolved anew; if it lasts, name the primary",
    ),
    ("MASTERDOWN", "", Retry, "the server is a replica that has lost its primary"),
    ("TRYAGAIN", "", Retry, ""),
    ("CLUSTERDOWN", "", Retry, "the cluster has lost nodes"),
    ("BUSY", "", Retry, "a script runs at the server: it answers nobody meanwhile"),
    ("NOREPLICAS", "", Retry, "too few replicas are connected (min-replicas-to-write)"),
    ("MISCONF", "", Retry, "the server cannot write its snapshot and takes no writes: look at its log and disk"),
    ("OOM", "", Retry, "the server's memory is full: raise maxmemory, or make room; work goes on by itself then"),
    ("EXECABORT", "", Retry, ""),
    ("NOSCRIPT", "", Retry, ""),
    ("UNBLOCKED", "", Retry, ""),
    ("NOAUTH", "", Stop, "it wants a login: redis://user:password@host, or redis://:password@host"),
    (
        "WRONGPASS",
        "",
        Stop,
        "user or password is wrong, or the user is off, or there is a password and the server wants none: mend the URL, or look at ACL LIST",
    ),
    ("NOPERM", "", Stop, "the user may not do this: docs/redis.md has the ACL SETUSER line with what each part needs"),
    ("WRONGTYPE", "", Stop, "the key holds something else than expected: name another key or prefix, or remove it"),
    ("DENIED", "", Stop, "the server is in protected mode: give it a password, or bind it to the right address"),
    ("MOVED", "", Stop, "this is a Redis Cluster: name a Redis that is not clustered"),
    ("ASK", "", Stop, "this is a Redis Cluster: name a Redis that is not clustered"),
    ("CROSSSLOT", "", Stop, "this is a Redis Cluster: name a Redis that is not clustered"),
    ("NOGROUP", "", Stop, "somebody has removed stream or consumer group"),
    ("ERR", "max number of clients", Retry, "the server has no connection left: raise its maxclients"),
    ("ERR", "proto-max-bulk-len", Park, "it is larger than the server takes"),
    ("ERR", "string exceeds maximum", Park, "it is larger than the server takes"),
    ("ERR", "unknown command", Stop, "this server cannot do it: it wants Redis 7.0 or later, and commands that were not renamed"),
    ("ERR", "DB index is out of range", Stop, "the URL names a database that the server does not have"),
    ("ERR", "", Stop, ""),
    ("", "", Retry, "if it lasts, look in the server's log"),
];

/// Our error for one of the driver's: its kind by what the server says, its text with the server's words and what to do. `what` says what was being
/// done: `"reading the stream orders"`.
///
/// | what happened | kind |
/// | --- | --- |
/// | connection lost or not made, no answer in time, LOADING, READONLY, MASTERDOWN, TRYAGAIN, OOM, MISCONF, NOREPLICAS, BUSY, no connection left | retry |
/// | a value larger than the server takes | park |
/// | NOAUTH, WRONGPASS, NOPERM, WRONGTYPE, a cluster, a command or database that the server does not have | stop |
///
/// Neither a password nor a value is in the text.
pub fn failed(what: &str, error: &RedisError) -> Error {
    let (kind, text) = if let Some((code, sentence)) = said(error) {
        let (kind, advice) = by_code(&code, &sentence);
        let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
        (kind, format!("{what}: Redis says: {code} {sentence}{advice}"))
    } else if error.is_timeout() {
        (Retry, format!("{what}: no answer in time (response_timeout); look whether the server is frozen or overloaded"))
    } else if error.is_io_error() {
        (Retry, format!("{what}: the connection was lost or not made; look whether the server runs and can be reached ({error})"))
    } else {
        match error.kind() {
            redis::ErrorKind::Parse => {
                (Retry, format!("{what}: what came is no answer of a Redis; look at host and port ({error})"))
            }
            _ => (Stop, format!("{what}: {error}")),
        }
    };
    match kind {
        Retry => Error::retry(text),
        Park => Error::park(text),
        Stop => Error::stop(text),
    }
}

/// Whether the server, or the way to it, is away for now: asked later on another connection, it may answer. So also where it was failed over: who was
/// asked is not the one to ask any more.
pub fn is_away(error: &RedisError) -> bool {
    match said(error) {
        Some((code, sentence)) => {
            matches!(code.as_str(), "READONLY" | "MASTERDOWN") || sentence.contains("max number of clients")
        }
        None => error.is_io_error() || error.kind() == redis::ErrorKind::Parse,
    }
}

/// The server's code and sentence, if it was the server that refused.
fn said(error: &RedisError) -> Option<(String, String)> {
    if error.kind() == redis::ErrorKind::AuthenticationFailed {
        // The driver does not keep what the server said.
        return Some(("WRONGPASS".to_owned(), "the login is refused".to_owned()));
    }
    if let Some(code) = error.code() {
        return Some((code.to_owned(), error.detail().unwrap_or_default().to_owned()));
    }
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    Some((first.code().to_owned(), first.details().unwrap_or_default().to_owned()))
}

fn by_code(code: &str, sentence: &str) -> (ErrorKind, &'static str) {
    let mut fits = TABLE.iter().filter(|(known, part, ..)| (known.is_empty() || *known == code) && sentence.contains(part));
    fits.next().map_or((Retry, ""), |&(_, _, kind, advice)| (kind, advice))
}

#[cfg(test)]
mod tests {
    use redis::{RedisError, ServerErrorKind, make_extension_error};

    use super::*;

    fn kind(code: &str, sentence: &str) -> ErrorKind {
        failed("asking", &make_extension_error(code.to_owned(), Some(sentence.to_owned()))).kind()
    }

    #[test]
    fn what_the_server_says_decides() {
        for code in ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "SOMETHINGNEW"] {
            assert_eq!(kind(code, "no"), Retry, "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS", "WRONGTYPE", "DENIED", "NOGROUP"] {
            assert_eq!(kind(code, "no"), Stop, "{code}");
        }
        assert_eq!(kind("ERR", "max number of clients reached"), Retry);
        assert_eq!(kind("ERR", "string exceeds maximum allowed size (proto-max-bulk-len)"), Park);
        assert_eq!(kind("ERR", "unknown command 'XYZ'"), Stop);
    }

    #[test]
    fn a_replica_is_away_and_a_refusal_is_not() {
        let read_only = RedisError::from((redis::ErrorKind::Server(ServerErrorKind::ReadOnly), "READONLY"));
        assert!(is_away(&read_only));
        assert_eq!(failed("asking", &read_only).kind(), Retry);
        assert!(!is_away(&make_extension_error("WRONGPASS".into(), None)));
        let lost = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(is_away(&lost) && failed("asking", &lost).kind() == Retry);
    }
}
