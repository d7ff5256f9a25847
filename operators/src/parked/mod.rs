//! What is set aside, seen from above: which records a person means, how much there is, and when it is tried again.
//!
//! A record itself is [`Parked`](crate::checkpoint::store::Parked). Only the worker that owns a record's key acts on it
//! ([`Command`](crate::action::operator::Command)); what is here selects, counts and bounds.

mod edited;
mod filter;
mod schedule;
mod shelves;

pub use edited::edited;
pub use filter::{Filter, Page};
pub use schedule::Schedule;
pub use shelves::{Bound, Shelf, Shelves};
