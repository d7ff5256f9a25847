//! Runs a built example as a process of its own, in a folder of its own, and bounds how long that may take.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No run of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A built example, and the folder it works in.
#[derive(Clone, Debug)]
pub struct Example {
    program: PathBuf,
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

/// A run that goes on. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    printed: [PathBuf; 2],
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Printed {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said of itself.
    pub stderr: String,
}

impl Example {
    /// The example of this name, as cargo has built it for the test that asks.
    ///
    /// Cargo tells tests where binaries are, but not examples: they are in the folder beside the tests'.
    ///
    /// # Panics
    ///
    /// If it was not built.
    pub fn built(name: &str, folder: impl Into<PathBuf>) -> Self {
        let test = env::current_exe().expect("a test knows its own file");
        let program = test.ancestors().nth(2).expect("it is in a folder").join("examples").join(name);
        assert!(program.exists(), "{} is not there: cargo build --example {name}", program.display());
        Example { program, folder: folder.into(), variables: Vec::new() }
    }

    /// The same with a variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder it works in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What starts it in its folder, untouched by the settings of whoever runs the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIGHWATER_")) {
            command.env_remove(name);
        }
        // Tests that run side by side do not look for ports.
        command.env("HIGHWATER_LISTEN", "none");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Running {
        // To files, so that it never waits for a reader.
        let file = |what: &str| {
            let made = log_file(&self.folder, what);
            (File::create(&made).expect("the folder of a test can be written"), made)
        };
        let ((out, out_path), (err, err_path)) = (file("stdout"), file("stderr"));
        let child = self.command(arguments).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        Running { child, printed: [out_path, err_path] }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn run(&self, arguments: &[&str]) -> Printed {
        self.start(arguments).wait()
    }

    /// Runs it to an end that must be good, and gives what it printed.
    ///
    /// # Panics
    ///
    /// If it ends otherwise, or not at all.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(printed.status.success(), "{arguments:?} ended with {}\n{}\n{}", printed.status, printed.stdout, printed.stderr);
        printed.stdout
    }

    /// Runs it to an end that must be bad, with this exit code, and gives what it said.
    ///
    /// # Panics
    ///
    /// If it ends otherwise, or not at all.
    #[track_caller]
    pub fn fail(&self, code: i32, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert_eq!(printed.status.code(), Some(code), "{arguments:?}\n{}\n{}", printed.stdout, printed.stderr);
        printed.stderr
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by name: `TERM`, `INT`. One that has ended by itself is not waited for yet, and gets it in vain.
    ///
    /// # Panics
    ///
    /// If `kill` cannot be run.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("`kill` is on the machine").success());
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has come to an end.
    ///
    /// # Panics
    ///
    /// If it cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// What it has said of itself up to now.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.printed[1]).unwrap_or_default()
    }

    /// Waits until something holds, looking again and again.
    ///
    /// # Panics
    ///
    /// If the process ends before that, or it takes too long.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, holds: impl Fn(&Running) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "it ended before this: {what}\n{}", self.stderr());
            assert!(started.elapsed() < DEADLINE, "waited too long for this: {what}\n{}", self.stderr());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn wait(self) -> Printed {
        self.wait_for(DEADLINE)
    }

    /// Waits for its end, so long.
    ///
    /// # Panics
    ///
    /// If it does not end by then.
    #[track_caller]
    pub fn wait_for(mut self, deadline: Duration) -> Printed {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(started.elapsed() < deadline, "it does not end\n{}", self.stderr());
            thread::sleep(Duration::from_millis(1));
        };
        let [stdout, stderr] =
            self.printed.each_ref().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned());
        Printed { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name that no other run of the folder has.
fn log_file(folder: &Path, what: &str) -> PathBuf {
    let logs = folder.join("logs");
    fs::create_dir_all(&logs).expect("the folder of a test can be written");
    (1..).map(|n| logs.join(format!("{n}.{what}"))).find(|path| !path.exists()).expect("numbers do not end")
}
