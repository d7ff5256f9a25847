//! One error type. Its kind decides what becomes of the work: try again, park the change, or stop the pipeline.

use std::fmt;
use std::time::Duration;

/// The result of anything in a pipeline that can fail.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// What an error means for the work it struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Passing trouble: the same call may succeed later. The action tries again, with back-off.
    Retry,
    /// This change will never succeed as it is. It is parked, with its cause.
    Park,
    /// Nothing can go on safely: the pipeline stops at once and says why.
    Stop,
}

/// An error with its kind, a sentence of context and its source.
///
/// Any `std::error::Error` turns into one of kind [`ErrorKind::Retry`] by `?`, so closures can use `?` freely:
///
/// ```
/// use highwater_operators::{Error, ErrorKind, Result};
/// fn amount(text: &str) -> Result<u32> { Ok(text.parse()?) }
/// assert_eq!(amount("x").unwrap_err().kind(), ErrorKind::Retry);
/// assert_eq!(Error::park("no such customer").to_string(), "no such customer");
/// ```
///
/// `Error` itself is no `std::error::Error`: that is what lets every other error become one by `?`.
pub struct Error {
    kind: ErrorKind,
    context: String,
    wait: Option<Wait>,
    response: Option<Box<str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Bytes of a response that are kept at most.
const RESPONSE_MAX: usize = 4096;

/// When to try again, if not by the back-off.
#[derive(Clone, Copy)]
struct Wait {
    time: Duration,
    asked: bool,
}

impl Error {
    /// Passing trouble: try again.
    pub fn retry(context: impl Into<String>) -> Self {
        Error::new(ErrorKind::Retry, context.into())
    }

    /// Nothing was asked: whoever would have been is known to be away, or has enough to do. Try again after `wait`; that is no failed
    /// attempt, for it says nothing of the change.
    pub fn not_asked(context: impl Into<String>, wait: Duration) -> Self {
        Error { wait: Some(Wait { time: wait, asked: false }), ..Error::retry(context) }
    }

    /// This change will not succeed: park it.
    pub fn park(context: impl Into<String>) -> Self {
        Error::new(ErrorKind::Park, context.into())
    }

    /// The pipeline must not go on.
    pub fn stop(context: impl Into<String>) -> Self {
        Error::new(ErrorKind::Stop, context.into())
    }

    fn new(kind: ErrorKind, context: String) -> Self {
        Error { kind, context, wait: None, response: None, source: None }
    }

    /// The same error with the time after which to try again, in place of the back-off's.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.wait = Some(Wait { time: wait, asked: true });
        self
    }

    /// The same error with what the other side answered: its beginning, up to 4 KiB, is kept with a change that is parked for it, for
    /// `parked show`. It is shown nowhere else: not in messages, not in logs.
    ///
    /// ```
    /// use highwater_operators::Error;
    /// let error = Error::park("422 Unprocessable Entity").with_response("{\"field\":\"amount\"}");
    /// assert_eq!((error.response(), error.to_string().as_str()), (Some("{\"field\":\"amount\"}"), "422 Unprocessable Entity"));
    /// ```
    pub fn with_response(mut self, response: impl Into<String>) -> Self {
        let mut response: String = response.into();
        if response.len() > RESPONSE_MAX {
            response.truncate(response.floor_char_boundary(RESPONSE_MAX));
        }
        self.response = Some(response.into());
        self
    }

    /// What the other side answered, as far as it is kept.
    pub fn response(&self) -> Option<&str> {
        self.response.as_deref()
    }

    /// The same error with another error as its source.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with a sentence in front that says what was being done.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.context = if self.context.is_empty() { context.to_string() } else { format!("{context}: {}", self.context) };
        self
    }

    /// What the error means for the work it struck.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, of which it is known that nothing was asked.
    pub fn unasked(mut self) -> Self {
        self.wait = Some(Wait { time: Duration::ZERO, asked: false });
        self
    }

    /// The same error in words alone: its source is only told.
    pub fn in_words(&self) -> Error {
        Error { kind: self.kind, context: self.to_string(), wait: self.wait, response: self.response.clone(), source: None }
    }

    /// After which time to try again, if that is known.
    pub fn wait(&self) -> Option<Duration> {
        self.wait.map(|wait| wait.time)
    }

    /// Whether anything was asked at all.
    pub fn was_asked(&self) -> bool {
        self.wait.is_none_or(|wait| wait.asked)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(source: E) -> Self {
        Error { source: Some(Box::new(source)), ..Error::retry("") }
    }
}

impl fmt::Display for Error {
    /// The context, then the chain of sources, each once, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut lead = if self.context.is_empty() { "" } else { ": " };
        let mut source = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(error) = source {
            write!(f, "{lead}{error}")?;
            lead = ": ";
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_try_again_outlives_what_is_added() {
        let busy = Error::retry("busy").retry_after(Duration::from_secs(3)).context("POST /");
        assert_eq!(
            (busy.wait(), busy.was_asked(), busy.to_string()),
            (Some(Duration::from_secs(3)), true, "POST /: busy".into())
        );
        let away = Error::not_asked("away", Duration::from_secs(5));
        assert_eq!((away.kind(), away.wait(), away.was_asked()), (ErrorKind::Retry, Some(Duration::from_secs(5)), false));
        assert!(Error::park("").was_asked() && Error::park("").wait().is_none());
    }
}
