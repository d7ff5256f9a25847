//! What a parameter of a statement is made of: text that the server reads as its own type of that parameter.

use std::error::Error;

use bytes::BytesMut;
use highwater_operators::action::Delivery;
use highwater_operators::row::Value;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::postgres::mapping::time;
use crate::postgres::values::{Form, write};
use crate::template::Template;

/// One parameter.
#[derive(Clone, Debug)]
pub(super) enum Parameter {
    /// The same for every change.
    Fixed(Template, String),
    Filled(Template),
}

/// A parameter as it is sent: text, or null.
#[derive(Debug)]
pub(super) struct Sent(pub(super) Option<Vec<u8>>);

/// What would be taken for null.
const UNSENT: &str = "the value is as it was, and the source did not send it";

impl Parameter {
    pub(super) fn text(text: &str) -> Self {
        Parameter::Fixed(Template::default(), text.to_owned())
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let template = Template::parse(text).map_err(|problem| format!("parameter {text:?}: {problem}"))?;
        Ok(Parameter::Filled(template))
    }

    pub(super) fn template(&self) -> &Template {
        match self {
            Parameter::Fixed(template, _) | Parameter::Filled(template) => template,
        }
    }

    /// Fills it for a change, as a parameter of this type.
    ///
    /// # Errors
    /// The change has no such value.
    pub(super) fn fill(&self, delivery: &Delivery, of: &Type) -> Result<Sent, String> {
        let template = match self {
            Parameter::Fixed(_, text) => return Ok(Sent(Some(text.clone().into_bytes()))),
            Parameter::Filled(template) => template,
        };
        let form = form(of);
        if template.is_place() {
            let Some(value) = template.value(delivery) else { return Ok(Sent(None)) };
            if value == Value::Unchanged {
                return Err(UNSENT.to_owned());
            }
            if template.is_time() && matches!(*of, Type::TIMESTAMPTZ | Type::TIMESTAMP | Type::DATE) {
                return Ok(Sent(Some(time(delivery.change()).into_bytes())));
            }
            let mut text = Vec::new();
            if form == Form::Json && value != Value::Null {
                // As JSON: the whole change is a document then, not a string.
                template.fill_json(delivery, &mut text);
                return Ok(Sent(Some(text)));
            }
            return Ok(Sent(write(&value, form, &mut text).then_some(text)));
        }
        if form == Form::Json || template.is_json() {
            if let Some(field) = template.unsent(delivery) {
                return Err(format!("{{{field}}}: {UNSENT}"));
            }
            let mut text = Vec::new();
            template.fill_json(delivery, &mut text);
            return Ok(Sent(Some(text)));
        }
        template.fill(delivery, |value, out| out.push_str(value)).map(|text| Sent(Some(text.into_bytes())))
    }
}

fn form(of: &Type) -> Form {
    match of.kind() {
        Kind::Array(element) => Form::List { json: matches!(*element, Type::JSON | Type::JSONB) },
        Kind::Domain(of) => form(of),
        _ if matches!(*of, Type::JSON | Type::JSONB) => Form::Json,
        _ => Form::Plain,
    }
}

impl ToSql for Sent {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
