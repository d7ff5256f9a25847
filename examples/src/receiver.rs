//! A receiver of webhooks that tests count at: a process of its own (`src/bin/receiver.rs`), which has a request in its file before it answers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A receiver that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
    file: PathBuf,
}

/// What has come to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests, whole and in the file.
    pub requests: u64,
    /// Connections that were accepted, those that were closed at once included.
    pub connections: u64,
}

/// A request, as it stands in the file.
#[derive(Clone, Debug)]
pub struct Request {
    /// The path of its URL.
    pub path: String,
    /// Its `webhook-id`.
    pub idempotency_key: String,
    /// Its body.
    pub body: Value,
}

impl Receiver {
    /// Starts the program, in a test `env!("CARGO_BIN_EXE_receiver")`, at a free port of loopback. It answers with 200 at once.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(program: &str, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        let mut child = Command::new(program)
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let (commands, answers) = (child.stdin.take(), child.stdout.take());
        let (commands, answers) = (commands.expect("it is piped"), BufReader::new(answers.expect("it is piped")));
        let mut receiver = Receiver { child, commands, answers, port: 0, file };
        receiver.port = receiver.line().trim().parse().expect("it says its port first");
        receiver
    }

    /// A URL that leads here.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on it waits so long before it answers.
    pub fn slow(&mut self, ms: u64) -> Counts {
        self.ask(&format!("slow {ms}"))
    }

    /// From now on it closes every connection without an answer, and writes nothing down.
    pub fn refuse(&mut self) -> Counts {
        self.ask("refuse")
    }

    /// From now on it answers with 422, and with all of the request but its body.
    pub fn echo(&mut self) -> Counts {
        self.ask("echo")
    }

    /// Kills this process (`kill -9`) when so many requests have come, counted from the start, before the last of them is answered.
    pub fn kill(&mut self, process: u32, requests: u64) -> Counts {
        self.ask(&format!("kill {process} {requests}"))
    }

    /// Waits until no connection is open: then all that dead senders have left in the kernel has been read.
    pub fn settle(&mut self) -> Counts {
        self.ask("settle")
    }

    /// What has come up to now.
    pub fn counts(&mut self) -> Counts {
        self.ask("counts")
    }

    /// All that has come, in order.
    ///
    /// # Panics
    ///
    /// If the file is not as it should be.
    pub fn came(&self) -> Vec<Request> {
        let text = fs::read_to_string(&self.file).expect("it writes text to its file");
        let request = |line: &str| {
            let mut parts = line.splitn(3, '\t');
            let [path, idempotency_key, body] = [(); 3].map(|()| parts.next().expect("a line has three parts"));
            let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("no JSON ({error}): {body}"));
            Request { path: path.to_owned(), idempotency_key: idempotency_key.to_owned(), body }
        };
        text.lines().map(request).collect()
    }

    fn ask(&mut self, command: &str) -> Counts {
        writeln!(self.commands, "{command}").expect("it listens");
        let line = self.line();
        let mut counts = line.split_whitespace().map(|count| count.parse().expect("a number"));
        let mut next = || counts.next().expect("two numbers");
        Counts { requests: next(), connections: next() }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
