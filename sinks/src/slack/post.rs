//! A message is posted, and what Slack's answer means for its change.

use std::sync::Arc;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, BoxFuture, Delivery, Surroundings};
use highwater_operators::{Error, Result};
use serde::Deserialize;

use super::channels::Channels;
use super::{Description, Open, Slack, Way};
use crate::http::{Answer, Endpoint, Policy, Verdict, words};

/// What Slack calls passing trouble. All else that it says is of the message, the channel or the token, and parks.
const PASSING: [&str; 7] = [
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "request_timeout",
    "service_unavailable",
    "team_added_to_org",
];

/// What `chat.postMessage` answers with 200.
#[derive(Deserialize)]
struct Said {
    ok: bool,
    #[serde(default)]
    error: String,
}

impl Action for Slack {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let (open, description) = (self.open()?, self.description());
            let (prepared, channel) = description.prepare(&delivery)?;
            if let Err(wait) = open.channels.take(&channel, open.clock.now()) {
                let why = format!("{} is not asked: the messages per second to {channel} are used up", description.shown());
                return Err(Error::not_asked(why, wait));
            }
            let endpoint = &open.endpoint;
            let asked = endpoint.ask(prepared, delivery.attempt() > 1, |answer| description.judge(answer));
            let (verdict, answer) = asked.await?;
            match (verdict, description.said(&answer)) {
                (Verdict::Delivered, _) => Ok(()),
                (_, Some(said)) if !said.error.is_empty() => {
                    let error: String = said.error.chars().filter(|c| !c.is_control()).take(200).collect();
                    Err(endpoint.error(verdict, &answer, format_args!("{error}{}", hint(&error))))
                }
                _ => Err(endpoint.error(verdict, &answer, format_args!("{}{}", words(answer.status), answer.said()))),
            }
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description().check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.open.begin(around, |around| self.description().open(around));
    }
}

impl Slack {
    fn open(&self) -> Result<Arc<Open>> {
        self.open.get("slack", |around| self.description().open(around))
    }
}

impl Description {
    fn open(&self, around: &Surroundings) -> Result<Open, String> {
        let origin = self.origin.as_ref().filter(|_| self.problems.is_empty()).ok_or_else(|| self.problems.join("; "))?;
        let endpoint = Endpoint::new(self.shown(), std::slice::from_ref(origin), &self.reach, around)?;
        Ok(Open { endpoint, channels: Channels::new(self.rate), clock: around.clock.clone() })
    }

    /// What Slack says within an answer of 200; a webhook says nothing there.
    fn said(&self, answer: &Answer) -> Option<Said> {
        match self.way {
            Way::Webhook => None,
            Way::Bot { .. } => serde_json::from_slice(&answer.body).ok(),
        }
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        match (Policy::default().judge(answer.status), &self.way) {
            (Verdict::Delivered, Way::Bot { .. }) => match self.said(answer) {
                Some(said) if said.ok => Verdict::Delivered,
                Some(said) if !PASSING.contains(&said.error.as_str()) => Verdict::Park,
                // Passing trouble; or what is no answer of Slack's, of a proxy say.
                _ => Verdict::Retry,
            },
            (verdict, _) => verdict,
        }
    }
}

/// What to do about an error that people meet.
fn hint(error: &str) -> &'static str {
    match error {
        "channel_not_found" => "; is the channel's name right, and may the bot see it?",
        "not_in_channel" => "; invite the bot to the channel",
        "is_archived" => "; the channel is archived",
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired" => "; is the token right?",
        "missing_scope" => "; give the app the scope chat:write",
        "invalid_blocks" | "invalid_blocks_format" => "; look at the blocks in Slack's Block Kit Builder",
        _ => "",
    }
}
