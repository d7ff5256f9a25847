//! A connection to a server: the address checked, TLS as asked for, greeted and logged in.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use super::{Security, Server};
use crate::network::dial::{Dialer, NoConnection};
use crate::network::tls::certificates;

/// Makes connections to one server.
pub(super) struct Connector {
    pub dialer: Dialer,
    pub security: Security,
    /// What checks the server's certificate, unless there is no TLS.
    pub tls: Option<TlsParameters>,
    pub hello: ClientId,
    pub login: Option<Credentials>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoServer {
    /// Its address is none that may be called.
    Refused(String),
    /// It is away, or speaks otherwise.
    Away(String),
    /// It does not let us in.
    Login(String),
}

impl Connector {
    pub(super) async fn connect(&self) -> Result<AsyncSmtpConnection, NoServer> {
        let opened = self.dialer.each(|address| async move { self.open(address).await.map_err(io::Error::other) }).await;
        let mut connection = opened.map_err(|error| match error {
            NoConnection::Refused(why) => NoServer::Refused(why),
            NoConnection::Away(why) => NoServer::Away(why),
        })?;
        if let Some(login) = &self.login {
            let logged_in = connection.auth(&[Mechanism::Plain, Mechanism::Login], login);
            match tokio::time::timeout(self.dialer.timeout, logged_in).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.is_permanent() || error.is_client() => {
                    return Err(NoServer::Login(format!("it does not let us in: {error}; are user and password right?")));
                }
                Ok(Err(error)) => return Err(NoServer::Away(format!("logging in: {error}"))),
                Err(_) => return Err(NoServer::Away("logging in: no answer in time".to_owned())),
            }
        }
        Ok(connection)
    }

    async fn open(&self, address: SocketAddr) -> Result<AsyncSmtpConnection, lettre::transport::smtp::Error> {
        let wrapped = self.tls.clone().filter(|_| self.security == Security::Tls);
        // An address, not a name: what was checked is what is connected to.
        let mut connection = AsyncSmtpConnection::connect_tokio1(address, None, &self.hello, wrapped, None).await?;
        if let Some(tls) = self.tls.clone().filter(|_| self.security == Security::StartTls) {
            connection.starttls(tls, &self.hello).await?;
        }
        Ok(connection)
    }
}

/// What checks a server's certificate: those of the machine, or those in a file.
pub(super) fn tls(server: &Server, roots: Option<&Path>) -> Result<TlsParameters, String> {
    let name = server.host.to_string().trim_matches(['[', ']']).to_owned();
    let mut parameters = TlsParameters::builder(name);
    if roots.is_some() {
        parameters = parameters.certificate_store(CertificateStore::None);
        for certificate in certificates(roots)? {
            let certificate = Certificate::from_der(certificate.to_vec()).map_err(|error| error.to_string())?;
            parameters = parameters.add_root_certificate(certificate);
        }
    }
    parameters.build().map_err(|error| format!("TLS cannot be set up: {error}"))
}
