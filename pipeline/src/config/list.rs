//! The list: every setting once.

use super::Kind;

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in files. As a flag it has dashes and two in front, as a variable capitals and `HIGHWATER_` in front.
    pub name: &'static str,
    /// The heading it stands under.
    pub heading: &'static str,
    /// What may be said.
    pub kind: Kind,
    /// What holds where nobody says anything.
    pub usual: Usual,
    /// What the preset `development` says, if it says something.
    pub development: Option<&'static str>,
    /// What the preset `production` says, if it says something.
    pub production: Option<&'static str>,
    /// What it means, in a line.
    pub meaning: &'static str,
    /// Of which parts of a pipeline it can be said one by one, and under which name there.
    pub part: Option<(PartKind, &'static str)>,
}

/// What holds where nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// This value.
    Is(&'static str),
    /// Something that is told in words, since it depends on the machine or the pipeline.
    Told(&'static str),
}

/// The kinds of parts whose settings can be said one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKind {
    /// `[action.NAME]`
    Action,
    /// `[lookup.NAME]`
    Lookup,
    /// `[dedup.NAME]`
    Dedup,
}

/// Several settings under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For a desk: little memory, messages for people, quick to stop.
    Development,
    /// For a server: larger windows and caches, messages for machines, patient to stop.
    Production,
}

impl PartKind {
    /// All of them.
    pub const ALL: [PartKind; 3] = [PartKind::Action, PartKind::Lookup, PartKind::Dedup];

    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            PartKind::Action => "action",
            PartKind::Lookup => "lookup",
            PartKind::Dedup => "dedup",
        }
    }
}

impl Preset {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Development => "development",
            Preset::Production => "production",
        }
    }

    /// The preset of this name.
    pub fn of(name: &str) -> Option<Preset> {
        [Preset::Development, Preset::Production].into_iter().find(|preset| preset.name() == name)
    }
}

impl Setting {
    /// As a flag.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// As an environment variable.
    pub fn variable(&self) -> String {
        format!("HIGHWATER_{}", self.name.to_uppercase())
    }

    /// What a preset says of it.
    pub fn preset(&self, preset: Preset) -> Option<&'static str> {
        match preset {
            Preset::Development => self.development,
            Preset::Production => self.production,
        }
    }
}

/// The setting of this name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const PLAIN: Setting = Setting {
    name: "",
    heading: "",
    kind: Kind::Path,
    usual: Usual::Is(""),
    development: None,
    production: None,
    meaning: "",
    part: None,
};

const fn whole(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Whole { unit, min, max }
}

/// A time of any length, in milliseconds.
const TIME: Kind = Kind::Time { bare_ms: None, step_ms: 1, min_ms: 1, none: false };
/// Seconds by themselves.
const SECONDS: Kind = Kind::Time { bare_ms: Some(1000), step_ms: 1000, min_ms: 0, none: false };

const RUNNING: &str = "Running";
const PROCESSES: &str = "Processes";
const CHECKPOINTS: &str = "Checkpoints";
const IN_FLIGHT: &str = "In flight";
const ACTIONS: &str = "Actions";
const PARKED: &str = "Parked";
const LOOKUPS: &str = "Lookups";
const DEDUP: &str = "Dedup";
const MONITOR: &str = "Monitor and log";

