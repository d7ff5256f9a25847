//! Processes of private servers: signals to them, a watchdog that ends them with the process that started them, and ports.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::{Error, Result};

/// Waits for the end of its input, that is of its parent, however that ends; then ends whatever runs on its folder, frozen or not, and removes
/// it. That may be a copy of the template half-way, or a server that has not yet written its number anywhere; so processes are known
/// by their arguments. The pattern comes by standard input, or grep would find itself.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r _
n=0
while [ -e "$1" ] && [ "$n" -lt 1200 ]; do
    n=$((n + 1))
    ours=$(printf '%s' "$1/data" | grep -laFf - /proc/[0-9]*/cmdline 2>/dev/null | tr -dc '0-9\n')
    if [ -z "$ours" ]; then
        rm -rf "$1"
    elif [ "$n" -lt 400 ]; then
        kill -QUIT $ours
        kill -CONT $ours
    else
        kill -KILL $ours
    fi
    [ ! -e "$1" ] || sleep 0.03
done
"#;

/// Starts the watchdog of the server in `folder`. It acts when its input is closed.
pub(super) fn watchdog(folder: &Path) -> Result<Child> {
    Command::new("sh")
        .args(["-c", WATCHDOG, "highwater-watchdog"])
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C is for the program, not for what cleans up behind it.
        .process_group(0)
        .spawn()
        .map_err(|error| Error::stop("`sh` cannot be run").because(error))
}

/// Sends a signal to these processes; that one has gone already is no error.
pub(super) fn signal(name: &str, pids: &[u32]) -> Result {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let sent = Command::new("sh")
        .args(["-c", r#"for pid in "$@"; do kill -s "$0" "$pid"; done; true"#, name])
        .args(pids)
        .stderr(Stdio::null())
        .status();
    sent.map_err(|error| Error::stop("`sh` cannot be run").because(error))?;
    Ok(())
}

/// Looks until it is so, every few milliseconds, but not for ever.
pub(super) fn until(limit: Duration, mut so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        if so()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Whether nobody listens on this port of the loopback.
fn is_free(port: u16) -> bool {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
    }
}

/// A port that nobody listens on now, below those that the kernel gives out by itself: those may be taken by anybody while a server is down.
pub(super) fn some_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if is_free(port) {
            return port;
        }
    }
}

/// Waits for the end of a process that was told to end.
pub(super) fn wait_for(child: &mut Child, limit: Duration) -> Result {
    let ended = until(limit, || child.try_wait().map(|status| status.is_some()).map_err(Error::from))?;
    if ended { Ok(()) } else { Err(Error::stop(format!("a private server did not end within {limit:?}"))) }
}

/// The end of a server's log.
pub(super) fn end_of_log(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Gives up on a server that is not stopped by hand: closing its input lets the watchdog remove the folder, and whatever runs on it.
pub(super) fn let_go(watchdog: &mut Child) {
    drop(watchdog.stdin.take());
    let _ = watchdog.wait();
}
