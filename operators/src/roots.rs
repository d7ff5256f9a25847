//! The certificates that a server's one is checked by.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{Error, Result};

/// The certificates in the file, else those that the machine trusts. `setting` is the name by which a file is given.
pub(crate) fn roots(file: Option<&Path>, setting: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::stop(format!(
                "this machine has no trusted certificates to check the server's one by: install the package `ca-certificates`, or \
                 name the file of the right one by {setting}"
            )));
        }
        return Ok(roots);
    };
    let refuse = || Error::stop(format!("the certificates in {} ({setting}) cannot be read", file.display()));
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| refuse().because(error))? {
        let certificate = certificate.map_err(|error| refuse().because(error))?;
        roots.add(certificate).map_err(|error| refuse().because(error))?;
    }
    if roots.is_empty() { Err(refuse().context("there is none in it")) } else { Ok(roots) }
}
