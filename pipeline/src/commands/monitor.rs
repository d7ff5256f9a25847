//! `status`, `why` and `metrics`: what the running pipeline tells.

use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::{Error, Result};

use crate::commands::{checkpoint, store_of, with_store};
use crate::monitor::notice::Notice;
use crate::monitor::pages;
use crate::monitor::status::Status;

/// How long the running pipeline is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The exit code of a question that nobody is there to answer.
const NOT_RUNNING: u8 = 3;

pub(crate) fn add(command: Command) -> Command {
    let of_running = |name: &'static str, about: &'static str| {
        let url =
            Arg::new("url").long("url").value_name("URL").help("The monitor [default: that of the run on the checkpoint store]");
        with_store(Command::new(name)).about(about).arg(url)
    };
    let json = || Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print it as JSON");
    let exit = "Ends with 3 if the pipeline is not running.";
    command
        .subcommand(of_running("status", "Says how the running pipeline stands").arg(json()).after_help(exit))
        .subcommand(of_running("why", "Says what holds the mark of the running pipeline").arg(json()).after_help(exit))
        .subcommand(of_running("metrics", "Prints the metrics of the running pipeline").after_help(exit))
}

/// Asks the running pipeline. Returns the exit code.
pub(crate) fn run(pipeline: &str, command: &str, matches: &ArgMatches) -> Result<u8> {
    let named = matches.get_one::<String>("url");
    let page = match command {
        "status" => "api/status",
        "why" => "api/why",
        _ => "metrics",
    };
    let is_json = matches.try_get_one::<bool>("json").ok().flatten().is_some_and(|json| *json);
    let ask = |url: &str, run: Option<&str>| get(url, page, if is_json { "application/json" } else { "text/plain" }, run);
    let answer = match named {
        Some(url) => Some(ask(url, None).map_err(|error| error.context(format!("{url} does not answer")))?),
        None => ask_running(pipeline, &*store_of(pipeline, matches)?, ask)?,
    };
    let Some(answer) = answer else { return not_running(pipeline, command, &*store_of(pipeline, matches)?) };
    match command {
        "status" if !is_json => say!("{}", read::<Status>(&answer)?.text()),
        _ => say!("{}", answer.trim_end()),
    }
    Ok(0)
}

fn read<T: serde::de::DeserializeOwned>(answer: &str) -> Result<T> {
    serde_json::from_str(answer).map_err(|error| {
        Error::stop("the running pipeline answers otherwise than this program expects: is it another version?").because(error)
    })
}

/// Asks the monitor of the run on this store; `None` if there is none.
fn ask_running(
    pipeline: &str,
    place: &dyn StorePlace,
    ask: impl Fn(&str, Option<&str>) -> Result<String>,
) -> Result<Option<String>> {
    let Some(notice) = Notice::read(&*place.letters(pipeline)?) else { return Ok(None) };
    match ask(&notice.url, Some(&pages::run(notice.pid, notice.generation))) {
        Ok(answer) => Ok(Some(answer)),
        // Left by a run that was killed: nobody is there, or another program.
        Err(_) if !is_alive(notice.pid) => Ok(None),
        Err(error) => Err(error.context(format!("the run of process {} does not answer at {}", notice.pid, notice.url))),
    }
}

/// Gets a page, of a certain run if one is meant.
fn get(url: &str, page: &str, accept: &str, run: Option<&str>) -> Result<String> {
    let failed = |error: ureq::Error| Error::stop(String::new()).because(error);
    let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).build().new_agent();
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let url = format!("{}/{page}", with_scheme.trim_end_matches('/'));
    let mut response = agent.get(&url).header("Accept", accept).call().map_err(failed)?;
    if run.is_some_and(|run| response.headers().get(pages::RUN).is_none_or(|found| found != run)) {
        return Err(Error::stop("another program answers there"));
    }
    response.body_mut().with_config().limit(256 << 20).read_to_string().map_err(failed)
}

/// Whether a process of this number runs; where that cannot be known, it is taken to.
fn is_alive(pid: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new("/proc").join(pid.to_string()).exists()
}

fn not_running(pipeline: &str, command: &str, place: &dyn StorePlace) -> Result<u8> {
    let Some(inspection) = place.inspect(pipeline)? else {
        eprintln!(
            "{pipeline} is not running, and nothing is saved in {}; say with --data DIR or --checkpoint URL where it keeps its \
             state, or with --url where its monitor is",
            place.place()
        );
        return Ok(NOT_RUNNING);
    };
    let (_, pid) = inspection.started();
    let silent = pid.filter(|pid| is_alive(*pid) && *pid != std::process::id());
    let what = match silent {
        Some(pid) => format!("process {pid} may be running {pipeline} without a monitor (--listen none)"),
        None => format!("{pipeline} is not running"),
    };
    if command != "status" {
        eprintln!("{what}, so nobody can answer; `{pipeline} status` shows what its last checkpoint says");
        return Ok(NOT_RUNNING);
    }
    eprintln!("{what}; this is what its last checkpoint says");
    checkpoint::show(&*inspection);
    Ok(NOT_RUNNING)
}
