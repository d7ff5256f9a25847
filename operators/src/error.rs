//! One error type. Its kind decides what becomes of the work: try again, park the change, or stop the pipeline.

use std::fmt;

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
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Passing trouble: try again.
    pub fn retry(context: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Retry, context: context.into(), source: None }
    }

    /// This change will not succeed: park it.
    pub fn park(context: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Park, context: context.into(), source: None }
    }

    /// The pipeline must not go on.
    pub fn stop(context: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Stop, context: context.into(), source: None }
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
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(source: E) -> Self {
        Error { kind: ErrorKind::Retry, context: String::new(), source: Some(Box::new(source)) }
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
