//! A secret that all processes of a cluster know.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A secret that all processes of a cluster know. It is never sent: who knows it proves it by signing what the other end draws at
/// random. It keeps strangers from joining; it encrypts nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret of this text.
    pub fn new(text: &str) -> Self {
        Secret(text.as_bytes().to_vec())
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    pub(super) fn proof(&self, parts: &[&[u8]]) -> Vec<u8> {
        self.mac(parts).finalize().into_bytes().to_vec()
    }

    /// Compares in constant time.
    pub(super) fn proves(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_proves_it_and_nobody_sees_it() {
        let (secret, other) = (Secret::new("open"), Secret::new("closed"));
        let proof = secret.proof(&[b"drawn", b"said"]);
        assert!(secret.proves(&[b"drawn", b"said"], &proof));
        assert!(!other.proves(&[b"drawn", b"said"], &proof) && !secret.proves(&[b"again", b"said"], &proof));
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
