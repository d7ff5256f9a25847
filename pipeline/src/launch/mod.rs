//! `launch`: starts and watches the processes of one run on this machine.
//!
//! When one of them dies, or the others say that it is lost, all are ended, and a new run begins with all of them: it continues from
//! the last checkpoint. A run that fails three times at once in the same way is not begun a fourth time.

mod again;
mod child;
mod leash;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use highwater_operators::{Error, Result};

use self::again::{Again, Verdict};
use self::child::{Child, Ended};
pub(crate) use self::leash::{is_launched, obey};

/// What is launched.
pub(crate) struct Launch {
    /// The arguments of every process, as they were given.
    pub arguments: Vec<OsString>,
    /// How many processes.
    pub processes: usize,
    /// Workers of each.
    pub workers: usize,
}

/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(10);

/// After the first has died: how long the others may take to notice and end by themselves, and to end when they are told.
const NOTICE: Duration = Duration::from_millis(1_500);
const OBEY: Duration = Duration::from_millis(1_500);

/// Starts the processes, watches them, and starts them anew until they end by themselves. Returns the exit code.
pub(crate) fn run(launch: &Launch) -> Result<u8> {
    let asked = listen()?;
    let folder = Folder::new()?;
    let mut again = Again::default();
    loop {
        let began = Instant::now();
        let ended = one_run(launch, &folder.0, &asked, again.restarts() > 0)?;
        if asked.load(Ordering::Acquire) > 0 || ended.iter().all(Ended::is_well) {
            let code = ended.iter().map(|ended| ended.code.unwrap_or(1)).max().unwrap_or(0);
            return Ok(code as u8);
        }
        match again.judge(&ended, began.elapsed()) {
            Verdict::Stop { code, why } => {
                crate::log::warn(format_args!("{why}"));
                return Ok(code);
            }
            Verdict::Again { after, why } => {
                crate::log::warn(format_args!("{why}"));
                let until = Instant::now() + after;
                while Instant::now() < until && asked.load(Ordering::Acquire) == 0 {
                    std::thread::sleep(LOOK);
                }
                if asked.load(Ordering::Acquire) > 0 {
                    return Ok(1);
                }
            }
        }
    }
}

/// Starts all processes and waits until the last has ended, in the order in which they ended.
fn one_run(launch: &Launch, folder: &Path, asked: &AtomicU32, is_again: bool) -> Result<Vec<Ended>> {
    let hostfile = hosts(folder, launch.processes)?;
    let mut children = Vec::new();
    for process in 0..launch.processes {
        // What was started is ended when it is dropped.
        children.push(Child::start(launch, process, &hostfile, is_again)?);
    }
    let mut ended: Vec<Ended> = Vec::new();
    let (mut told, mut first_death) = (0, None);
    while !children.is_empty() {
        let wish = asked.load(Ordering::Acquire);
        if wish > told {
            told = wish;
            children.iter_mut().for_each(|child| if wish == 1 { child.drain() } else { child.let_go() });
        }
        children.retain_mut(|child| match child.look() {
            None => true,
            Some(end) => {
                if !end.is_well() {
                    first_death.get_or_insert_with(Instant::now);
                }
                ended.push(end);
                false
            }
        });
        if let Some(since) = first_death.map(|at: Instant| at.elapsed()) {
            if since > NOTICE + OBEY {
                children.iter_mut().for_each(Child::kill);
            } else if since > NOTICE {
                children.iter_mut().for_each(Child::let_go);
            }
        }
        std::thread::sleep(LOOK);
    }
    Ok(ended)
}

/// Counts how often somebody asked for the end.
fn listen() -> Result<Arc<AtomicU32>> {
    let asked = Arc::new(AtomicU32::new(0));
    let failed = |error| Error::stop("cannot listen to signals").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let count = asked.clone();
    let listen = move || {
        runtime.block_on(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                match count.fetch_add(1, Ordering::AcqRel) {
                    0 => eprintln!("draining: finishing what is under way; once more ends at once"),
                    _ => eprintln!("ending at once: what is unfinished is read again by the next run"),
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(failed)?;
    Ok(asked)
}

/// A file of hosts with free ports of this machine. Another program may take one meanwhile; then the run fails, and the next has others.
fn hosts(folder: &Path, processes: usize) -> Result<PathBuf> {
    let failed = |error| Error::stop("cannot find free ports on 127.0.0.1").because(error);
    let held: Vec<TcpListener> =
        (0..processes).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>().map_err(failed)?;
    let lines = held.iter().map(|held| Ok(format!("{}\n", held.local_addr()?))).collect::<std::io::Result<String>>();
    let path = folder.join("hosts");
    let written = std::fs::write(&path, lines.map_err(failed)?);
    written.map_err(|error| Error::stop(format!("cannot write {}", path.display())).because(error))?;
    Ok(path)
}

/// A folder for the file of hosts, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("highwater-launch-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::stop(format!("cannot make {}", path.display())).because(error))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
