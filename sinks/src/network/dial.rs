//! A connection to one host: every address tried in turn, each checked.
//!
//! The address that is checked is the one that is connected to: a name is not resolved again between the two, so it does not matter
//! what it would lead to a moment later.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use highwater_operators::action::call::Planned;
use tokio::net::TcpStream;

use super::address::not_public;
use super::resolve::Addresses;

/// Makes connections to one host.
pub(crate) struct Dialer {
    pub addresses: Addresses,
    pub allow_private: bool,
    /// For each address, with all that makes the connection usable.
    pub timeout: Duration,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// The host's address is none that may be called.
    Refused(String),
    /// It is away, or speaks otherwise.
    Away(String),
}

impl Dialer {
    /// A connection to the first address of which `open` makes a usable one.
    pub(crate) async fn dial<T, F>(&self, open: impl Fn(TcpStream) -> F) -> Result<T, NoConnection>
    where
        F: Future<Output = io::Result<T>>,
    {
        let resolved = tokio::time::timeout(self.timeout, self.addresses.in_turn()).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(NoConnection::Away(format!("its name cannot be resolved: {error}"))),
            Err(_) => return Err(NoConnection::Away("its name was not resolved in time".to_owned())),
        };
        let (mut refused, mut away) = (None, None);
        for address in &addresses {
            if let Err(why) = self.allows(*address) {
                refused = Some(why);
                continue;
            }
            let opened = async { open(self.connect(*address).await?).await };
            match tokio::time::timeout(self.timeout, opened).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => away = Some(format!("{}: {error}", address.ip())),
                Err(_) => away = Some(format!("{}: no connection within {:?}", address.ip(), self.timeout)),
            }
        }
        self.addresses.forget();
        Err(match (away, refused) {
            (Some(away), _) => NoConnection::Away(away),
            (None, Some(refused)) => NoConnection::Refused(refused),
            (None, None) => NoConnection::Away("its name has no address".to_owned()),
        })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        self.allows(stream.peer_addr()?).map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn allows(&self, address: SocketAddr) -> Result<(), String> {
        match not_public(address.ip()).filter(|_| !self.allow_private) {
            None => Ok(()),
            Some(what) => Err(format!(
                "it leads to {}, which is {what}: refused, unless the action has .allow_private(true) or the setting allow_private",
                address.ip()
            )),
        }
    }
}

/// What is wrong with a host that is an address already, before anything runs. `shown` is how people know it.
pub(crate) fn literal_problem(
    host: &url::Host<String>,
    shown: &str,
    allow_private: bool,
    planned: &Planned<'_>,
) -> Option<String> {
    let ip = match host {
        url::Host::Domain(_) => return None,
        url::Host::Ipv4(ip) => (*ip).into(),
        url::Host::Ipv6(ip) => (*ip).into(),
    };
    let what = not_public(ip).filter(|_| !allow_private && !planned.allow_private)?;
    Some(format!("{shown} is {what}: refused, unless it has .allow_private(), or the setting allow_private says so"))
}
