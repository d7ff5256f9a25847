//! The checkpoint: the frontier as a mark, saved with the state and the books that go with it.

pub mod embedded;
pub mod store;
