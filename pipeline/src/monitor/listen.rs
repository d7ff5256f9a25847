//! Finds the address to listen on.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use highwater_operators::{Error, Result};

use crate::config::Listen;

/// Ports that are tried from the usual one on.
const TRIES: u16 = 100;

/// A listener, and where it listens.
pub(crate) struct Bound {
    pub listener: TcpListener,
    pub address: SocketAddr,
}

impl Bound {
    /// Listens as the settings say; `None` is nowhere.
    ///
    /// # Errors
    /// If the address that was named is taken or is none of this machine's.
    pub(crate) fn bind(listen: Listen) -> Result<Option<Bound>> {
        match listen {
            Listen::Nowhere => Ok(None),
            Listen::At(address) => bind(address).map(Some).map_err(|error| {
                let taken = error.kind() == ErrorKind::AddrInUse;
                let hint = if taken { "; another program has it, choose another port, or none" } else { "" };
                Error::stop(format!("cannot listen at {address} (--listen){hint}")).because(error)
            }),
            Listen::From(first) => {
                for step in 0..TRIES {
                    let Some(port) = first.port().checked_add(step) else { break };
                    match bind(SocketAddr::new(first.ip(), port)) {
                        Ok(bound) => return Ok(Some(bound)),
                        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                        Err(error) => {
                            return Err(
                                Error::stop(format!("cannot listen at {first}; --listen none does without")).because(error)
                            );
                        }
                    }
                }
                Err(Error::stop(format!(
                    "cannot listen: {first} and the ports above are taken; name another with --listen ADDR:PORT, or none"
                )))
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_free_port_is_taken_unless_one_was_named() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let first = Bound::bind(Listen::At(any)).unwrap().unwrap();
        let next = Bound::bind(Listen::From(first.address)).unwrap().unwrap();
        assert!(next.address.port() > first.address.port());
        let refused = Bound::bind(Listen::At(next.address)).err().unwrap().to_string();
        assert!(refused.contains("--listen") && refused.contains("another program has it"), "{refused}");
        assert!(Bound::bind(Listen::Nowhere).unwrap().is_none());
    }
}
