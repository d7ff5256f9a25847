//! Actions: what a pipeline does about a change, with an outcome for each that is durable before anything is given back.
//!
//! [`call`] says what an action is, [`spec`] how a user names and bounds one. A change first passes the `gate`
//! (conditions, outcomes of earlier runs); then [`operator`] keeps order and permits on the worker while `driver` makes
//! the calls on the runtime. Actions that write files cut back on resume take the shorter way of [`cut_back`], and those whose target
//! keeps outcomes itself are [`transactional`].

mod again;
pub mod call;
pub mod cut_back;
mod driver;
mod gate;
mod handover;
mod keys;
pub mod operator;
mod parking;
pub mod spec;
mod spill;
pub mod stats;
pub mod transactional;
mod waits;

pub use call::{Action, BatchAction, BoxFuture, Delivery, Run, Surroundings, batch, run};
pub use spec::{ActionSpec, IntoAction, NamedAction, action};
