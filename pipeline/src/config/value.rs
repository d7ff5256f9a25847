//! The kinds of values that settings have, with their bounds.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::nearest;
use crate::store::StoreName;

/// What may be said for a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of something, within bounds.
    Whole {
        /// What is counted.
        unit: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A time such as `200ms`, `10s` or `1h 30m`.
    Time {
        /// What a bare number counts, in milliseconds, if one may stand alone.
        bare_ms: Option<u64>,
        /// The step in milliseconds: values are whole multiples of it.
        step_ms: u64,
        /// The least, in milliseconds.
        min_ms: u64,
        /// Whether `none` may stand for no limit.
        none: bool,
    },
    /// A file or a directory.
    Path,
    /// A checkpoint store: a directory or a URL.
    Store,
    /// One of these words; each with what it means.
    Word(&'static [(&'static str, &'static str)]),
    /// `true` or `false`; as a flag it needs no value.
    Switch,
    /// An address to listen on, or `none`.
    Listen,
    /// A filter of log messages: a level, or levels by module.
    Filter,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Whole(u64),
    /// A time; `None` is no limit.
    Time(Option<Duration>),
    /// A file or a directory.
    Path(PathBuf),
    /// A checkpoint store.
    Store(StoreName),
    /// One word of a list.
    Word(&'static str),
    /// On or off.
    Switch(bool),
    /// Where to listen.
    Listen(Listen),
    /// A filter of log messages.
    Filter(String),
}

/// Where the monitor listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Nowhere,
    /// At this address, or at the next free port above.
    From(SocketAddr),
    /// At exactly this address.
    At(SocketAddr),
}

impl Kind {
    /// Reads a value. The error says what was expected.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match *self {
            Kind::Whole { min, max, .. } => {
                let number = text.trim().replace('_', "").parse::<u64>().ok();
                number.filter(|n| (min..=max).contains(n)).map(Value::Whole).ok_or_else(|| self.expected())
            }
            Kind::Time { bare_ms, step_ms, min_ms, none } => {
                let text = text.trim();
                if none && text == "none" {
                    return Ok(Value::Time(None));
                }
                let bare = text.parse::<u64>().ok();
                let time = match (bare, bare_ms) {
                    (Some(n), Some(ms)) => Some(Duration::from_millis(n.saturating_mul(ms))),
                    (Some(0), None) => Some(Duration::ZERO),
                    _ => humantime::parse_duration(text).ok(),
                };
                let step = Duration::from_millis(step_ms);
                let fits = |time: &Duration| {
                    *time >= Duration::from_millis(min_ms) && time.as_nanos().is_multiple_of(step.as_nanos().max(1))
                };
                time.filter(fits).map(|time| Value::Time(Some(time))).ok_or_else(|| self.expected())
            }
            Kind::Path | Kind::Store if text.is_empty() => Err(self.expected()),
            Kind::Path => Ok(Value::Path(PathBuf::from(text))),
            Kind::Store => {
                let name = StoreName::from(text);
                name.place().map_err(|error| error.to_string())?;
                Ok(Value::Store(name))
            }
            Kind::Word(words) => {
                words.iter().find(|(word, _)| *word == text).map(|(word, _)| Value::Word(word)).ok_or_else(|| {
                    let near = nearest(text, words.iter().map(|(word, _)| *word));
                    self.expected() + &near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
                })
            }
            Kind::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Value::Switch(true)),
                "false" | "0" | "no" | "off" | "" => Ok(Value::Switch(false)),
                _ => Err(self.expected()),
            },
            Kind::Listen if text == "none" => Ok(Value::Listen(Listen::Nowhere)),
            Kind::Listen => {
                let whole = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
                let address = whole.as_deref().unwrap_or(text).parse();
                address.map(|address| Value::Listen(Listen::At(address))).map_err(|_| self.expected())
            }
            Kind::Filter => {
                let filter = text.parse::<tracing_subscriber::EnvFilter>();
                // A word that is no level is taken for the name of a module: almost always a slip.
                let slips = !text.contains(['=', ':', ',']) && text.parse::<tracing_subscriber::filter::LevelFilter>().is_err();
                match filter {
                    Ok(_) if !slips && !text.is_empty() => Ok(Value::Filter(text.to_owned())),
                    _ => Err(self.expected()),
                }
            }
        }
    }

    /// What may be said, in words.
    pub fn expected(&self) -> String {
        match self {
            Kind::Whole { unit, min, max: u64::MAX } => format!("expected a whole number of {unit}, at least {min}"),
            Kind::Whole { unit, min, max } => format!("expected a whole number of {unit} in {min}..={max}"),
            Kind::Time { bare_ms, step_ms, min_ms, none } => {
                let mut text = String::from("expected a time such as ");
                text += match *step_ms {
                    1000.. => "10s or 2m",
                    _ => "200ms, 10s or 5m",
                };
                match bare_ms {
                    Some(1) => text += " (a bare number is milliseconds)",
                    Some(_) => text += " (a bare number is seconds)",
                    None => {}
                }
                if *step_ms >= 1000 {
                    text += ", in whole seconds";
                }
                if *min_ms > 0 {
                    text += &format!(", at least {}", humantime::format_duration(Duration::from_millis(*min_ms)));
                }
                if *none {
                    text += ", or none";
                }
                text
            }
            Kind::Path => "expected a path".to_owned(),
            Kind::Store => "expected a directory, or a URL such as postgres://user@host/database".to_owned(),
            Kind::Word(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("expected one of: {}", words.join(", "))
            }
            Kind::Switch => "expected true or false".to_owned(),
            Kind::Listen => "expected an address and port such as 127.0.0.1:9090, or none".to_owned(),
            Kind::Filter => {
                "expected a level (error, warn, info, debug, trace, off) or levels by module, such as warn,highwater=debug"
                    .to_owned()
            }
        }
    }

    /// What stands for the value in help.
    pub fn value_name(&self) -> &'static str {
        match self {
            Kind::Whole { unit: "MiB", .. } => "MIB",
            Kind::Whole { .. } => "N",
            Kind::Time { bare_ms: Some(1), .. } => "MS",
            Kind::Time { bare_ms: Some(_), .. } => "SECONDS",
            Kind::Time { .. } => "TIME",
            Kind::Path => "PATH",
            Kind::Store => "DIR_OR_URL",
            Kind::Word(_) => "KIND",
            Kind::Switch => "",
            Kind::Listen => "ADDR:PORT",
            Kind::Filter => "LEVEL",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(n) => write!(f, "{n}"),
            Value::Time(None) => f.write_str("none"),
            Value::Time(Some(time)) => write!(f, "{}", humantime::format_duration(*time)),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::Store(name) => write!(f, "{name}"),
            Value::Word(word) => f.write_str(word),
            Value::Switch(on) => write!(f, "{on}"),
            Value::Listen(Listen::Nowhere) => f.write_str("none"),
            Value::Listen(Listen::From(address)) => write!(f, "{address}, or the next free port"),
            Value::Listen(Listen::At(address)) => write!(f, "{address}"),
            Value::Filter(filter) => f.write_str(filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Kind = Kind::Time { bare_ms: Some(1), step_ms: 1, min_ms: 1, none: false };

    #[test]
    fn times_are_read_with_and_without_their_unit() {
        let read = |text: &str| TIME.parse(text).map(|value| value.to_string());
        assert_eq!(read("200"), Ok("200ms".into()));
        assert_eq!(read("1m 30s"), Ok("1m 30s".into()));
        assert!(read("0").unwrap_err().contains("at least 1ms"));
        assert!(read("soon").unwrap_err().contains("a bare number is milliseconds"));
        let seconds = Kind::Time { bare_ms: Some(1000), step_ms: 1000, min_ms: 0, none: true };
        assert_eq!(seconds.parse("10").unwrap().to_string(), "10s");
        assert_eq!(seconds.parse("none").unwrap(), Value::Time(None));
        assert!(seconds.parse("1500ms").unwrap_err().contains("whole seconds"));
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_nearest() {
        let kind = Kind::Word(&[("text", ""), ("json", "")]);
        assert_eq!(kind.parse("jsn").unwrap_err(), "expected one of: text, json; did you mean \"json\"?");
        assert!(Kind::Filter.parse("wran").is_err());
        assert!(Kind::Filter.parse("warn,highwater=debug").is_ok());
        assert!(Kind::Listen.parse("9090").is_err());
    }
}
