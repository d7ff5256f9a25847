//! A change that came from outside as bytes.

use super::Change;

impl Change {
    /// Whether it is what a change must be: of one that was deserialized from bytes which somebody else may have damaged, nothing else says so, and
    /// to read one that is not would panic.
    ///
    /// ```
    /// use highwater_operators::Change;
    /// let mut change = Change::builder("c-1").build().unwrap();
    /// assert!(change.is_whole());
    /// ```
    pub fn is_whole(&mut self) -> bool {
        self.is_sound()
    }
}
