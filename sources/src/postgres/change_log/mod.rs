//! x
mod gaps;
