//! `settings`: every setting with its value, and where it was said.

use comfy_table::Table;

use crate::commands::table;
use crate::config::resolve::Effective;
use crate::config::{Origin, PartKind, SETTINGS, Usual};
use crate::plan::Plan;

pub(crate) fn run(pipeline: &str, effective: &Effective, plan: &Plan) {
    let settings = effective.settings();
    let mut heading = "";
    let mut rows = table(["setting", "value", "said by"]);
    for setting in SETTINGS {
        if setting.heading != heading {
            tell(&rows, heading);
            (heading, rows) = (setting.heading, table(["setting", "value", "said by"]));
        }
        let (value, origin) = match (effective.value(setting.name), setting.usual) {
            (Some((value, origin)), _) => (value.to_string(), origin.to_string()),
            (None, Usual::Told(words) | Usual::Is(words)) => {
                let value = match setting.name {
                    "data" => settings.data(pipeline).display().to_string(),
                    "workers" => format!("{}, one per core, but one", settings.workers()),
                    _ => words.to_owned(),
                };
                (value, Origin::Default.to_string())
            }
        };
        rows.add_row([setting.name.to_owned(), value, origin]);
    }
    tell(&rows, heading);
    let mut parts = table(["part", "value", "said by"]);
    let named =
        plan.dedups.keys().map(|name| (PartKind::Dedup, name)).chain(plan.lookups.keys().map(|name| (PartKind::Lookup, name)));
    for (kind, name) in named.chain(plan.actions.keys().map(|name| (PartKind::Action, name))) {
        let said = effective.of_part(kind, name);
        let own = SETTINGS.iter().filter_map(|setting| Some((setting.name, setting.part.filter(|(of, _)| *of == kind)?.1)));
        for (setting, own) in own {
            let value = planned(plan, name, setting);
            let origin = said.get(setting).map_or(Origin::Pipeline, |(_, origin)| origin.clone());
            parts.add_row([format!("{}.{name}.{own}", kind.word()), value, origin.to_string()]);
        }
    }
    tell(&parts, "Parts, as they will run");
}

/// What a part will run with, settings taken in.
fn planned(plan: &Plan, name: &str, setting: &str) -> String {
    let time = |time: std::time::Duration| humantime::format_duration(time).to_string();
    let none = |limit: Option<std::time::Duration>| limit.map_or("none".to_owned(), time);
    let action = || plan.actions[name].bounds();
    let lookup = || plan.lookups[name].bounds();
    match setting {
        "max_parallelism" => action().max_parallelism.to_string(),
        "timeout" => time(action().timeout),
        "attempts" => action().attempts.to_string(),
        "hold_budget" => time(action().hold_budget),
        "batch_max" => action().batch_max.to_string(),
        "allow_private" => action().allow_private.to_string(),
        "cache_size" => lookup().cache_size.to_string(),
        "cache_ttl" => none(lookup().cache_ttl),
        "lookup_attempts" => lookup().attempts.to_string(),
        "lookup_batch_max" => lookup().batch_max.to_string(),
        "lookup_batch_window" => time(lookup().batch_window),
        "dedup_window" => none(plan.dedups[name].bounds().0),
        "dedup_entries" => plan.dedups[name].bounds().1.to_string(),
        other => unreachable!("{other} is no setting of a part"),
    }
}

fn tell(rows: &Table, heading: &str) {
    if !rows.is_empty() {
        say!("{heading}\n{rows}\n");
    }
}
