//! The monitor: what a running pipeline tells over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the monitor listens if nobody says anything: there, or at the next free port above.
pub const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
