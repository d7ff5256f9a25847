//! The line to a server: TCP or a socket, with TLS where the URL says so.

use std::path::Path;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::super::tls::SslMode;
use super::super::url::Url;
use crate::{Error, Result};

/// What bytes go over.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

pub(super) async fn dial(url: &Url, host: &str, port: u16) -> Result<Box<dyn Line>> {
    let cannot = |error: std::io::Error| {
        Error::retry(format!("connecting to {url}: the database cannot be reached or the connection to it was lost ({error})"))
    };
    if host.starts_with('/') {
        let socket = Path::new(host).join(format!(".s.PGSQL.{port}"));
        return Ok(Box::new(UnixStream::connect(socket).await.map_err(cannot)?));
    }
    let mut tcp = TcpStream::connect((host, port)).await.map_err(cannot)?;
    tcp.set_nodelay(true).map_err(cannot)?;
    let Some(mut tls) = url.tls().connector()? else { return Ok(Box::new(tcp)) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(cannot)?;
    if tcp.read_u8().await.map_err(cannot)? != b'S' {
        return match url.tls().mode() {
            SslMode::Prefer => Ok(Box::new(tcp)),
            _ => Err(Error::stop(format!(
                "connecting to {url}: the server offers no TLS; look at sslmode and at the server's setting ssl"
            ))),
        };
    }
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, host);
    let connect = connect.map_err(|error| Error::stop(format!("connecting to {url}: {error}")))?;
    let line = connect.connect(tcp).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::stop(format!(
            "connecting to {url}: TLS cannot be used with this server: look at sslmode and sslrootcert ({error})"
        )),
        _ => cannot(error),
    })?;
    Ok(Box::new(line))
}
