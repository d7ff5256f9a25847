//! An endpoint: its guard, its pools, and one request with its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use highwater_operators::action::Surroundings;
use highwater_operators::clock::Clock;
use highwater_operators::guard::{Entry, Failure, Guard, GuardConfig};
use highwater_operators::{Error, Result, pools};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, Uri};
use rustls::pki_types::ServerName;

use super::connect::{Connection, Connector, tls};
use super::policy::{Verdict, retry_after, words};
use super::pool::{Pool, PoolBounds, Taken};
use super::{Origin, Prepared, Reach};
use crate::network::dial::{Dialer, NoConnection};
use crate::network::resolve::Addresses;

/// How much of an answer is kept with a parked change.
const KEPT: usize = 1024;

/// What is open of an endpoint, one per process: one origin, or several that do the same.
pub(crate) struct Endpoint {
    /// For people: its first origin, perhaps with what is asked of it.
    shown: String,
    nodes: Vec<Node>,
    turn: AtomicUsize,
    guard: Arc<Guard>,
    clock: Clock,
    answer_max: usize,
    retry_after_max: Duration,
}

struct Node {
    origin: Origin,
    pool: Arc<Pool>,
}

/// What came back.
pub(crate) struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Its body, or the beginning of it.
    pub body: Vec<u8>,
    pub is_whole: bool,
    hidden: Hidden,
}

/// What we sent and nobody is to see, should the answer say it back.
#[derive(Default)]
struct Hidden {
    /// Values of the headers that may be secret.
    headers: Vec<HeaderValue>,
    /// Path and query.
    target: String,
}

/// Why there is no answer.
enum NoAnswer {
    /// Its address is none that may be called.
    Refused(String),
    /// There was no connection, or it broke, or what came is no HTTP.
    Broken(String),
}

impl Endpoint {
    /// Opens nothing yet, but shows pools and guard under the action's name.
    pub(crate) fn new(shown: String, origins: &[Origin], reach: &Reach, around: &Surroundings) -> Result<Self, String> {
        let node = |origin: &Origin| {
            let pool = pool(origin, reach, around)?;
            let status: Arc<dyn pools::Shown> = pool.clone();
            pools::show(&name(origin, around), Arc::downgrade(&status));
            Ok::<_, String>(Node { origin: origin.clone(), pool })
        };
        let nodes: Vec<Node> = origins.iter().map(node).collect::<Result<_, _>>()?;
        let first = origins.first().ok_or("it has no URL")?;
        let mut config: GuardConfig = reach.guard;
        config.concurrency.max = config.concurrency.max.min(around.max_parallelism);
        let made = || Guard::new(name(first, around), config, around.clock.clone());
        Ok(Endpoint {
            shown,
            nodes,
            turn: AtomicUsize::new(0),
            guard: reach.shared_guard.clone().unwrap_or_else(made),
            clock: around.clock.clone(),
            answer_max: reach.answer_max,
            retry_after_max: reach.retry_after_max,
        })
    }

    /// Sends a request, if the guard lets it through, and tells it what came of that. `judge` says what an answer means.
    pub(crate) async fn ask(
        &self,
        prepared: Prepared,
        retry: bool,
        judge: impl FnOnce(&Answer) -> Verdict,
    ) -> Result<(Verdict, Answer)> {
        let entry = self.guard.enter(retry).await?;
        let limit = entry.timeout();
        let secret = prepared.headers.values().filter(|value| value.is_sensitive());
        let hidden = Hidden { headers: secret.cloned().collect(), target: prepared.target };
        let mut request = Request::new(Full::new(prepared.body));
        (*request.method_mut(), *request.headers_mut()) = (prepared.method, prepared.headers);
        match self.clock.timeout(limit, self.exchange(request, &hidden.target)).await {
            Ok(Ok(answer)) => {
                let answer = Answer { hidden, ..answer };
                let verdict = judge(&answer);
                self.conclude(entry, verdict, &answer);
                Ok((verdict, answer))
            }
            Ok(Err(NoAnswer::Refused(why))) => {
                entry.nothing();
                Err(Error::park(format!("{}: {why}", self.shown)))
            }
            Ok(Err(NoAnswer::Broken(why))) => {
                entry.failed(Failure::Connection, &why);
                Err(Error::retry(format!("{}: {why}", self.shown)))
            }
            Err(_) => {
                let why = format!("no answer within {limit:.1?}");
                entry.failed(Failure::Timeout, &why);
                Err(Error::retry(format!("{}: {why}", self.shown)))
            }
        }
    }

    fn conclude(&self, entry: Entry, verdict: Verdict, answer: &Answer) {
        match (verdict, answer.status) {
            (_, 429) => entry.failed(Failure::TooMuch, "429"),
            // It took the request, and not all that was in it.
            (Verdict::Retry, 200..=299) => entry.failed(Failure::TooMuch, "a part is to be tried again"),
            (Verdict::Retry, 500..) => entry.failed(Failure::Server, &words(answer.status)),
            // It is there and answers, whatever it says of this change.
            _ => entry.succeeded(),
        }
        // Both speak of the endpoint, not of one change.
        if matches!(answer.status, 429 | 503)
            && let Some(wait) = self.retry_after(answer)
        {
            self.guard.pause(wait);
        }
    }

