//! What stands between the pipeline and what may fail: knows nothing of timely.

pub mod backoff;
pub mod panic;
