//! One process that was launched: its output, how it is told to end, and how it ended.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_operators::{Error, Result};
use parking_lot::Mutex;

use super::{Launch, leash};

/// A process that runs.
pub(super) struct Child {
    process: usize,
    child: std::process::Child,
    /// What it hears when to end by.
    leash: Option<ChildStdin>,
    output: Vec<JoinHandle<()>>,
    /// The last thing it said was wrong.
    complaint: Arc<Mutex<String>>,
    by_us: bool,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub process: usize,
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the launcher killed it, for it would not end.
    pub by_us: bool,
    pub complaint: String,
}

impl Ended {
    pub(super) fn is_well(&self) -> bool {
        self.code == Some(0)
    }
}

/// A longer line is passed on in pieces.
const LINE_MAX: u64 = 1 << 16;

/// Output of a process that has ended may still be on its way so long.
const REST: Duration = Duration::from_millis(500);

impl Child {
    pub(super) fn start(launch: &Launch, process: usize, hostfile: &Path, is_again: bool) -> Result<Self> {
        let failed = |error| Error::stop(format!("cannot start process {process}")).because(error);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(&launch.arguments)
            .env("HIGHWATER_PROCESSES", launch.processes.to_string())
            .env("HIGHWATER_PROCESS", process.to_string())
            .env("HIGHWATER_WORKERS", launch.workers.to_string())
            .env("HIGHWATER_HOSTFILE", hostfile)
            .env(leash::VARIABLE, if is_again { leash::AGAIN } else { leash::FIRST })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the launcher alone, which passes it on.
            .process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let complaint = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().map(|out| {
            pass_on(out, move |line| {
                let mut to = std::io::stdout().lock();
                let _ = to.write_all(line).and_then(|()| to.flush());
            })
        });
        let (prefix, heard) = (prefix(process), complaint.clone());
        let err = child.stderr.take().map(|err| {
            pass_on(err, move |line| {
                if let Some(said) = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix("error: ")) {
                    said.trim_end().clone_into(&mut heard.lock());
                }
                let mut to = std::io::stderr().lock();
                let _ = to.write_all(prefix.as_bytes()).and_then(|()| to.write_all(line));
            })
        });
        let leash = child.stdin.take();
        Ok(Child { process, child, leash, output: out.into_iter().chain(err).collect(), complaint, by_us: false })
    }

    /// How it ended, if it has.
    pub(super) fn look(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().ok()??;
        let until = Instant::now() + REST;
        for thread in self.output.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let complaint = self.complaint.lock().clone();
        Some(Ended { process: self.process, code: status.code(), signal: status.signal(), by_us: self.by_us, complaint })
    }

    /// Tells it to finish what is under way.
    pub(super) fn drain(&mut self) {
        if let Some(leash) = &mut self.leash {
            let _ = leash.write_all(leash::DRAIN.as_bytes()).and_then(|()| leash.flush());
        }
    }

    /// Tells it to end at once.
    pub(super) fn let_go(&mut self) {
        self.leash = None;
    }

    /// Ends it, also if it is frozen.
    pub(super) fn kill(&mut self) {
        self.by_us = true;
        let _ = self.child.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Passes output on, a line at a time, so that lines of several processes do not mix.
fn pass_on(from: impl Read + Send + 'static, mut to: impl FnMut(&[u8]) + Send + 'static) -> JoinHandle<()> {
    let pass = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!((&mut from).take(LINE_MAX).read_until(b'\n', &mut line), Ok(1..)) {
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            to(&line);
            line.clear();
        }
    };
    std::thread::Builder::new().name("output".to_owned()).spawn(pass).expect("the system gives a thread at start")
}

/// What stands before each message of a process: in a colour of its own where somebody sees it.
fn prefix(process: usize) -> String {
    match std::io::stderr().is_terminal() {
        true => format!("\x1b[{}m[{process}]\x1b[0m ", 31 + (process + 1) % 6),
        false => format!("[{process}] "),
    }
}
