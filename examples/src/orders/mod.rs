//! The main example from outside: its input, the oracle that judges its output, and how to start and kill it.

pub mod dice;
pub mod generate;
pub mod process;
pub mod report;
pub mod verify;

pub use generate::{InputSpec, generate_customers, generate_orders};
pub use process::{Ended, Orders, Run};
pub use report::Report;
pub use verify::{Verdict, verify};
