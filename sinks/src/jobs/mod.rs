//! Queues of jobs: work that is put down durably where a change arrives, and done elsewhere, later, by as many as one likes.
//!
//! A [`JobQueue`] is an action that enqueues (`queue`), and has [`Workers`] that do what was enqueued (`worker`). Both stand on a
//! [`JobStore`] (`store`: the contract), which is in memory, in Postgres or in Redis. What a job is says `job`.

mod figures;
pub mod job;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod settings;
mod store;
mod worker;

pub use self::job::{Content, Job, Lane};
pub use self::memory::MemoryJobStore;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresJobStore;
#[cfg(feature = "postgres")]
pub use self::queue::PostgresJobQueue;
#[cfg(feature = "redis")]
pub use self::queue::RedisJobQueue;
pub use self::queue::{JobQueue, MemoryJobQueue};
#[cfg(feature = "redis")]
pub use self::redis::RedisJobStore;
pub use self::store::{
    BATCH_MAX, Claim, Counts, Enqueued, Fate, JobNumber, JobStore, Leased, NewJob, Reason, Remember, Settlement, Taken,
};
pub use self::worker::{ByAction, ByHandler, Handle, Handler, IntoHandler, Workers, handle};
