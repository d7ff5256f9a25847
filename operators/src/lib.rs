//! What flows through a Highwater pipeline, and what may be done to it.

pub mod change;
pub mod checkpoint;
pub mod error;
pub mod position;
pub mod row;
#[cfg(feature = "testing")]
pub mod testing;

pub use change::{Change, Operation};
pub use error::{Error, ErrorKind, Result};
pub use position::{Epoch, PartitionId, Position, ResumeToken};
pub use row::{Row, Value};
