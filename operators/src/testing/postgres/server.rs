//! One private server: started, stopped, killed, frozen, started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::binaries::Binaries;
use super::database::{self, Database};
use super::family::{children, lives};
use super::template;
use crate::postgres::{Url, quote, quote_text};
use crate::testing::process::{end_of_log, let_go, signal, some_port, until, wait_for, watchdog};
use crate::{Error, Result};

/// How long starting and stopping may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A private Postgres with `wal_level=logical` and prepared transactions. It listens on a free port of 127.0.0.1 and on a socket in its own folder.
/// When it is dropped, or this process ends in whatever way, it is stopped and its folder removed.
///
/// The superuser is `postgres`, without a password; other users need theirs, by SCRAM. TLS is offered if there was `openssl`.
pub struct Server {
    binaries: Binaries,
    folder: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    /// The postmaster, if it was not stopped or killed.
    postmaster: Mutex<Option<Child>>,
    watchdog: Mutex<Option<Child>>,
    databases: AtomicU64,
}

/// Settings of a server that is to be started.
#[derive(Clone, Debug)]
pub struct Settings(Vec<(String, String)>);

impl Default for Settings {
    fn default() -> Self {
        let all = [
            ("wal_level", "logical"),
            ("max_connections", "200"),
            ("max_prepared_transactions", "50"),
            ("max_wal_senders", "40"),
            ("max_replication_slots", "100"),
            ("shared_buffers", "64MB"),
            ("log_min_messages", "warning"),
        ];
        Settings(all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
    }
}

impl Settings {
    /// Sets one of the server's settings, as in `postgresql.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without syncs: faster, and of no use where the machine itself may crash. A `kill -9` of the server loses nothing.
    #[must_use]
    pub fn fast(self) -> Self {
        self.set("fsync", "off").set("full_page_writes", "off")
    }

    /// Starts a server with these settings.
    ///
    /// # Errors
    /// If there is no Postgres on the machine (says what to install), or it does not start (with the end of its log).
    pub fn start(self) -> Result<Server> {
        Server::with(self)
    }
}

impl Server {
    /// The server that the tests of this process share; started on first use. Each test takes a [`database`](Self::database) of its own, and
    /// starts a server of its own if it stops or freezes it.
    ///
    /// # Panics
    /// If it cannot be started: says why.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Server::start().unwrap_or_else(|error| panic!("{error}")))
    }

    /// A server of one's own.
    ///
    /// # Errors
    /// As [`Settings::start`].
    pub fn start() -> Result<Server> {
        Settings::default().start()
    }

    fn with(settings: Settings) -> Result<Server> {
        let binaries = Binaries::find()?;
        let folder = tempfile::Builder::new().prefix("highwater-postgres-").tempdir();
        let folder = folder.map_err(|error| Error::stop("there is no room for a private Postgres").because(error))?.keep();
        let watchdog = watchdog(&folder)?;
        let mut server = Server {
            binaries,
            port: 0,
            settings: settings.0,
            postmaster: Mutex::new(None),
            watchdog: Mutex::new(Some(watchdog)),
            databases: AtomicU64::new(0),
            folder,
        };
        server.binaries.hand_over(&server.folder)?;
        template::copy(&server.binaries, &server.data())?;
        for _ in 0..20 {
            server.port = some_port();
            if server.run()? {
                return Ok(server);
            }
        }
        Err(Error::stop(format!("Postgres found no free port: {}", server.log())))
    }

