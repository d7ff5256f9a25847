//! Where a password comes from, and whether it can change while the program runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, Result};

/// A password's origin.
#[derive(Clone)]
pub(super) enum Password {
    /// It was given once: in the URL or in `PGPASSWORD`.
    Given(Arc<str>),
    /// A file in the form of `.pgpass`, read for each connection. `asked_for`: somebody named it, so it must be there.
    File { path: PathBuf, asked_for: bool },
    /// A function of the user's, asked for each connection.
    Asked(Arc<dyn Fn() -> Result<String> + Send + Sync>),
    /// There is none.
    None,
}

impl Password {
    /// The named file, else `.pgpass` in the home folder.
    pub(super) fn file(named: Option<PathBuf>, home: Option<String>) -> Password {
        match (named, home) {
            (Some(path), _) => Password::File { path, asked_for: true },
            (None, Some(home)) => Password::File { path: PathBuf::from(home).join(".pgpass"), asked_for: false },
            (None, None) => Password::None,
        }
    }

    pub(super) fn may_change(&self) -> bool {
        matches!(self, Password::File { .. } | Password::Asked(_))
    }

    /// The password of now for this place and user.
    pub(super) fn get(&self, host: &str, port: u16, database: &str, user: &str) -> Result<Option<String>> {
        match self {
            Password::Given(password) => Ok(Some(password.to_string())),
            Password::None => Ok(None),
            Password::Asked(ask) => ask().map(Some).map_err(|error| error.context("asking for the password of the database")),
            Password::File { path, asked_for } => match std::fs::read_to_string(path) {
                Ok(text) => {
                    // A socket's folder stands in the file as `localhost`.
                    let host = if host.starts_with('/') { "localhost" } else { host };
                    Ok(find(&text, &[host, &port.to_string(), database, user]))
                }
                Err(_) if !asked_for => Ok(None),
                Err(error) => {
                    Err(Error::retry(format!("the file of passwords {} cannot be read", path.display())).because(error))
                }
            },
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The password of the first line `host:port:database:user:password` that fits; `*` fits all, `\` escapes.
fn find(text: &str, wanted: &[&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line).into_iter();
        let fits = wanted.iter().all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        fields.next().filter(|_| fits)
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => fields.last_mut().expect("there is a first").extend(letters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            letter => fields.last_mut().expect("there is a first").push(letter),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = "# h:1:d:u:no\nother:1:d:u:no\nh:*:d:u:a\\:b\\\\c:d\n*:*:*:*:last\n";
        assert_eq!(find(file, &["h", "1", "d", "u"]).unwrap(), "a:b\\c:d");
        assert_eq!(find(file, &["h", "1", "x", "u"]).unwrap(), "last");
        assert_eq!(find("h:1:d:u:p", &["h", "1", "d", "v"]), None);
    }

    #[test]
    fn a_file_is_read_each_time_and_one_that_was_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        let password = Password::file(Some(path.clone()), None);
        let error = password.get("h", 1, "d", "u").unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        for now in ["one", "two"] {
            std::fs::write(&path, format!("localhost:1:d:u:{now}")).unwrap();
            assert_eq!(password.get("/run/pg", 1, "d", "u").unwrap().unwrap(), now);
        }
        assert_eq!(Password::file(None, Some("/nowhere".into())).get("h", 1, "d", "u").unwrap(), None);
    }
}
