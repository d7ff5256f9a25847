//! A change becomes a request.

use highwater_operators::action::Delivery;
use highwater_operators::epoch::unix_ms;
use highwater_operators::{Error, Result};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::sign::signatures;
use super::{Body, Description};
use crate::http::Prepared;
use crate::line::Line;
use crate::template::{Template, envelope};

static ID: HeaderName = HeaderName::from_static("webhook-id");
static TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What may stand in a path or a query as it is, when it comes from a change.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
        let time = unix_ms() / 1000;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| self.park("a header cannot be made of it"));
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("highwater/0.1"));
        headers.insert(&ID, value(id)?);
        headers.insert(&TIMESTAMP, HeaderValue::from(time));
        if !self.secrets.is_empty() {
            headers.insert(&SIGNATURE, value(&signatures(&self.secrets, id, time, &body))?);
        }
        Ok(Prepared { method: self.method.clone(), target, headers, body: body.into() })
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
