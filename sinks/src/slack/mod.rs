//! A message in Slack for each change.
//!
//! What is asked for is a [`Slack`] (here and in `settings`). A change becomes a `message`, cut visibly where Slack would refuse it, and `post`
//! says what Slack's answer means for the change.

mod channels;
mod cut;
mod message;
mod post;
mod settings;

use highwater_operators::clock::Clock;
use highwater_operators::guard::rate::RateConfig;
use hyper::header::HeaderValue;

use self::channels::Channels;
use crate::http::{Endpoint, Origin, Reach};
use crate::network::opened::Opened;
use crate::template::Template;

/// A message in Slack for each change.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::Slack;
///
/// let told = Slack::bot("xoxb-.., from the environment", "#orders").text("Order *{key}* of {after.customer} is {after.status}");
/// action("told", told).when(|change| change.became("status", "paid"));
/// ```
///
/// # Guarantee
/// Each change's message is accepted at least once, those of one key in source order. It is sent again if an attempt failed or its answer was lost,
/// and after a crash if its success was not noted. Slack drops no repeats, so one may be seen twice; a bot's message carries the idempotency
/// key as its metadata (`event_payload.idempotency_key`), by which programs know it again.
///
/// # What is filled in
/// Values are escaped as Slack wants it (`&`, `<`, `>`): none can mention a channel or make a link. What is longer than Slack takes is cut, and says so.
///
/// # How fast
/// One message a second to each channel, which is what Slack takes; [`rate`](Self::rate) says otherwise. What comes faster waits, and no attempt is
/// used up. 429 leaves Slack alone for as long as it says.
#[derive(Clone)]
pub struct Slack {
    description: Description,
    /// Made by the first worker.
    open: Opened<Open>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    origin: Option<Origin>,
    /// Path and query; of a webhook they are its secret.
    target: String,
    /// Who posts.
    way: Way,
    text: Option<Template>,
    blocks: Option<Template>,
    text_max: usize,
    /// Of each channel.
    rate: RateConfig,
    reach: Reach,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

/// What is open of it, one per process.
struct Open {
    endpoint: Endpoint,
    channels: Channels,
    clock: Clock,
}

/// The two ways into Slack.
#[derive(Clone)]
enum Way {
    /// An incoming webhook, which knows its channel.
    Webhook,
    /// `chat.postMessage` with a token, to any channel that the bot is in.
    Bot { token: HeaderValue, channel: Template },
}

impl std::fmt::Debug for Slack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slack({})", self.description.shown())
    }
}
