//! How the processes of a run find each other.
//!
//! 1. Every process listens at its own address.
//! 2. Each member connects to process 0 and says who it is; process 0 compares, and refuses with a sentence what does not fit.
//! 3. Once all are there, process 0 gives the run a number drawn at random, and each process connects to those before it, for
//!    the dataflow.
//! 4. Process 0 opens the store, numbers what is new, cuts files back, and [welcomes](Cluster::welcome) the others, who join the
//!    store.
//! 5. When all are [ready](Cluster::all_ready), all start.
//!
//! Who knows the secret of the cluster, if it has one, proves it without saying it; who does not is refused.

mod door;
mod hosts;
mod secret;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::door::{Body, Door, Refusal};
pub use self::hosts::{Hosts, read_hosts};
pub use self::secret::Secret;
use super::link::Link;
use super::mesh::Sockets;
use super::message::{Form, Message, Welcome};
use super::{Cluster, Place, pulse};
use crate::epoch::unix_ms;
use crate::error::{Error, Result};
use crate::halt::Halt;

/// What a process brings to the forming.
#[derive(Clone, Debug)]
pub struct Party {
    /// Which process it is.
    pub place: Place,
    /// Where each process listens.
    pub hosts: Hosts,
    /// The pipeline's name.
    pub pipeline: String,
    /// A hash of the pipeline's shape, which must be the same for all.
    pub shape: u64,
    /// How long the others are waited for.
    pub patience: Duration,
    /// How long a worker may take for one step, and a process to say that it lives.
    pub timeout: Duration,
    /// What all must know, if anything.
    pub secret: Option<Secret>,
}

/// Who a member says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    version: String,
    pipeline: String,
    shape: u64,
    process: u32,
    processes: u32,
    workers: u32,
    clock_ms: u64,
}

/// Clocks further apart are warned of, and refused.
const CLOCKS_WARN: Duration = Duration::from_secs(1);
const CLOCKS_REFUSE: Duration = Duration::from_secs(10);

/// Between two messages of who is missing.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// Forms the cluster: waits for all processes, and connects each with each.
///
/// # Errors
/// The address is taken, somebody does not come in time, or this process is refused: the sentence says what does not fit.
pub fn gather(party: &Party, halt: &Arc<Halt>) -> Result<Cluster> {
    let place = party.place;
    let door = Door::open(party)?;
    let until = Instant::now() + party.patience;
    let (run, controls) = match place.leads() {
        true => await_members(party, &door, until)?,
        false => {
            let (run, leader) = find_leader(party, until)?;
            (run, vec![(0, leader)])
        }
    };
    let sockets = connect_all(party, &door, run, until.max(Instant::now() + Duration::from_secs(10)))?;
    drop(door);
    let cluster = Cluster::new(place, party.hosts.names(), halt, party.timeout);
    let links = controls.into_iter().map(|(peer, socket)| {
        let outbox = cluster.0.ways[peer].clone().expect("there is a way to every other process");
        let link = Arc::new(Link::new(peer, outbox, socket));
        link.start(&cluster.0).map(|()| link)
    });
    let links = links.collect::<Result<Vec<_>>>()?;
    let _ = cluster.0.links.set(links);
    *cluster.0.sockets.lock() = Some(sockets);
    pulse::start(&cluster.0)?;
    Ok(cluster)
}

