//! Signatures as Standard Webhooks has them: HMAC-SHA256 over id, time and body, so that a receiver knows who sent it and when.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A secret that receiver and sender share. It is never shown.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

/// Shorter ones can be guessed.
const LEAST_BYTES: usize = 16;

impl Secret {
    /// Reads `whsec_` and base64, the usual form; any other text is taken as it is.
    ///
    /// # Errors
    /// If it is no base64, or shorter than 16 bytes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = match text.strip_prefix("whsec_") {
            Some(coded) => {
                BASE64_STANDARD.decode(coded).map_err(|_| "what follows `whsec_` in the secret is no base64".to_owned())?
            }
            None => text.as_bytes().to_vec(),
        };
        if bytes.len() < LEAST_BYTES {
            let hint = if text.is_empty() { " (is its environment variable set?)" } else { "" };
            return Err(format!(
                "the secret is {} bytes long{hint}; at least {LEAST_BYTES} are needed, 32 are usual",
                bytes.len()
            ));
        }
        Ok(Secret(Hmac::new_from_slice(&bytes).map_err(|error| error.to_string())?))
    }
}

/// The header `webhook-signature`: one signature per secret, so that a receiver may know the old or the new one.
pub(super) fn signatures(secrets: &[Secret], id: &str, time: u64, body: &[u8]) -> String {
    let mut header = String::new();
    for secret in secrets {
        let mut mac = secret.0.clone();
        mac.update(format!("{id}.{time}.").as_bytes());
        mac.update(body);
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        BASE64_STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
    }
    header
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // The example of its specification.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let header = signatures(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn bad_secrets_are_refused_and_never_shown() {
        assert!(Secret::parse("whsec_!!!").unwrap_err().contains("no base64"));
        assert!(Secret::parse("").unwrap_err().contains("environment variable"));
        let short = Secret::parse("hunter2").unwrap_err();
        assert!(short.contains("7 bytes") && !short.contains("hunter2"), "{short}");
        assert_eq!(format!("{:?}", Secret::parse("0123456789abcdef").unwrap()), "Secret(..)");
    }
}
