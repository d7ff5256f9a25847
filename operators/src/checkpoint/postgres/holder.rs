//! Who holds a lease, and how a holder can be known to be dead: on the same machine, when its process is gone.

use std::collections::BTreeSet;
use std::fs;

use parking_lot::Mutex;

/// Leases of this very process that still live: it may run several pipelines, or one after the other.
static LIVE: Mutex<BTreeSet<i64>> = Mutex::new(BTreeSet::new());

/// A process on a machine, and the lease it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The machine since it was booted, and the space in which its process ids count.
    pub machine: String,
    pub pid: i64,
    /// When the process began, in ticks since boot: a process id is used again.
    pub pid_started: i64,
    /// The lease, among those of its process.
    pub token: i64,
}

/// A holder that is this process. It lives as long as this does.
#[derive(Debug)]
pub(super) struct Living(pub Holder);

impl Living {
    pub(super) fn here() -> Self {
        let pid = std::process::id();
        let token = rand::random::<i64>();
        LIVE.lock().insert(token);
        Living(Holder { machine: machine(), pid: pid.into(), pid_started: started(pid.into()).unwrap_or_default(), token })
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        LIVE.lock().remove(&self.0.token);
    }
}

impl Holder {
    /// Whether this holder is known to act no more. `false` where it cannot be known.
    pub(super) fn is_gone(&self) -> bool {
        if self.machine != machine() {
            return false;
        }
        match started(self.pid) {
            Some(began) if began == self.pid_started => {
                self.pid == i64::from(std::process::id()) && !LIVE.lock().contains(&self.token)
            }
            _ => true,
        }
    }

    /// Whether it is a process of this machine.
    pub(super) fn is_here(&self) -> bool {
        self.machine == machine()
    }
}

fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = fs::read_link("/proc/self/ns/pid");
    match (boot, space) {
        (Ok(boot), Ok(space)) => format!("{} {}", boot.trim(), space.display()),
        // Nobody is known to be on the same machine, not even itself.
        _ => format!("unknown {:032x}", rand::random::<u128>()),
    }
}

/// When a process began, or `None` if there is none of this number, or only what is left of it until its parent asks.
fn started(pid: i64) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may have any in it; the state is the first field behind.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !is_dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_gone_with_its_lease_or_its_process() {
        let living = Living::here();
        let holder = living.0.clone();
        assert!(!holder.is_gone() && holder.is_here());
        assert!(Holder { pid_started: holder.pid_started - 1, ..holder.clone() }.is_gone(), "another process had the number");
        assert!(!Holder { machine: "elsewhere".into(), pid_started: 0, ..holder.clone() }.is_gone(), "who can know");
        drop(living);
        assert!(holder.is_gone());
    }

    #[test]
    fn a_process_that_was_killed_is_gone_before_anybody_asked_for_its_end() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i64::from(child.id());
        let holder = Holder { pid, pid_started: started(pid).unwrap(), ..Living::here().0.clone() };
        assert!(!holder.is_gone());
        child.kill().unwrap();
        let began = std::time::Instant::now();
        while !holder.is_gone() {
            assert!(began.elapsed().as_secs() < 10, "a killed process does not go");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(holder.is_gone());
    }
}
