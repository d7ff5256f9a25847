//! A change becomes a message. No value can leave the place it was put in.

use highwater_operators::action::Delivery;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use lettre::{Address, message::MessageBuilder};

use crate::template::Template;

/// A mail with places.
#[derive(Clone, Default)]
pub(super) struct Letter {
    pub from: Option<Person>,
    pub to: Vec<Person>,
    pub cc: Vec<Person>,
    pub reply_to: Option<Person>,
    pub subject: Option<Template>,
    pub text: Option<Template>,
    pub html: Option<Template>,
}

/// A name, perhaps, and an address. They are told apart before they are filled, so that no value can make an address of a name.
#[derive(Clone)]
pub(super) struct Person {
    name: Option<Template>,
    address: Template,
}

impl Person {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
            None => (None, text),
            Some((name, address)) => (Some(name.trim().trim_matches('"')), address.trim()),
        };
        let name = name.filter(|name| !name.is_empty()).map(Template::parse).transpose()?;
        let person = Person { name, address: Template::parse(address)? };
        if let Some(address) = person.address.plain() {
            address.parse::<Address>().map_err(|error| format!("{address:?} is no address: {error}"))?;
        }
        Ok(person)
    }

    fn fill(&self, delivery: &Delivery) -> Result<Mailbox, String> {
        let address = self.address.fill(delivery, |value, out| out.push_str(value))?;
        let address: Address = address.trim().parse().map_err(|error| format!("{address:?} is no address: {error}"))?;
        let name = self.name.as_ref().map(|name| one_line(name, delivery)).transpose()?;
        Ok(Mailbox::new(name.filter(|name| !name.is_empty()), address))
    }
}

impl Letter {
    /// What is wrong with it, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let missing = [
            (self.from.is_none(), "whom it is from: .from(..)"),
            (self.to.is_empty(), "whom it is to: .to(..)"),
            (self.subject.is_none(), "a subject: .subject(..)"),
            (self.text.is_none() && self.html.is_none(), "a body: .text(..) or .html(..)"),
        ];
        missing.iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| format!("it does not say {what}")).collect()
    }

    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let people = self.from.iter().chain(&self.to).chain(&self.cc).chain(&self.reply_to);
        let people = people.flat_map(|person| person.name.iter().chain([&person.address]));
        people.chain(&self.subject).chain(&self.text).chain(&self.html)
    }

    /// The mail for a change.
    ///
    /// # Errors
    /// The change has not what it takes.
    pub(super) fn write(&self, delivery: &Delivery) -> Result<Message, String> {
        let person = |what: &str, person: &Person| person.fill(delivery).map_err(|why| format!("{what}: {why}"));
        let from = person("from", self.from.as_ref().ok_or("it is from nobody")?)?;
        // The same for every repeat of this change, and for no other mail.
        let id = format!("<{}@{}>", delivery.idempotency_key(), from.email.domain());
        let mut message = Message::builder().message_id(Some(id)).from(from).raw_header(automatic());
        for to in &self.to {
            message = message.to(person("to", to)?);
        }
        for cc in &self.cc {
            message = message.cc(person("cc", cc)?);
        }
        if let Some(reply_to) = &self.reply_to {
            message = message.reply_to(person("reply_to", reply_to)?);
        }
        if let Some(subject) = &self.subject {
            message = message.subject(one_line(subject, delivery).map_err(|why| format!("subject: {why}"))?);
        }
        self.body(message, delivery)
    }

    fn body(&self, message: MessageBuilder, delivery: &Delivery) -> Result<Message, String> {
        let fill = |what: &str, template: &Option<Template>, escape| {
            let filled = template.as_ref().map(|template| template.fill(delivery, escape));
            filled.transpose().map_err(|why| format!("{what}: {why}"))
        };
        let text = fill("text", &self.text, |value, out| out.push_str(value))?;
        let html = fill("html", &self.html, escape_html)?;
        let built = match (text, html) {
            (Some(text), Some(html)) => message.multipart(MultiPart::alternative_plain_html(text, html)),
            (None, Some(html)) => message.singlepart(SinglePart::html(html)),
            (text, None) => message.singlepart(SinglePart::plain(text.unwrap_or_default())),
        };
        built.map_err(|error| error.to_string())
    }
}

/// Says that no person wrote it, so that no program answers it.
fn automatic() -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned())
}

/// Filled, on one line.
fn one_line(template: &Template, delivery: &Delivery) -> Result<String, String> {
    let text = template.fill(delivery, |value, out| out.push_str(value))?;
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned())
}

fn escape_html(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}
