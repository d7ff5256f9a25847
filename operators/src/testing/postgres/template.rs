//! A data folder made once by `initdb` and copied for every server, so that one starts in a fraction of a second.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::binaries::Binaries;
use crate::testing::certificate;
use crate::{Error, Result};

/// Raised when what is in the folder changes.
const LAYOUT: u32 = 1;

/// Who may log in how: the superuser `postgres` from this machine without a password, all others with one. Who runs the tests may read the socket's folder.
const LOGINS: &str = "\
local all all trust
host all,replication postgres 127.0.0.1/32 trust
host all,replication all 127.0.0.1/32 scram-sha-256
host all,replication all ::1/128 scram-sha-256
";

/// Copies the template to `to`, making it first if there is none yet.
pub(super) fn copy(binaries: &Binaries, to: &Path) -> Result {
    let template = ready(binaries)?;
    binaries.run(binaries.command("cp").args(["-a", "--reflink=auto"]).arg(template).arg(to))?;
    Ok(())
}

fn ready(binaries: &Binaries) -> Result<PathBuf> {
    let user = binaries.user_id()?;
    let place = std::env::temp_dir();
    let template = place.join(format!("highwater-postgres-{}-{user}-{LAYOUT}", binaries.version));
    match std::fs::symlink_metadata(&template) {
        Ok(found) if found.is_dir() && found.uid() == user => return Ok(template),
        Ok(_) => return Err(Error::stop(format!("{} belongs to somebody else: remove it", template.display()))),
        Err(_) => {}
    }
    let error = |what: &str| format!("{what} {}", template.display());
    let work = tempfile::Builder::new().prefix("highwater-postgres-init-").tempdir_in(&place);
    let work = work.map_err(|e| Error::stop(error("there is no room beside")).because(e))?;
    binaries.hand_over(work.path())?;
    let data = work.path().join("data");
    let mut initdb = binaries.command("initdb");
    initdb.args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync", "--no-instructions"]);
    binaries.run(initdb.arg("-D").arg(&data))?;
    std::fs::write(data.join("pg_hba.conf"), LOGINS).map_err(|e| Error::stop(error("cannot write to")).because(e))?;
    if !certificate::make(&data, || binaries.command("openssl"))? {
        // Without `openssl` a server offers no TLS, and says what to install to whoever asks for its certificate.
        tracing::debug!("a private Postgres without TLS: there is no openssl");
    }
    // Made whole, then named. Whoever was faster has made the same.
    match std::fs::rename(&data, &template) {
        Err(e) if !template.is_dir() => Err(Error::stop(error("cannot make")).because(e)),
        _ => Ok(template),
    }
}