impl Hello {
    fn of(party: &Party) -> Self {
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: party.pipeline.clone(),
            shape: party.shape,
            process: party.place.process as u32,
            processes: party.place.processes as u32,
            workers: party.place.workers as u32,
            clock_ms: unix_ms(),
        }
    }

    /// Why process 0 cannot take this member, if it cannot.
    fn problem(&self, own: &Hello) -> Option<String> {
        let Hello { version, pipeline, shape, process, processes, workers, clock_ms } = self;
        let apart = Duration::from_millis(clock_ms.abs_diff(own.clock_ms));
        if *pipeline != own.pipeline {
            Some(format!("it runs the pipeline \"{pipeline}\", and process 0 runs \"{}\"", own.pipeline))
        } else if *version != own.version {
            Some(format!(
                "it is built with Highwater {version}, and process 0 with {}: all must be the same program",
                own.version
            ))
        } else if *processes != own.processes {
            Some(format!(
                "it expects {processes} processes, and process 0 expects {}: say --processes alike everywhere",
                own.processes
            ))
        } else if *process == 0 || *process >= own.processes {
            Some(format!("there are {} processes, numbered from 0 (--process)", own.processes))
        } else if *workers != own.workers {
            Some(format!("it has {workers} workers, and process 0 has {}: say --workers alike everywhere", own.workers))
        } else if *shape != own.shape {
            Some(
                "its pipeline has another shape than that of process 0: all must be the same program with the same arguments"
                    .to_owned(),
            )
        } else if apart > CLOCKS_REFUSE {
            Some(format!("its clock is {:.1} s apart from that of process 0: set the clocks", apart.as_secs_f64()))
        } else {
            if apart > CLOCKS_WARN {
                tracing::warn!(process, apart_ms = apart.as_millis() as u64, "the clocks of processes are apart");
            }
            None
        }
    }
}

/// The leader waits for everybody.
fn await_members(party: &Party, door: &Door, until: Instant) -> Result<(u64, Vec<(usize, TcpStream)>)> {
    let mut seats: Vec<Option<TcpStream>> = (1..party.place.processes).map(|_| None).collect();
    let mut say = Instant::now() + SAY_AGAIN;
    while seats.iter().any(Option::is_none) {
        let missing = || -> Vec<String> {
            let empty = seats.iter().enumerate().filter(|(_, seat)| seat.is_none());
            empty.map(|(seat, _)| format!("{} ({})", seat + 1, party.hosts.name(seat + 1))).collect()
        };
        if Instant::now() > until {
            return Err(Error::stop(format!(
                "process {} did not come within {} (gather_timeout)",
                missing().join(" and "),
                humantime::format_duration(party.patience)
            )));
        }
        if Instant::now() > say {
            say = Instant::now() + SAY_AGAIN;
            tracing::warn!("waiting for process {}", missing().join(" and "));
        }
        let Some((mut stream, body)) = door.next(Duration::from_millis(100)) else { continue };
        // Connections for the dataflow of this run come later.
        let Body::Hello(hello) = body else { continue };
        let problem = hello.problem(&Hello::of(party)).or_else(|| {
            let seat = &mut seats[hello.process as usize - 1];
            let is_there = seat.as_ref().is_some_and(|known| !has_gone(known));
            is_there.then(|| "process 0 has one of this number already".to_owned())
        });
        match problem {
            Some(problem) => {
                tracing::warn!("process {} is refused: {problem}", hello.process);
                door::refuse(&mut stream, &problem);
            }
            None => seats[hello.process as usize - 1] = Some(stream),
        }
    }
    let run = rand::random();
    let mut members = Vec::new();
    for (seat, stream) in seats.into_iter().enumerate() {
        let mut stream = stream.expect("all have come");
        let process = seat + 1;
        door::accept(&mut stream, run)
            .map_err(|error| Error::stop(format!("process {process} has left again before the run began")).because(error))?;
        members.push((process, stream));
    }
    Ok((run, members))
}

/// Whether the other end has closed the connection.
fn has_gone(stream: &TcpStream) -> bool {
    let gone = stream.set_nonblocking(true).is_ok() && matches!(stream.peek(&mut [0]), Ok(0));
    let _ = stream.set_nonblocking(false);
    gone
}

