//! What is said where, and what counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;
use highwater_operators::cluster::form::Secret;

use super::tuning::Tuning;
use super::{Kind, Listen, Origin, PartKind, Preset, SETTINGS, Setting, Usual, Value, file, flags, nearest, setting};
use crate::log::LogSettings;
use crate::settings::{ParkedFull, ReportKind, Settings};
use crate::store::StoreName;

/// The variable of the secret that all processes must know.
const SECRET: &str = "HIGHWATER_CLUSTER_SECRET";
/// What `launch` says to the processes it starts.
const LAUNCHED: &str = "HIGHWATER_LAUNCHED";

/// A part of a pipeline: its kind and its name.
pub(crate) type Part = (PartKind, String);

/// A value, and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// The setting.
    pub name: &'static str,
    /// The part it is said of; `None` is all that have it.
    pub part: Option<Part>,
    /// What was said.
    pub value: Value,
    /// Where.
    pub origin: Origin,
}

impl Said {
    /// Reads what was said. The error names the place, the setting and what is allowed.
    pub(crate) fn parse(part: Option<Part>, name: &'static str, text: &str, origin: Origin) -> Result<Said, String> {
        let setting = setting(name).expect("the name is of the list");
        match setting.kind.parse(text) {
            Ok(value) => Ok(Said { name, part, value, origin }),
            Err(expected) => {
                let of = part.as_ref().map(|(kind, part)| format!(" of {} \"{part}\"", kind.word())).unwrap_or_default();
                // A URL that cannot be read may hold a password all the same.
                let text = if setting.kind == Kind::Store { String::new() } else { format!(" {text:?}") };
                Err(format!("{origin}: wrong value{text} for {}{of}: {expected}", own_name(setting, part.is_some())))
            }
        }
    }

    /// Reads `NAME=VALUE` or `KIND.PART.NAME=VALUE`.
    pub(crate) fn parse_assignment(text: &str, origin: Origin) -> Result<Said, String> {
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!("{origin}: expected NAME=VALUE, as in timeout=10s or action.receipt.timeout=10s"));
        };
        let kind =
            PartKind::ALL.into_iter().find(|kind| name.starts_with(kind.word()) && name[kind.word().len()..].starts_with('.'));
        let Some(kind) = kind else {
            let known = setting(name).filter(|setting| setting.name != "config");
            let Some(known) = known else {
                let near = nearest(name, SETTINGS.iter().map(|setting| setting.name));
                let hint =
                    near.map_or("the command `settings` lists them all".to_owned(), |near| format!("did you mean \"{near}\"?"));
                return Err(format!("{origin}: unknown setting \"{name}\"; {hint}"));
            };
            return Said::parse(None, known.name, value, origin);
        };
        let rest = &name[kind.word().len() + 1..];
        // The part's name may have dots in it, its setting has none.
        let Some((part, own)) = rest.rsplit_once('.') else {
            return Err(format!("{origin}: expected {}.NAME.SETTING=VALUE", kind.word()));
        };
        let known = file::of_part(kind, own).map_err(|problem| format!("{origin}: {problem}"))?;
        Said::parse(Some((kind, part.to_owned())), known, value, origin)
    }
}

/// How a setting is called where it stands.
fn own_name(setting: &Setting, within: bool) -> &'static str {
    match setting.part {
        Some((_, own)) if within => own,
        _ => setting.name,
    }
}

/// All that was said, in the order in which it counts: the last most.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effective {
    said: Vec<Said>,
    /// What all processes must know: a variable alone, for files and command lines are read by others.
    secret: Option<Secret>,
    /// What is no mistake, but may be one.
    pub warnings: Vec<String>,
}

/// What the settings are taken from beside the flags.
pub(crate) struct Surroundings {
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// Where the usual file is looked for.
    pub folder: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn here() -> Self {
        let text =
            |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Surroundings { variables: std::env::vars_os().filter_map(text).collect(), folder: PathBuf::new() }
    }
}

impl Effective {
    /// Gathers what flags, variables, file and preset say. With `only`, of these settings alone.
    ///
    /// # Errors
    /// Everything that is wrong, a sentence each.
    pub(crate) fn gather(matches: &ArgMatches, around: &Surroundings, only: Option<&[&str]>) -> Result<Effective, Vec<String>> {
        let mut problems = Vec::new();
        let mut effective = Effective::default();
        let (said, wrong) = flags::said(matches);
        effective.said.extend(said);
        problems.extend(wrong);
        effective.variables(around, only, &mut problems);
        effective.file(around, only, &mut problems);
        if let Some(preset) = effective.latest("preset").and_then(|said| match said.value {
            Value::Word(word) => Preset::of(word),
            _ => None,
        }) {
            for setting in SETTINGS {
                if let Some(value) = setting.preset(preset) {
                    let value = setting.kind.parse(value).expect("presets are tried in a test");
                    effective.said.push(Said { name: setting.name, part: None, value, origin: Origin::Preset(preset.name()) });
                }
            }
        }
        effective.said.sort_by_key(|said| (said.origin.rank(), said.part.is_some()));
        if problems.is_empty() { Ok(effective) } else { Err(problems) }
    }

