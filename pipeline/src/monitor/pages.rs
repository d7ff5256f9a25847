//! What is served under which path.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::Watched;

/// Path and meaning of everything there is.
const PAGES: [(&str, &str); 5] = [
    ("/metrics", "all metrics, for Prometheus"),
    ("/healthz", "200 while the mark moves or nothing is under way; 503 and why, if not"),
    ("/api/status", "how it stands"),
    ("/api/books", "what became of everything that was read, by action"),
    ("/api/why", "what holds the mark"),
];

/// The header by which the commands know that it is the run they mean that answers.
pub(crate) const RUN: &str = "highwater-run";

/// What stands in that header.
pub(crate) fn run(pid: u32, generation: u64) -> String {
    format!("{pid}/{generation}")
}

type Pipeline = State<Arc<Watched>>;

pub(super) fn router(watched: Arc<Watched>) -> Router {
    let run = run(std::process::id(), watched.process.generation);
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/api/status", get(async |State(pipeline): Pipeline| json(&pipeline.status(Instant::now()))))
        .route("/api/books", get(async |State(pipeline): Pipeline| json(&pipeline.books())))
        .route("/api/why", get(why))
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here; / lists what there is\n"))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "this page only tells: GET\n"))
        .layer(map_response(move |response: Response| {
            let run = run.clone();
            async move { ([(RUN, run)], response) }
        }))
        .with_state(watched)
}

fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("what is told is plain data") + "\n";
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

async fn index(State(pipeline): Pipeline) -> Html<String> {
    let name = escape(&pipeline.process.limits.pipeline);
    let lines = PAGES.map(|(path, meaning)| format!("<dt><a href=\"{path}\">{path}</a><dd>{meaning}\n")).concat();
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>\n\
         <style>body{{font:16px/1.5 system-ui;max-width:42rem;margin:3rem auto;padding:0 1rem}}dd{{margin:0 0 .7rem}}</style>\n\
         <h1>{name}</h1><p>run {}, process {}\n<dl>\n{lines}</dl></html>\n",
        pipeline.process.generation,
        std::process::id()
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// Prometheus' text format. Gathered off this thread: others may be asking at the same time.
async fn metrics(State(pipeline): Pipeline) -> Response {
    let text = aside(move || pipeline.metrics()).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// As data; as sentences for whoever asks for text alone.
async fn why(State(pipeline): Pipeline, headers: HeaderMap) -> Response {
    let why = aside(move || pipeline.why()).await;
    match headers.get(header::ACCEPT).is_some_and(|accept| accept == "text/plain") {
        true => ([(header::CACHE_CONTROL, "no-store")], format!("{why}\n")).into_response(),
        false => json(&why),
    }
}

async fn health(State(pipeline): Pipeline) -> Response {
    let (ill, text) = aside(move || match pipeline.illness(Instant::now()) {
        None => (false, "well\n".to_owned()),
        Some(what) => (true, format!("{what}\n{}\n", pipeline.why())),
    })
    .await;
    let code = if ill { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, [(header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// Does what takes a while where it keeps nobody else waiting.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("what gathers figures does not panic")
}
