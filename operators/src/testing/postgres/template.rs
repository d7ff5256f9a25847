//! A data folder made once by `initdb` and copied for every server, so that one starts in a fraction of a second.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::binaries::Binaries;
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
    certify(binaries, &data)?;
    // Made whole, then named. Whoever was faster has made the same.
    match std::fs::rename(&data, &template) {
        Err(e) if !template.is_dir() => Err(Error::stop(error("cannot make")).because(e)),
        _ => Ok(template),
    }
}

/// A certificate for `localhost`, signed by an authority of its own (`root.crt`), if there is `openssl`.
fn certify(binaries: &Binaries, data: &Path) -> Result {
    if binaries.command("openssl").arg("version").output().is_err() {
        return Ok(());
    }
    let openssl = |arguments: &str| binaries.run(binaries.command("openssl").args(arguments.split(' ')).current_dir(data));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -days 3650 -subj /CN=highwater-tests -keyout root.key -out root.crt"))?;
    openssl(&format!("req -new {key} -subj /CN=localhost -keyout server.key -out server.csr"))?;
    let names = "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";
    std::fs::write(data.join("server.ext"), names).map_err(|e| Error::stop("cannot write a certificate's names").because(e))?;
    openssl(
        "x509 -req -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -days 3650 -extfile server.ext -out server.crt",
    )?;
    Ok(())
}
