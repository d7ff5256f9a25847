//! What of a URL another client than the driver needs: the one that speaks the replication protocol.

use std::path::{Path, PathBuf};

use super::tls::SslMode;
use super::url::Url;
use crate::Result;

/// How a database is reached, piece by piece.
#[derive(Clone)]
pub struct Reach {
    /// The servers to try, in order; a name that begins with `/` is a socket's folder.
    pub hosts: Vec<(String, u16)>,
    /// Who connects.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<String>,
    /// The database's name.
    pub database: String,
    /// When TLS is used and what is checked.
    pub ssl_mode: SslMode,
    /// The certificates to trust: those of the URL, else the machine's, if they are in one file at a usual place.
    pub root: Option<PathBuf>,
    /// How the server shows the connection.
    pub application: String,
    /// Settings of the session, as the URL has them.
    pub options: Option<String>,
}

/// Where machines keep the certificates that they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Url {
    /// The pieces of the URL, for a connection for `purpose`; asks for the password.
    ///
    /// # Errors
    /// If there is no password to be had from where it should come.
    pub fn reach(&self, purpose: &str) -> Result<Reach> {
        let root = self.tls().root().map(Path::to_owned).or_else(|| {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            named.into_iter().chain(BUNDLES.map(PathBuf::from)).find(|path| path.is_file())
        });
        Ok(Reach {
            hosts: self.hosts().to_vec(),
            user: self.user().to_owned(),
            password: self.password()?,
            database: self.database().to_owned(),
            ssl_mode: self.tls().mode(),
            root,
            application: self.application(purpose),
            options: self.options().map(str::to_owned),
        })
    }
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reach({:?}, user {}, database {})", self.hosts, self.user, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_those_of_the_url_and_the_password_is_not_shown() {
        let url =
            "postgres://ada:s%40x@a:1,b/shop?sslmode=verify-full&sslrootcert=/r.pem&options=-c%20jit%3Doff&application_name=x";
        let reach = Url::parse(url).unwrap().reach("stream").unwrap();
        assert_eq!(reach.hosts[0], ("a".to_owned(), 1));
        assert_eq!((reach.password.as_deref(), reach.options.as_deref()), (Some("s@x"), Some("-c jit=off")));
        assert_eq!((reach.ssl_mode, reach.root.as_deref()), (SslMode::VerifyFull, Some(Path::new("/r.pem"))));
        assert_eq!((reach.application.as_str(), format!("{reach:?}").contains("s@x")), ("x stream", false));
    }
}
