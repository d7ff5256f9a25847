//! One private server: started, stopped, killed, frozen, started again.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;

use super::settings::{Keeps, Settings};
use crate::redis::Url;
use crate::testing::process::{end_of_log, let_go, signal, some_port, until, wait_for, watchdog};
use crate::testing::{Proxy, certificate};
use crate::{Error, Result};

/// How long starting and stopping may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A private Redis. It listens on a free port of 127.0.0.1 and on a socket in its own folder. When it is dropped, or this process ends in
/// whatever way, it is stopped and its folder removed.
pub struct Server {
    folder: PathBuf,
    port: u16,
    settings: Settings,
    /// The server's process, if it was not stopped or killed.
    process: Mutex<Option<Child>>,
    watchdog: Mutex<Option<Child>>,
}

impl Server {
    /// A server of one's own that keeps nothing over a restart.
    ///
    /// # Errors
    /// As [`Settings::start`].
    pub fn start() -> Result<Server> {
        Settings::default().start()
    }

    pub(super) fn with(settings: Settings) -> Result<Server> {
        let folder = tempfile::Builder::new().prefix("highwater-redis-").tempdir();
        let folder = folder.map_err(|error| Error::stop("there is no room for a private Redis").because(error))?.keep();
        let watchdog = watchdog(&folder)?;
        let mut server = Server { port: 0, settings, process: Mutex::new(None), watchdog: Mutex::new(Some(watchdog)), folder };
        std::fs::create_dir(server.data())
            .map_err(|error| Error::stop("a private Redis has no room for its data").because(error))?;
        if server.settings.tls && !certificate::make(&server.data(), || Command::new("openssl"))? {
            return Err(Error::stop("a private Redis with TLS needs a certificate: install Debian's package `openssl`"));
        }
        for _ in 0..20 {
            server.port = some_port();
            if server.run()? {
                return Ok(server);
            }
        }
        Err(Error::stop(format!("Redis found no free port: {}", server.log())))
    }

