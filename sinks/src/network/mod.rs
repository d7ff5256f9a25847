//! Where a connection leads: names resolved and asked for again, addresses checked, certificates, whatever is spoken on it then.

pub(crate) mod address;
pub(crate) mod dial;
pub(crate) mod opened;
pub(crate) mod resolve;
pub(crate) mod tls;

pub use resolve::Resolve;