    /// Starts the postmaster and waits until it takes connections. `false`: its port was taken.
    fn run(&self) -> Result<bool> {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.map_err(|error| Error::stop("a private Postgres has no room for its log").because(error))?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let tls = if self.data().join("server.crt").is_file() { "on" } else { "off" };
        let places = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.folder.display().to_string()),
            ("ssl", tls.to_owned()),
        ];
        for (name, value) in
            places.iter().map(|(name, value)| (*name, value)).chain(self.settings.iter().map(|(n, v)| (n.as_str(), v)))
        {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Of a group of its own, so that a Ctrl-C at the terminal does not reach it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| Error::stop("`postgres` cannot be run").because(error))?;
        let pid = child.id().to_string();
        let ready = until(LIMIT, || {
            let state = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            let ready = lines.next() == Some(&pid) && lines.nth(6).is_some_and(|line| line.trim() == "ready");
            Ok(ready || child.try_wait().ok().flatten().is_some())
        })?;
        if let Ok(Some(_)) = child.try_wait() {
            let log = self.log();
            return if log.contains("could not create any TCP/IP sockets") {
                Ok(false)
            } else {
                Err(Error::stop(format!("Postgres does not start: {log}")))
            };
        }
        *self.postmaster.lock() = Some(child);
        if ready { Ok(true) } else { Err(Error::stop(format!("Postgres was not ready within {LIMIT:?}: {}", self.log()))) }
    }

    /// A fresh database. It goes with the server.
    pub fn database(&self) -> Result<Database> {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        self.sql(&format!("create database {}", quote(&name)))?;
        Ok(Database::new(self.url(&name)?, self.folder.clone(), self.port))
    }

    /// A superuser's URL of one of its databases, by TCP and without TLS.
    pub fn url(&self, database: &str) -> Result<Url> {
        Url::parse(&format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket: `?host=FOLDER&port=PORT` in a URL.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate of the authority that its own one is signed by, for `sslrootcert`. Its own one is for `localhost`.
    ///
    /// # Errors
    /// If there was no `openssl` when the template was made.
    pub fn root_certificate(&self) -> Result<PathBuf> {
        let path = self.data().join("root.crt");
        if path.is_file() { Ok(path) } else { Err(Error::stop("this server has no TLS: install Debian's package `openssl`")) }
    }

    /// Runs SQL as superuser in the database `postgres`; the rows of all statements, as text.
    pub fn sql(&self, text: &str) -> Result<Vec<Vec<Option<String>>>> {
        database::sql(&self.folder, self.port, "postgres", text)
    }

    /// A user with a password, who may log in by TCP; replaces the password of one there is.
    pub fn user(&self, name: &str, password: &str) -> Result {
        let exists = !self.sql(&format!("select 1 from pg_roles where rolname = {}", quote_text(name)))?.is_empty();
        let how = if exists { "alter" } else { "create" };
        self.sql(&format!("{how} user {} password {}", quote(name), quote_text(password)))?;
        Ok(())
    }

    /// One of the programs that come with it (`pgbench`, `pg_recvlogical`), set to reach it as superuser, over its socket.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.binaries.command(program);
        command.env("PGHOST", &self.folder).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    /// Stops it as an administrator does: sessions are ended, all is written (`pg_ctl stop -m fast`).
    pub fn stop(&self) -> Result {
        let Some(mut postmaster) = self.postmaster.lock().take() else { return Ok(()) };
        signal("INT", &[postmaster.id()])?;
        wait_for(&mut postmaster, LIMIT)
    }

    /// Kills all its processes at once, as `kill -9` does.
    pub fn kill(&self) -> Result {
        let Some(mut postmaster) = self.postmaster.lock().take() else { return Ok(()) };
        let mut all = children(postmaster.id());
        all.insert(0, postmaster.id());
        signal("KILL", &all)?;
        wait_for(&mut postmaster, LIMIT)?;
        let gone = until(LIMIT, || Ok(!all.iter().any(|pid| lives(*pid))))?;
        if gone { Ok(()) } else { Err(Error::stop("processes of Postgres outlived a kill -9")) }
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port; returns when it takes connections.
    pub fn start_again(&self) -> Result {
        if self.postmaster.lock().is_some() {
            return Ok(());
        }
        if self.run()? { Ok(()) } else { Err(Error::stop(format!("port {} was taken meanwhile", self.port))) }
    }

    /// Stops it and starts it again.
    pub fn restart(&self) -> Result {
        self.stop()?;
        self.start_again()
    }

    /// Freezes all its processes (SIGSTOP): connections stay, nothing answers.
    pub fn freeze(&self) -> Result {
        let Some(pid) = self.pid() else { return Ok(()) };
        // First who starts others, then the others.
        signal("STOP", &[pid])?;
        signal("STOP", &children(pid))
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result {
        let Some(pid) = self.pid() else { return Ok(()) };
        signal("CONT", &children(pid))?;
        signal("CONT", &[pid])
    }

    /// The postmaster's process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.lock().as_ref().map(Child::id)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        end_of_log(&self.folder.join("log"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.lock().take() {
            let pid = [postmaster.id()];
            // At once and without writing; it ends those it has started, frozen ones too.
            let _ = signal("QUIT", &pid).and_then(|()| signal("CONT", &pid)).and_then(|()| wait_for(&mut postmaster, LIMIT));
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
