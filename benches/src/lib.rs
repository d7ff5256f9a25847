//! What the benchmarks share.

pub mod floor;
pub mod job;
pub mod measure;
