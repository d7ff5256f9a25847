//! Certificates of private servers.

use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

/// Makes a certificate for `localhost` (`server.crt`, `server.key`) in the folder, signed by an authority of its own (`root.crt`), with
/// the `openssl` that this command runs. `false`: there is none on the machine.
pub(super) fn make(folder: &Path, openssl: impl Fn() -> Command) -> Result<bool> {
    if openssl().arg("version").output().is_err() {
        return Ok(false);
    }
    let run = |arguments: &str| {
        let output = openssl().args(arguments.split(' ')).current_dir(folder).output();
        let output = output.map_err(|error| Error::stop("`openssl` cannot be run").because(error))?;
        let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(Error::stop(format!("`openssl` failed: {}", said()))) }
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -days 3650 -subj /CN=highwater-tests -keyout root.key -out root.crt"))?;
    run(&format!("req -new {key} -subj /CN=localhost -keyout server.key -out server.csr"))?;
    let names = "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";
    std::fs::write(folder.join("server.ext"), names)
        .map_err(|error| Error::stop("cannot write a certificate's names").because(error))?;
    run("x509 -req -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -days 3650 -extfile server.ext -out server.crt")?;
    Ok(true)
}
