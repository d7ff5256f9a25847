//! Messages: text or JSON on standard error, each place in the code at most so often.
//!
//! A message that comes a thousand times a second tells no more than one that comes ten times. Of each place in the code
//! `BURST` messages pass per `WINDOW`; the rest is counted, and told with the window's end.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// So many messages of one place pass in a window.
const BURST: u64 = 10;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// Where the messages of this module come from. They are neither limited nor left out.
const OWN: &str = "highwater::program";

/// How messages are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// As JSON, one object a line; else as text.
    pub json: bool,
    /// Which: a level, or levels by module as in `RUST_LOG`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { json: false, filter: "warn".to_owned() }
    }
}

impl LogSettings {
    /// Text, as `RUST_LOG` says; warnings by default.
    pub(crate) fn from_environment() -> Self {
        let filter = std::env::var("RUST_LOG").ok().filter(|filter| EnvFilter::try_new(filter).is_ok());
        filter.map_or_else(LogSettings::default, |filter| LogSettings { filter, ..LogSettings::default() })
    }
}

/// Says something that whoever starts the program wants to know: a line of text, or a message where messages are JSON.
pub(crate) fn announce(text: std::fmt::Arguments<'_>) {
    match STARTED.get() {
        Some(settings) if settings.json => tracing::info!(target: OWN, "{text}"),
        Some(_) => eprintln!("{text}"),
        // A program of its own writes messages as it likes.
        None => tracing::info!("{text}"),
    }
}

/// The same for what may be a mistake.
pub(crate) fn warn(text: std::fmt::Arguments<'_>) {
    match STARTED.get() {
        Some(settings) if !settings.json => eprintln!("warning: {text}"),
        Some(_) => tracing::warn!(target: OWN, "{text}"),
        None => tracing::warn!("{text}"),
    }
}

/// How messages are written, once they are.
static STARTED: OnceLock<LogSettings> = OnceLock::new();

/// The limiter of this process's messages, once they are written by it.
static LIMITER: OnceLock<Limiter> = OnceLock::new();

/// Starts to write messages to standard error. The first call in a process counts; a subscriber that the program has set
/// itself stays.
pub fn start(settings: &LogSettings) {
    let _ = STARTED.set(settings.clone());
    let limiter = LIMITER.get_or_init(Limiter::default).clone();
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let filter = filter.add_directive(format!("{OWN}=trace").parse().expect("the directive is fixed"));
    let lines = fmt::layer().with_writer(|| Veiled(std::io::stderr()));
    let lines = match settings.json {
        true => lines.json().flatten_event(true).with_ansi(false).boxed(),
        false => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    };
    let _ = tracing_subscriber::registry().with(lines.with_filter(limiter)).with(filter).try_init();
}

/// Tells what was left out of windows that are over; of all windows with `all`. Called now and then while a pipeline runs, and
/// at its end.
pub(crate) fn tell_left_out(all: bool) {
    if let Some(limiter) = LIMITER.get() {
        limiter.tell(Instant::now(), all);
    }
}

/// Lets some messages of each place pass, and counts the others.
#[derive(Clone, Default)]
struct Limiter(Arc<Mutex<HashMap<Identifier, Place>>>);

/// A place in the code that has spoken.
struct Place {
    level: Level,
    began: Instant,
    passed: u64,
    left_out: u64,
    /// The last message that was left out.
    last: String,
}

