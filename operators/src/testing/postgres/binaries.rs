//! Which programs of Postgres there are on the machine, and under which user they run.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// The programs, and who runs them.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
    /// `postgres` as it names its version: `15.18`.
    pub version: String,
    /// Who runs the server, if not who runs this.
    pub user: Option<(u32, u32)>,
}

impl Binaries {
    /// The newest below `/usr/lib/postgresql`, else those on the `PATH`.
    pub(super) fn find() -> Result<Binaries> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut folders: Vec<(u32, PathBuf)> =
            versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))).collect();
        folders.sort();
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let folder = folders
            .into_iter()
            .rev()
            .map(|(_, folder)| folder)
            .chain(std::env::split_paths(&on_path))
            .find(|folder| ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file()));
        let folder = folder.ok_or_else(|| {
            Error::stop(
                "there is no Postgres on this machine: neither below /usr/lib/postgresql nor on the PATH; install Debian's package \
                 `postgresql`, or name a database of your own",
            )
        })?;
        let mut binaries = Binaries { folder, version: String::new(), user: None };
        let said = binaries.run(binaries.command("postgres").arg("--version"))?;
        binaries.version =
            said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or("0").to_owned();
        binaries.user = other_user()?;
        Ok(binaries)
    }

    /// A program, to be run by the right user, with nothing of our environment that would lead it elsewhere.
    pub(super) fn command(&self, program: &str) -> Command {
        let known = self.folder.join(program);
        let mut command = Command::new(if known.is_file() { known } else { program.into() });
        for variable in ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGOPTIONS"] {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C").current_dir("/");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a command to its end; what it prints.
    pub(super) fn run(&self, command: &mut Command) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().map_err(|error| Error::stop(format!("`{program}` cannot be run")).because(error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::stop(format!("`{program}` failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// Makes a folder belong to who runs the server.
    pub(super) fn hand_over(&self, folder: &Path) -> Result {
        let Some((user, group)) = self.user else { return Ok(()) };
        std::os::unix::fs::chown(folder, Some(user), Some(group))
            .map_err(|error| Error::stop(format!("{} cannot be given to the server's user", folder.display())).because(error))
    }

    /// Who runs the server.
    pub(super) fn user_id(&self) -> Result<u32> {
        self.user.map_or_else(own_user, |(user, _)| Ok(user))
    }
}

fn own_user() -> Result<u32> {
    let own =
        std::fs::metadata("/proc/self").map_err(|error| Error::stop("a private Postgres needs Linux' /proc").because(error))?;
    Ok(own.uid())
}

/// Postgres refuses to run as root: then `postgres` runs it, or `nobody`.
fn other_user() -> Result<Option<(u32, u32)>> {
    if own_user()? != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).map(Some).ok_or_else(|| {
        Error::stop(
            "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`: run this as another user",
        )
    })
}
