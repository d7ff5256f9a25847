//! Where a name leads: asked again on an interval, every address tried in turn.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use highwater_operators::action::BoxFuture;
use parking_lot::Mutex;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a host, each with this port.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// As the machine is set up to.
#[derive(Debug)]
pub(crate) struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The addresses of one host.
pub(crate) struct Addresses {
    pub host: url::Host<String>,
    pub port: u16,
    resolver: Arc<dyn Resolve>,
    every: Duration,
    known: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    turn: AtomicUsize,
}

impl Addresses {
    pub(crate) fn new(host: url::Host<String>, port: u16, resolver: Arc<dyn Resolve>, every: Duration) -> Self {
        Addresses { host, port, resolver, every, known: Mutex::new(None), turn: AtomicUsize::new(0) }
    }

    /// All addresses; each call begins with another one.
    pub(crate) async fn in_turn(&self) -> io::Result<Vec<SocketAddr>> {
        let known = self.known.lock().clone();
        let addresses = match known.filter(|(at, _)| at.elapsed() < self.every) {
            Some((_, addresses)) => addresses,
            None => {
                let addresses: Arc<[SocketAddr]> = match &self.host {
                    url::Host::Domain(name) => self.resolver.resolve(name, self.port).await?.into(),
                    url::Host::Ipv4(ip) => Arc::new([SocketAddr::from((*ip, self.port))]),
                    url::Host::Ipv6(ip) => Arc::new([SocketAddr::from((*ip, self.port))]),
                };
                *self.known.lock() = Some((Instant::now(), addresses.clone()));
                addresses
            }
        };
        let mut turned = addresses.to_vec();
        if !turned.is_empty() {
            turned.rotate_left(self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len());
        }
        Ok(turned)
    }

    /// None of them answered: ask again before the next try.
    pub(crate) fn forget(&self) {
        *self.known.lock() = None;
    }
}
