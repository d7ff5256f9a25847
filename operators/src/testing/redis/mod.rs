//! Real Redis servers for tests and examples: private, started from the program on the machine, gone with the process that started them.
//!
//! ```no_run
//! use highwater_operators::testing::redis::Server;
//! let server = Server::start()?;
//! server.ask(&["SET", "a", "1"])?;
//! assert_eq!(server.ask(&["GET", "a"])?, "1");
//! # Ok::<(), highwater_operators::Error>(())
//! ```

mod server;
mod settings;

pub use crate::testing::Proxy;
pub use server::Server;
pub use settings::{Keeps, Settings};
