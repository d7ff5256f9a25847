//! Certificates for servers of tests.

// Each test uses a part of it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;

/// A certificate for `localhost`, signed by an authority of its own, made by `openssl`.
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &str| {
            let made = Command::new("openssl").current_dir(folder.path()).args(arguments.split(' ')).output();
            let made = made.expect("openssl is there: install Debian's package `openssl`");
            assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
        };
        std::fs::write(folder.path().join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        run(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout root.key -out root.crt -days 2 -subj /CN=root",
        );
        run("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.csr -subj /CN=localhost");
        run("x509 -req -in own.csr -CA root.crt -CAkey root.key -CAcreateserial -out own.crt -days 2 -extfile names");
        Certificate { folder }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.file("root.crt")
    }
}
