//! The command line around a pipeline.

use std::ffi::OsString;
use std::process::{ExitCode, Termination};
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command};
use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::{Error, Result};

use crate::commands::{self, say};
use crate::config::flags;
use crate::config::resolve::{Effective, Surroundings};
use crate::flow::{Built, Flow};
use crate::launch::{self, Launch};
use crate::log::{self, LogSettings};
use crate::run::{self, Build, Control};
use crate::settings::{ReportKind, Settings};

/// How the program ended: 0 whole or drained, 1 on an error, 2 if the command line or the pipeline is wrong, 130 if it was
/// told twice to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// An end with this code.
    #[cfg(feature = "postgres")]
    pub(crate) fn with(code: u8) -> Self {
        Exit(code)
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}

/// The program of a pipeline without flags of its own. See [`main_with`].
pub fn main<F, R>(name: &str, build: F) -> Exit
where
    F: for<'s> Fn(&Flow<'s>) -> R + Send + Sync + 'static,
    R: Built,
{
    main_with(name, move |flow, _: &NoArgs| build(flow))
}

/// The program of a pipeline with flags of its own: `run` (the default), `launch`, `check`, `graph`, `settings`, `status`, `why`,
/// `metrics`, `parked` and `checkpoint`.
///
/// `build` is called once to make the plan and once on each worker; it must build the same steps each time.
///
/// ```no_run
/// use highwater::prelude::*;
///
/// #[derive(clap::Args, Clone)]
/// struct Args {
///     /// The changes
///     #[arg(long, default_value = "orders.jsonl")]
///     input: String,
/// }
///
/// fn main() -> highwater::Exit {
///     highwater::main_with("orders", |flow, args: &Args| {
///         flow.source(JsonLines::file(&args.input))
///             .fan_out([action("all", JsonLines::append("all.jsonl"))])
///             .checkpoint(Checkpoint::every(millis(200)));
///     })
/// }
/// ```
pub fn main_with<A, F, R>(name: &str, build: F) -> Exit
where
    A: Args + Clone + Send + Sync + 'static,
    F: for<'s> Fn(&Flow<'s>, &A) -> R + Send + Sync + 'static,
    R: Built,
{
    program(name).main_with(build)
}

/// A program that does something before its pipeline runs, see [`Program::prepare`].
pub fn program<A: Args + Clone + Send + Sync + 'static>(name: &str) -> Program<A> {
    Program { name: name.to_owned(), about: String::new(), prepare: None }
}

/// What is done before a pipeline is planned and run.
type Prepare<A> = Box<dyn Fn(&A) -> Result>;

/// The program of a pipeline, before it has its pipeline.
pub struct Program<A> {
    name: String,
    about: String,
    prepare: Option<Prepare<A>>,
}

