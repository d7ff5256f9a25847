//! Where the password comes from.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, Result};

/// A password's origin.
#[derive(Clone)]
pub(super) enum Password {
    /// It stands in the URL.
    Given(Arc<str>),
    /// A file with nothing else in it, read for each connection.
    File(PathBuf),
    /// A function of the user's, asked for each connection.
    Asked(Arc<dyn Fn() -> Result<String> + Send + Sync>),
    /// There is none.
    None,
}

impl Password {
    /// The password of now.
    pub(super) fn get(&self) -> Result<Option<String>> {
        match self {
            Password::Given(password) => Ok(Some(password.to_string())),
            Password::None => Ok(None),
            Password::Asked(ask) => ask().map(Some).map_err(|error| error.context("asking for the password of Redis")),
            Password::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(error) => {
                    Err(Error::retry(format!("the password's file {} (passfile) cannot be read", path.display())).because(error))
                }
            },
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Password::None)
    }
}
