//! Where requests go, and what a URL with places is made of.

use hyper::header::HeaderValue;
use percent_encoding::percent_encode_byte;
use url::Url;

use crate::template::Template;

/// Where requests go: what of its URL never changes.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub host: url::Host<String>,
    pub port: u16,
    pub is_tls: bool,
    /// Host and port, as the header `host` has them.
    pub authority: HeaderValue,
    /// For people.
    pub shown: String,
}

impl Origin {
    /// Reads a URL with places: origin, and path with query.
    pub(crate) fn parse(url: &str) -> Result<(Self, Template), String> {
        // None of these may repeat the URL: it may hold secrets.
        let (scheme, rest) = url.split_once("://").ok_or("the URL has no scheme; it begins with https:// or http://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if scheme.contains('{') || authority.contains('{') {
            return Err("scheme, host and port of a URL are fixed: places may stand in its path and query".to_owned());
        }
        if authority.contains('@') {
            return Err("the URL holds a user or a password; give them by .header(\"authorization\", ..)".to_owned());
        }
        if target.contains('#') {
            return Err("the URL has a fragment (#), which is never sent".to_owned());
        }
        let parsed =
            Url::parse(&format!("{scheme}://{authority}/")).map_err(|error| format!("the URL cannot be read: {error}"))?;
        let is_tls = match parsed.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("the URL begins neither with https:// nor with http://".to_owned()),
        };
        let host = parsed.host().ok_or("the URL has no host")?.to_owned();
        let port = parsed.port_or_known_default().ok_or("the URL has no port")?;
        let shown = parsed.origin().ascii_serialization();
        let authority = shown.split_once("://").map_or("", |(_, authority)| authority);
        let authority = HeaderValue::from_str(authority).map_err(|_| "the URL's host cannot be sent")?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let target = Template::parse(&target).map_err(|problem| format!("URL: {problem}"))?.text(literal);
        Ok((Origin { host, port, is_tls, authority, shown }, target))
    }
}

/// Text of a URL as it is sent: what is no part of one is escaped, what is escaped already stays.
fn literal(text: &str) -> String {
    let is_kept =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
    text.bytes().fold(String::new(), |mut out, byte| {
        if is_kept(byte) {
            out.push(byte.into())
        } else {
            out.push_str(percent_encode_byte(byte))
        }
        out
    })
}
