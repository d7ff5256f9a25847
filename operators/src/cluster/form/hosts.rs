//! Where the processes listen.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use super::is_loopback;
use crate::error::{Error, Result};

/// The addresses of all processes, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<(String, Vec<SocketAddr>)>);

/// The first port where nobody names any, as timely has it.
const USUAL: u16 = 2101;

impl Hosts {
    /// Processes of this machine, at ports from 2101 on.
    pub fn local(processes: usize) -> Self {
        let host = |process: usize| {
            let address = SocketAddr::from(([127, 0, 0, 1], USUAL + process as u16));
            (address.to_string(), vec![address])
        };
        Hosts((0..processes).map(host).collect())
    }

    /// Processes at these addresses, `host:port` each.
    ///
    /// # Errors
    /// One is no address, or its name is not known.
    pub fn at(names: impl IntoIterator<Item = String>) -> Result<Self> {
        let host = |name: String| {
            let found: Vec<SocketAddr> = name
                .to_socket_addrs()
                .map_err(|error| Error::stop(format!("\"{name}\" is no address of a process (host:port)")).because(error))?
                .collect();
            match found.is_empty() {
                true => Err(Error::stop(format!("\"{name}\" is no address of a process: the name is not known"))),
                false => Ok((name, found)),
            }
        };
        names.into_iter().map(host).collect::<Result<_>>().map(Hosts)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Where a process listens, as it was said.
    pub fn name(&self, process: usize) -> &str {
        &self.0[process].0
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn addresses(&self, process: usize) -> &[SocketAddr] {
        &self.0[process].1
    }

    /// Refuses what others on a network could reach, unless it was said that they may.
    ///
    /// # Errors
    /// A process listens elsewhere than on loopback.
    pub fn check_reach(&self, trusted_network: bool) -> Result {
        match self.0.iter().find(|(_, addresses)| !is_loopback(addresses)) {
            Some((name, _)) if !trusted_network => Err(Error::stop(format!(
                "{name} can be reached from other machines, and what processes tell each other there is neither encrypted nor \
                 signed: whoever reaches it reads and forges changes. Put it in a network of its own (WireGuard, or a tunnel with \
                 TLS on both sides), let a firewall keep everybody else out, and say --trusted-network"
            ))),
            _ => Ok(()),
        }
    }
}

/// Reads a file with an address per line; empty lines and what stands behind a `#` do not count.
///
/// # Errors
/// It cannot be read, has another number of addresses than there are processes, or one is none.
pub fn read_hosts(path: &Path, processes: usize) -> Result<Hosts> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::stop(format!("cannot read the file of hosts {} (--hostfile)", path.display())).because(error))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let hosts = Hosts::at(lines.filter(|line| !line.is_empty()).map(str::to_owned))
        .map_err(|error| error.context(format!("{} (--hostfile)", path.display())))?;
    match hosts.count() == processes {
        true => Ok(hosts),
        false => Err(Error::stop(format!(
            "{} (--hostfile) names {} addresses, and there are {processes} processes (--processes)",
            path.display(),
            hosts.count()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_hosts_may_have_comments_and_must_have_one_address_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, "# ours\n127.0.0.1:4000\n\n 127.0.0.1:4001 # the second\n").unwrap();
        let hosts = read_hosts(&path, 2).unwrap();
        assert_eq!((hosts.name(0), hosts.name(1)), ("127.0.0.1:4000", "127.0.0.1:4001"));
        assert!(read_hosts(&path, 3).unwrap_err().to_string().contains("names 2 addresses, and there are 3 processes"));
        std::fs::write(&path, "127.0.0.1\n").unwrap();
        assert!(read_hosts(&path, 1).unwrap_err().to_string().contains("\"127.0.0.1\" is no address"));
    }

    #[test]
    fn what_others_can_reach_must_be_said_to_be_trusted() {
        assert!(Hosts::local(3).check_reach(false).is_ok());
        let hosts = Hosts::at(["127.0.0.1:4000".to_owned(), "10.0.0.2:4000".to_owned()]).unwrap();
        let refused = hosts.check_reach(false).unwrap_err().to_string();
        assert!(refused.starts_with("10.0.0.2:4000 can be reached") && refused.contains("--trusted-network"), "{refused}");
        assert!(hosts.check_reach(true).is_ok());
    }
}