    /// One request and its answer. Of several origins each call begins with the next, and goes on to another one if there is no answer.
    async fn exchange(&self, request: Request<Full<Bytes>>, target: &str) -> Result<Answer, NoAnswer> {
        if let [node] = &self.nodes[..] {
            return self.exchange_with(node, request, target).await;
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for step in 0..self.nodes.len() {
            let node = &self.nodes[(first.wrapping_add(step)) % self.nodes.len()];
            match self.exchange_with(node, request.clone(), target).await {
                Ok(answer) => return Ok(answer),
                Err(why) => last = Some(why),
            }
        }
        Err(last.unwrap_or_else(|| NoAnswer::Refused("it has no URL".to_owned())))
    }

    async fn exchange_with(&self, node: &Node, mut request: Request<Full<Bytes>>, target: &str) -> Result<Answer, NoAnswer> {
        loop {
            let mut taken = node.pool.take().await.map_err(|error| match error {
                NoConnection::Refused(why) => NoAnswer::Refused(why),
                NoConnection::Away(why) => NoAnswer::Broken(why),
            })?;
            let is_http2 = matches!(taken.connection, Connection::Http2(_));
            address(&mut request, &node.origin, target, is_http2)?;
            let sent = match &mut taken.connection {
                Connection::Http1(sender) => sender.try_send_request(request).await,
                Connection::Http2(sender) => sender.try_send_request(request).await,
            };
            return match sent {
                Ok(response) => self.read(response, taken).await,
                // The other side had closed it, and nothing was sent: that is no failure.
                Err(mut error) => match error.take_message().filter(|_| taken.is_old) {
                    Some(unsent) => {
                        request = unsent;
                        continue;
                    }
                    None => Err(NoAnswer::Broken(with_sources(error.error()))),
                },
            };
        }
    }

    /// Reads the answer as far as it may be long. The connection can be used again only if that was all.
    async fn read(&self, response: Response<Incoming>, taken: Taken) -> Result<Answer, NoAnswer> {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (mut stream, mut body) = (response.into_body(), Vec::new());
        while let Some(frame) = stream.frame().await {
            let frame = frame.map_err(|error| NoAnswer::Broken(format!("{status}, then {}", with_sources(&error))))?;
            let Some(data) = frame.data_ref() else { continue };
            let room = self.answer_max - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok(Answer { status, retry_after, body, is_whole: false, hidden: Hidden::default() });
            }
        }
        taken.give_back();
        Ok(Answer { status, retry_after, body, is_whole: true, hidden: Hidden::default() })
    }

    fn retry_after(&self, answer: &Answer) -> Option<Duration> {
        retry_after(answer.retry_after.as_deref()?, SystemTime::now(), self.retry_after_max)
    }

    /// Where it is, for people.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// An error of what a verdict means, to be tried again when the answer says so.
    pub(crate) fn error(&self, verdict: Verdict, answer: &Answer, text: impl std::fmt::Display) -> Error {
        let text = format!("{}: {text}", self.shown);
        let error = match (verdict, self.retry_after(answer)) {
            (Verdict::Retry, Some(wait)) => Error::retry(text).retry_after(wait),
            (Verdict::Retry, None) => Error::retry(text),
            _ => Error::park(text),
        };
        match answer.said().strip_prefix(": ") {
            Some(response) => error.with_response(response),
            None => error,
        }
    }
}

impl Answer {
    /// The beginning of it on one line, without what we sent in secret and it may have sent back; with a colon before it, if there is any.
    pub(crate) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let Hidden { headers, target } = &self.hidden;
        let values =
            headers.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| [Some(value), value.split(' ').nth(1)]);
        let path = target.split('?').next();
        for secret in values.flatten().chain([target.as_str()]).chain(path).filter(|secret| secret.len() >= 6) {
            text = text.replace(secret, "***");
        }
        let text = text.trim();
        let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= KEPT).unwrap_or(text.len());
        let more = if end < text.len() || !self.is_whole { " ..." } else { "" };
        if text.is_empty() { String::new() } else { format!(": {}{more}", &text[..end]) }
    }
}

fn name(origin: &Origin, around: &Surroundings) -> String {
    format!("{} at {}", around.action, origin.shown)
}

fn pool(origin: &Origin, reach: &Reach, around: &Surroundings) -> Result<Arc<Pool>, String> {
    let tls = match origin.is_tls {
        false => None,
        true => {
            let name = origin.host.to_string().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name).map_err(|_| "the URL's host cannot have a certificate".to_owned())?;
            Some((name, tls(reach.root_certificates.as_deref())?))
        }
    };
    let dialer = Dialer {
        addresses: Addresses::new(origin.host.clone(), origin.port, reach.resolver.clone(), reach.resolve_every),
        allow_private: reach.allow_private || around.allow_private,
        timeout: reach.connection_timeout,
    };
    let max_connections = match reach.pool.max_connections {
        0 => around.max_parallelism,
        connections => connections,
    };
    let bounds = PoolBounds { max_connections, ..reach.pool };
    Ok(Pool::new(Connector { dialer, headers_max: reach.headers_max, tls }, bounds))
}

/// Says where a request goes, as the connection wants it said.
fn address(request: &mut Request<Full<Bytes>>, origin: &Origin, target: &str, is_http2: bool) -> Result<(), NoAnswer> {
    let uri = match is_http2 {
        true => Uri::try_from(format!("{}{target}", origin.shown)),
        false => Uri::try_from(target),
    };
    *request.uri_mut() = uri.map_err(|_| NoAnswer::Refused("its URL cannot be sent".to_owned()))?;
    if is_http2 {
        request.headers_mut().remove(HOST);
    } else {
        request.headers_mut().insert(HOST, origin.authority.clone());
    }
    Ok(())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
