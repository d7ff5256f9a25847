//! What an error of the database means for the work, and what to do about it: one table by SQLSTATE.

use std::error::Error as _;
use std::io;

use crate::ErrorKind::{Park, Retry, Stop};
use crate::{Error, ErrorKind};

/// Codes by their beginning; the longest that fits counts. https://www.postgresql.org/docs/current/errcodes-appendix.html
const TABLE: &[(&str, ErrorKind, &str)] = &[
    ("", Retry, "if it lasts, look in the server's log"),
    ("08", Retry, "if it lasts, look whether the server runs and the network lets it be reached"),
    ("0A", Stop, "this server cannot do it: look at its version and extensions"),
    ("21", Park, ""),
    ("22", Park, "the value does not fit: mend the change, or the column"),
    ("23", Park, "the row breaks a constraint: mend the change, or the constraint"),
    ("25", Retry, ""),
    (
        "25006",
        Retry,
        "the server takes no writes: it is a standby or read-only; name the primary, or add target_session_attrs=read-write",
    ),
    ("28", Stop, "look at user, password and pg_hba.conf"),
    ("28P01", Stop, "the password is wrong: mend the URL, PGPASSWORD or the file of passwords"),
    ("3D", Stop, "create the database, or mend the URL"),
    ("3F", Stop, "create the schema, or mend the name"),
    ("40", Retry, ""),
    ("42", Stop, "look at names and types of tables and columns"),
    ("42501", Stop, "grant the privilege to the user"),
    ("42P01", Stop, "create the table, or mend its name or the search_path"),
    ("42703", Stop, "add the column, or mend its name"),
    ("44", Park, "the row breaks the view's condition"),
    ("53", Retry, "the server lacks resources"),
    ("53100", Retry, "the server's disk is full: make room there; work goes on by itself then"),
    ("53300", Retry, "the server has no connection left: raise its max_connections, or lower max_connections of the pools"),
    ("54", Park, "it is larger than the server takes"),
    ("55", Stop, "look at the server's settings and at who uses the object"),
    ("55006", Retry, "another session uses it"),
    ("55P03", Retry, "another session holds the lock"),
    ("57", Retry, ""),
    ("57P04", Stop, "the database was dropped: create it, or mend the URL"),
    ("P0", Park, "a function or trigger refused it"),
    ("XX001", Stop, "the server's data is damaged: restore it"),
    ("XX002", Stop, "an index of the server's is damaged: rebuild it by reindex"),
];

/// Codes with which a connection ends or is not made, through no fault of who asks.
const AWAY: [&str; 8] = ["08", "25P03", "53300", "57P01", "57P02", "57P03", "57P05", "58"];

/// Our error for one of the driver's: its kind by what the server says, its text with the server's words and what to do. `what` says what was being
/// done: `"writing to orders"`.
///
/// | what happened | kind |
/// | --- | --- |
/// | connection lost or not made, server stopping or starting, too many connections, disk full, lock, deadlock, serialization | retry |
/// | a value that does not fit, a constraint, a trigger that refuses | park |
/// | wrong password, missing privilege, database, schema, table or column, a statement it cannot read | stop |
///
/// Neither a password nor a parameter's value is in the text; what the server itself says of a row (`Key (id)=(7) already exists`) is.
#[expect(clippy::needless_pass_by_value, reason = "it is used up: who has made one of ours keeps no other")]
pub fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let (kind, text) = match error.as_db_error() {
        Some(said) => {
            let code = said.code().code();
            let (kind, advice) = by_code(code, said.message());
            let mut text = format!("{what}: the database says: {} (SQLSTATE {code})", said.message());
            for more in [said.detail(), said.hint(), Some(advice).filter(|advice| !advice.is_empty())].into_iter().flatten() {
                text.push_str("; ");
                text.push_str(more.trim_end_matches('.'));
            }
            (kind, text)
        }
        None => {
            let (kind, advice) = without_code(&error);
            (kind, format!("{what}: {advice} ({})", chain(&error)))
        }
    };
    match kind {
        Retry => Error::retry(text),
        Park => Error::park(text),
        Stop => Error::stop(text),
    }
}

/// The same of a refusal whose words and SQLSTATE came by another client than the driver.
pub fn failed_as(what: &str, code: &str, message: &str) -> Error {
    let (kind, advice) = by_code(code, message);
    let advice = if advice.is_empty() { String::new() } else { format!("; {advice}") };
    let text = format!("{what}: the database says: {message} (SQLSTATE {code}){advice}");
    match kind {
        Retry => Error::retry(text),
        Park => Error::park(text),
        Stop => Error::stop(text),
    }
}

/// Whether the server, or the way to it, is away for now: the connection was lost or not made, the server stops, starts or has no connection
/// left. Whoever asks again later on another connection may get an answer.
pub fn is_away(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(said) => AWAY.iter().any(|code| said.code().code().starts_with(code)),
        None => without_code(error).0 == Retry,
    }
}

fn by_code(code: &str, message: &str) -> (ErrorKind, &'static str) {
    if code == "0A000" && message.starts_with("cached plan") {
        return (Retry, "the table was altered; the statement is prepared anew on another connection");
    }
    let fits = TABLE.iter().filter(|(start, ..)| code.starts_with(start));
    fits.max_by_key(|(start, ..)| start.len()).map_or((Retry, ""), |&(_, kind, advice)| (kind, advice))
}

/// Errors that the driver makes itself. It does not tell their kinds, but their words are its own, not the server's.
fn without_code(error: &tokio_postgres::Error) -> (ErrorKind, &'static str) {
    let words = error.to_string();
    let starts = |begin: &str| words.starts_with(begin);
    if error.is_closed() {
        (Retry, "the connection to the database is closed: it was lost, or got no answer in time")
    } else if starts("error serializing") || starts("error encoding") {
        (Park, "a value does not fit the statement")
    } else if starts("error deserializing") || starts("invalid column") || starts("query returned") || starts("expected ") {
        (Stop, "the database's answer is not what was asked for: look at the types of the columns")
    } else if starts("authentication") || starts("invalid con") {
        (Stop, "one cannot log in like this: look at user, password, channel_binding and pg_hba.conf")
    } else if starts("error performing TLS") && io_of(error).is_none_or(|io| io.kind() == io::ErrorKind::InvalidData) {
        (Stop, "TLS cannot be used with this server: look at sslmode and sslrootcert")
    } else {
        (Retry, "the database cannot be reached or the connection to it was lost")
    }
}

fn io_of(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// The error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_code_that_fits_counts() {
        for (code, kind) in [
            ("57P01", Retry),
            ("57P04", Stop),
            ("53300", Retry),
            ("53100", Retry),
            ("40001", Retry),
            ("40P01", Retry),
            ("08006", Retry),
            ("23505", Park),
            ("22P02", Park),
            ("P0001", Park),
            ("28P01", Stop),
            ("3D000", Stop),
            ("42501", Stop),
            ("42P01", Stop),
            ("55P03", Retry),
            ("55000", Stop),
            ("0A000", Stop),
            ("99999", Retry),
        ] {
            assert_eq!(by_code(code, "").0, kind, "{code}");
        }
        assert_eq!(by_code("0A000", "cached plan must not change result type").0, Retry);
    }
}
