//! `GET /api/v1/events`: whether events have reached Kafka, and where they went.
//!
//! | asked | answered |
//! | --- | --- |
//! | `token=T`, perhaps `topic=A` several times | 200 when everything up to the token is in Kafka; 202 not yet |
//! | `id=I`, perhaps several times | 200 when all of them are; 404 not among those that are remembered |
//! | `wait=S` beside either | the same, after up to S seconds (60 at most) of waiting for 200 |
//! | anything else | 400; 404 a topic without events; 409 a token of another database or of a lost history |
//! | while this relay does not lead | 503 after the wait; at once where it has halted |
//!
//! A 200 holds the receipt that the functions of a consumer's database take. Waiting costs a task that sleeps until
//! something arrives: no step is timed. Their number is bounded. Never shows what is in an event.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::pipeline::arrivals::{Arrivals, EVENTS_REMEMBERED, Look, Place, Receipt, Token};
use pillarbox_relay::pipeline::status;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Shared, document};

/// The longest wait: below what proxies and clients take for a dead connection.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Questions that may wait at once: each is woken by every commit.
const WAITERS_MAX: usize = 1024;

/// Ids or topics in one question.
const NAMES_MAX: usize = 64;

/// What this interface needs.
#[derive(Clone)]
pub(crate) struct Desk {
    arrivals: Arc<Arrivals>,
    waiters: Arc<Semaphore>,
}

impl Desk {
    /// A desk for a pipeline.
    pub(crate) fn new(arrivals: Arc<Arrivals>) -> Self {
        Self { arrivals, waiters: Arc::new(Semaphore::new(WAITERS_MAX)) }
    }
}

/// A question, as the query string has it.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    what: What,
    wait: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Token { token: Token, topics: Vec<String> },
    Ids(Vec<String>),
}

/// What is known at one moment.
enum Answer {
    Arrived(Value),
    NotYet(Response),
}

pub(super) async fn events(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let question = match parse(query.as_deref().unwrap_or_default()) {
        Ok(question) => question,
        Err(fault) => return problem(&fault),
    };
    let Desk { arrivals, waiters } = shared.desk.clone();
    let Ok(_waiter) = waiters.try_acquire() else {
        let fault = Fault::new(Code::PipelineBusy, format!("{WAITERS_MAX} others wait already"));
        return problem(&fault.hint("ask again in a moment"));
    };
    answer(shared, &arrivals, question).await.unwrap_or_else(|fault| problem(&fault))
}

async fn answer(shared: Shared, arrivals: &Arrivals, question: Question) -> Result<Response, Fault> {
    let deadline = Instant::now() + question.wait;
    let mut ticks = arrivals.ticks();
    let mut asked = Asked::new(arrivals, &question.what);
    loop {
        // Before the look: whatever comes after it ends the sleep below.
        ticks.mark_unchanged();
        let not_yet = match asked.look(arrivals)? {
            Answer::Arrived(body) => return Ok(Json(body).into_response()),
            Answer::NotYet(response) => response,
        };
        let status = Arc::clone(&shared.status.borrow());
        if matches!(status.state, status::State::Halted | status::State::Stopped) {
            return Err(not_leading(&status));
        }
        if !matches!(timeout_at(deadline, ticks.changed()).await, Ok(Ok(()))) {
            let leads = matches!(
                status.state,
                status::State::Streaming | status::State::Paused | status::State::Draining
            );
            return if leads { Ok(not_yet) } else { Err(not_leading(&status)) };
        }
    }
}

fn not_leading(status: &status::Status) -> Fault {
    let fault =
        Fault::new(Code::PipelineBusy, format!("the pipeline is {}", super::state_word(status.state)));
    match &status.fault {
        Some(why) => fault.because(format!("{}: {}", why.code, why.message)),
        None => fault,
    }
    .hint("ask the relay that leads, or wait until one does")
}

/// An id, the search for it, and what it found.
type Wanted<'a> = (&'a str, Look, Option<Place>);

/// A question under way.
enum Asked<'a> {
    Token { token: &'a Token, topics: &'a [String] },
    Ids(Vec<Wanted<'a>>),
}

impl<'a> Asked<'a> {
    fn new(arrivals: &Arrivals, what: &'a What) -> Self {
        match what {
            What::Token { token, topics } => Self::Token { token, topics },
            What::Ids(ids) => {
                Self::Ids(ids.iter().map(|id| (id.as_str(), arrivals.look(id), None)).collect())
            }
        }
    }

    fn look(&mut self, arrivals: &Arrivals) -> Result<Answer, Fault> {
        match self {
            Self::Token { token, topics } => Ok(match arrivals.reached(token, topics)? {
                Some(receipt) => Answer::Arrived(reached(&receipt)),
                None => {
                    let through = arrivals.through().map(|through| through.to_string());
                    let body = json!({ "reached": false, "through": through });
                    Answer::NotYet((StatusCode::ACCEPTED, Json(body)).into_response())
                }
            }),
            Self::Ids(ids) => {
                for (_, look, place) in ids.iter_mut().filter(|(_, _, place)| place.is_none()) {
                    *place = arrivals.find(look);
                }
                let missing = ids.iter().filter(|(_, _, place)| place.is_none()).count();
                Ok(if missing == 0 {
                    Answer::Arrived(found(arrivals, ids))
                } else {
                    Answer::NotYet(unknown(missing))
                })
            }
        }
    }
}

