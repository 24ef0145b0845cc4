//! What a proxy and its tasks share: the weather, the armed triggers, and each connection with what befell it.
//!
//! Holds values and wakes whoever waits for them; must never read or write a socket's bytes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::Protocol;
use super::kafka;
use super::scan::Sight;
use super::trigger::{Action, Catch, Caught, Trigger};
use super::weather::{Direction, Forecast, Kind};

/// What befalls a connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    Reset,
    Finish(Direction),
    Corrupt(Direction),
}

pub(super) struct Shared {
    pub(super) protocol: Protocol,
    pub(super) target: watch::Sender<Option<SocketAddr>>,
    pub(super) weather: watch::Sender<Forecast>,
    links: Mutex<Vec<Weak<Link>>>,
    catches: Mutex<Vec<Arc<Catch>>>,
    answers: Mutex<BTreeMap<(i16, i16), u64>>,
    corrupted: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            target: watch::Sender::new(None),
            weather: watch::Sender::new(Forecast::default()),
            links: Mutex::new(Vec::new()),
            catches: Mutex::new(Vec::new()),
            answers: Mutex::new(BTreeMap::new()),
            corrupted: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, link: &Arc<Link>) {
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    /// Open connections; one whose kind is not known yet is among those of every kind.
    pub(super) fn links(&self, kinds: &[Kind]) -> Vec<Arc<Link>> {
        let open: Vec<_> = lock(&self.links).iter().filter_map(Weak::upgrade).collect();
        let wanted = |link: &Arc<Link>| lock(&link.kind).is_none_or(|kind| kinds.contains(&kind));
        open.into_iter().filter(wanted).collect()
    }

    pub(super) fn blow(&self, kinds: &[Kind], blow: Blow) -> usize {
        let links = self.links(kinds);
        links.iter().for_each(|link| link.blow(blow));
        links.len()
    }

    pub(super) fn catch(&self, trigger: Trigger, action: Action, runtime: Handle) -> Caught {
        let catch = Arc::new(Catch::new(trigger, action));
        let mut catches = lock(&self.catches);
        catches.retain(|catch| !catch.is_taken());
        catches.push(Arc::clone(&catch));
        Caught { catch, runtime }
    }

    /// The armed trigger that this message is for, which then is armed no more.
    pub(super) fn caught(&self, sight: &Sight, link: &Link) -> Option<Arc<Catch>> {
        let asked = match sight {
            Sight::Unknown | Sight::Opens(_) => return None,
            Sight::Answer(correlation) => lock(&link.asked).get(correlation).map(|asked| asked.api),
            Sight::Request(_) | Sight::StandbyStatus => None,
        };
        let catches = lock(&self.catches);
        catches.iter().find(|catch| catch.trigger.matches(sight, asked) && catch.take()).cloned()
    }

    pub(super) fn answers(&self, api: ApiKey, code: i16) -> u64 {
        lock(&self.answers).get(&(api as i16, code)).copied().unwrap_or(0)
    }

    pub(super) fn corrupted(&self) -> u64 {
        self.corrupted.load(Ordering::Relaxed)
    }

    pub(super) fn count_corrupted(&self) {
        self.corrupted.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is about to be forwarded, or an answer has come.
    pub(super) fn saw(&self, link: &Link, sight: &Sight, bytes: &Bytes, catch: Option<Arc<Catch>>) {
        match sight {
            Sight::Request(request) => {
                let asked = Asked { api: request.api, version: request.version, catch };
                lock(&link.asked).insert(request.correlation, asked);
            }
            Sight::Answer(correlation) => {
                let Some(asked) = lock(&link.asked).remove(correlation) else { return };
                let codes = kafka::codes(asked.api, asked.version, bytes);
                for code in &codes {
                    *lock(&self.answers).entry((asked.api, *code)).or_default() += 1;
                }
                if let Some(catch) = asked.catch {
                    catch.answered(codes);
                }
                link.heard.notify_one();
            }
            Sight::Unknown | Sight::Opens(_) | Sight::StandbyStatus => {}
        }
    }
}

/// A request that was forwarded and not answered yet.
struct Asked {
    api: i16,
    version: i16,
    catch: Option<Arc<Catch>>,
}

/// One connection: both sockets, and what its lanes tell each other.
pub(super) struct Link {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    kind: Mutex<Option<Kind>>,
    reset: watch::Sender<bool>,
    finished: [watch::Sender<bool>; 2],
    corrupt: [AtomicBool; 2],
    asked: Mutex<HashMap<i32, Asked>>,
    heard: Notify,
}

impl Link {
    pub(super) fn new(client: TcpStream, server: TcpStream, kind: Option<Kind>) -> Self {
        Self {
            client,
            server,
            kind: Mutex::new(kind),
            reset: watch::Sender::new(false),
            finished: [watch::Sender::new(false), watch::Sender::new(false)],
            corrupt: [AtomicBool::new(false), AtomicBool::new(false)],
            asked: Mutex::new(HashMap::new()),
            heard: Notify::new(),
        }
    }

    /// The sockets that a lane reads from and writes to.
    pub(super) fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        }
    }

    /// Until the startup packet is there, a connection is an ordinary one.
    pub(super) fn kind(&self) -> Kind {
        lock(&self.kind).unwrap_or(Kind::Plain)
    }

    pub(super) fn opened(&self, kind: Kind) {
        *lock(&self.kind) = Some(kind);
    }

    pub(super) fn blow(&self, blow: Blow) {
        match blow {
            Blow::Reset => {
                for socket in [&self.client, &self.server] {
                    // Closed with a linger time of zero, a socket sends RST. It may be closed already.
                    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                }
                self.reset.send_replace(true);
            }
            Blow::Finish(direction) => {
                let _ = shutdown(self.ends(direction).1, Shutdown::Write);
                self.finished[direction as usize].send_replace(true);
            }
            Blow::Corrupt(direction) => self.corrupt[direction as usize].store(true, Ordering::Release),
        }
    }

    pub(super) async fn until_reset(&self) {
        let _ = self.reset.subscribe().wait_for(|reset| *reset).await;
    }

    pub(super) fn is_finished(&self, direction: Direction) -> bool {
        *self.finished[direction as usize].borrow()
    }

    /// True once after each [`Blow::Corrupt`].
    pub(super) fn take_corruption(&self, direction: Direction) -> bool {
        self.corrupt[direction as usize].swap(false, Ordering::AcqRel)
    }

    /// Waits until every forwarded request is answered.
    pub(super) async fn all_answered(&self) {
        while !lock(&self.asked).is_empty() {
            self.heard.notified().await;
        }
    }
}
