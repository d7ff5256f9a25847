//! Whether a run that failed is begun again, and how soon.

use std::time::Duration;

use super::child::Ended;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Begin again after this long.
    Again { after: Duration, why: String },
    /// It would fail again.
    Stop { code: u8, why: String },
}

/// How runs have failed so far.
#[derive(Debug, Default)]
pub(super) struct Again {
    restarts: u32,
    /// In a row, without a run in between that lasted.
    hasty: u32,
    /// How the last runs failed at once, and how many in a row in this way.
    same: (String, u32),
}

/// A run that has lasted so long was well: after it, waits begin anew.
const LASTED: Duration = Duration::from_secs(30);
/// A run that fails within this has failed at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// So many runs that fail at once in the same way are enough.
const ENOUGH: u32 = 3;

const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

impl Again {
    /// How often it was begun again.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Judges how a run ended, which lasted so long.
    pub(super) fn judge(&mut self, ended: &[Ended], lasted: Duration) -> Verdict {
        // The first that died is the reason. What a signal has killed was the reason for the others, even if it was seen later.
        let killed = ended.iter().find(|ended| ended.signal.is_some() && !ended.by_us);
        let Some(first) = killed.or_else(|| ended.iter().find(|ended| !ended.is_well())) else {
            return Verdict::Stop { code: 0, why: "all is well".to_owned() };
        };
        let what = describe(first);
        if first.code == Some(2) {
            return Verdict::Stop { code: 2, why: format!("{what}: that is no passing trouble, nothing is started again") };
        }
        if lasted > LASTED {
            self.hasty = 0;
        }
        let way = if first.signal.is_none() && lasted < AT_ONCE { first.complaint.clone() } else { String::new() };
        match way.is_empty() {
            true => self.same = Default::default(),
            false if self.same.0 == way => self.same.1 += 1,
            false => self.same = (way, 1),
        }
        if self.same.1 >= ENOUGH {
            let why = format!("{what}; it has failed {ENOUGH} times at once in this way and is not started again");
            return Verdict::Stop { code: 1, why };
        }
        // The first restart waits for nothing.
        let after = match self.hasty {
            0 => Duration::ZERO,
            hasty => (WAIT_MIN * 2_u32.saturating_pow(hasty.min(16) - 1)).min(WAIT_MAX),
        };
        self.hasty += 1;
        self.restarts += 1;
        Verdict::Again { after, why: format!("{what}; all processes are started again") }
    }
}

fn describe(ended: &Ended) -> String {
    let process = ended.process;
    match (ended.signal, ended.code) {
        (Some(signal), _) => format!("process {process} was ended by signal {signal}"),
        (None, code) if ended.complaint.is_empty() => format!("process {process} ended with exit code {}", code.unwrap_or(1)),
        _ => format!("process {process} failed: {}", ended.complaint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(process: usize, code: Option<i32>, complaint: &str) -> Ended {
        Ended { process, code, signal: code.is_none().then_some(9), by_us: false, complaint: complaint.to_owned() }
    }

    #[test]
    fn what_is_killed_is_begun_again_at_once_and_then_less_and_less_soon() {
        let mut again = Again::default();
        let died = [ended(0, Some(1), "process 1 is lost"), ended(1, None, "")];
        let mut wait = |lasted| match again.judge(&died, Duration::from_secs(lasted)) {
            Verdict::Again { after, why } => {
                assert!(why.starts_with("process 1 was ended by signal 9"), "{why}");
                after.as_millis()
            }
            Verdict::Stop { why, .. } => panic!("{why}"),
        };
        assert_eq!([1, 1, 1, 1].map(&mut wait), [0, 100, 200, 400]);
        for _ in 0..20 {
            wait(1);
        }
        assert_eq!([1, 31, 1].map(wait), [10_000, 0, 100]);
    }

    #[test]
    fn what_fails_at_once_in_the_same_way_is_given_up() {
        let mut again = Again::default();
        let refused = [ended(0, Some(1), "the slot is gone")];
        for _ in 0..2 {
            assert!(matches!(again.judge(&refused, Duration::from_secs(1)), Verdict::Again { .. }));
        }
        assert!(matches!(again.judge(&refused, Duration::from_secs(1)), Verdict::Stop { code: 1, .. }));
        let wrong = Again::default().judge(&[ended(0, Some(2), "")], Duration::from_secs(1));
        assert!(matches!(wrong, Verdict::Stop { code: 2, .. }));
    }
}
