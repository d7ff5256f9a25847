//! The client that speaks the replication protocol, seen from here: what arrives, and how far it is confirmed. Another client could take its place.

use std::time::Duration;

use bytes::Bytes;
use highwater_operators::postgres::{Reach, SslMode, failed_as, quote};
use highwater_operators::{Error, Result};
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent};
use tokio::time::timeout;

use super::Description;
use super::lsn::Lsn;
use super::session::{PINNED, UNLIMITED};
use super::token::Identity;

/// How often the server is told how far the slot may move, at most.
const CONFIRM_EVERY: Duration = Duration::from_millis(100);
/// How often it is told so although nothing has changed: it takes that for a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Messages that may wait to be taken.
const AHEAD: usize = 8192;
/// How long the slot may take to be let go.
const END: Duration = Duration::from_secs(5);

/// Something from the log, in its order.
#[derive(Debug)]
pub(super) enum Arrived {
    Begin {
        commit: Lsn,
        time_us: i64,
    },
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    /// Any other message, as it came.
    Data {
        lsn: Lsn,
        text: Bytes,
    },
    Message {
        in_transaction: bool,
        lsn: Lsn,
        prefix: String,
        content: Bytes,
    },
    /// There is nothing up to here but what has arrived.
    Alive {
        end: Lsn,
    },
}

/// A slot that is followed.
pub(super) struct Follower {
    client: ReplicationClient,
}

impl Follower {
    /// Follows the slot from `from`. The server is told at first that all up to `durable` is.
    pub(super) async fn start(description: &Description, identity: &Identity, from: Lsn, durable: Lsn) -> Result<Follower> {
        let url = description.url()?;
        let reach = url.reach("replication stream")?;
        let mut last = None;
        for (host, port) in &reach.hosts {
            let config = config(&reach, host, *port, description, from, durable);
            let opened = timeout(url.connect_timeout(), Box::pin(open(config, identity))).await;
            match opened {
                Ok(Ok(client)) => return Ok(Follower { client }),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(Error::retry(format!("following by {url}: no answer within {:?}", url.connect_timeout()))),
            }
        }
        Err(last.unwrap_or_else(|| Error::stop("the URL of the database has no host")))
    }

    /// The next thing that arrives. Nothing is lost if this is dropped half-way.
    pub(super) async fn next(&mut self) -> Result<Arrived> {
        let event = self.client.recv().await.map_err(|error| said(&error))?;
        Ok(match event {
            Some(ReplicationEvent::XLogData { wal_start, data, .. }) => Arrived::Data { lsn: Lsn(wal_start.0), text: data },
            Some(ReplicationEvent::Begin { final_lsn, commit_time_micros, .. }) => {
                Arrived::Begin { commit: Lsn(final_lsn.0), time_us: commit_time_micros }
            }
            Some(ReplicationEvent::Commit { lsn, end_lsn, .. }) => Arrived::Commit { commit: Lsn(lsn.0), end: Lsn(end_lsn.0) },
            Some(ReplicationEvent::Message { transactional, lsn, prefix, content }) => {
                Arrived::Message { in_transaction: transactional, lsn: Lsn(lsn.0), prefix, content }
            }
            Some(ReplicationEvent::KeepAlive { wal_end, .. }) => Arrived::Alive { end: Lsn(wal_end.0) },
            Some(ReplicationEvent::StoppedAt { .. }) | None => {
                return Err(Error::retry("the server has ended the stream of changes"));
            }
        })
    }

    /// The slot may move to here.
    pub(super) fn confirm(&self, end: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn(end.0));
    }

    /// Lets go of the slot.
    pub(super) async fn end(mut self) -> Result {
        match timeout(END, self.client.shutdown()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(Error::retry("the server does not let go of the slot")),
        }
    }
}

fn config(reach: &Reach, host: &str, port: u16, description: &Description, from: Lsn, durable: Lsn) -> ReplicationConfig {
    let mut config = session_config(reach, host, port, &description.slot, &quote(description.publication()));
    config.start_lsn = pgwire_replication::Lsn(from.0);
    config.ack_lsn = Some(pgwire_replication::Lsn(durable.0));
    (config.status_interval, config.idle_wakeup_interval) = (CONFIRM_EVERY, ALIVE_EVERY);
    config.buffer_events = AHEAD;
    config
}

/// What any session needs that speaks the protocol.
pub(super) fn session_config(reach: &Reach, host: &str, port: u16, slot: &str, publication: &str) -> ReplicationConfig {
    let is_socket = host.starts_with('/');
    let mode = match reach.ssl_mode {
        _ if is_socket => pgwire_replication::SslMode::Disable,
        SslMode::Disable => pgwire_replication::SslMode::Disable,
        SslMode::Prefer => pgwire_replication::SslMode::Prefer,
        SslMode::Require => pgwire_replication::SslMode::Require,
        SslMode::VerifyCa => pgwire_replication::SslMode::VerifyCa,
        SslMode::VerifyFull => pgwire_replication::SslMode::VerifyFull,
    };
    let mut config = ReplicationConfig::new(
        host,
        &reach.user,
        reach.password.as_deref().unwrap_or_default(),
        &reach.database,
        slot,
        publication,
    );
    config.port = port;
    config.tls.mode = mode;
    config.tls.ca_pem_path.clone_from(&reach.root);
    config.options.clone_from(&reach.options);
    config.application_name = Some(reach.application.clone());
    config
}

/// Connects, looks whether it is the right server, and takes the slot.
async fn open(config: ReplicationConfig, identity: &Identity) -> Result<ReplicationClient> {
    let mut client = ReplicationClient::connect_gated(config).await.map_err(|error| said(&error))?;
    let system = client.identify_system().await.map_err(|error| said(&error))?;
    if system.system_id != identity.system.to_string() || system.timeline != identity.timeline {
        return Err(Error::retry(format!(
            "following: the server is {} on timeline {}, and the one that was looked at is {} on timeline {}",
            system.system_id, system.timeline, identity.system, identity.timeline
        )));
    }
    for (name, value) in PINNED {
        client.simple_query(&format!("set {name} = '{value}'")).await.map_err(|error| said(&error))?;
    }
    client.simple_query(UNLIMITED).await.map_err(|error| said(&error))?;
    client.start().await.map_err(|error| said(&error))?;
    client.wait_started().await.map_err(|error| said(&error))?;
    Ok(client)
}

fn said(error: &PgWireError) -> Error {
    said_of("following the slot", error)
}

/// An error of the client in our words; what it means is told by the server's code.
pub(super) fn said_of(what: &str, error: &PgWireError) -> Error {
    match error {
        PgWireError::Server(text) => match text.rsplit_once(" (SQLSTATE ") {
            Some((message, code)) => failed_as(what, code.trim_end_matches(')'), message),
            None => Error::retry(format!("{what}: {text}")),
        },
        PgWireError::Auth(_) | PgWireError::MessageTooLarge { .. } => Error::stop(format!("{what}: {error}")),
        PgWireError::Tls(_) => {
            Error::stop(format!("{what}: TLS cannot be used with this server: {error}; look at sslmode and sslrootcert"))
        }
        _ => Error::retry(format!("{what}: the connection was lost: {error}")),
    }
}
