//! The checkpoint: the frontier as a mark, saved with the state and the books that go with it.
//!
//! [`report`] is what operators tell, [`operator`] turns the frontier into a mark, [`saver`](self) and [`keeper`] make it
//! durable, [`store`] says what a store keeps, and [`embedded`] is the store of a single process.

mod cut_off;
pub mod embedded;
pub mod keeper;
pub mod lease;
pub mod operator;
pub mod place;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod read_so_far;
mod record;
pub mod report;
pub mod requests;
mod saver;
pub mod store;
