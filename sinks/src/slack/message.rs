//! A change becomes a message. No value can mention anybody or make a link.

use highwater_operators::action::Delivery;
use highwater_operators::{Error, Result};
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use super::cut::{cut, cut_blocks};
use super::{Description, Way};
use crate::http::Prepared;

impl Description {
    /// The request for one change, and the channel it goes to; a webhook's has no name here.
    pub(super) fn prepare(&self, delivery: &Delivery) -> Result<(Prepared, String)> {
        let message = self.message(delivery).map_err(|why| Error::park(format!("{}: {why}", self.shown())))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if let Way::Bot { token, .. } = &self.way {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let channel = message.get("channel").and_then(Value::as_str).unwrap_or_default().to_owned();
        let body = Value::Object(message).to_string().into();
        Ok((Prepared { method: Method::POST, target: self.target.clone(), headers, body }, channel))
    }

    fn message(&self, delivery: &Delivery) -> Result<Map<String, Value>, String> {
        let mut message = Map::new();
        if let Way::Bot { channel, .. } = &self.way {
            let channel = channel.fill(delivery, |value, out| out.push_str(value)).map_err(|why| format!("channel: {why}"))?;
            message.insert("channel".to_owned(), channel.into());
            let key = json!({"idempotency_key": delivery.idempotency_key()});
            message.insert("metadata".to_owned(), json!({"event_type": "highwater_change", "event_payload": key}));
        }
        if let Some(text) = &self.text {
            let text = text.fill(delivery, escape).map_err(|why| format!("text: {why}"))?;
            message.insert("text".to_owned(), cut(&text, self.text_max).into());
        }
        if let Some(blocks) = &self.blocks {
            if let Some(field) = blocks.unsent(delivery) {
                return Err(format!("blocks: {{{field}}} is as it was, and the source did not send it"));
            }
            let mut json = Vec::new();
            blocks.fill_json_as(delivery, Some(escape), &mut json);
            let mut blocks: Vec<Value> = serde_json::from_slice(&json)
                .map_err(|error| format!("blocks: what was filled in is no list of JSON: {error}"))?;
            cut_blocks(&mut blocks);
            message.insert("blocks".to_owned(), blocks.into());
        }
        Ok(message)
    }
}

/// The three letters that mean something to Slack, and nothing to JSON.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
}
