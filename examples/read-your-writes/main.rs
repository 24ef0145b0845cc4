//! A club's membership desk: it writes events, builds a read model of them, and answers with what it has just written.
//!
//! ```text
//! POST /members -> shop database: unique name + pillarbox.emit() -> relay -> Kafka -> model.rs -> model database
//!       ^                                                             |                                |
//!       +--- the member, as the read model has it <--- wait <--- receipt <--- GET /api/v1/events?id=...
//! ```
//! README.md tells how to run it. Must never answer from what it wrote: only from what was applied.

mod model;
mod service;

use std::env;

use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = service::Settings {
        shop: env::var("SHOP_URL")?,
        model: env::var("MODEL_URL")?,
        brokers: env::var("KAFKA_BROKERS")?,
        relay: env::var("RELAY").unwrap_or_else(|_| "127.0.0.1:8686".into()),
    };
    let listener = TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    service::run(listener, settings).await
}
