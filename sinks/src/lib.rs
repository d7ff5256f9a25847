//! Where the actions of a pipeline go.

pub mod jsonl;
pub mod line;
pub mod stdout;

pub use jsonl::JsonLinesFiles;
pub use line::Line;
pub use stdout::Stdout;
