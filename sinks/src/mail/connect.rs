//! A connection to a server: the address checked, TLS as asked for, greeted and logged in.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Security, Server};
use crate::network::dial::{Dialer, NoConnection};
use crate::network::tls::{certificates, config};

/// Makes connections to one server.
pub(super) struct Connector {
    pub dialer: Dialer,
    pub tls: Tls,
    /// The name we greet by; without one, our address.
    pub hello: Option<ClientId>,
    pub login: Option<Credentials>,
}

/// What keeps a connection from being read by others, ready for use.
pub(super) enum Tls {
    FromTheStart(ServerName<'static>, TlsConnector),
    AfterGreeting(TlsParameters),
    None,
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
        let opened = self.dialer.dial(|stream| self.open(stream)).await;
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

    async fn open(&self, stream: TcpStream) -> io::Result<AsyncSmtpConnection> {
        let hello = match (&self.hello, stream.local_addr()?.ip()) {
            (Some(hello), _) => hello.clone(),
            (None, IpAddr::V4(ip)) => ClientId::Ipv4(ip),
            (None, IpAddr::V6(ip)) => ClientId::Ipv6(ip),
        };
        let stream: Box<dyn AsyncTokioStream> = match &self.tls {
            Tls::FromTheStart(name, tls) => Box::new(Wrapped(tls.connect(name.clone(), stream).await?)),
            Tls::AfterGreeting(_) | Tls::None => Box::new(stream),
        };
        let greeted = AsyncSmtpConnection::connect_with_transport(stream, &hello).await;
        let mut connection = greeted.map_err(io::Error::other)?;
        if let Tls::AfterGreeting(tls) = &self.tls {
            connection.starttls(tls.clone(), &hello).await.map_err(io::Error::other)?;
        }
        Ok(connection)
    }
}

impl Tls {
    /// Certificates are checked by those of the machine, or those in a file.
    pub(super) fn new(server: &Server, roots: Option<&Path>) -> Result<Self, String> {
        let name = server.host.to_string().trim_matches(['[', ']']).to_owned();
        match server.security {
            Security::None => Ok(Tls::None),
            Security::Tls => {
                let name = ServerName::try_from(name).map_err(|_| "the server's host cannot have a certificate".to_owned())?;
                Ok(Tls::FromTheStart(name, TlsConnector::from(Arc::new(config(roots, &[])?))))
            }
            Security::StartTls => {
                let mut parameters = TlsParameters::builder(name);
                if roots.is_some() {
                    parameters = parameters.certificate_store(CertificateStore::None);
                    for certificate in certificates(roots)? {
                        let certificate = Certificate::from_der(certificate.to_vec()).map_err(|error| error.to_string())?;
                        parameters = parameters.add_root_certificate(certificate);
                    }
                }
                parameters.build().map(Tls::AfterGreeting).map_err(|error| format!("TLS cannot be set up: {error}"))
            }
        }
    }
}

/// A stream in TLS, as lettre takes streams.
#[derive(Debug)]
struct Wrapped(TlsStream<TcpStream>);

impl AsyncTokioStream for Wrapped {
    fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.0.get_ref().0.peer_addr()
    }
}

impl AsyncRead for Wrapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
