//! What is sent for a change, filled from it; and the scripts that do two things in one step.

use highwater_operators::action::Delivery;
use highwater_operators::row::Value;
use redis::{Cmd, cmd};

use crate::template::Template;

/// Adds or pushes, if the marker is not set and the list is not full. Keys: where to, the marker. What it is given: how long the marker stays in ms
/// (0: there is none), the most a list may have (0: no bound), how many of its items are kept (0: all), the command and what follows its key.
///
/// 1: done; 0: it was done before; -1: the list is full.
pub(super) const SCRIPT: &str = "\
local window, full, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if window > 0 and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if full > 0 and redis.call('LLEN', KEYS[1]) >= full then return -1 end
redis.call(ARGV[4], KEYS[1], unpack(ARGV, 5))
if keep > 0 then
  if ARGV[4] == 'LPUSH' then redis.call('LTRIM', KEYS[1], 0, keep - 1) else redis.call('LTRIM', KEYS[1], -keep, -1) end
end
if window > 0 then redis.call('SET', KEYS[2], '1', 'PX', window) end
return 1";

/// What a script says.
pub(super) const FULL: i64 = -1;

/// What is asked for one change.
pub(super) struct Request {
    /// The command's name.
    pub name: &'static str,
    /// Where it goes: the key, or the channel.
    pub to: String,
    /// What follows.
    pub rest: Vec<Vec<u8>>,
    /// For the script.
    pub bounds: Option<Bounds>,
}

/// What the script is told beside the command.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    pub marker: Option<(String, u64)>,
    pub full: u64,
    pub keep: u64,
}

impl Request {
    /// The command; by the script of this hash, if it has bounds.
    pub fn command(&self, script: &str) -> Cmd {
        let Some(bounds) = &self.bounds else {
            let mut plain = cmd(self.name);
            plain.arg(&self.to);
            self.rest.iter().for_each(|piece| {
                plain.arg(&piece[..]);
            });
            return plain;
        };
        let (marker, window) = bounds.marker.as_ref().map_or(("", 0), |(marker, window)| (marker, *window));
        let mut scripted = cmd("EVALSHA");
        scripted.arg(script);
        match window {
            0 => scripted.arg(1).arg(&self.to),
            _ => scripted.arg(2).arg(&self.to).arg(marker),
        };
        scripted.arg(window).arg(bounds.full).arg(bounds.keep).arg(self.name);
        for piece in &self.rest {
            scripted.arg(&piece[..]);
        }
        scripted
    }
}

/// Parses a template.
pub(super) fn parse(what: &str, text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|problem| format!("{what} {text:?}: {problem}"))
}

/// Fills a name of a key or channel.
pub(super) fn name(template: &Template, delivery: &Delivery) -> Result<String, String> {
    let name = template.fill(delivery, |text, out| out.push_str(text))?;
    if name.is_empty() { Err("the name that the change makes is empty".to_owned()) } else { Ok(name) }
}

/// Fills a value; `None`: it is one place, and the change has nothing there.
pub(super) fn value(template: &Template, delivery: &Delivery) -> Result<Option<Vec<u8>>, String> {
    if let Some(unsent) = template.unsent(delivery) {
        return Err(format!("{{{unsent}}} is as it was, and the source did not send it"));
    }
    if template.is_place() {
        return Ok(template.value(delivery).and_then(Value::text).map(|text| text.into_owned().into_bytes()));
    }
    if template.is_json() {
        let mut json = Vec::new();
        template.fill_json(delivery, &mut json);
        return Ok(Some(json));
    }
    template.fill(delivery, |text, out| out.push_str(text)).map(|text| Some(text.into_bytes()))
}
