//! A line that can be cut, held and slowed, between a program and its server.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::{Error, Result};

/// A TCP proxy on a free port of 127.0.0.1, on a thread of its own; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
}

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    state: State,
    delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay and nothing passes: what a lost route looks like.
    Silent,
}

impl Proxy {
    /// A line to this address.
    pub fn to(target: impl Into<SocketAddr>) -> Result<Proxy> {
        let target = target.into();
        let failed = |error| Error::stop("a proxy cannot be started").because(error);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (line, watched) = watch::channel(Line { state: State::Open, delay: Duration::ZERO });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || runtime.block_on(serve(listener, target, watched)))
            .map_err(failed)?;
        Ok(Proxy { address, line })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and new ones as soon as they are made.
    pub fn cut(&self) {
        self.line.send_modify(|line| line.state = State::Cut);
    }

    /// Lets nothing pass any more; connections stay open on both sides, new ones are taken and get no answer.
    pub fn silence(&self) {
        self.line.send_modify(|line| line.state = State::Silent);
    }

    /// Makes the line whole again. What was held in silence passes now.
    pub fn mend(&self) {
        self.line.send_modify(|line| line.state = State::Open);
    }

    /// From now on everything takes this much longer, in each direction.
    pub fn delay(&self, by: Duration) {
        self.line.send_modify(|line| line.delay = by);
    }
}

/// Until the [`Proxy`] is dropped.
async fn serve(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>) {
    let mut dropped = line.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    tokio::spawn(carry(client, target, line.clone()));
                }
            }
            changed = dropped.changed() => if changed.is_err() { return },
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    if line.wait_for(|line| line.state != State::Silent).await.map_or(State::Cut, |line| line.state) == State::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, line.clone()) => {}
        () = pass(from_server, to_client, line.clone()) => {}
        _ = line.wait_for(|line| line.state == State::Cut) => {}
    }
}

/// One direction: read as it comes, written when it is due, so that a delay does not narrow the line.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let delay = line.clone();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let due = Instant::now() + delay.borrow().delay;
                    if sender.send((due, buffer[..n].to_vec())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            let silent = line.wait_for(|line| line.state != State::Silent).await.is_err();
            if silent || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
