//! The server's processes: signals to all of them, and a watchdog that ends them with the process that started them.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// The processes that this one has started and that live.
pub(super) fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| parent(*pid) == Some(of)).collect()
}

/// A living process' parent.
fn parent(pid: u32) -> Option<u32> {
    let (state, parent) = stat(pid)?;
    (state != "Z").then_some(parent)
}

/// Whether the process lives. One that is only waiting to be noticed by its parent does not.
pub(super) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have spaces and brackets in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
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
pub(super) fn is_free(port: u16) -> bool {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
    }
}
