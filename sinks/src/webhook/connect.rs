//! A connection to an origin: the address checked, TLS if asked for, HTTP/2 if both sides speak it.
//!
//! The address that is checked is the one that is connected to: a name is not resolved again between the two, so it does not matter
//! what it would lead to a moment later.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::not_public;
use super::resolve::Addresses;

/// A connection that requests can be sent on.
pub(super) enum Connection {
    /// One request at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Many at once.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// The origin's address is none that may be called.
    Refused(String),
    /// It is away, or speaks otherwise.
    Away(String),
}

/// Makes connections to one origin.
pub(super) struct Connector {
    pub addresses: Addresses,
    pub allow_private: bool,
    pub timeout: Duration,
    pub headers_max: usize,
    /// The name the certificate must have, and what checks it.
    pub tls: Option<(ServerName<'static>, TlsConnector)>,
}

impl Connector {
    pub(super) async fn connect(&self) -> Result<Connection, NoConnection> {
        let resolved = tokio::time::timeout(self.timeout, self.addresses.in_turn()).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(NoConnection::Away(format!("its name cannot be resolved: {error}"))),
            Err(_) => return Err(NoConnection::Away("its name was not resolved in time".to_owned())),
        };
        let (mut refused, mut away) = (None, None);
        for address in &addresses {
            if let Err(why) = self.allows(*address) {
                refused = Some(why);
                continue;
            }
            match tokio::time::timeout(self.timeout, self.open(*address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => away = Some(format!("{}: {error}", address.ip())),
                Err(_) => away = Some(format!("{}: no connection within {:?}", address.ip(), self.timeout)),
            }
        }
        self.addresses.forget();
        Err(match (away, refused) {
            (Some(away), _) => NoConnection::Away(away),
            (None, Some(refused)) => NoConnection::Refused(refused),
            (None, None) => NoConnection::Away("its name has no address".to_owned()),
        })
    }

    fn allows(&self, address: SocketAddr) -> Result<(), String> {
        match not_public(address.ip()).filter(|_| !self.allow_private) {
            None => Ok(()),
            Some(what) => Err(format!(
                "it leads to {}, which is {what}: refused, unless the action has .allow_private(true) or the setting allow_private",
                address.ip()
            )),
        }
    }

    async fn open(&self, address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        self.allows(stream.peer_addr()?).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        let Some((name, tls)) = &self.tls else { return self.http1(stream).await };
        let stream = tls.connect(name.clone(), stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.http2(stream).await,
            _ => self.http1(stream).await,
        }
    }

    async fn http1<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, stream: S) -> io::Result<Connection> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(self.headers_max).max_headers(100).max_buf_size(self.headers_max.max(16 << 10));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends when the sender is dropped, or the other side closes.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection::Http1(sender))
    }

    async fn http2<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, stream: S) -> io::Result<Connection> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_header_list_size(self.headers_max as u32);
        builder.keep_alive_interval(Duration::from_secs(20)).keep_alive_timeout(Duration::from_secs(10));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection::Http2(sender))
    }
}

/// What checks certificates: those of the machine, or those in a file; ALPN says that we speak HTTP/2.
pub(super) fn tls(roots: Option<&Path>) -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(root_certificates(roots)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn root_certificates(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "this machine has no trusted certificates: install the package `ca-certificates`, or name the file of the \
                        right one by .root_certificates(..)"
                    .to_owned(),
            );
        }
        return Ok(roots);
    };
    let refuse = |error: String| format!("the certificates in {} cannot be read: {error}", file.display());
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() { Err(refuse("there are none".to_owned())) } else { Ok(roots) }
}