impl Limiter {
    /// Whether a message may pass now.
    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut places = self.0.lock();
        let place = places.entry(event.metadata().callsite()).or_insert_with(|| Place {
            level: *event.metadata().level(),
            began: now,
            passed: 0,
            left_out: 0,
            last: String::new(),
        });
        if place.left_out == 0 && now.duration_since(place.began) >= WINDOW {
            (place.began, place.passed) = (now, 0);
        }
        if place.passed < BURST {
            place.passed += 1;
            return true;
        }
        if place.left_out == 0 {
            place.last.clear();
            event.record(&mut Message(&mut place.last));
        }
        place.left_out += 1;
        false
    }

    fn tell(&self, now: Instant, all: bool) {
        // Told after the lock is given back: what is told passes here too.
        let over: Vec<(Level, u64, u64, String)> = {
            let mut places = self.0.lock();
            let over =
                places.values_mut().filter(|place| place.left_out > 0 && (all || now.duration_since(place.began) >= WINDOW));
            over.map(|place| {
                let seconds = now.duration_since(place.began).as_secs().max(1);
                let told = (place.level, std::mem::take(&mut place.left_out), seconds, std::mem::take(&mut place.last));
                (place.began, place.passed) = (now, 0);
                told
            })
            .collect()
        };
        for (level, left_out, seconds, last) in over {
            let n = crate::report::count(left_out);
            macro_rules! tell {
                ($($level:ident),*) => {
                    match level {
                        $(Level::$level => tracing::event!(target: OWN, Level::$level, left_out, seconds, "… {n} like this in the last {seconds} s: {last}"),)*
                    }
                };
            }
            tell!(ERROR, WARN, INFO, DEBUG, TRACE);
        }
    }
}

impl<S: Subscriber> Filter<S> for Limiter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        event.metadata().target() == OWN || self.admits(event, Instant::now())
    }
}

/// The text of a message.
struct Message<'t>(&'t mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// Standard error, where passwords within addresses (`postgres://user:secret@host`) are not written.
struct Veiled(std::io::Stderr);

impl std::io::Write for Veiled {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match veil(line) {
            Some(veiled) => self.0.write_all(&veiled).map(|()| line.len()),
            None => self.0.write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A line with the passwords in its addresses veiled; `None` if there are none.
fn veil(line: &[u8]) -> Option<Vec<u8>> {
    let mut veiled = Vec::new();
    let mut done = 0;
    for start in memchr::memmem::find_iter(line, b"://") {
        let authority = start + 3;
        let ends =
            |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'`') || byte.is_ascii_whitespace();
        let end = line[authority..].iter().position(ends).map_or(line.len(), |length| authority + length);
        let Some(at) = line[authority..end].iter().rposition(|byte| *byte == b'@') else { continue };
        let Some(colon) = line[authority..authority + at].iter().position(|byte| *byte == b':') else { continue };
        veiled.extend_from_slice(&line[done..=authority + colon]);
        veiled.extend_from_slice(b"***");
        done = authority + at;
    }
    (done > 0).then(|| {
        veiled.extend_from_slice(&line[done..]);
        veiled
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_written() {
        let veiled = |line: &str| veil(line.as_bytes()).map(|line| String::from_utf8(line).unwrap());
        assert_eq!(
            veiled("at postgres://me:se@cret@db/x and redis://:pw@r, http://h:80/a:b@c").unwrap(),
            "at postgres://me:***@db/x and redis://:***@r, http://h:80/a:b@c"
        );
        assert_eq!(veiled("http://localhost:9090/metrics a:b@c"), None);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_place_speaks_so_often_and_then_is_counted() {
        let (limiter, lines) = (Limiter::default(), Lines::default());
        let own = lines.clone();
        let layer = fmt::layer().json().flatten_event(true).with_writer(move || own.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(limiter.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..1_214 {
                tracing::warn!(n, "cannot reach {}", "mail");
            }
            tracing::warn!("another place");
            limiter.tell(Instant::now(), false);
            assert!(!String::from_utf8_lossy(&lines.0.lock()).contains("like this"), "the window is not over");
            limiter.tell(Instant::now() + WINDOW, false);
            tracing::warn!("another place");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("cannot reach mail\""), count("another place")), (BURST as usize + 1, 2), "{text}");
        assert_eq!(count("… 1,204 like this in the last 10 s: cannot reach mail"), 1, "{text}");
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(object["message"].is_string() && object["level"] == "WARN", "{line}");
        }
    }
}
