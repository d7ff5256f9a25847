//! What the benchmarks share.

pub mod floor;
pub mod in_memory;
pub mod job;
pub mod measure;
pub mod timely_graph;