impl<A: Args + Clone + Send + Sync + 'static> Program<A> {
    /// What the program does, for `--help`.
    pub fn about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }

    /// Runs before the pipeline runs, and before it is checked: makes input, warms something up.
    pub fn prepare(mut self, prepare: impl Fn(&A) -> Result + 'static) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }

    /// Runs the program.
    pub fn main_with<F, R>(self, build: F) -> Exit
    where
        F: for<'s> Fn(&Flow<'s>, &A) -> R + Send + Sync + 'static,
        R: Built,
    {
        let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
        let matches = match self.command().try_get_matches_from(&arguments) {
            Ok(matches) => matches,
            Err(error) => {
                let _ = error.print();
                if error.kind() == ErrorKind::ArgumentConflict
                    && let Some(better) = self.flags_behind(&arguments)
                {
                    eprintln!("\nPut flags behind the command: `{better}`");
                }
                return Exit(error.exit_code() as u8);
            }
        };
        match self.dispatch(&matches, Arc::new(build)) {
            Ok(exit) => exit,
            Err(error) => {
                eprintln!("error: {error}");
                Exit(1)
            }
        }
    }

    fn command(&self) -> Command {
        let taken = flags::taken::<A>();
        // The flags' own documentation would take the place of what a command is about.
        let with_settings = |name: &str, about: &str| {
            let command = A::augment_args(flags::add(Command::new(name.to_owned()), None, &taken).next_help_heading(None));
            command.about(about.to_owned()).long_about(None::<&'static str>)
        };
        let name = self.name.clone();
        let about = if self.about.is_empty() { format!("Runs the pipeline \"{name}\"") } else { self.about.clone() };
        let example = format!(
            "Each setting is a variable too (HIGHWATER_WORKERS=2) and a line in highwater.toml (workers = 2); `{name} settings` \
             shows what holds.\n\n\
             Examples:\n  {name} --workers 2\n  {name} status\n  {name} why\n  {name} graph --dot | dot -Tsvg > graph.svg\n  \
             {name} parked list\n  {name} checkpoint show"
        );
        let command = with_settings(&name, &about)
            .after_help(example)
            .args_conflicts_with_subcommands(true)
            .subcommand(with_settings("run", "Runs the pipeline (the default)"))
            .subcommand(with_settings(
                "check",
                "Says what is wrong with the pipeline, all of it at once; reads and writes no change",
            ))
            .subcommand(with_settings("graph", "Prints the shape of the pipeline").arg(
                clap::Arg::new("dot").long("dot").action(clap::ArgAction::SetTrue).help("Print it in the language of Graphviz"),
            ))
            .subcommand(with_settings(
                "launch",
                "Starts and watches the processes of a run on this machine (-n), and begins anew when one dies",
            ))
            .subcommand(commands::resnapshot::arguments(with_settings(
                "resnapshot",
                "Has the next run read the rows of replicated tables anew (where a slot is lost, or was made anew)",
            )))
            .subcommand(with_settings("settings", "Prints every setting with its value, and where it was said"))
            .subcommand(commands::parked::command(&name))
            .subcommand(commands::checkpoint::command());
        commands::monitor::add(command)
    }

    /// The command line with its flags behind the command, if that is where they would have to be.
    fn flags_behind(&self, arguments: &[std::ffi::OsString]) -> Option<String> {
        let words: Vec<&str> = arguments.iter().skip(1).filter_map(|word| word.to_str()).collect();
        let command = self.command();
        let found = words.iter().position(|word| command.get_subcommands().any(|own| own.get_name() == *word))?;
        let (flags, rest) = words.split_at(found);
        let better: Vec<&str> = [&[self.name.as_str()], rest, flags].concat();
        Some(better.join(" "))
    }

    fn dispatch<F, R>(&self, matches: &ArgMatches, build: Arc<F>) -> Result<Exit>
    where
        F: for<'s> Fn(&Flow<'s>, &A) -> R + Send + Sync + 'static,
        R: Built,
    {
        let (name, own) = matches.subcommand().unwrap_or(("run", matches));
        let is_pipeline = matches!(name, "run" | "launch" | "check" | "graph" | "resnapshot" | "settings");
        if !is_pipeline {
            log::start(&LogSettings::from_environment());
            return match name {
                "parked" => commands::parked::run(&self.name, own).map(|()| Exit(0)),
                "checkpoint" => commands::checkpoint::run(&self.name, own).map(|()| Exit(0)),
                _ => commands::monitor::run(&self.name, name, own).map(Exit),
            };
        }
        let effective = match Effective::gather(own, &Surroundings::here(), None) {
            Ok(effective) => effective,
            Err(problems) => {
                problems.iter().for_each(|problem| eprintln!("error: {problem}"));
                return Ok(Exit(2));
            }
        };
        log::start(&effective.log());
        effective.warnings.iter().for_each(|warning| log::warn(format_args!("{warning}")));
        let settings = effective.settings();
        let args = A::from_arg_matches(own).map_err(|error| Error::stop(error.to_string()))?;
        // Of processes that are launched, the launcher has prepared for all.
        if matches!(name, "run" | "launch" | "check")
            && !launch::is_launched()
            && let Some(prepare) = &self.prepare
        {
            prepare(&args)?;
        }
        let build: Build = Arc::new(move |flow: &Flow<'_>| build(flow, &args).built());
        match name {
            "graph" => commands::graph::run(&build, &settings, own.get_flag("dot")).map(|()| Exit(0)),
            "check" => commands::check::run(&self.name, &build, &settings).map(|is_whole| Exit(if is_whole { 0 } else { 2 })),
            "settings" => {
                let plan = run::plan_with(&build, &settings.tuning)?;
                commands::settings::run(&self.name, &effective, &plan);
                plan.problems.iter().for_each(|problem| eprintln!("problem: {problem}"));
                Ok(Exit(if plan.problems.is_empty() { 0 } else { 2 }))
            }
            "launch" => self.launch(&settings, &build),
            "resnapshot" => {
                let tables: Vec<String> =
                    own.get_many::<String>(commands::resnapshot::TABLES).unwrap_or_default().cloned().collect();
                commands::resnapshot::run(&self.name, &build, &settings, &tables).map(|()| Exit(0))
            }
            _ => self.run(&settings, &build),
        }
    }

    fn run(&self, settings: &Settings, build: &Build) -> Result<Exit> {
        let plan = run::plan_with(build, &settings.tuning)?;
        let place = settings.store(&self.name, &plan)?;
        let problems = &plan.problems;
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("problem: {problem}"));
            return Ok(Exit(2));
        }
        let control = Control::with_signals();
        launch::obey(&control);
        let report = run::run(&self.name, settings, build, &control);
        log::tell_left_out(true);
        let report = report?;
        // Process 0 tells of all.
        let tells = if settings.process == 0 { settings.report } else { ReportKind::None };
        match tells {
            ReportKind::Json => say!("{}", report.json()),
            ReportKind::Table => {
                if report.ended && report.read_now == 0 && report.resumed_from.is_some() {
                    say!("everything was done already: nothing was read\n");
                } else if !report.ended {
                    say!("ended before the end of the input; the next run continues\n");
                }
                say!("{}", report.table());
                say!("state in {}", place.place());
                // The journal is read only if there can be something to tell of.
                if report.rejected > 0 || report.actions.values().any(|books| books.parked > books.dropped) {
                    self.tell_parked(settings, &*place);
                }
            }
            ReportKind::None => {}
        }
        Ok(Exit(if control.asked() > 1 { 130 } else { 0 }))
    }

    /// Runs the pipeline in processes of this machine. What one process could not do either is said before any is started.
    fn launch(&self, settings: &Settings, build: &Build) -> Result<Exit> {
        let plan = run::plan_with(build, &settings.tuning)?;
        if !plan.problems.is_empty() {
            plan.problems.iter().for_each(|problem| eprintln!("problem: {problem}"));
            return Ok(Exit(2));
        }
        if settings.hostfile.is_some() || settings.process > 0 {
            eprintln!(
                "error: launch starts all processes on this machine, at ports of its own: --hostfile and --process are for those started by hand"
            );
            return Ok(Exit(2));
        }
        let place = settings.store(&self.name, &plan)?;
        place.check()?;
        if settings.processes > 1 {
            place.takes_several_processes()?;
        }
        let processes = settings.processes as usize;
        // One per core but one, as one process would have, dealt to all.
        let workers = settings.workers.map_or_else(|| (settings.workers() / processes).max(1), |workers| workers as usize);
        let words = std::env::args_os().skip(1);
        let mut arguments: Vec<OsString> = words.collect();
        // Flags stand behind the command.
        arguments[0] = "run".into();
        launch::run(&Launch { arguments, processes, workers }).map(Exit)
    }

    /// What waits for a person must not pass unseen.
    fn tell_parked(&self, settings: &Settings, place: &dyn StorePlace) {
        let seen = place.inspect(&self.name).ok().flatten();
        let parked = seen.map_or(0, |seen| seen.parked_count());
        if parked > 0 {
            let is = commands::counted(parked, "change or line is", "changes or lines are");
            let at = match (&settings.checkpoint, &settings.data) {
                (Some(_), _) => format!(" --checkpoint {}", place.place()),
                (None, Some(_)) => format!(" --data {}", place.place()),
                (None, None) => String::new(),
            };
            say!("{is} parked: `{} parked list{at}` says why", self.name);
        }
    }
}

impl<A> std::fmt::Debug for Program<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("name", &self.name).finish_non_exhaustive()
    }
}

/// No flags.
#[derive(Args, Clone, Debug)]
struct NoArgs {}