    fn variables(&mut self, around: &Surroundings, only: Option<&[&str]>, problems: &mut Vec<String>) {
        for (variable, text) in &around.variables {
            // Kept because everybody knows it, and as it is read everywhere; ours says more.
            if variable == "RUST_LOG" && only.is_none() {
                let ours = around.variables.iter().any(|(name, _)| name == "HIGHWATER_LOG_LEVEL");
                if !ours && tracing_subscriber::EnvFilter::try_new(text).is_ok() && !text.is_empty() {
                    let (value, origin) = (Value::Filter(text.clone()), Origin::Variable(variable.clone()));
                    self.said.push(Said { name: "log_level", part: None, value, origin });
                }
            }
            if variable == SECRET && only.is_none() && !text.is_empty() {
                self.secret = Some(Secret::new(text));
            }
            if !variable.starts_with("HIGHWATER_") || [SECRET, LAUNCHED].contains(&variable.as_str()) {
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.variable() == *variable) {
                Some(setting) if only.is_none_or(|only| only.contains(&setting.name)) => {
                    match Said::parse(None, setting.name, text, Origin::Variable(variable.clone())) {
                        Ok(said) => self.said.push(said),
                        Err(problem) => problems.push(problem),
                    }
                }
                Some(_) => {}
                None => {
                    let names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
                    let near = nearest(variable, names.iter().map(String::as_str));
                    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    self.warnings.push(format!("unknown variable {variable} is left out of account{hint}"));
                }
            }
        }
    }

    fn file(&mut self, around: &Surroundings, only: Option<&[&str]>, problems: &mut Vec<String>) {
        let named = self.latest("config").and_then(|said| match &said.value {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        });
        let usual = around.folder.join(file::USUAL);
        let Some(path) = named.or_else(|| usual.exists().then_some(usual)) else { return };
        if self.latest("config").is_none() {
            self.said.push(Said { name: "config", part: None, value: Value::Path(path.clone()), origin: Origin::Default });
        }
        match file::read(&path) {
            Ok((said, wrong)) => match only {
                None => {
                    self.said.extend(said);
                    problems.extend(wrong);
                }
                // A command that needs little bears with mistakes elsewhere, but not with a file that says nothing it can read.
                Some(_) if said.is_empty() => problems.extend(wrong),
                Some(only) => self.said.extend(said.into_iter().filter(|said| only.contains(&said.name))),
            },
            Err(error) => problems.push(error.to_string()),
        }
    }

    /// What counts for a setting, before it is said of a part.
    fn latest(&self, name: &str) -> Option<&Said> {
        self.said.iter().filter(|said| said.name == name && said.part.is_none()).max_by_key(|said| said.origin.rank())
    }

    /// The value of a setting and where it comes from; `None` where nobody says anything and it depends.
    pub(crate) fn value(&self, name: &str) -> Option<(Value, Origin)> {
        let setting = setting(name)?;
        match (self.latest(name), setting.usual) {
            (Some(said), _) => Some((said.value.clone(), said.origin.clone())),
            (None, Usual::Is(value)) => {
                Some((setting.kind.parse(value).expect("usual values are tried in a test"), Origin::Default))
            }
            (None, Usual::Told(_)) => None,
        }
    }

