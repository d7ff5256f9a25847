//! Starts the main example as a process of its own, waits for its end or makes it, and looks at what it left.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{InputSpec, Report, Verdict, generate_customers, generate_orders, verify};

const SIGKILL: i32 = 9;

/// The built example, and a folder for its input, its output and its data.
#[derive(Clone, Debug)]
pub struct Orders {
    program: PathBuf,
    folder: PathBuf,
    spec: InputSpec,
    listen: String,
    dedup: Option<String>,
}

impl Orders {
    /// The example at `program`, working in `folder` on the input that `spec` describes.
    pub fn new(program: impl Into<PathBuf>, folder: impl Into<PathBuf>, spec: InputSpec) -> Self {
        Orders { program: program.into(), folder: folder.into(), spec, listen: "none".to_owned(), dedup: None }
    }

    /// The same, with its monitor at this address. Default: none.
    pub fn listening(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// The same, with its seen-set in the Redis of this URL. Default: in memory.
    pub fn dedup_in(mut self, url: &str) -> Self {
        self.dedup = Some(url.to_owned());
        self
    }

    /// The changes.
    pub fn input(&self) -> PathBuf {
        self.folder.join("orders.jsonl")
    }

    /// The customers.
    pub fn customers(&self) -> PathBuf {
        self.folder.join("customers.csv")
    }

    /// Where outputs go.
    pub fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// Where the pipeline keeps its state.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Writes the input.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn make_input(&self) -> io::Result<()> {
        generate_orders(&self.input(), &self.spec, |_| ())?;
        generate_customers(&self.customers(), &self.spec)
    }

    /// Forgets everything but the input.
    ///
    /// # Errors
    ///
    /// What the file system answers.
    pub fn wipe(&self) -> io::Result<()> {
        for folder in [self.out(), self.data()] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Judges the outputs.
    ///
    /// # Errors
    ///
    /// As [`verify()`].
    pub fn verify(&self) -> io::Result<Verdict> {
        verify(&self.input(), &self.customers(), &self.out())
    }

    /// Starts the program. Without a number of workers or a batch size it takes its own.
    ///
    /// # Errors
    ///
    /// A program that cannot be started.
    pub fn start(&self, workers: Option<usize>, checkpoint_batch_size: Option<u64>) -> io::Result<Run> {
        let mut command = Command::new(&self.program);
        command.arg("--input").arg(self.input()).arg("--customers").arg(self.customers());
        command.arg("--out").arg(self.out()).arg("--data").arg(self.data());
        let InputSpec { events, customers, duplicates, seed } = &self.spec;
        command.args(["--events", &events.to_string(), "--customers-count", &customers.to_string()]);
        command.args(["--duplicates", &duplicates.to_string(), "--seed", &seed.to_string()]);
        if let Some(workers) = workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(size) = checkpoint_batch_size {
            command.args(["--checkpoint-batch-size", &size.to_string()]);
        }
        if let Some(url) = &self.dedup {
            command.args(["--dedup", url]);
        }
        command.args(["--listen", &self.listen, "--report", "json"]);
        Run::start(command, &self.folder)
    }
}

/// A program that runs. What it prints goes to files, so that it never waits for a reader.
#[derive(Debug)]
pub struct Run {
    child: Child,
    started: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
    memory: MemoryWatch,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// From start to end.
    pub seconds: f64,
    /// Most memory that was resident at a time, as the kernel counts it, last looked at some milliseconds before the end.
    pub resident_kb_max: u64,
    /// What it printed.
    pub stdout: String,
    /// What it printed as errors.
    pub stderr: String,
}

impl Run {
    /// Starts a program whose prints are kept in `folder`.
    ///
    /// # Errors
    ///
    /// A program that cannot be started.
    pub fn start(mut command: Command, folder: &Path) -> io::Result<Self> {
        let (stdout, stderr) = (folder.join("stdout.log"), folder.join("stderr.log"));
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let started = Instant::now();
        let child = command.spawn().map_err(|error| {
            let program = Path::new(command.get_program()).display();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let memory = MemoryWatch::start(child.id());
        Ok(Run { child, started, stdout, stderr, memory })
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// What the operating system answers.
    pub fn wait(mut self) -> io::Result<Ended> {
        let status = self.child.wait()?;
        let seconds = self.started.elapsed().as_secs_f64();
        let resident_kb_max = self.memory.stop();
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(fs::read);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { status, seconds, resident_kb_max, stdout: text(stdout?), stderr: text(stderr?) })
    }

    /// Kills it, as `kill -9` does, so long after its start, unless it has ended by then.
    ///
    /// # Errors
    ///
    /// What the operating system answers.
    pub fn kill_after(mut self, delay: Duration) -> io::Result<Ended> {
        while self.child.try_wait()?.is_none() {
            let left = delay.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                self.child.kill()?;
                break;
            }
            thread::sleep(left.min(Duration::from_millis(2)));
        }
        self.wait()
    }
}

impl Ended {
    /// Whether it was killed rather than ended by itself.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(SIGKILL)
    }

    /// The report of a run that ended whole.
    ///
    /// # Errors
    ///
    /// A few lines to show, if it did not end whole or told nothing.
    pub fn report(&self) -> Result<Report, String> {
        if !self.status.success() {
            return Err(format!("the program ended with {}\n{}\n{}", self.status, self.stdout, self.stderr));
        }
        Report::parse(&self.stdout).map_err(|problem| format!("{problem}\n{}", self.stderr))
    }
}

/// Looks again and again at the most memory that a process had.
#[derive(Debug)]
struct MemoryWatch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl MemoryWatch {
    fn start(process: u32) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut most = 0;
            while !seen.load(Ordering::Relaxed) {
                // A process that has ended but was not waited for has no such line: the last answer stays.
                most = resident_kb_max(process).unwrap_or(0).max(most);
                thread::park_timeout(Duration::from_millis(20));
            }
            most
        });
        MemoryWatch { ended, thread }
    }

    fn stop(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(0)
    }
}

fn resident_kb_max(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
