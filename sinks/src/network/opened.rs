//! What an action opens once in a process, for whoever needs it first.

use std::sync::{Arc, OnceLock};

use highwater_operators::action::Surroundings;
use highwater_operators::clock::Clock;
use highwater_operators::{Error, Result};

/// Something that is open, or the sentence that says why it is not. Clones share it.
pub(crate) struct Opened<T>(Arc<OnceLock<Result<Arc<T>, String>>>);

impl<T> Opened<T> {
    /// Opens it, if nobody has.
    pub(crate) fn begin(
        &self,
        around: &Surroundings,
        open: impl FnOnce(&Surroundings) -> Result<T, String>,
    ) -> &Result<Arc<T>, String> {
        self.0.get_or_init(|| open(around).map(Arc::new))
    }

    /// What is open. A call without a pipeline around it is a test, or a program of its own: it opens it under this name.
    ///
    /// # Errors
    /// Of kind stop, with the sentence.
    pub(crate) fn get(&self, action: &str, open: impl FnOnce(&Surroundings) -> Result<T, String>) -> Result<Arc<T>> {
        let alone =
            || Surroundings { action: action.to_owned(), max_parallelism: 100, clock: Clock::default(), allow_private: false };
        let opened = match self.0.get() {
            Some(opened) => opened,
            None => self.begin(&alone(), open),
        };
        opened.clone().map_err(Error::stop)
    }
}

impl<T> Clone for Opened<T> {
    fn clone(&self) -> Self {
        Opened(self.0.clone())
    }
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Opened(Arc::default())
    }
}