    /// Starts the process and waits until it answers. `false`: its port was taken.
    fn run(&self) -> Result<bool> {
        let log = std::fs::File::create(self.folder.join("log"));
        let log = log.map_err(|error| Error::stop("a private Redis has no room for its log").because(error))?;
        let config = self.data().join("redis.conf");
        std::fs::write(&config, self.config())
            .map_err(|error| Error::stop("a private Redis has no room for its settings").because(error))?;
        let mut command = Command::new("redis-server");
        // Its folder stays among its arguments: by that the watchdog knows it.
        command.arg(&config).arg("--set-proc-title").arg("no");
        command.current_dir("/").stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        // Of a group of its own, so that a Ctrl-C at the terminal does not reach it.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::stop(
                "there is no `redis-server` on the PATH of this machine: install Debian's package `redis-server` (its service need not run)",
            ),
            _ => Error::stop("`redis-server` cannot be run").because(error),
        })?;
        let ready = until(LIMIT, || {
            // Still reading its data, it says LOADING.
            Ok(self.ask(&["PING"]).is_ok_and(|said| said == "PONG") || child.try_wait().ok().flatten().is_some())
        })?;
        if let Ok(Some(_)) = child.try_wait() {
            let log = self.log();
            let taken = log.contains("Address already in use");
            return if taken { Ok(false) } else { Err(Error::stop(format!("Redis does not start: {log}"))) };
        }
        *self.process.lock() = Some(child);
        if ready { Ok(true) } else { Err(Error::stop(format!("Redis was not ready within {LIMIT:?}: {}", self.log()))) }
    }

    fn config(&self) -> String {
        let data = self.data();
        let (appendonly, fsync) = match self.settings.keeps {
            Keeps::All => ("yes", "always"),
            Keeps::Log => ("yes", "everysec"),
            Keeps::Nothing => ("no", "no"),
        };
        let (plain, tls) = if self.settings.tls { (0, self.port) } else { (self.port, 0) };
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {plain}"),
            format!("unixsocket {}", self.socket().display()),
            format!("dir {}", data.display()),
            "save \"\"".to_owned(),
            format!("appendonly {appendonly}"),
            format!("appendfsync {fsync}"),
            "daemonize no".to_owned(),
            // For tests that ask what this one may do.
        ];
        if self.settings.tls {
            lines.push(format!("tls-port {tls}"));
            for (setting, file) in
                [("tls-cert-file", "server.crt"), ("tls-key-file", "server.key"), ("tls-ca-cert-file", "root.crt")]
            {
                lines.push(format!("{setting} {}", data.join(file).display()));
            }
            lines.push("tls-auth-clients no".to_owned());
        }
        // Whoever starts it asks it by its socket as this user, whatever `default` may do.
        lines.push("user highwater-tests on nopass ~* &* +@all".to_owned());
        lines.extend(self.settings.password.as_ref().map(|password| format!("user default on >{password} ~* &* +@all")));
        lines.extend(self.settings.users.iter().map(|rules| format!("user {rules}")));
        lines.extend(self.settings.replica_of.map(|port| format!("replicaof 127.0.0.1 {port}")));
        lines.extend(self.settings.set.iter().map(|(name, value)| format!("{name} {value}")));
        lines.join("\n") + "\n"
    }

    /// The URL of the user `default`, by TCP (by TLS, if it speaks that, with the right `rootcert`).
    ///
    /// # Panics
    /// If its password cannot stand in a URL.
    pub fn url(&self) -> Url {
        let login = self.settings.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        self.parse(&login)
    }

    /// The URL of another user.
    ///
    /// # Panics
    /// If name or password cannot stand in a URL as they are.
    pub fn url_of(&self, user: &str, password: &str) -> Url {
        self.parse(&format!("{user}:{password}@"))
    }

    fn parse(&self, login: &str) -> Url {
        let text = if self.settings.tls {
            format!("rediss://{login}localhost:{}/0?rootcert={}", self.port, self.root_certificate().display())
        } else {
            format!("redis://{login}127.0.0.1:{}/0", self.port)
        };
        Url::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The URL of the user `default` by way of this line.
    pub fn url_by(&self, line: &Proxy) -> Url {
        self.url().at("127.0.0.1", line.address().port())
    }

    /// A line to it that can be cut, held and slowed.
    ///
    /// # Errors
    /// If a proxy cannot be started.
    pub fn proxy(&self) -> Result<Proxy> {
        Proxy::to(([127, 0, 0, 1], self.port))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its socket: `unix://SOCKET` is a URL.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The certificate of the authority that its own one is signed by.
    pub fn root_certificate(&self) -> PathBuf {
        self.data().join("root.crt")
    }

    /// Runs one command as a user who may do all; its answer as `redis-cli` prints it to a program. May be called from asynchronous code too; it
    /// blocks meanwhile.
    ///
    /// # Errors
    /// With what the server says, if it refuses.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        let mut cli = Command::new("redis-cli");
        cli.arg("-s")
            .arg(self.socket())
            .args(["--user", "highwater-tests", "--pass", "any", "--no-auth-warning", "-e"])
            .args(command);
        let output = cli.stdin(Stdio::null()).output();
        let output = output.map_err(|error| {
            Error::stop("`redis-cli` cannot be run: install Debian's package `redis-tools`, that comes with `redis-server`")
                .because(error)
        })?;
        let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(said.trim_end_matches('\n').to_owned());
        }
        Err(Error::stop(format!("`{}`: {}{}", command.join(" "), said.trim(), failed.trim())))
    }

    /// Removes all that is in it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn flush(&self) -> Result {
        self.ask(&["FLUSHALL"]).map(drop)
    }

    /// Stops it as an administrator does: what it keeps is written.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&self) -> Result {
        self.end("TERM")
    }

    /// Kills it, as `kill -9` does.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&self) -> Result {
        self.end("KILL")
    }

    fn end(&self, how: &str) -> Result {
        let Some(mut process) = self.process.lock().take() else { return Ok(()) };
        signal(how, &[process.id()])?;
        wait_for(&mut process, LIMIT)
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port, with what it [keeps](Keeps); returns when it
    /// answers.
    ///
    /// # Errors
    /// As [`Settings::start`]; if its port was taken meanwhile.
    pub fn start_again(&self) -> Result {
        if self.process.lock().is_some() {
            return Ok(());
        }
        if self.run()? { Ok(()) } else { Err(Error::stop(format!("port {} was taken meanwhile", self.port))) }
    }

    /// Freezes it (SIGSTOP): connections stay, nothing answers.
    ///
    /// # Errors
    /// If no signal can be sent.
    pub fn freeze(&self) -> Result {
        self.pid().map_or(Ok(()), |pid| signal("STOP", &[pid]))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If no signal can be sent.
    pub fn thaw(&self) -> Result {
        self.pid().map_or(Ok(()), |pid| signal("CONT", &[pid]))
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(Child::id)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        end_of_log(Path::new(&self.folder.join("log")))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.lock().take() {
            // At once and without writing: what it keeps goes with its folder. Frozen or not.
            let _ = signal("KILL", &[process.id()]).and_then(|()| wait_for(&mut process, LIMIT));
        }
        if let Some(mut watchdog) = self.watchdog.lock().take() {
            let_go(&mut watchdog);
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server(127.0.0.1:{})", self.port)
    }
}