    /// Everything said of a part, the last counts.
    pub(crate) fn of_part(&self, kind: PartKind, part: &str) -> BTreeMap<&'static str, (Value, Origin)> {
        Tuning::new(&self.said).of_part(kind, part).map(|said| (said.name, (said.value.clone(), said.origin.clone()))).collect()
    }

    fn whole(&self, name: &str) -> Option<u64> {
        match self.value(name)?.0 {
            Value::Whole(n) => Some(n),
            Value::Time(Some(time)) => Some(time.as_millis() as u64),
            _ => None,
        }
    }

    /// The data directory, if somebody named one.
    pub(crate) fn data(&self) -> Option<PathBuf> {
        match self.value("data")?.0 {
            Value::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The checkpoint store, if somebody named one.
    pub(crate) fn checkpoint(&self) -> Option<StoreName> {
        match self.value("checkpoint")?.0 {
            Value::Store(name) => Some(name),
            _ => None,
        }
    }

    /// The settings of a run.
    pub(crate) fn settings(&self) -> Settings {
        let usual = Settings::default();
        let word = |name| match self.value(name) {
            Some((Value::Word(word), _)) => word,
            _ => "",
        };
        Settings {
            data: self.data(),
            checkpoint: self.checkpoint(),
            workers: self.whole("workers"),
            processes: self.whole("processes").unwrap_or(usual.processes),
            process: self.whole("process").unwrap_or(usual.process),
            hostfile: match self.value("hostfile") {
                Some((Value::Path(path), _)) => Some(path),
                _ => None,
            },
            trusted_network: matches!(self.value("trusted_network"), Some((Value::Switch(true), _))),
            cluster_secret: self.secret.clone(),
            gather_timeout: self.whole("gather_timeout").map_or(usual.gather_timeout, std::time::Duration::from_millis),
            process_timeout: self.whole("process_timeout").map_or(usual.process_timeout, std::time::Duration::from_millis),
            checkpoint_batch_size: self.whole("checkpoint_batch_size"),
            checkpoint_interval: self.whole("checkpoint_interval"),
            in_flight_changes: self.whole("in_flight_changes").unwrap_or(usual.in_flight_changes),
            in_flight_mib: self.whole("in_flight_mib").unwrap_or(usual.in_flight_mib),
            parked_max: self.whole("parked_max").unwrap_or(usual.parked_max),
            parked_max_mib: self.whole("parked_max_mib").unwrap_or(usual.parked_max_mib),
            parked_max_age: match self.value("parked_max_age") {
                Some((Value::Time(time), _)) => time,
                _ => None,
            },
            parked_full: match word("parked_full") {
                "stop" => ParkedFull::Stop,
                _ => ParkedFull::Pause,
            },
            until_idle: match self.value("until_idle") {
                Some((Value::Time(time), _)) => time,
                _ => None,
            },
            drain_timeout: self.whole("drain_timeout").map_or(usual.drain_timeout, |ms| ms / 1000),
            report: match word("report") {
                "json" => ReportKind::Json,
                "none" => ReportKind::None,
                _ => ReportKind::Table,
            },
            no_progress: matches!(self.value("no_progress"), Some((Value::Switch(true), _))),
            listen: match self.value("listen") {
                Some((Value::Listen(listen), _)) => listen,
                _ => Listen::From(crate::monitor::USUAL),
            },
            stall_after: self.whole("stall_after").map_or(usual.stall_after, std::time::Duration::from_millis),
            tuning: Tuning::new(&self.said),
        }
    }

    /// How messages are written.
    pub(crate) fn log(&self) -> LogSettings {
        let json = matches!(self.value("log"), Some((Value::Word("json"), _)));
        match self.value("log_level") {
            Some((Value::Filter(filter), _)) => LogSettings { json, filter },
            _ => LogSettings { json, ..LogSettings::default() },
        }
    }
}

/// The settings that say where checkpoints are kept.
pub(crate) const OF_STORE: &[&str] = &["config", "data", "checkpoint"];

/// The checkpoint store that flags, variables and file name for a command that needs nothing else.
pub(crate) fn named_store(matches: &ArgMatches) -> highwater_operators::Result<Settings> {
    let effective = Effective::gather(matches, &Surroundings::here(), Some(OF_STORE))
        .map_err(|problems| highwater_operators::Error::stop(problems.join("\n")))?;
    Ok(Settings { data: effective.data(), checkpoint: effective.checkpoint(), ..Settings::default() })
}

/// Whether a setting takes no value as a flag.
pub(crate) fn is_switch(setting: &Setting) -> bool {
    setting.kind == Kind::Switch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(flags: &[&str], variables: &[(&str, &str)], text: Option<&str>) -> Result<Effective, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(folder.path().join(file::USUAL), text).unwrap();
        }
        let command = flags::add(clap::Command::new("test"), None, &Default::default());
        let matches = command.try_get_matches_from([&["test"], flags].concat()).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Effective::gather(&matches, &Surroundings { variables, folder: folder.path().to_owned() }, None)
    }

    fn shown(effective: &Effective, name: &str) -> (String, u8) {
        let (value, origin) = effective.value(name).unwrap();
        (value.to_string(), origin.rank())
    }

    #[test]
    fn flag_then_variable_then_file_then_preset_then_default() {
        let file = Some("in_flight_mib = 11\nlog = \"text\"\n");
        let variable = ("HIGHWATER_IN_FLIGHT_MIB", "12");
        let preset = ("HIGHWATER_PRESET", "production");
        let all = gather(&["--in-flight-mib", "13"], &[variable, preset], file).unwrap();
        assert_eq!(shown(&all, "in_flight_mib"), ("13".into(), 5));
        assert_eq!(shown(&all, "log"), ("text".into(), 3));
        assert_eq!(shown(&gather(&[], &[variable, preset], file).unwrap(), "in_flight_mib"), ("12".into(), 4));
        assert_eq!(shown(&gather(&[], &[preset], file).unwrap(), "in_flight_mib"), ("11".into(), 3));
        assert_eq!(shown(&gather(&[], &[preset], None).unwrap(), "in_flight_mib"), ("256".into(), 2));
        assert_eq!(shown(&gather(&[], &[], None).unwrap(), "in_flight_mib"), ("64".into(), 0));
        let settings = gather(&[], &[preset], None).unwrap().settings();
        assert_eq!((settings.in_flight_mib, settings.drain_timeout, settings.checkpoint_interval), (256, 30, Some(200)));
    }

    #[test]
    fn a_command_that_needs_the_data_directory_alone_bears_with_mistakes_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let matches = flags::add(clap::Command::new("test"), Some(&["data"]), &Default::default()).get_matches_from(["test"]);
        let data = |text: &str| {
            std::fs::write(folder.path().join(file::USUAL), text).unwrap();
            let around = Surroundings { variables: Vec::new(), folder: folder.path().to_owned() };
            Effective::gather(&matches, &around, Some(&["config", "data"])).map(|effective| effective.data())
        };
        assert_eq!(data("data = \"kept\"\nworkrs = 2\n"), Ok(Some("kept".into())));
        assert!(data("data = \"kept\"\nworkers = \n").unwrap_err()[0].contains("highwater.toml, line 2: "));
    }

    #[test]
    fn rust_log_counts_like_any_variable_unless_ours_is_there() {
        let level =
            |variables: &[(&str, &str)]| shown(&gather(&[], variables, Some("log_level = \"error\"")).unwrap(), "log_level").0;
        assert_eq!(level(&[]), "error");
        assert_eq!(level(&[("RUST_LOG", "my_module")]), "my_module");
        assert_eq!(level(&[("RUST_LOG", "debug"), ("HIGHWATER_LOG_LEVEL", "info")]), "info");
        assert_eq!(level(&[("RUST_LOG", "")]), "error");
    }

    #[test]
    fn a_part_counts_more_than_all_parts_and_a_flag_more_than_the_file() {
        let file = Some("timeout = \"1s\"\n[action.a]\ntimeout = \"2s\"\n");
        let timeout = |effective: &Effective, part: &str| effective.of_part(PartKind::Action, part)["timeout"].0.to_string();
        let said = gather(&[], &[], file).unwrap();
        assert_eq!([timeout(&said, "a"), timeout(&said, "b")], ["2s", "1s"]);
        let said = gather(&["--timeout", "3s"], &[], file).unwrap();
        assert_eq!([timeout(&said, "a"), timeout(&said, "b")], ["3s", "3s"]);
        let said = gather(&["--timeout", "3s", "--set", "action.a.timeout=4s"], &[], file).unwrap();
        assert_eq!([timeout(&said, "a"), timeout(&said, "b")], ["4s", "3s"]);
    }

    #[test]
    fn wrong_values_name_their_place_and_strange_variables_are_only_warned_of() {
        let variables = [("HIGHWATER_WORKERS", "0"), ("HIGHWATER_WORKRES", "1"), ("HIGHWATER_CACHE_TTL", "soon")];
        let problems = gather(&["--set", "action.a.timout=1s"], &variables, Some("data = 1\nreport = \"no\"")).unwrap_err();
        let problems = problems.join("\n");
        for part in [
            "variable HIGHWATER_WORKERS: wrong value \"0\" for workers: expected a whole number of threads in 1..=256",
            "variable HIGHWATER_CACHE_TTL: wrong value \"soon\" for cache_ttl: expected a time such as",
            "unknown setting \"timout\" of an action; did you mean \"timeout\"?",
            "highwater.toml, line 2: wrong value \"no\" for report",
        ] {
            assert!(problems.contains(part), "{part}\nis not in\n{problems}");
        }
        let warned = gather(&[], &variables[1..2], None).unwrap().warnings;
        assert_eq!(warned, ["unknown variable HIGHWATER_WORKRES is left out of account; did you mean HIGHWATER_WORKERS?"]);
    }
}
