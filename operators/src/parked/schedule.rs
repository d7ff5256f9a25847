//! When what stands parked as failed is tried again by itself.

use std::time::Duration;

/// When what stands parked as failed is tried again by itself: after the first wait, and each time it fails again after the
/// next one. After the last it stays for a person.
///
/// ```
/// use std::time::Duration;
/// use highwater_operators::parked::Schedule;
/// let schedule = Schedule::after([5, 60, 720].map(|minutes| Duration::from_secs(60 * minutes)));
/// assert_eq!(schedule.wait(1), Some(Duration::from_secs(3600)));
/// assert_eq!(schedule.wait(3), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// After these waits, one after the other, each counted from the failure before.
    pub fn after(waits: impl IntoIterator<Item = Duration>) -> Self {
        Schedule(waits.into_iter().collect())
    }

    /// The wait after a record has been tried so many times by the schedule; `None`: no more.
    pub fn wait(&self, rounds: u32) -> Option<Duration> {
        self.0.get(rounds as usize).copied()
    }

    /// Whether it never tries anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
