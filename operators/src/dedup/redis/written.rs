//! Whether Redis still has what it was told: each group of ids comes with a number, that must be the next after the one that is there.

use redis::Value;

/// Numbers of groups, as one worker writes them under its own key. What is there says how far Redis remembers: an empty server has no number, one that
/// came back without its last seconds, or a replica that was behind, an older one.
#[derive(Debug)]
pub(super) struct Written {
    generation: u64,
    /// The last number that was answered; all up to it must be there.
    answered: u64,
    next: u64,
}

impl Written {
    pub(super) fn new(generation: u64) -> Written {
        Written { generation, answered: 0, next: 1 }
    }

    /// The number of the next group.
    pub(super) fn take(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// What is written with a group. With 0: at the beginning.
    pub(super) fn text(&self, number: u64) -> String {
        format!("{}.{number}", self.generation)
    }

    /// Takes in that a group was answered, and what stood there before. Whether Redis has lost groups that it had answered.
    pub(super) fn answered(&mut self, number: u64, before: &Value) -> bool {
        let lost = match before {
            Value::BulkString(bytes) => match parse(bytes) {
                // An older run's: ours was lost. A newer run's: that one takes over, and ours ends soon.
                Some((generation, _)) if generation != self.generation => generation < self.generation,
                Some((_, there)) => there < self.answered,
                None => true,
            },
            _ => true,
        };
        self.answered = number;
        lost
    }
}

fn parse(text: &[u8]) -> Option<(u64, u64)> {
    let (generation, number) = std::str::from_utf8(text).ok()?.split_once('.')?;
    Some((generation.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_was_answered_must_be_there() {
        let mut written = Written::new(3);
        assert_eq!((written.text(0), written.take(), written.take()), ("3.0".into(), 1, 2));
        assert!(!written.answered(1, &there("3.0")));
        assert!(!written.answered(2, &there("3.1")));
        // Sent again: whether it had arrived the first time is not known.
        assert!(!written.answered(3, &there("3.2")));
        assert!(!written.answered(4, &there("3.4")));
        assert!(written.answered(5, &Value::Nil), "emptied");
        assert!(!written.answered(6, &there("3.5")));
        assert!(written.answered(7, &there("3.5")), "its last seconds are gone");
        assert!(written.answered(8, &there("2.900")), "an old copy");
        assert!(!written.answered(9, &there("4.1")), "a newer run");
        assert!(written.answered(10, &there("nonsense")));
    }
}
