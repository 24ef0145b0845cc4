//! A TCP proxy that treats connections as badly as networks do, and knows enough of Kafka and Postgres to do so at a
//! chosen message.
//!
//! ```text
//!             bytes       whole messages, each       due, weather allows,
//! sender ---> read ------> with its time ---------->  not caught ---------> written ---> receiver
//!               | end        (at most 4 MiB)  |                |
//!               +----------------------------->   in order with the bytes before it
//! ```
//! A connection has two lanes, one a direction; a lane is that picture. What it does with the next message:
//!
//! | state of a lane | entered by | its bytes | left by |
//! | --- | --- | --- | --- |
//! | passing | start | written once due, in slices, at a rate | |
//! | stalled | [`Weather::stalled`], a gap of [`Weather::flap`] | kept, new ones too; beyond 4 MiB not read | weather |
//! | holding | a [`Trigger`] with [`Action::Hold`] | the same, from that message on | [`Caught::release`] |
//! | shut | [`Proxy::finish`], or the sender's end | read and dropped | the end of the connection |
//! | over | a reset, or both lanes ended | lost | |
//!
//! | what ends | while | leads to |
//! | --- | --- | --- |
//! | the sender, in order | passing | the receiver gets the bytes before it, then the end; the other lane goes on |
//! | the sender, in order or not | stalled or holding | nothing: the receiver learns of it after what is kept |
//! | the sender, by a reset | passing | the receiver gets the bytes before it, then a reset |
//! | the receiver | any | what is for it is dropped, but answers are still seen |
//! | [`Proxy::reset`], [`Action::Reset`] | any | both sides are reset at once, what is kept is lost |
//! | the target refuses | | the client is reset |
//! | the proxy | any | as a reset of all |
//!
//! A message that is no Kafka or Postgres (TLS, say), or larger than 64 MiB, makes the rest of its lane plain bytes,
//! in which no trigger fires. After a held request was released, the end behind it waits for its answer, 10 s at most,
//! so that it can be seen what the server said to it.
//!
//! Waits block: never call them from a task. Must never listen beyond loopback, nor alter a byte unless told to.

mod cursor;
mod kafka;
mod lane;
mod link;
mod postgres;
mod scan;
mod tasks;
mod trigger;
mod weather;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use kafka_protocol::messages::ApiKey;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use self::link::{Blow, Shared};
pub use self::trigger::{Action, Caught, Trigger};
pub use self::weather::{Direction, Kind, Weather};
use crate::LabError;

/// What the bytes are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes: no trigger ever fires, every connection is [`Kind::Plain`].
    Opaque,
    /// Kafka's.
    Kafka,
    /// Postgres' version 3.
    Postgres,
}

/// A proxy in front of one server. Dropping it resets every connection.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy {{ port: {} }}", self.port)
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1. Connections wait until [`Self::forward_to`] names the server, so that the
    /// port can be part of that server's own settings.
    ///
    /// # Errors
    /// No port, no runtime.
    pub fn start(protocol: Protocol) -> Result<Self, LabError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fault-proxy")
            .enable_all()
            .build()
            .map_err(LabError::io("start", "a runtime"))?;
        let bind = LabError::io("bind", "127.0.0.1:0");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(bind)?;
        let port = listener.local_addr().map_err(LabError::io("ask", "a listener"))?.port();
        let shared = Arc::new(Shared::new(protocol));
        tasks::accept(&runtime, Arc::clone(&shared), listener);
        Ok(Self { shared, port, runtime: Some(runtime) })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server on 127.0.0.1 that connections go to from now on.
    pub fn forward_to(&self, port: u16) {
        self.shared.target.send_replace(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }

    /// Weather for these kinds of connections, those to come included, in these directions.
    pub fn set(&self, kinds: &[Kind], directions: &[Direction], weather: Weather) {
        self.shared.weather.send_modify(|forecast| forecast.set(kinds, directions, weather));
    }

    /// The same weather for everything.
    pub fn set_all(&self, weather: Weather) {
        self.set(&Kind::ALL, &Direction::BOTH, weather);
    }

    /// Lets everything pass again: what was kept arrives late, and in order.
    pub fn clear(&self) {
        self.set_all(Weather::default());
    }

    /// Resets connections (RST to both sides); gives how many.
    pub fn reset(&self, kinds: &[Kind]) -> usize {
        self.shared.blow(kinds, Blow::Reset)
    }

    /// Ends one direction of connections (FIN to the receiver) while the other goes on; gives of how many.
    pub fn finish(&self, kinds: &[Kind], direction: Direction) -> usize {
        self.shared.blow(kinds, Blow::Finish(direction))
    }

    /// Flips the bits of one byte of the next message on each connection; gives on how many.
    pub fn corrupt(&self, kinds: &[Kind], direction: Direction) -> usize {
        self.shared.blow(kinds, Blow::Corrupt(direction))
    }

    /// Acts on the next message that matches, once. Later triggers see what earlier ones let pass.
    pub fn catch(&self, trigger: Trigger, action: Action) -> Caught {
        let runtime = self.runtime.as_ref().expect("runs until it is dropped");
        self.shared.catch(trigger, action, runtime.handle().clone())
    }

    /// Open connections of these kinds.
    pub fn connections(&self, kinds: &[Kind]) -> usize {
        self.shared.links(kinds).len()
    }

    /// How many bytes were corrupted so far.
    pub fn corrupted(&self) -> u64 {
        self.shared.corrupted()
    }

    /// How many times Kafka answered this request with this code so far. Only Produce, EndTxn, AddPartitionsToTxn and
    /// InitProducerId are looked at; an answer counts once for each code in it.
    pub fn answers(&self, api: ApiKey, code: i16) -> u64 {
        self.shared.answers(api, code)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.blow(&Kind::ALL, Blow::Reset);
        if let Some(runtime) = self.runtime.take() {
            // In time for the resets to be seen by the tasks; whatever is left ends with the runtime.
            runtime.shutdown_timeout(Duration::from_millis(100));
        }
    }
}
