//! One direction of a connection: read, keep, write. See the states in the module above.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Blow, Link, Shared};
use super::scan::{Scan, Sight};
use super::trigger::Action;
use super::weather::{Dice, Direction, Weather};

/// Bytes that a lane keeps at most: about what socket buffers of a real network hold. A single message may be larger.
pub(super) const KEPT_BYTES_MAX: usize = 4 << 20;
/// Messages that a lane keeps at most: the same bytes, if each has 64.
const KEPT_MESSAGES_MAX: usize = KEPT_BYTES_MAX / 64;
/// Bytes read or written at once; the weather is looked at in between.
const CHUNK_BYTES: usize = 16 << 10;
/// A rate is kept by writing this often.
const RATE_STEP: Duration = Duration::from_millis(20);
/// How long the end of a connection waits for the answer to a request that was held.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How far before the end of a message the altered byte is: before what closes a Produce request (three empty lists of
/// tags), within its last record.
const FROM_END: usize = 16;

/// What travels from the reading to the writing half of a lane.
pub(super) enum Item {
    Message {
        bytes: Bytes,
        sight: Sight,
        came: Instant,
        kept: OwnedSemaphorePermit,
    },
    /// The sender will send no more.
    End,
    /// The sender was reset.
    Broken,
}

/// The queue between both halves.
pub(super) fn queue() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(KEPT_MESSAGES_MAX)
}

/// Reads until the sender's end. A writing half that is gone ends it, too.
pub(super) async fn read(shared: &Shared, link: &Link, direction: Direction, queue: mpsc::Sender<Item>) {
    let room = Arc::new(Semaphore::new(KEPT_BYTES_MAX));
    let mut scan = Scan::new(shared.protocol, direction);
    let mut buffer = vec![0; CHUNK_BYTES];
    let end = loop {
        match receive(link.ends(direction).0, &mut buffer).await {
            Ok(0) => break Item::End,
            Ok(length) => scan.push(&buffer[..length]),
            Err(_) => break Item::Broken,
        }
        while let Some((bytes, sight)) = scan.next() {
            if keep(&room, &queue, bytes, sight).await.is_none() {
                return;
            }
        }
    };
    let rest = scan.rest();
    if !rest.is_empty() && keep(&room, &queue, rest, Sight::Unknown).await.is_none() {
        return;
    }
    // The writing half is gone: nobody is to be told.
    let _ = queue.send(end).await;
}

async fn keep(room: &Arc<Semaphore>, queue: &mpsc::Sender<Item>, bytes: Bytes, sight: Sight) -> Option<()> {
    let length = u32::try_from(bytes.len().min(KEPT_BYTES_MAX)).ok()?;
    let came = Instant::now();
    let kept = Arc::clone(room).acquire_many_owned(length).await.ok()?;
    queue.send(Item::Message { bytes, sight, came, kept }).await.ok()
}

async fn receive(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// The writing half.
pub(super) struct Writer<'a> {
    pub(super) shared: &'a Shared,
    pub(super) link: &'a Link,
    pub(super) direction: Direction,
    pub(super) dice: Dice,
    /// No message is due before the one in front of it.
    due: Instant,
    /// The receiver is gone, or was told that nothing follows.
    deaf: bool,
    /// A held request was released: its answer is worth waiting for.
    held: bool,
    began: Instant,
}

impl<'a> Writer<'a> {
    pub(super) fn new(shared: &'a Shared, link: &'a Link, direction: Direction, seed: u64) -> Self {
        let now = Instant::now();
        let dice = Dice(seed);
        Self { shared, link, direction, dice, due: now, deaf: false, held: false, began: now }
    }

    /// Writes what comes until the end of it.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Item>) {
        while let Some(item) = queue.recv().await {
            match item {
                Item::Message { bytes, sight, came, kept } => {
                    if let Sight::Opens(kind) = sight {
                        self.link.opened(kind);
                    }
                    self.wait_due(came).await;
                    self.message(bytes, &sight).await;
                    drop(kept);
                }
                Item::End => {
                    self.clear().await;
                    if self.held {
                        let _ = timeout(ANSWER_MAX, self.link.all_answered()).await;
                    }
                    return self.link.blow(Blow::Finish(self.direction));
                }
                Item::Broken => {
                    self.clear().await;
                    if self.held {
                        let _ = timeout(ANSWER_MAX, self.link.all_answered()).await;
                    }
                    return self.link.blow(Blow::Reset);
                }
            }
        }
    }

    async fn wait_due(&mut self, came: Instant) {
        let Weather { delay, jitter, .. } = self.weather();
        self.due = self.due.max(came + delay + self.dice.up_to(jitter));
        sleep_until(self.due).await;
        self.clear().await;
    }

    async fn message(&mut self, mut bytes: Bytes, sight: &Sight) {
        let catch = self.shared.caught(sight, self.link);
        let mut alter = self.link.take_corruption(self.direction);
        if let Some(catch) = &catch {
            catch.caught();
            match catch.action {
                Action::Hold => {
                    catch.released().await;
                    self.held = true;
                    self.clear().await;
                }
                Action::Reset => return self.link.blow(Blow::Reset),
                Action::Corrupt => alter = true,
            }
        }
        self.shared.saw(self.link, sight, &bytes, catch);
        if alter {
            bytes = corrupted(&bytes);
            self.shared.count_corrupted();
        }
        self.write(&bytes).await;
    }

    async fn write(&mut self, mut bytes: &[u8]) {
        let receiver = self.link.ends(self.direction).1;
        while !bytes.is_empty() && !self.deaf && !self.link.is_finished(self.direction) {
            self.clear().await;
            let weather = self.weather();
            let step = weather.rate.map_or(CHUNK_BYTES, |rate| {
                let step = f64::from(rate) * RATE_STEP.as_secs_f64();
                (step as usize).clamp(1, CHUNK_BYTES)
            });
            let step = step.min(weather.slice.unwrap_or(CHUNK_BYTES)).max(1).min(bytes.len());
            match send(receiver, &bytes[..step]).await {
                Ok(0) | Err(_) => self.deaf = true,
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    if let Some(rate) = weather.rate {
                        sleep(Duration::from_secs_f64(sent as f64 / f64::from(rate.max(1)))).await;
                    } else if weather.slice.is_some() {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn weather(&self) -> Weather {
        self.shared.weather.borrow().of(self.link.kind(), self.direction)
    }

    /// Waits until bytes may pass.
    async fn clear(&self) {
        loop {
            let stalled = |weather: Weather| weather.stalled;
            let mut forecast = self.shared.weather.subscribe();
            let passes =
                forecast.wait_for(|forecast| !stalled(forecast.of(self.link.kind(), self.direction)));
            if passes.await.is_err() {
                return;
            }
            let Some(each) = self.weather().flap.filter(|each| !each.is_zero()) else { return };
            let phase = self.began.elapsed().as_nanos() % (2 * each.as_nanos());
            if phase < each.as_nanos() {
                return;
            }
            let left = Duration::from_nanos(u64::try_from(2 * each.as_nanos() - phase).unwrap_or(0));
            // Better weather ends the gap at once.
            let _ = timeout(left, forecast.changed()).await;
        }
    }
}

/// Of a Produce request it alters the last record, which a checksum covers: the head of a batch has bytes (its base
/// offset, its version) that none does.
fn corrupted(bytes: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(bytes.as_ref());
    let at = if bytes.len() < 4 * FROM_END { bytes.len() / 2 } else { bytes.len() - FROM_END };
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0xff;
    }
    bytes.freeze()
}

async fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}
