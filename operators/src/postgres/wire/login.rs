//! Logging in: with a password, by SCRAM where the server asks for it.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;

use super::super::url::Url;
use super::{Walsender, frame, strange};
use crate::{Error, Result};

const SCRAM: &str = "SCRAM-SHA-256";

/// What the server asks for, by its number.
enum Asked {
    Nothing,
    Password,
    Md5([u8; 4]),
    Scram,
    More(Vec<u8>),
    Last(Vec<u8>),
    Other(u32),
}

/// Answers what the server asks, until it is ready.
pub(super) async fn login(session: &mut Walsender, url: &Url) -> Result {
    let mut scram: Option<ScramSha256> = None;
    loop {
        let asked = {
            let frame = session.next().await?;
            match frame.kind {
                b'R' => asked(frame.body).ok_or_else(|| strange("a question that is cut off"))?,
                b'E' => return Err(frame::refusal(frame.body, &format!("connecting to {url}"))),
                b'Z' => return Ok(()),
                _ => Asked::Nothing,
            }
        };
        let mut out = BytesMut::new();
        let wrong = |error: std::io::Error| Error::stop(format!("connecting to {url}: logging in by SCRAM failed: {error}"));
        match asked {
            Asked::Nothing => continue,
            Asked::Password => frontend::password_message(password(url)?.as_bytes(), &mut out)?,
            Asked::Md5(salt) => {
                let hash = md5_hash(url.user().as_bytes(), password(url)?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut out)?;
            }
            Asked::Scram => {
                let begun = scram.insert(ScramSha256::new(password(url)?.as_bytes(), ChannelBinding::unsupported()));
                frontend::sasl_initial_response(SCRAM, begun.message(), &mut out)?;
            }
            Asked::More(challenge) => {
                let begun = scram.as_mut().ok_or_else(|| strange("an answer to nothing"))?;
                begun.update(&challenge).map_err(wrong)?;
                frontend::sasl_response(begun.message(), &mut out)?;
            }
            Asked::Last(proof) => {
                scram.as_mut().ok_or_else(|| strange("an answer to nothing"))?.finish(&proof).map_err(wrong)?;
                continue;
            }
            Asked::Other(number) => {
                return Err(Error::stop(format!(
                    "connecting to {url}: the server asks for a way to log in (number {number}) that is not known here; look at pg_hba.conf: \
                     scram-sha-256 is the one to use"
                )));
            }
        }
        session.send(&out).await?;
    }
}

fn password(url: &Url) -> Result<String> {
    let password = url.password()?;
    password.ok_or_else(|| Error::stop(format!("connecting to {url}: the server asks for a password, and there is none: give it in the URL, PGPASSWORD or a file of passwords")))
}

fn asked(body: &[u8]) -> Option<Asked> {
    let (number, rest) = body.split_first_chunk::<4>()?;
    Some(match u32::from_be_bytes(*number) {
        0 => Asked::Nothing,
        3 => Asked::Password,
        5 => Asked::Md5(*rest.first_chunk()?),
        10 if rest.split(|byte| *byte == 0).any(|name| name == SCRAM.as_bytes()) => Asked::Scram,
        11 => Asked::More(rest.to_vec()),
        12 => Asked::Last(rest.to_vec()),
        other => Asked::Other(other),
    })
}