const AS_PIPELINE: Usual = Usual::Told("as the pipeline says");

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "config",
        heading: RUNNING,
        usual: Usual::Told("highwater.toml, if there is one"),
        meaning: "A file of settings (TOML)",
        ..PLAIN
    },
    Setting {
        name: "preset",
        heading: RUNNING,
        kind: Kind::Word(&[
            ("development", "little memory, messages for people, quick to stop"),
            ("production", "larger windows and caches, messages for machines, patient to stop"),
        ]),
        usual: Usual::Told("none"),
        meaning: "Several settings at once: development or production",
        ..PLAIN
    },
    Setting {
        name: "data",
        heading: RUNNING,
        usual: Usual::Told("data/NAME"),
        meaning: "Where checkpoints, ledger and parked changes are kept",
        ..PLAIN
    },
    Setting {
        name: "checkpoint",
        heading: RUNNING,
        kind: Kind::Store,
        usual: Usual::Told("as the pipeline says, or the data directory"),
        meaning: "Where these are kept instead: a directory, or the URL of a Postgres database",
        ..PLAIN
    },
    Setting {
        name: "workers",
        heading: RUNNING,
        kind: whole("threads", 1, 256),
        usual: Usual::Told("one per core, but one"),
        meaning: "Worker threads of each process",
        ..PLAIN
    },
    Setting {
        name: "processes",
        heading: PROCESSES,
        kind: whole("processes", 1, 256),
        usual: Usual::Is("1"),
        meaning: "How many processes run the pipeline; `launch` starts them",
        ..PLAIN
    },
    Setting {
        name: "process",
        heading: PROCESSES,
        kind: whole("its number", 0, 255),
        usual: Usual::Is("0"),
        meaning: "Which of them this is, from 0; process 0 leads",
        ..PLAIN
    },
    Setting {
        name: "hostfile",
        heading: PROCESSES,
        usual: Usual::Told("ports of this machine from 2101 on"),
        meaning: "A file with the address of each process (host:port), one a line",
        ..PLAIN
    },
    Setting {
        name: "trusted_network",
        heading: PROCESSES,
        kind: Kind::Switch,
        usual: Usual::Is("false"),
        meaning: "Let processes listen where other machines reach them: what they say is not encrypted",
        ..PLAIN
    },
    Setting {
        name: "gather_timeout",
        heading: PROCESSES,
        kind: TIME,
        usual: Usual::Is("1m"),
        meaning: "How long the other processes are waited for at the start",
        ..PLAIN
    },
    Setting {
        name: "process_timeout",
        heading: PROCESSES,
        kind: Kind::Time { bare_ms: None, step_ms: 1, min_ms: 1000, none: false },
        usual: Usual::Is("4s"),
        meaning: "With several: how long a worker may take for one step before its process is lost; silence is borne three quarters of it",
        ..PLAIN
    },
    Setting {
        name: "until_idle",
        heading: RUNNING,
        kind: Kind::Time { bare_ms: Some(1000), step_ms: 1, min_ms: 1, none: true },
        usual: Usual::Is("none"),
        meaning: "End in order once nothing came and nothing was to be done for so long, also of sources without an end; none waits for more",
        ..PLAIN
    },
    Setting {
        name: "drain_timeout",
        heading: RUNNING,
        kind: SECONDS,
        usual: Usual::Is("10s"),
        development: Some("2s"),
        production: Some("30s"),
        meaning: "Time to finish what is under way after Ctrl-C; the rest is read again by the next run",
        ..PLAIN
    },
    Setting {
        name: "report",
        heading: RUNNING,
        kind: Kind::Word(&[("table", "tables for people"), ("json", "one JSON object on the last line"), ("none", "nothing")]),
        usual: Usual::Is("table"),
        meaning: "What is printed at the end: table, json or none",
        ..PLAIN
    },
    Setting {
        name: "no_progress",
        heading: RUNNING,
        kind: Kind::Switch,
        usual: Usual::Is("false"),
        production: Some("true"),
        meaning: "Draw no progress bar (nor is there one where standard error is no terminal)",
        ..PLAIN
    },
    Setting {
        name: "checkpoint_batch_size",
        heading: CHECKPOINTS,
        kind: whole("changes", 1, u64::MAX),
        usual: AS_PIPELINE,
        meaning: "Save after so many completed changes; nothing is lost at any size",
        ..PLAIN
    },
    Setting {
        name: "checkpoint_interval",
        heading: CHECKPOINTS,
        kind: Kind::Time { bare_ms: Some(1), step_ms: 1, min_ms: 1, none: false },
        usual: AS_PIPELINE,
        development: Some("50ms"),
        production: Some("200ms"),
        meaning: "Save at least this often",
        ..PLAIN
    },
    Setting {
        name: "in_flight_changes",
        heading: IN_FLIGHT,
        kind: whole("changes", 1, u32::MAX as u64),
        // More would not be faster: what is under way is then too large for the cores' caches.
        usual: Usual::Is("8192"),
        development: Some("2048"),
        production: Some("16384"),
        meaning: "Changes that may be under way at once",
        ..PLAIN
    },
    Setting {
        name: "in_flight_mib",
        heading: IN_FLIGHT,
        kind: whole("MiB", 1, 1_048_576),
        usual: Usual::Is("64"),
        development: Some("16"),
        production: Some("256"),
        meaning: "MiB of changes that may be under way at once",
        ..PLAIN
    },
    Setting {
        name: "max_parallelism",
        heading: ACTIONS,
        kind: whole("calls", 1, 100_000),
        usual: AS_PIPELINE,
        meaning: "Calls of an action under way at once; so many a crash can repeat",
        part: Some((PartKind::Action, "max_parallelism")),
        ..PLAIN
    },
    Setting {
        name: "timeout",
        heading: ACTIONS,
        kind: TIME,
        usual: AS_PIPELINE,
        meaning: "How long one attempt of an action may take",
        part: Some((PartKind::Action, "timeout")),
        ..PLAIN
    },
    Setting {
        name: "attempts",
        heading: ACTIONS,
        kind: whole("attempts", 1, 1_000_000),
        usual: AS_PIPELINE,
        meaning: "Attempts of an action before a change is parked",
        part: Some((PartKind::Action, "attempts")),
        ..PLAIN
    },
    Setting {
        name: "hold_budget",
        heading: ACTIONS,
        kind: TIME,
        usual: AS_PIPELINE,
        meaning: "How long a change may hold the mark before it is set aside",
        part: Some((PartKind::Action, "hold_budget")),
        ..PLAIN
    },
    Setting {
        name: "batch_max",
        heading: ACTIONS,
        kind: whole("changes", 1, 1_000_000),
        usual: AS_PIPELINE,
        meaning: "Largest batch of a batch action",
        part: Some((PartKind::Action, "batch_max")),
        ..PLAIN
    },
    Setting {
        name: "allow_private",
        heading: ACTIONS,
        kind: Kind::Switch,
        usual: AS_PIPELINE,
        meaning: "Let actions that call others go to addresses that are not public: loopback, private networks, link-local",
        part: Some((PartKind::Action, "allow_private")),
        ..PLAIN
    },
    Setting {
        name: "parked_max",
        heading: PARKED,
        kind: whole("changes", 1, u32::MAX as u64),
        usual: Usual::Is("1000000"),
        meaning: "Changes that may stand parked; at the bound parked_full says what happens",
        ..PLAIN
    },
    Setting {
        name: "parked_max_mib",
        heading: PARKED,
        kind: whole("MiB", 1, 1_048_576),
        usual: Usual::Is("4096"),
        meaning: "MiB of changes that may stand parked, about; likewise",
        ..PLAIN
    },
    Setting {
        name: "parked_max_age",
        heading: PARKED,
        kind: Kind::Time { bare_ms: Some(1000), step_ms: 1, min_ms: 1000, none: true },
        usual: Usual::Is("none"),
        meaning: "How long a change may stand parked; likewise",
        ..PLAIN
    },
    Setting {
        name: "parked_full",
        heading: PARKED,
        kind: Kind::Word(&[
            ("pause", "sources do not read until there is room; health, why and the log say so"),
            ("stop", "the run ends and says so; the next one carries out what was asked of parked changes first"),
        ]),
        usual: Usual::Is("pause"),
        meaning: "What happens when as much stands parked as may be: pause or stop; nothing is dropped",
        ..PLAIN
    },
    Setting {
        name: "cache_size",
        heading: LOOKUPS,
        kind: whole("entries", 1, 1_000_000_000),
        usual: AS_PIPELINE,
        development: Some("500"),
        production: Some("200000"),
        meaning: "Rows a lookup keeps, over all workers",
        part: Some((PartKind::Lookup, "cache_size")),
    },
    Setting {
        name: "cache_ttl",
        heading: LOOKUPS,
        kind: Kind::Time { bare_ms: None, step_ms: 1, min_ms: 1, none: true },
        usual: AS_PIPELINE,
        meaning: "How old a kept row may be; none is for ever",
        part: Some((PartKind::Lookup, "cache_ttl")),
        ..PLAIN
    },
    Setting {
        name: "lookup_attempts",
        heading: LOOKUPS,
        kind: whole("attempts", 1, 1_000_000),
        usual: AS_PIPELINE,
        meaning: "Attempts to ask a lookup's origin",
        part: Some((PartKind::Lookup, "attempts")),
        ..PLAIN
    },
    Setting {
        name: "lookup_batch_max",
        heading: LOOKUPS,
        kind: whole("keys", 1, 1_000_000),
        usual: AS_PIPELINE,
        meaning: "Keys asked for at once at most",
        part: Some((PartKind::Lookup, "batch_max")),
        ..PLAIN
    },
    Setting {
        name: "lookup_batch_window",
        heading: LOOKUPS,
        kind: Kind::Time { bare_ms: None, step_ms: 0, min_ms: 0, none: false },
        usual: AS_PIPELINE,
        meaning: "How long the first key of a batch waits for others",
        part: Some((PartKind::Lookup, "batch_window")),
        ..PLAIN
    },
    Setting {
        name: "dedup_window",
        heading: DEDUP,
        kind: Kind::Time { bare_ms: None, step_ms: 1, min_ms: 1, none: true },
        usual: AS_PIPELINE,
        meaning: "How long ids are remembered, in the changes' own time; with none only their number counts",
        part: Some((PartKind::Dedup, "window")),
        ..PLAIN
    },
    Setting {
        name: "dedup_entries",
        heading: DEDUP,
        kind: whole("ids", 1, 1_000_000_000),
        usual: AS_PIPELINE,
        meaning: "Ids remembered at most, over all workers; in Redis it is the time alone that counts",
        part: Some((PartKind::Dedup, "entries")),
        ..PLAIN
    },
    Setting {
        name: "listen",
        heading: MONITOR,
        kind: Kind::Listen,
        usual: Usual::Told("127.0.0.1:9090, or the next free port"),
        meaning: "Where metrics, health and books are served; none turns it off",
        ..PLAIN
    },
    Setting {
        name: "stall_after",
        heading: MONITOR,
        kind: TIME,
        usual: Usual::Is("1m"),
        development: Some("10s"),
        meaning: "/healthz fails once the mark has stood still so long with work under way",
        ..PLAIN
    },
    Setting {
        name: "log",
        heading: MONITOR,
        kind: Kind::Word(&[("text", "lines for people"), ("json", "one JSON object a line")]),
        usual: Usual::Is("text"),
        development: Some("text"),
        production: Some("json"),
        meaning: "How messages are written to standard error: text or json",
        ..PLAIN
    },
    Setting {
        name: "log_level",
        heading: MONITOR,
        kind: Kind::Filter,
        usual: Usual::Is("warn"),
        development: Some("info"),
        production: Some("info"),
        meaning: "Which messages: a level, or levels by module as in RUST_LOG",
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_value_and_every_preset_is_allowed_and_no_name_stands_twice() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            let usual = match setting.usual {
                Usual::Is(value) => Some(value),
                Usual::Told(_) => None,
            };
            for value in usual.into_iter().chain(setting.development).chain(setting.production) {
                assert!(setting.kind.parse(value).is_ok(), "{}: {value}", setting.name);
            }
            assert!(!setting.meaning.is_empty() && !setting.heading.is_empty(), "{}", setting.name);
            assert!(SETTINGS[..index].iter().all(|other| other.name != setting.name), "{} stands twice", setting.name);
        }
    }
}
