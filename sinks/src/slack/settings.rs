//! What can be said of a message, and what is wrong with it.

use highwater_operators::action::call::Planned;
use highwater_operators::guard::rate::RateConfig;
use hyper::header::HeaderValue;

use super::cut::TEXT_MAX;
use super::{Description, Slack, Way};
use crate::http::{Origin, Reach, reach_settings};
use crate::network::opened::Opened;
use crate::template::{Template, missing_lookups};

/// Where bots post.
const API: &str = "https://slack.com";

impl Slack {
    /// By an incoming webhook: its whole URL, which is a secret.
    pub fn webhook(url: impl AsRef<str>) -> Self {
        let url = url.as_ref();
        if url.is_empty() {
            return Self::new(
                None,
                Way::Webhook,
                vec!["the webhook's URL is empty (is its environment variable set?)".to_owned()],
            );
        }
        match Origin::parse(url) {
            Ok((origin, target)) => match target.plain() {
                Some(target) => Self::new(Some((origin, target.to_owned())), Way::Webhook, Vec::new()),
                None => Self::new(None, Way::Webhook, vec!["a webhook's URL is fixed, and has no places".to_owned()]),
            },
            Err(problem) => Self::new(None, Way::Webhook, vec![problem]),
        }
    }

    /// By a bot's token (`xoxb-..`, with the right `chat:write`), to a channel: its id or its name. Places may stand in the channel; `{after.channel}`, say.
    pub fn bot(token: impl AsRef<str>, channel: &str) -> Self {
        let mut problems = Vec::new();
        let token = match HeaderValue::from_str(&format!("Bearer {}", token.as_ref())) {
            Ok(mut value) if !token.as_ref().is_empty() => {
                value.set_sensitive(true);
                value
            }
            _ => {
                problems.push("the token is empty or holds what no header can (is its environment variable set?)".to_owned());
                HeaderValue::from_static("")
            }
        };
        let channel = Template::parse(channel).unwrap_or_else(|problem| {
            problems.push(format!("channel: {problem}"));
            Template::default()
        });
        Self::new(None, Way::Bot { token, channel }, problems).at(API)
    }

    fn new(place: Option<(Origin, String)>, way: Way, problems: Vec<String>) -> Self {
        let (origin, target) = place.map_or_else(|| (None, "/".to_owned()), |(origin, target)| (Some(origin), target));
        let rate = RateConfig { per_second: Some(1.0), burst: 1.0 };
        let description = Description {
            origin,
            target,
            way,
            text: None,
            blocks: None,
            text_max: TEXT_MAX,
            rate,
            reach: Reach::default(),
            problems,
        };
        Slack { description, open: Opened::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Opened::default();
        self
    }

    fn reached(self, change: impl FnOnce(&mut Reach)) -> Self {
        self.with(|description| change(&mut description.reach))
    }

    reach_settings!();

    /// Another place than `https://slack.com` to ask for `/api/chat.postMessage`: `https://slack-gov.com`. A webhook's URL says where it goes.
    pub fn at(self, origin: impl AsRef<str>) -> Self {
        self.with(|description| match (Origin::parse(origin.as_ref()), &description.way) {
            (_, Way::Webhook) => {
                description.problems.push("at(..) goes with a bot; a webhook's URL says where it goes".to_owned())
            }
            (Ok((origin, _)), Way::Bot { .. }) => {
                description.origin = Some(origin);
                description.target = "/api/chat.postMessage".to_owned();
            }
            (Err(problem), _) => description.problems.push(problem),
        })
    }

    /// The text, in Slack's mrkdwn; with [`blocks`](Self::blocks) what notifications show. Values in it are escaped.
    pub fn text(self, text: &str) -> Self {
        self.with(|description| match Template::parse(text) {
            Ok(text) => description.text = Some(text),
            Err(problem) => description.problems.push(format!("text: {problem}")),
        })
    }

    /// Blocks of Block Kit: a list, as JSON. Within quotes a place is filled with text, escaped; elsewhere with the value as JSON, or null.
    pub fn blocks(self, json: &str) -> Self {
        self.with(|description| match Template::parse(json) {
            Ok(blocks) => description.blocks = Some(blocks),
            Err(problem) => description.problems.push(format!("blocks: {problem}")),
        })
    }

    /// Characters of text after which it is cut. Default: 4,000, as Slack advises; it takes 40,000.
    pub fn text_max(self, characters: usize) -> Self {
        self.with(|description| description.text_max = characters.clamp(100, 40_000))
    }

    /// Messages per second to each channel, with so many at once after a rest. Default: 1, which is what Slack takes. A bound for all of them is the guard's.
    pub fn rate(self, per_second: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        self.with(|description| description.rate = RateConfig { per_second: Some(per_second), burst })
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }
}

impl Description {
    /// Where it goes, without what is secret.
    pub(super) fn shown(&self) -> String {
        let origin = self.origin.as_ref().map_or("nowhere", |origin| &origin.shown);
        match &self.way {
            Way::Webhook => format!("Slack webhook at {origin}"),
            Way::Bot { .. } => format!("Slack bot at {origin}"),
        }
    }

    /// What is wrong with it, a sentence each.
    pub(super) fn check(&self, planned: &Planned<'_>) -> Vec<String> {
        let mut problems = self.problems.clone();
        if self.text.is_none() && self.blocks.is_none() {
            problems.push("it says nothing: .text(..) or .blocks(..)".to_owned());
        }
        let channel = match &self.way {
            Way::Bot { channel, .. } => Some(channel),
            Way::Webhook => None,
        };
        if channel.is_some_and(|channel| channel.plain() == Some("")) {
            problems.push("it names no channel".to_owned());
        }
        problems.extend(missing_lookups(self.text.iter().chain(&self.blocks).chain(channel), planned));
        problems.extend(self.reach.problems(self.origin.as_slice(), planned));
        problems
    }
}
