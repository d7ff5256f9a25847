//! TLS by rustls: when it is used, and what is checked of the server's certificate.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::roots::roots;
use crate::{Error, Result};

/// When TLS is used and what is checked, in the words of Postgres' own clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; nothing is checked. The default, as everywhere.
    #[default]
    Prefer,
    /// Always. Nothing is checked, unless `sslrootcert` is given: then as `VerifyCa`.
    Require,
    /// Always, and the certificate's chain is checked.
    VerifyCa,
    /// Always, and chain and host name are checked. The one to use beyond one's own machine.
    VerifyFull,
}

impl SslMode {
    pub(super) fn parse(text: &str) -> Result<SslMode> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return Err(Error::stop("sslmode is disable, prefer, require, verify-ca or verify-full")),
        })
    }

    pub(super) fn for_driver(self) -> tokio_postgres::config::SslMode {
        match self {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// The mode and the certificates of one URL; those are read once, when they are first needed.
#[derive(Clone)]
pub(super) struct Tls {
    mode: SslMode,
    root: Option<PathBuf>,
    connector: Arc<OnceLock<Option<MakeRustlsConnect>>>,
}

impl Tls {
    pub(super) fn new(mode: SslMode, root: Option<PathBuf>) -> Tls {
        let mode = if mode == SslMode::Require && root.is_some() { SslMode::VerifyCa } else { mode };
        Tls { mode, root, connector: Arc::default() }
    }

    pub(super) fn mode(&self) -> SslMode {
        self.mode
    }

    /// What makes connections; none if TLS is not to be used.
    pub(super) fn connector(&self) -> Result<Option<MakeRustlsConnect>> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector.clone());
        }
        let connector = match self.mode {
            SslMode::Disable => None,
            mode => Some(MakeRustlsConnect::new(client(mode, self.root.as_deref())?)),
        };
        Ok(self.connector.get_or_init(|| connector).clone())
    }
}

fn client(mode: SslMode, root: Option<&Path>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let chain = match mode {
        SslMode::VerifyCa | SslMode::VerifyFull => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root, "sslrootcert")?), provider.clone())
                .build()
                .map_err(|error| Error::stop("the certificates to check the database's one by cannot be used").because(error))?,
        ),
        _ => None,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::stop("TLS cannot be set up").because(error))?;
    Ok(match (mode, chain) {
        (SslMode::VerifyFull, Some(chain)) => builder.with_webpki_verifier(chain),
        (_, chain) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient { chain, provider })),
    }
    .with_no_client_auth())
}

/// Checks less than rustls does by itself: the chain alone, or nothing, as the URL asks for.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
