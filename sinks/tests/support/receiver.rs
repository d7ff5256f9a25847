//! A real SMTP server for tests: Python's `aiosmtpd`, which takes each mail apart by Python's own parser.

// Each test uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = include_str!("receiver.py");

/// The server. It ends with this process, or when it is dropped.
pub struct Receiver {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Receiver {
    /// Starts it with further arguments of `receiver.py`.
    ///
    /// # Panics
    /// It does not start: says what to install.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Debian's own Python, for which its packages are.
        let python = if std::path::Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM]).arg(folder.path().join("mails")).args(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 is there: install Debian's package `python3-aiosmtpd`");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the SMTP server starts: install Debian's package `python3-aiosmtpd`");
        Receiver { child, port, folder }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("mails")
    }

    /// The mails that it has accepted, in order.
    pub fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        // A last line without an end is still being written.
        text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).unwrap()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
