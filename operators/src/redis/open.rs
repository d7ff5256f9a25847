//! Opening a connection: the way to the server, TLS, the login.
//!
//! The driver could open connections itself, but by rustls' process-wide defaults, and with no word on which part of opening failed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::failed;
use super::url::{Place, Url};
use crate::roots::roots;
use crate::{Error, Result};

/// The certificates of one URL, read once, when they are first needed.
#[derive(Clone)]
pub(super) struct Tls {
    root: Option<PathBuf>,
    connector: Arc<OnceLock<TlsConnector>>,
}

impl Tls {
    pub(super) fn new(root: Option<PathBuf>) -> Tls {
        Tls { root, connector: Arc::default() }
    }

    fn connector(&self) -> Result<TlsConnector> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector.clone());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::stop("TLS cannot be set up").because(error))?
            .with_root_certificates(roots(self.root.as_deref(), "rootcert")?)
            .with_no_client_auth();
        Ok(self.connector.get_or_init(|| TlsConnector::from(Arc::new(config))).clone())
    }
}

/// Opens a connection for `purpose`, whose answers have no limit of their own, and the task that drives it.
pub(super) async fn open(url: &Url, purpose: &str) -> Result<(MultiplexedConnection, JoinHandle<()>)> {
    let limit = url.connect_timeout();
    match timeout(limit, Box::pin(connect(url, purpose))).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::retry(format!(
            "connecting to {url}: no answer within {limit:?} (connect_timeout); look whether the server runs and the network lets it be reached"
        ))),
    }
}

async fn connect(url: &Url, purpose: &str) -> Result<(MultiplexedConnection, JoinHandle<()>)> {
    let away = |error: std::io::Error| {
        Error::retry(format!("connecting to {url}: look whether the server runs and the network lets it be reached"))
            .because(error)
    };
    match url.place() {
        Place::Socket(path) => log_in(url, purpose, UnixStream::connect(path).await.map_err(away)?).await,
        Place::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(away)?;
            stream.set_nodelay(true).map_err(away)?;
            let Some(tls) = url.tls() else { return log_in(url, purpose, stream).await };
            let name = ServerName::try_from(host.clone())
                .map_err(|error| Error::stop(format!("the host of {url} cannot stand in a certificate")).because(error))?;
            let stream = tls.connector()?.connect(name, stream).await.map_err(|error| not_secured(url, error))?;
            log_in(url, purpose, stream).await
        }
    }
}

/// A server that closes the line half-way may be starting or stopping; a certificate that is not the right one stays so.
fn not_secured(url: &Url, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::InvalidData {
        let advice =
            "look whether the host is the one in the server's certificate, rootcert the right file, and the port one for TLS";
        return Error::stop(format!("the connection to {url} cannot be secured: {advice}")).because(error);
    }
    Error::retry(format!("securing the connection to {url}")).because(error)
}

async fn log_in<S>(url: &Url, purpose: &str, stream: S) -> Result<(MultiplexedConnection, JoinHandle<()>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let opened = MultiplexedConnection::new_with_config(&url.login()?, stream, config).await;
    let (mut connection, driver) = opened.map_err(|error| failed(&format!("connecting to {url}"), &error))?;
    let task = tokio::spawn(driver);
    // For people who look at CLIENT LIST: who may not name their connection works without.
    let mut name = redis::cmd("CLIENT");
    name.arg("SETNAME").arg(url.client_name(purpose));
    match name.query_async::<()>(&mut connection).await {
        Err(error) if error.is_io_error() => Err(failed(&format!("connecting to {url}"), &error)),
        _ => Ok((connection, task)),
    }
}
