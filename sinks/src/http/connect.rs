//! A connection to an origin: TLS if asked for, HTTP/2 if both sides speak it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::network::dial::{Dialer, NoConnection};
use crate::network::tls::config;

/// A connection that requests can be sent on.
pub(crate) enum Connection {
    /// One request at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Many at once.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Makes connections to one origin.
pub(crate) struct Connector {
    pub dialer: Dialer,
    pub headers_max: usize,
    /// The name the certificate must have, and what checks it.
    pub tls: Option<(ServerName<'static>, TlsConnector)>,
}

impl Connector {
    pub(crate) async fn connect(&self) -> Result<Connection, NoConnection> {
        self.dialer.dial(|stream| self.open(stream)).await
    }

    async fn open(&self, stream: TcpStream) -> io::Result<Connection> {
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

/// What checks certificates; ALPN says that we speak HTTP/2.
pub(crate) fn tls(roots: Option<&Path>) -> Result<TlsConnector, String> {
    Ok(TlsConnector::from(Arc::new(config(roots, &[b"h2", b"http/1.1"])?)))
}
