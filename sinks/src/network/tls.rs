//! What checks the other side's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Checks by the certificates of the machine, or by those in a file; `protocols` are offered by ALPN.
pub(crate) fn config(roots: Option<&Path>, protocols: &[&[u8]]) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(root_certificates(roots)?)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn root_certificates(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(file)?);
    match (roots.is_empty(), file) {
        (false, _) => Ok(roots),
        (true, Some(file)) => Err(format!("the certificates in {} cannot be read: none of them is one", file.display())),
        (true, None) => Err(no_certificates()),
    }
}

/// The certificates of the machine, or those in a file.
pub(crate) fn certificates(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = file else {
        let certificates = rustls_native_certs::load_native_certs().certs;
        return if certificates.is_empty() { Err(no_certificates()) } else { Ok(certificates) };
    };
    let refuse = |error: String| format!("the certificates in {} cannot be read: {error}", file.display());
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|error| refuse(error.to_string()))?.collect();
    let read = read.map_err(|error| refuse(error.to_string()))?;
    if read.is_empty() { Err(refuse("there are none".to_owned())) } else { Ok(read) }
}

fn no_certificates() -> String {
    "this machine has no trusted certificates: install the package `ca-certificates`, or name the file of the right one by \
     .root_certificates(..)"
        .to_owned()
}
