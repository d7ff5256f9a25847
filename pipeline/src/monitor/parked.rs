//! Commands about parked changes, for whoever has the token that stands in the notice.
//!
//! The notice can be read by whoever may read the store, and the token is another one in every run. So whoever reaches the
//! port and has no right to the store can do nothing here, not even from a page in a browser: no page can make a browser send the header.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::clerk::Desk;
use crate::clerk::ask::Ask;

/// Bytes of a request at most; the row of an edit is the only large thing in it.
pub(crate) const REQUEST_MAX: usize = 4 << 20;

/// The path.
pub(crate) const PATH: &str = "api/parked";

/// Who carries commands out, and what one must know to give them.
#[derive(Clone)]
pub(super) struct Office {
    pub desk: Desk,
    pub token: String,
}

pub(super) fn router(office: Office) -> Router {
    Router::new()
        .route("/api/parked", post(ask))
        .layer(DefaultBodyLimit::max(REQUEST_MAX))
        // Outside of the rest: of whoever has no token nothing is read but the head.
        .layer(from_fn_with_state(office.clone(), authorised))
        .with_state(office)
}

async fn authorised(State(office): State<Office>, request: Request, next: Next) -> Response {
    let said = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let said = said.and_then(|said| said.strip_prefix(b"Bearer ")).unwrap_or_default();
    match is_same(said, office.token.as_bytes()) {
        true => next.run(request).await,
        false => {
            let why = "commands need the token that stands in the run's notice (monitor.json in the data directory); the commands \
                       `parked ..` read it there\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], why).into_response()
        }
    }
}

async fn ask(State(office): State<Office>, body: Bytes) -> Response {
    let ask: Ask = match serde_json::from_slice(&body) {
        Ok(ask) => ask,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("this cannot be asked: {error}\n")).into_response(),
    };
    let answer = tokio::task::spawn_blocking(move || office.desk.ask(ask)).await.expect("who waits for an answer does not panic");
    match answer {
        Ok(answer) => {
            let text = serde_json::to_string(&answer).expect("an answer is plain data");
            ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Compared in the same time wherever they differ, so that nobody finds the token out by trying.
fn is_same(said: &[u8], token: &[u8]) -> bool {
    let differs = said.iter().zip(token).fold(0, |all, (one, other)| all | (one ^ other));
    !token.is_empty() && said.len() == token.len() && differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_will_do() {
        assert!(is_same(b"abc", b"abc"));
        assert!([&b"abd"[..], b"ab", b"abcd", b""].iter().all(|said| !is_same(said, b"abc")));
        assert!(!is_same(b"", b""), "a notice of an earlier program has no token");
    }
}
