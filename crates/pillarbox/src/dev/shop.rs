//! A small shop that places orders: an `orders` row and its outbox row in one transaction, one in
//! ten rolled back.
//!
//! Paced, on a few connections. Tells the ledger what became of each transaction and nothing else;
//! a transaction whose outcome is unknown is not counted. Never talks to Kafka or to the relay.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use super::SharedLedger;
use super::ledger::UNSEEN_MAX;

/// The tables of the shop itself; the outbox is made by setup.
pub(super) const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS orders (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL,
    quantity int NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now()
)";

const ORDER: &str = "INSERT INTO orders (id, customer, item, quantity) VALUES ($1::text::uuid, $2, $3, $4)";

const EVENT: &str = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
                     VALUES ($1::text::uuid, 'order', $2, 'OrderPlaced', $3::text::jsonb)";

/// Transactions a second that one connection carries with ease: each waits for one flush to disk.
const TRANSACTIONS_PER_CONNECTION: u32 = 100;

/// Connections at most: more only fight for the two cores of a small machine.
const CONNECTIONS_MAX: u32 = 16;

/// One in so many transactions is rolled back.
const ROLLED_BACK_ONE_IN: u8 = 10;

/// Pause after an error: the private server may be starting again.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

const ITEMS: [&str; 6] = ["teapot", "lantern", "notebook", "kite", "marbles", "compass"];

/// Places orders until `stop` says so.
pub(super) async fn run(url: &str, per_second: u32, ledger: &SharedLedger, stop: watch::Receiver<bool>) {
    if per_second == 0 {
        return;
    }
    let connections = per_second.div_ceil(TRANSACTIONS_PER_CONNECTION).min(CONNECTIONS_MAX);
    let interval = Duration::from_secs(1) * connections / per_second;
    join_all((0..connections).map(|_| counter(url, interval, ledger, stop.clone()))).await;
}

/// One connection's orders. An error ends the connection, not the shop.
async fn counter(url: &str, interval: Duration, ledger: &SharedLedger, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            error = orders(url, interval, ledger) => {
                tracing::warn!(%error, "the shop lost its connection and tries again");
            }
            // Between statements or inside one: whatever is open is rolled back by the server, and
            // an outcome nobody learned is not counted.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(ERROR_PAUSE) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Places orders until that fails.
async fn orders(url: &str, interval: Duration, ledger: &SharedLedger) -> tokio_postgres::Error {
    let (client, connection) = match tokio_postgres::connect(url, NoTls).await {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    tokio::select! {
        error = place_paced(client, interval, ledger) => error,
        // The client reports what broke it at its next statement; until then this is enough.
        Err(error) = connection => error,
    }
}

async fn place_paced(mut client: Client, interval: Duration, ledger: &SharedLedger) -> tokio_postgres::Error {
    let statements = match Statements::prepare(&client).await {
        Ok(statements) => statements,
        Err(error) => return error,
    };
    let mut pace = tokio::time::interval(interval);
    loop {
        pace.tick().await;
        if ledger.lock().unseen() >= UNSEEN_MAX {
            continue;
        }
        // The pace is that of committed orders: a rolled-back one is followed at once by another.
        loop {
            match place(&mut client, &statements, ledger).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => return error,
            }
        }
    }
}

struct Statements {
    order: Statement,
    event: Statement,
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { order: client.prepare(ORDER).await?, event: client.prepare(EVENT).await? })
    }
}

/// One transaction; false if it was rolled back.
async fn place(
    client: &mut Client,
    statements: &Statements,
    ledger: &SharedLedger,
) -> Result<bool, tokio_postgres::Error> {
    let id = Uuid::new_v4();
    // The shop needs some chance; a random id brings enough.
    let [chance, item, customer, quantity, ..] = *id.as_bytes();
    let item = ITEMS[usize::from(item) % ITEMS.len()];
    let customer = format!("customer-{}", customer % 50);
    let quantity = i32::from(quantity % 9) + 1;
    let payload = format!(r#"{{"order": "{id}", "item": "{item}", "quantity": {quantity}}}"#);
    let id_text = id.to_string();
    let transaction = client.transaction().await?;
    transaction.execute(&statements.order, &[&id_text, &customer, &item, &quantity]).await?;
    transaction.execute(&statements.event, &[&id_text, &customer, &payload]).await?;
    if chance % ROLLED_BACK_ONE_IN == 0 {
        transaction.rollback().await?;
        ledger.lock().rolled_back(id.as_u128());
        return Ok(false);
    }
    transaction.commit().await?;
    let at = Instant::now();
    ledger.lock().committed(id.as_u128(), at);
    Ok(true)
}