/// A member looks for the leader until it is there.
fn find_leader(party: &Party, until: Instant) -> Result<(u64, TcpStream)> {
    let mut say = Instant::now() + SAY_AGAIN;
    loop {
        match door::introduce(party, 0, Body::Hello(Hello::of(party)), until) {
            Ok((run, stream)) => return Ok((run, stream)),
            Err(Refusal::Said(sentence)) => {
                return Err(Error::stop(format!(
                    "process 0 ({}) refuses process {}: {sentence}",
                    party.hosts.name(0),
                    party.place.process
                )));
            }
            Err(Refusal::NotThere(error)) if Instant::now() > until => {
                return Err(Error::stop(format!(
                    "process 0 ({}) did not answer within {} (gather_timeout)",
                    party.hosts.name(0),
                    humantime::format_duration(party.patience)
                ))
                .because(error));
            }
            Err(Refusal::NotThere(_)) => {}
        }
        if Instant::now() > say {
            say = Instant::now() + SAY_AGAIN;
            tracing::warn!("waiting for process 0 ({})", party.hosts.name(0));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects each process with each: the later one connects, the earlier one is connected to.
fn connect_all(party: &Party, door: &Door, run: u64, until: Instant) -> Result<Sockets> {
    let place = party.place;
    let mut sockets: Vec<Option<TcpStream>> = (0..place.processes).map(|_| None).collect();
    for (earlier, socket) in sockets.iter_mut().enumerate().take(place.process) {
        let failed = |error: io::Error| {
            let at = party.hosts.name(earlier);
            Error::stop(format!("process {} cannot connect to process {earlier} ({at})", place.process)).because(error)
        };
        let connected = door::introduce(party, earlier, Body::Mesh { run, process: place.process as u32 }, until);
        *socket = match connected {
            Ok((_, stream)) => Some(stream),
            Err(Refusal::NotThere(error)) => return Err(failed(error)),
            Err(Refusal::Said(sentence)) => return Err(failed(io::Error::other(sentence))),
        };
    }
    while let Some(missing) = (place.process + 1..place.processes).find(|process| sockets[*process].is_none()) {
        if Instant::now() > until {
            return Err(Error::stop(format!("process {missing} ({}) did not connect", party.hosts.name(missing))));
        }
        let Some((mut stream, body)) = door.next(Duration::from_millis(100)) else { continue };
        match body {
            Body::Mesh { run: theirs, process } if theirs == run && process as usize > place.process => {
                if door::accept(&mut stream, run).is_ok()
                    && let Some(socket) = sockets.get_mut(process as usize)
                {
                    *socket = Some(stream);
                }
            }
            // Of an earlier run, or too late.
            _ => door::refuse(&mut stream, "the run has begun without it"),
        }
    }
    Ok(Sockets(sockets))
}

impl Cluster {
    /// Tells the members what the leader has opened.
    pub fn welcome(&self, welcome: &Welcome) {
        self.0.tell_all(|| Message::Form(Form::Welcome(Box::new(welcome.clone()))), None);
    }

    /// Waits for the leader's welcome. However long the leader takes to open the store, it says meanwhile that it lives.
    ///
    /// # Errors
    /// The leader is lost, or has ended the run.
    pub fn welcomed(&self) -> Result<Welcome> {
        match self.next_step()? {
            (_, Form::Welcome(welcome)) => Ok(*welcome),
            _ => Err(Error::stop("process 0 has started before it has welcomed this process")),
        }
    }

    /// This process is ready: waits until all are.
    ///
    /// # Errors
    /// A process is lost, or has ended the run.
    pub fn all_ready(&self) -> Result {
        match self.0.place.leads() {
            false => {
                self.0.tell_all(|| Message::Form(Form::Ready), None);
                self.next_step()?;
            }
            true => {
                for _ in 1..self.0.place.processes {
                    self.next_step()?;
                }
                self.0.tell_all(|| Message::Form(Form::Start), None);
            }
        }
        Ok(())
    }

    fn next_step(&self) -> Result<(usize, Form)> {
        loop {
            if let Ok(step) = self.0.forming.1.recv_timeout(Duration::from_millis(50)) {
                return Ok(step);
            }
            if self.0.halt.is_halted() {
                self.0.halt.reason()?;
                return Err(Error::stop("the run was ended before it began"));
            }
        }
    }
}

/// Whether a process listens where only this machine reaches it.
pub(super) fn is_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| address.ip().is_loopback())
}
