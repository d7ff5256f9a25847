//! What the examples share, and what their tests and benchmarks need of them.

pub mod built;
pub mod orders;
pub mod page;
pub mod receiver;
