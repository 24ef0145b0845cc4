//! The HTTP interface of a running relay: health for orchestrators, metrics for Prometheus, status
//! and two verbs for people.
//!
//! | path | answers |
//! | --- | --- |
//! | `GET /livez` | 200 while the process runs; never depends on Postgres or Kafka |
//! | `GET /readyz` | 200 when relaying, standing by or paused; 503 and the code otherwise; dead letters are a note |
//! | `GET /metrics` | Prometheus text |
//! | `GET /api/v1/status` | the [`Status`] as JSON |
//! | `GET /api/v1/events` | whether events have reached Kafka, and where: see [`events`] |
//! | `POST /api/v1/pause`, `/api/v1/resume` | 200 when done, a problem document otherwise |
//!
//! There is no login: it listens on loopback unless told otherwise, and the verbs refuse what a
//! browser sends on behalf of a page. Never changes the configuration, never shows an event.

pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pillarbox_relay::error::{Class, Code, Fault};
use pillarbox_relay::pipeline::status::{self, FaultView, Status};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

/// What an operator asks of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Pause,
    Resume,
}

impl Verb {
    /// The path it is posted to.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Verb::Pause => "/api/v1/pause",
            Verb::Resume => "/api/v1/resume",
        }
    }
}

/// A verb on its way to whoever owns the pipeline, and where the outcome goes.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) done: oneshot::Sender<Result<(), Fault>>,
}

/// Verbs that may wait for the pipeline: one at work, a few clicks behind it.
pub(crate) const REQUESTS_MAX: usize = 4;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) metrics: metrics::Scrape,
    pub(crate) desk: events::Desk,
}

/// Opens the port.
///
/// # Errors
/// `PB-0003`: the address is in use or not of this machine.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        Fault::new(Code::ConfigValue, format!("http.listen: cannot listen on {address}"))
            .because(error)
            .hint(format!(
                "another relay may use the port: set http: {{ listen: 127.0.0.1:{} }} or http: {{ listen: off }}",
                address.port().saturating_add(1)
            ))
    })
}

/// Serves until the future is dropped; an error of one connection ends that connection alone.
///
/// # Errors
/// The listener broke.
pub(crate) async fn serve(listener: TcpListener, shared: Shared) -> std::io::Result<()> {
    axum::serve(listener, router(shared)).await
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/api/v1/status", get(show_status))
        .route("/api/v1/events", get(events::events))
        .route(Verb::Pause.path(), post(|state, headers| act(Verb::Pause, state, headers)))
        .route(Verb::Resume.path(), post(|state, headers| act(Verb::Resume, state, headers)))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .with_state(shared)
}

/// Whether the pipeline does, or stands ready to do, its work.
pub(crate) fn is_ready(state: status::State) -> bool {
    matches!(state, status::State::Streaming | status::State::StandingBy | status::State::Paused)
}

/// How a state is called, as in the JSON.
pub(crate) fn state_word(state: status::State) -> &'static str {
    match state {
        status::State::Starting => "starting",
        status::State::StandingBy => "standing by",
        status::State::Streaming => "streaming",
        status::State::Paused => "paused",
        status::State::Draining => "draining",
        status::State::Halted => "halted",
        status::State::Stopped => "stopped",
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let status = Arc::clone(&shared.status.borrow());
    let code = if is_ready(status.state) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = state_word(status.state).to_owned();
    if let Some(FaultView { code, message, cause, hint }) = &status.fault {
        text.push_str(&format!("\n{code}: {message}"));
        text.extend(cause.iter().map(|cause| format!("\ncause: {cause}")));
        text.extend(hint.iter().map(|hint| format!("\nhint: {hint}")));
    }
    // No reason to be taken out of service: what can be relayed is.
    if status.dead_letters_total > 0 {
        let rows = status.dead_letters_total;
        text.push_str(&format!(
            "\nnote: {}: rows that went to dead letters since the start: {rows}; see pillarbox dead-letters list",
            Code::DeadLettered
        ));
    }
    (code, text + "\n").into_response()
}

async fn scrape(State(shared): State<Shared>) -> Response {
    let status = Arc::clone(&shared.status.borrow());
    let text = shared.metrics.render(&status);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn show_status(State(shared): State<Shared>) -> Json<Status> {
    Json(Status::clone(&shared.status.borrow()))
}

async fn act(verb: Verb, State(shared): State<Shared>, headers: HeaderMap) -> Response {
    // Browsers name the page behind every POST; no other client does.
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "requests from web pages are refused\n").into_response();
    }
    let (done, outcome) = oneshot::channel();
    if shared.requests.try_send(Request { verb, done }).is_err() {
        let fault = Fault::new(Code::PipelineBusy, "the pipeline takes no request now");
        return problem(&fault.hint("try again in a moment"));
    }
    match outcome.await {
        Ok(Ok(())) => Json(json!({ "done": true })).into_response(),
        Ok(Err(fault)) => problem(&fault),
        Err(_) => {
            let fault = Fault::new(Code::PipelineBusy, "the pipeline ended before it answered");
            problem(&fault.hint("see the log of pillarbox run"))
        }
    }
}

/// A fault as an RFC 9457 document.
fn problem(fault: &Fault) -> Response {
    let status = match fault.class() {
        Class::Retry => StatusCode::SERVICE_UNAVAILABLE,
        Class::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    let body = document(fault, status);
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn document(fault: &Fault, status: StatusCode) -> serde_json::Value {
    json!({
        "title": fault.code.title(),
        "status": status.as_u16(),
        "code": fault.code.to_string(),
        "message": fault.message,
        "cause": fault.cause,
        "hint": fault.hint,
    })
}

#[cfg(test)]
mod tests;
