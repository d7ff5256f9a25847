//! One request and its answer, over a connection of the pool.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HOST, RETRY_AFTER};
use hyper::{Request, Response, Uri};

use super::Description;
use super::call::Open;
use super::connect::{Connection, NoConnection};
use super::pool::Taken;
use super::request::Prepared;

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    /// Its body, or the beginning of it.
    pub body: Vec<u8>,
    pub is_whole: bool,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// Its address is none that may be called.
    Refused(String),
    /// There was no connection, or it broke, or what came is no HTTP.
    Broken(String),
}

impl Description {
    pub(super) async fn exchange(&self, open: &Open, prepared: &mut Prepared) -> Result<Answer, NoAnswer> {
        let mut request = Request::new(Full::new(std::mem::take(&mut prepared.body)));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = std::mem::take(&mut prepared.headers);
        loop {
            let mut taken = open.pool.take().await.map_err(|error| match error {
                NoConnection::Refused(why) => NoAnswer::Refused(why),
                NoConnection::Away(why) => NoAnswer::Broken(why),
            })?;
            let is_http2 = matches!(taken.connection, Connection::Http2(_));
            self.address(&mut request, &prepared.target, is_http2)?;
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

    /// Says where a request goes, as the connection wants it said.
    fn address(&self, request: &mut Request<Full<Bytes>>, target: &str, is_http2: bool) -> Result<(), NoAnswer> {
        let Some(origin) = &self.origin else { return Err(NoAnswer::Refused("it has no URL".to_owned())) };
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
                return Ok(Answer { status, retry_after, body, is_whole: false });
            }
        }
        taken.give_back();
        Ok(Answer { status, retry_after, body, is_whole: true })
    }
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
