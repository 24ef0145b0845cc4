//! Applies each event of a topic once: what the consumer remembers is one row per partition, changed in the transaction
//! that applies the event.
//!
//! Every event that Pillarbox writes carries its place in the header [`PB_POS`]: a position that grows for ever, and a
//! sequence without holes. So a consumer needs no table of ids and no window of time: one comparison tells an event
//! that was applied already from the next one, from one before which others were lost, and from one of another history.
//!
//! ```text
//! record -> Header::parse -> State::accept -> apply | duplicate | refused       (this is all; pure, no allocation)
//!                                 ^
//!                       Inbox: the state is a row, locked and written in your own transaction
//! ```
//!
//! # The decision alone
//!
//! For a database of any kind: keep [`State`] beside the effect, in one transaction, one for each (source, topic,
//! partition).
//!
//! ```
//! use pillarbox_consumer::{Decision, Header, Refusal, Rules, State};
//!
//! let mut balance = 0;
//! let mut state = State::FRESH;
//! let log = [
//!     ("orders:00000001000000000000100000000000:1", 10),
//!     ("orders:00000001000000000000100000000001:2", 20),
//!     ("orders:00000001000000000000100000000000:1", 10), // read again after a rebalance
//!     ("orders:00000001000000000000100000000001:2", 20),
//!     ("orders:00000002000000000000080000000000:3", 30), // after a failover: LSNs repeat, the epoch does not
//! ];
//! for (pb_pos, amount) in log {
//!     let header = Header::parse(Some(pb_pos.as_bytes()))?;
//!     if state.accept(&header, Rules::default())?.applies() {
//!         balance += amount;
//!     }
//! }
//! assert_eq!(balance, 60);
//!
//! // What is missing is noticed, and never skipped.
//! let header = Header::parse(Some(b"orders:00000002000000000000090000000000:5"))?;
//! let refusal = state.accept(&header, Rules::default()).expect_err("4 is missing");
//! assert_eq!(refusal.to_string(), "sequence 4 missing before the event");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(
    feature = "tokio-postgres",
    doc = r##"
# In a transaction of Postgres

The `Inbox` keeps the state in `pillarbox.consumer_positions`, the table of the SQL function `pillarbox.accept`: consumers
in other languages and this one take over from each other. It takes a transaction and nothing else, so that effect and
state cannot come apart.

```no_run
use pillarbox_consumer::inbox::{Error, Event, Inbox};

async fn handle(
    client: &mut tokio_postgres::Client,
    event: Event<'_>,
    amount: i64,
) -> Result<(), Error<tokio_postgres::Error>> {
    let inbox = Inbox::new("billing");
    let mut tx = client.transaction().await?;
    if inbox.accept(&mut tx, event).await?.applies() {
        tx.execute("UPDATE account SET balance = balance + $1", &[&amount]).await?;
    }
    tx.commit().await?;
    Ok(())
}
```
"##
)]
#![cfg_attr(
    feature = "tokio-postgres",
    doc = r##"
# Reading one's own writes

Whoever has written asks the relay where it went, and waits until a consumer has applied it:

```no_run
use pillarbox_consumer::wait::{Listener, WaitError, Waiter};
use pillarbox_consumer::Receipt;

async fn see_it<L: Listener>(waiter: &mut Waiter<L>, receipt: &Receipt) -> Result<bool, WaitError<L::Error>> {
    // The receipt is in the answer to GET /api/v1/events?id=..&wait=5, with the id that pillarbox.emit() gave.
    waiter.wait(receipt, "billing", tokio::time::sleep(std::time::Duration::from_secs(5))).await
}
```
"##
)]
//! # What it relies on
//!
//! The state and the effect commit together. Events come in the order of their partition. A state is per partition:
//! one for a whole topic would skip what a slower partition still has to say. Offsets of the group are a hint:
//! whatever they say, the row decides, so that a rebalance, a second owner, or reading the whole topic again changes
//! nothing. Where handlers run in parallel by key, order of the partition is lost, and with it this guarantee.
//!
//! # Features
//!
//! None is on by default, and the crate then depends on nothing but `pillarbox-wire`, which depends on nothing.
//! `tokio-postgres` and `sqlx` (0.9) bring the inbox for transactions of that driver.

#![forbid(unsafe_code)]

pub mod header;
#[cfg(any(feature = "tokio-postgres", feature = "sqlx"))]
pub mod inbox;
pub mod receipt;
pub mod state;
#[cfg(any(feature = "tokio-postgres", feature = "sqlx"))]
pub mod wait;

pub use header::{Header, HeaderError};
pub use pillarbox_wire::header::PB_POS;
pub use pillarbox_wire::{Epoch, Lsn, Position, Sequence};
pub use receipt::{Receipt, ReceiptError};
pub use state::{
    Contradiction, Decision, FirstContact, Gap, Mark, OnGap, Refusal, Rules, State, resume_offset,
};
