//! The door of a process: where others connect, and how they introduce themselves.
//!
//! Who opens the door draws sixteen bytes at random and sends them behind a mark of the protocol. Who has come answers with mark,
//! proof and introduction, and its own sixteen bytes; the answer to that is the run's number with a proof the other way, or a refusal.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use super::super::wire;
use super::{Hello, Party, Secret};
use crate::error::{Error, Result};

/// What every process says first: that it is one of ours, and of which protocol.
const MARK: [u8; 8] = *b"hiwater1";

/// How long a stranger may take to introduce itself, and how many may be at it at once.
const INTRODUCED: Duration = Duration::from_secs(3);
const STRANGERS_MAX: usize = 64;

/// Why somebody has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Body {
    /// A member, to the leader.
    Hello(Hello),
    /// For the dataflow of this run.
    Mesh { run: u64, process: u32 },
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    proof: Vec<u8>,
    drawn: [u8; 16],
    body: Vec<u8>,
}

/// What is answered: first a proof, then, once it is decided, whether it may come in.
#[derive(Serialize, Deserialize)]
enum Reply {
    Known(Vec<u8>),
    Accepted { run: u64 },
    Refused(String),
}

/// Why somebody who was asked did not open.
pub(super) enum Refusal {
    /// It said why.
    Said(String),
    /// It is not there, or not yet.
    NotThere(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::NotThere(error)
    }
}

/// How long an address may be held by an earlier run that is just ending.
const STILL_HELD: Duration = Duration::from_secs(1);

/// Listens, once an earlier run has let go of the address.
fn bind(party: &Party) -> io::Result<TcpListener> {
    let until = Instant::now() + STILL_HELD;
    loop {
        match TcpListener::bind(party.hosts.addresses(party.place.process)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            bound => return bound,
        }
    }
}

/// Where others connect. Closed when it is dropped.
pub(super) struct Door {
    come: Receiver<(TcpStream, Body)>,
    closed: Arc<AtomicBool>,
}

impl Door {
    /// Listens at this process's own address.
    pub(super) fn open(party: &Party) -> Result<Self> {
        let process = party.place.process;
        let listener = bind(party).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => "; another program has it, or an earlier run has not ended: name another in --hostfile",
                ErrorKind::AddrNotAvailable => "; that is no address of this machine: --process and --hostfile must fit",
                _ => "",
            };
            Error::stop(format!("process {process} cannot listen at {}{hint}", party.hosts.name(process))).because(error)
        })?;
        let failed = |error| Error::stop("cannot listen for other processes").because(error);
        listener.set_nonblocking(true).map_err(failed)?;
        let (sender, come) = unbounded();
        let closed = Arc::new(AtomicBool::new(false));
        let (is_closed, secret) = (closed.clone(), party.secret.clone());
        let listen = move || listen(&listener, &is_closed, secret, &sender);
        std::thread::Builder::new().name("door".into()).spawn(listen).map_err(failed)?;
        Ok(Door { come, closed })
    }

    /// The next who has introduced itself.
    pub(super) fn next(&self, patience: Duration) -> Option<(TcpStream, Body)> {
        self.come.recv_timeout(patience).ok()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
    }
}

fn listen(listener: &TcpListener, closed: &AtomicBool, secret: Option<Secret>, come: &Sender<(TcpStream, Body)>) {
    let strangers = Arc::new(AtomicUsize::new(0));
    while !closed.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) if strangers.load(Ordering::Acquire) < STRANGERS_MAX => {
                let (secret, come, strangers) = (secret.clone(), come.clone(), strangers.clone());
                strangers.fetch_add(1, Ordering::AcqRel);
                // Each on a thread of its own: one that says nothing must not keep the others waiting.
                let _ = std::thread::Builder::new().name("stranger".into()).spawn(move || {
                    if let Ok(known) = hear(stream, secret.as_ref()) {
                        let _ = come.send(known);
                    }
                    strangers.fetch_sub(1, Ordering::AcqRel);
                });
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Hears who has come.
fn hear(mut stream: TcpStream, secret: Option<&Secret>) -> io::Result<(TcpStream, Body)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(INTRODUCED))?;
    let drawn: [u8; 16] = rand::random();
    stream.write_all(&MARK)?;
    stream.write_all(&drawn)?;
    read_mark(&mut stream)?;
    let Greeting { proof, drawn: theirs, body } = wire::read(&mut stream, wire::GREETING_MAX)?;
    match secret {
        Some(secret) if !secret.proves(&[b"comes", &drawn, &theirs, &body], &proof) => {
            refuse(&mut stream, "it does not know the secret of this cluster (HIGHWATER_CLUSTER_SECRET)");
            return Err(ErrorKind::PermissionDenied.into());
        }
        None if !proof.is_empty() => {
            refuse(&mut stream, "it knows a secret, and this cluster has none (HIGHWATER_CLUSTER_SECRET)");
            return Err(ErrorKind::PermissionDenied.into());
        }
        _ => {}
    }
    let own = secret.map_or(Vec::new(), |secret| secret.proof(&[b"opens", &theirs, &drawn]));
    wire::write(&mut stream, &Reply::Known(own))?;
    let body = postcard::from_bytes(&body).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    stream.set_read_timeout(None)?;
    Ok((stream, body))
}

fn read_mark(stream: &mut TcpStream) -> io::Result<()> {
    let mut mark = [0; MARK.len()];
    stream.read_exact(&mut mark)?;
    match mark == MARK {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::InvalidData, "what answers there is no process of this version of Highwater")),
    }
}

/// Takes in somebody who has come.
pub(super) fn accept(stream: &mut TcpStream, run: u64) -> io::Result<()> {
    wire::write(stream, &Reply::Accepted { run })
}

/// Sends somebody away.
pub(super) fn refuse(stream: &mut TcpStream, sentence: &str) {
    let _ = wire::write(stream, &Reply::Refused(sentence.to_owned()));
}

/// Connects to a process and says why; waits until it has answered.
pub(super) fn introduce(party: &Party, to: usize, body: Body, until: Instant) -> std::result::Result<(u64, TcpStream), Refusal> {
    let mut stream = connect(party.hosts.addresses(to))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(INTRODUCED))?;
    read_mark(&mut stream)?;
    let mut theirs = [0; 16];
    stream.read_exact(&mut theirs)?;
    let drawn: [u8; 16] = rand::random();
    let body = postcard::to_stdvec(&body).map_err(io::Error::other)?;
    let secret = party.secret.as_ref();
    let proof = secret.map_or(Vec::new(), |secret| secret.proof(&[b"comes", &theirs, &drawn, &body]));
    stream.write_all(&MARK)?;
    wire::write(&mut stream, &Greeting { proof, drawn, body })?;
    loop {
        match wire::read(&mut stream, wire::GREETING_MAX)? {
            Reply::Known(proof) => {
                if secret.is_some_and(|secret| !secret.proves(&[b"opens", &drawn, &theirs], &proof)) {
                    return Err(Refusal::Said(
                        "it does not know the secret of this cluster (HIGHWATER_CLUSTER_SECRET)".to_owned(),
                    ));
                }
                // The leader decides when all have come.
                stream.set_read_timeout(Some(until.saturating_duration_since(Instant::now()) + INTRODUCED))?;
            }
            Reply::Accepted { run } => {
                stream.set_read_timeout(None)?;
                return Ok((run, stream));
            }
            Reply::Refused(sentence) => return Err(Refusal::Said(sentence)),
        }
    }
}

fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(address, Duration::from_secs(2)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
