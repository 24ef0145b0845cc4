//! `POST /members` with a name as its body, `GET /members` for how many there are.
//!
//! | answer | means |
//! | --- | --- |
//! | 201 | a member, as the read model has it: the write was read back |
//! | 202 | a member; the read model has not come to it in time. The receipt says what to wait for |
//! | 409 | somebody has that name: refused when it was written, by a constraint, before there was any event |
//!
//! Must never make an event of what the database refuses.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use pillarbox_consumer::Receipt;
use pillarbox_consumer::wait::{TokioPostgres, Waiter};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::model;

/// How long a request may take to see what it wrote.
const WAIT: Duration = Duration::from_secs(5);

/// What must be true when it is written.
const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS names (name text PRIMARY KEY CHECK (name <> ''), member text NOT NULL)";

/// Name and event in one statement, and so in one transaction: both, or neither.
const JOIN: &str = "WITH claimed AS (INSERT INTO names VALUES ($1, gen_random_uuid()::text) RETURNING member) \
    SELECT member, pillarbox.emit('member', member, 'MemberJoined', jsonb_build_object('name', $1::text))::text FROM claimed";

/// Where everything is.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The database that is written to.
    pub(crate) shop: String,
    /// The database of the read model.
    pub(crate) model: String,
    /// Kafka.
    pub(crate) brokers: String,
    /// The relay's HTTP interface.
    pub(crate) relay: String,
}

type Messages =
    Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> + Send>;

struct Desk {
    shop: Client,
    model: Client,
    relay: String,
    /// One wait at a time; a busy service keeps several.
    waiter: Mutex<Waiter<TokioPostgres<Messages>>>,
}

type Anything = Box<dyn Error + Send + Sync>;

/// Serves until something breaks; the read model is built beside it.
pub(crate) async fn run(listener: TcpListener, settings: Settings) -> Result<(), Box<dyn Error>> {
    let shop = connect(&settings.shop).await?;
    shop.batch_execute(TABLES).await?;
    let (client, mut connection) = tokio_postgres::connect(&settings.model, NoTls).await?;
    let messages: Messages = Box::new(move |context| connection.poll_message(context));
    let desk = Desk {
        shop,
        model: connect(&settings.model).await?,
        relay: settings.relay.clone(),
        waiter: Mutex::new(Waiter::new(TokioPostgres::new(client, messages))),
    };
    let built: Pin<Box<dyn Future<Output = Result<(), Anything>> + Send>> =
        Box::pin(async move { model::build(&settings.model, &settings.brokers).await });
    let router = Router::new().route("/members", post(join).get(total)).with_state(Arc::new(desk));
    tokio::select! {
        served = axum::serve(listener, router) => Ok(served?),
        built = built => Ok(built.map_err(|error| error as Box<dyn Error>)?),
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn join(State(desk): State<Arc<Desk>>, name: String) -> (StatusCode, Json<Value>) {
    desk.join(&name).await.unwrap_or_else(|error| {
        (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() })))
    })
}

async fn total(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let row = desk.model.query_one("SELECT members FROM total", &[]).await;
    Json(json!({ "members": row.map_or(0, |row| row.get::<_, i64>(0)) }))
}

impl Desk {
    async fn join(&self, name: &str) -> Result<(StatusCode, Json<Value>), Anything> {
        let row = match self.shop.query_one(JOIN, &[&name]).await {
            Ok(row) => row,
            Err(error) => return refused(error),
        };
        let (member, event): (String, String) = (row.get(0), row.get(1));
        // Committed. Now: where did the event go, and has the read model come to it?
        let Some(receipt) = self.receipt(&event).await? else {
            return Ok((StatusCode::ACCEPTED, Json(json!({ "member": member, "event": event }))));
        };
        let deadline = tokio::time::sleep(WAIT);
        let applied = self.waiter.lock().await.wait(&receipt, model::CONSUMER, deadline).await?;
        if !applied {
            return Ok((
                StatusCode::ACCEPTED,
                Json(json!({ "member": member, "receipt": receipt.to_string() })),
            ));
        }
        let row = self.model.query_one("SELECT name, place FROM members WHERE id = $1", &[&member]).await?;
        let (name, place): (String, i64) = (row.get(0), row.get(1));
        Ok((StatusCode::CREATED, Json(json!({ "member": member, "name": name, "place": place }))))
    }

    /// Where the event went, once the relay has brought it to Kafka.
    async fn receipt(&self, event: &str) -> Result<Option<Receipt>, Anything> {
        let path = format!("/api/v1/events?id={event}&wait={}", WAIT.as_secs());
        let (status, answer) = get(&self.relay, &path).await?;
        match (status, answer["receipt"].as_str()) {
            (200, Some(receipt)) => Ok(Some(receipt.parse()?)),
            _ => Ok(None),
        }
    }
}

fn refused(error: tokio_postgres::Error) -> Result<(StatusCode, Json<Value>), Anything> {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        return Ok((StatusCode::CONFLICT, Json(json!({ "error": "somebody has that name" }))));
    }
    if error.code() == Some(&SqlState::CHECK_VIOLATION) {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": "a name is not empty" }))));
    }
    Err(error.into())
}

/// `GET path` of the relay.
async fn get(address: &str, path: &str) -> Result<(u16, Value), Anything> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", address).body(Empty::<&[u8]>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    Ok((status, serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?))
}