fn reached(receipt: &Receipt) -> Value {
    let partitions: Vec<Value> = receipt.places.iter().map(view).collect();
    json!({ "reached": true, "receipt": receipt.to_string(), "partitions": partitions })
}

fn found(arrivals: &Arrivals, ids: &[Wanted<'_>]) -> Value {
    let places = ids.iter().filter_map(|(id, _, place)| Some((*id, place.as_ref()?)));
    let events: Vec<Value> = places
        .clone()
        .map(|(id, place)| {
            let mut event = view(place);
            event["id"] = json!(id);
            event
        })
        .collect();
    let receipt = arrivals.receipt(places.map(|(_, place)| place.clone()).collect());
    json!({ "reached": true, "receipt": receipt.to_string(), "events": events })
}

fn view(place: &Place) -> Value {
    let Place { topic, partition, sequence, offset } = place;
    json!({ "topic": topic, "partition": partition, "sequence": sequence, "offset": offset })
}

fn unknown(missing: usize) -> Response {
    let events = if missing == 1 { "the event is".to_owned() } else { format!("{missing} events are") };
    let message = format!("{events} not among the last {EVENTS_REMEMBERED} that this relay brought to Kafka");
    problem(&Fault::new(Code::EventUnknown, message).hint(
        "wait longer with wait=SECONDS, or ask with a token: nothing tells a late event from an old or a dead one",
    ))
}

fn problem(fault: &Fault) -> Response {
    let status = match fault.code {
        Code::BadQuestion => StatusCode::BAD_REQUEST,
        Code::EventUnknown | Code::TopicUnknown => StatusCode::NOT_FOUND,
        Code::PipelineBusy => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    };
    let body = document(fault, status).to_string();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

fn parse(query: &str) -> Result<Question, Fault> {
    let (mut tokens, mut ids, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    let mut wait = Duration::ZERO;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = value.replace('+', " ");
        let value =
            percent_decode_str(&plain).decode_utf8().map_err(|_| bad("a value is not UTF-8"))?.into_owned();
        match name {
            "token" => tokens.push(value),
            "id" => ids.push(value),
            "topic" => topics.push(value),
            "wait" => wait = seconds(&value)?,
            _ => return Err(bad("there is a parameter that is none of token, id, topic and wait")),
        }
    }
    if ids.len().max(topics.len()) > NAMES_MAX {
        return Err(bad("there are more than 64 ids or topics"));
    }
    let what = match (tokens.as_slice(), ids.is_empty()) {
        ([token], true) => What::Token { token: token.parse()?, topics },
        ([], false) if topics.is_empty() => What::Ids(ids),
        ([], false) => return Err(bad("an event's id needs no topic")),
        _ => return Err(bad("either one token or some ids must be given")),
    };
    Ok(Question { what, wait })
}

fn seconds(text: &str) -> Result<Duration, Fault> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=WAIT_MAX.as_secs_f64()).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| bad("wait is not a number of seconds from 0 to 60"))
}

fn bad(cause: &str) -> Fault {
    Fault::new(Code::BadQuestion, "the question cannot be understood")
        .because(cause)
        .hint("GET /api/v1/events?token=TOKEN&topic=TOPIC&wait=5, or ?id=ID&wait=5")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let token = |text: &str| text.parse::<Token>().expect("a token");
        let topics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (query, what, wait_ms) in [
            ("token=7:1:0/1", What::Token { token: token("7:1:0/1"), topics: vec![] }, 0),
            ("token=7%3A1%3A0%2F1&wait=0.25", What::Token { token: token("7:1:0/1"), topics: vec![] }, 250),
            (
                "topic=a&token=7:1:0/1&topic=b&wait=60",
                What::Token { token: token("7:1:0/1"), topics: topics(&["a", "b"]) },
                60_000,
            ),
            ("id=a+b&id=%C3%A4&wait=1", What::Ids(topics(&["a b", "ä"])), 1_000),
        ] {
            assert_eq!(parse(query), Ok(Question { what, wait: Duration::from_millis(wait_ms) }), "{query}");
        }
        let many = "id=a&".repeat(65);
        for query in [
            "",
            "wait=1",
            "topic=a",
            "token=7:1:0/1&id=a",
            "token=7:1:0/1&token=7:1:0/1",
            "token=nonsense",
            "id=a&topic=b",
            "id=%FF",
            "id=a&wait=61",
            "id=a&wait=-1",
            "id=a&wait=NaN",
            "id=a&wait=",
            "id=a&what=b",
            many.as_str(),
        ] {
            assert_eq!(parse(query).expect_err(query).code, Code::BadQuestion, "{query}");
        }
    }
}
