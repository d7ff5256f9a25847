//! What stands between the pipeline and what may fail: knows nothing of timely, and can be used by itself.
//!
//! [`endpoint`] puts it together: a [`Guard`] is what one endpoint has in one process. The parts are plain state that is told
//! what time it is.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod endpoint;
pub mod panic;
pub mod rate;
pub mod seek;
pub mod timeouts;

pub use endpoint::{Entry, Failure, Guard, GuardConfig, GuardStatus, Refused, all};
