//! Which checkpoint store a pipeline has: what settings name, else what its code says, else its data directory.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(not(feature = "postgres"))]
#[path = "without_postgres.rs"]
mod postgres;

use std::fmt;
use std::sync::Arc;

use highwater_operators::Result;
use highwater_operators::checkpoint::embedded::DataDirectory;
use highwater_operators::checkpoint::place::StorePlace;

use crate::plan::Plan;
use crate::settings::Settings;

/// A checkpoint store by name: a directory, or the URL of a Postgres database. Neither `Debug` nor `Display` shows a password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreName(String);

impl StoreName {
    /// Whether it is a URL.
    pub fn is_url(&self) -> bool {
        self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")
    }

    /// The store of this name.
    ///
    /// # Errors
    /// The URL cannot be read, or this program was built without Postgres.
    pub fn place(&self) -> Result<Arc<dyn StorePlace>> {
        match self.is_url() {
            true => postgres::place(&self.0),
            false => Ok(Arc::new(DataDirectory::at(&self.0))),
        }
    }
}

impl From<&str> for StoreName {
    fn from(text: &str) -> Self {
        StoreName(text.to_owned())
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_url() {
            true => f.write_str(&without_secret(&self.0)),
            false => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A URL as far as it can be shown: without what stands before the host but the user's name, and without parameters.
fn without_secret(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    match rest.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, host)) => format!("{scheme}://{}@{host}", user.split(':').next().unwrap_or_default()),
    }
}

impl Settings {
    /// The checkpoint store of the pipeline of this name.
    pub(crate) fn store(&self, name: &str, plan: &Plan) -> Result<Arc<dyn StorePlace>> {
        if let Some(named) = &self.checkpoint {
            return named.place();
        }
        match plan.checkpoint.as_ref().and_then(|checkpoint| checkpoint.store.clone()) {
            Some(store) => {
                if let Some(data) = &self.data {
                    let (store, data) = (store.place(), data.display());
                    tracing::warn!(%store, %data, "the pipeline names its checkpoint store: the data directory is not used");
                }
                Ok(store)
            }
            None => Ok(Arc::new(DataDirectory::at(self.data(name)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_store_shows_no_password() {
        for (name, shown) in [
            ("postgres://me:se@cret@host:5432/db?password=secret", "postgres://me@host:5432/db"),
            ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
            ("postgres://:secret@host/db", "postgres://@host/db"),
            ("data/orders", "data/orders"),
        ] {
            let name = StoreName::from(name);
            assert_eq!((name.to_string().as_str(), format!("{name:?}").as_str()), (shown, shown));
        }
    }
}
