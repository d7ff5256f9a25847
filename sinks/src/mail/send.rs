//! A mail is handed over, and what the server's answer means for its change.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, BoxFuture, Delivery, Surroundings};
use highwater_operators::clock::Clock;
use highwater_operators::guard::{Failure, Guard, GuardConfig};
use highwater_operators::{Error, Result, pools};
use lettre::Message;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::extension::ClientId;

use super::connect::{Connector, NoServer, Tls};
use super::pool::Pool;
use super::{Description, Mail};
use crate::network::dial::Dialer;
use crate::network::resolve::Addresses;

/// What is open of a mail, one per process.
pub(super) struct Open {
    guard: Arc<Guard>,
    pool: Arc<Pool>,
    clock: Clock,
}

/// When a server that does not let us in is asked again.
const LOCKED_OUT: Duration = Duration::from_secs(10);

/// Codes by which a server speaks of itself, not of a mail: it closes, or cannot log anybody in for now.
const OF_ITSELF: [&str; 2] = ["421", "454"];

/// Why a mail was not accepted.
enum NotSent {
    NoServer(NoServer),
    Answer(lettre::transport::smtp::Error),
}

impl Action for Mail {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let (open, description) = (self.open()?, self.description());
            let park = |why: String| Error::park(format!("{}: {why}", description.shown()));
            let message = description.letter.write(&delivery).map_err(park)?;
            let (size, most) = (message.formatted().len(), description.size_max);
            if size > most {
                return Err(park(format!("the mail would have {size} bytes; at most {most} are sent (size_max)")));
            }
            description.send(&open, &message, delivery.attempt() > 1).await
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description().check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.open.begin(around, |around| self.description().open(around));
    }
}

impl Mail {
    fn open(&self) -> Result<Arc<Open>> {
        self.open.get("mail", |around| self.description().open(around))
    }
}

impl Description {
    fn open(&self, around: &Surroundings) -> Result<Open, String> {
        let server = self.server.as_ref().filter(|_| self.problems.is_empty()).ok_or_else(|| self.problems.join("; "))?;
        let tls = Tls::new(server, self.root_certificates.as_deref())?;
        let dialer = Dialer {
            addresses: Addresses::new(server.host.clone(), server.port, self.resolver.clone(), self.resolve_every),
            allow_private: self.allow_private || around.allow_private,
            timeout: self.connection_timeout,
        };
        let hello = self.hello.clone().map(ClientId::Domain);
        let login = self.login.as_ref().map(|login| Credentials::new(login.user.clone(), login.password.clone()));
        let connector = Connector { dialer, tls, hello, login };
        let pool = Pool::new(connector, self.max_connections, self.idle_timeout);
        let name = format!("{} at {server}", around.action);
        let shown: Arc<dyn pools::Shown> = pool.clone();
        pools::show(&name, Arc::downgrade(&shown));
        let mut config: GuardConfig = self.guard;
        config.concurrency.max = config.concurrency.max.min(around.max_parallelism);
        Ok(Open { guard: Guard::new(name, config, around.clock.clone()), pool, clock: around.clock.clone() })
    }

    /// Hands a mail over, if the guard lets it through, and tells it what came of that.
    async fn send(&self, open: &Open, message: &Message, retry: bool) -> Result {
        let entry = open.guard.enter(retry).await?;
        let limit = entry.timeout();
        let shown = self.shown();
        let sent = match open.clock.timeout(limit, hand_over(&open.pool, message)).await {
            Ok(sent) => sent,
            Err(_) => {
                let why = format!("no answer within {limit:.1?}");
                entry.failed(Failure::Timeout, &why);
                return Err(Error::retry(format!("{shown}: {why}")));
            }
        };
        match sent {
            Ok(()) => {
                entry.succeeded();
                Ok(())
            }
            Err(NotSent::NoServer(NoServer::Refused(why))) => {
                entry.nothing();
                Err(Error::park(format!("{shown}: {why}")))
            }
            Err(NotSent::NoServer(NoServer::Away(why))) => {
                entry.failed(Failure::Connection, &why);
                Err(Error::retry(format!("{shown}: {why}")))
            }
            // It says nothing of this mail: all wait until it lets us in.
            Err(NotSent::NoServer(NoServer::Login(why))) => {
                entry.failed(Failure::Server, &why);
                Err(Error::not_asked(format!("{shown}: {why}"), LOCKED_OUT))
            }
            Err(NotSent::Answer(error)) => {
                let code = error.status().map(|code| code.to_string());
                let text = format!("{shown}: {}", in_words(&error));
                if error.is_permanent() || error.is_client() {
                    entry.succeeded();
                    Err(Error::park(text))
                } else if code.as_ref().is_some_and(|code| !OF_ITSELF.contains(&code.as_str())) {
                    // It is there and answers: it does not want this mail now.
                    entry.succeeded();
                    Err(Error::retry(text).retry_after(self.try_again_after))
                } else {
                    entry.failed(if code.is_some() { Failure::Server } else { Failure::Connection }, &in_words(&error));
                    Err(Error::retry(text))
                }
            }
        }
    }
}

async fn hand_over(pool: &Arc<Pool>, message: &Message) -> Result<(), NotSent> {
    let mut taken = pool.take().await.map_err(NotSent::NoServer)?;
    // Whatever fails, the connection is closed: what it stands at is not known.
    taken.connection.send(message.envelope(), &message.formatted()).await.map_err(NotSent::Answer)?;
    taken.give_back();
    Ok(())
}

/// The error and its source, which is what the server said, on one line.
fn in_words(error: &lettre::transport::smtp::Error) -> String {
    let text = error.to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect()
}
