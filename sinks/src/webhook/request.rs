//! A change becomes a request.

use bytes::Bytes;
use highwater_operators::action::Delivery;
use highwater_operators::epoch::unix_ms;
use highwater_operators::{Error, Result};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode_byte, utf8_percent_encode};
use url::Url;

use super::sign::signatures;
use super::template::{Template, envelope};
use super::{Body, Description};
use crate::line::Line;

/// Where a webhook goes: what of its URL never changes.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub host: url::Host<String>,
    pub port: u16,
    pub is_tls: bool,
    /// Host and port, as the header `host` has them.
    pub authority: HeaderValue,
    /// For people.
    pub shown: String,
}

/// A request before it is sent. Headers and body go with it when it is; what is left tells what must not be shown of an answer.
pub(super) struct Prepared {
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Values of the headers that were asked for: they may be secret.
    pub own: Vec<HeaderValue>,
}

static ID: HeaderName = HeaderName::from_static("webhook-id");
static TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What may stand in a path or a query as it is, when it comes from a change.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Origin {
    /// Reads a URL with places: origin, and path with query.
    pub(super) fn parse(url: &str) -> Result<(Self, Template), String> {
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

impl Description {
    /// The request for one change.
    pub(super) fn prepare(&self, delivery: &Delivery) -> Result<Prepared> {
        let mut body = Vec::with_capacity(256);
        self.write_body(delivery, &mut body);
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 5);
        for (name, value) in &self.headers {
            headers.append(name, self.header_value(name, value, delivery)?);
        }
        self.finish(self.target(delivery)?, headers, &delivery.idempotency_key(), body, "application/json")
    }

    /// Adds what every request has.
    pub(super) fn finish(
        &self,
        target: String,
        mut headers: HeaderMap,
        id: &str,
        body: Vec<u8>,
        content_type: &'static str,
    ) -> Result<Prepared> {
        if body.len() > self.body_max {
            let (is, most) = (body.len(), self.body_max);
            return Err(self.park(format!("its body would be {is} bytes long; at most {most} are sent (body_max)")));
        }
        let own = headers.iter().filter(|(name, _)| self.headers.iter().any(|(ours, _)| ours == *name));
        let own = own.map(|(_, value)| value.clone()).collect();
        let time = unix_ms() / 1000;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| self.park("a header cannot be made of it"));
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("highwater/0.1"));
        headers.insert(&ID, value(id)?);
        headers.insert(&TIMESTAMP, HeaderValue::from(time));
        if !self.secrets.is_empty() {
            headers.insert(&SIGNATURE, value(&signatures(&self.secrets, id, time, &body))?);
        }
        Ok(Prepared { target, headers, body: body.into(), own })
    }

    /// Appends the body for one change.
    pub(super) fn write_body(&self, delivery: &Delivery, out: &mut Vec<u8>) {
        match &self.body {
            Body::Change => envelope(delivery, out),
            Body::Template(template) => template.fill_json(delivery, out),
            Body::Fields(format) => {
                Line::write(out, |line| format(delivery.change(), line));
                out.pop();
            }
        }
    }

    fn target(&self, delivery: &Delivery) -> Result<String> {
        if let Some(text) = self.target.plain() {
            return Ok(text.to_owned());
        }
        let escape = |value: &str, out: &mut String| out.extend(utf8_percent_encode(value, KEPT));
        let target = self.target.fill(delivery, escape).map_err(|why| self.park(format!("URL: {why}")))?;
        // No value may climb out of the path it was put in.
        let path = target.split('?').next().unwrap_or_default();
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(self.park("URL: a part of its path would be \".\" or \"..\", which leads elsewhere"));
        }
        Ok(target)
    }

    fn header_value(&self, name: &HeaderName, value: &Template, delivery: &Delivery) -> Result<HeaderValue> {
        let text =
            value.fill(delivery, |value, out| out.push_str(value)).map_err(|why| self.park(format!("header {name}: {why}")))?;
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            self.park(format!("header {name}: a value holds what no header can, such as a line break or an umlaut"))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub(super) fn park(&self, why: impl std::fmt::Display) -> Error {
        Error::park(format!("{}: {why}", self.shown()))
    }
}
