//! Replays and discards letters: leaves orders in WAL and waits until the relay has carried them out.
//!
//! ```text
//! lock -> flush, wait -> look at the topic -> order, order, ... -> flush, wait -> look again
//! ```
//! The first wait is what makes a replay happen once: when it is over, every order that anybody gave
//! before has its verdict in the topic. Never writes to Kafka.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_wire::position::Position;

use super::letter::{Letter, State};
use super::order::{self, PREFIX, ROW_BYTES_MAX};
use super::topic;
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::orders::Orders;

const LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('pillarbox.dead-letters ' || $1, 0))";
const HINT: &str = "orders are carried out by a relay that streams: see `pillarbox status`, and `dead-letters list` for what was done";

/// What is to be done with letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Publish them at a new position.
    Replay,
    /// Close them.
    Discard,
}

/// Which letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that are open.
    Open,
    /// Those whose rows stood at these positions.
    These(Vec<Position>),
}

impl Which {
    /// The letters meant, which all are open.
    ///
    /// # Errors
    /// PB-4031 names the first that is not.
    pub fn among(&self, letters: Vec<Letter>) -> Result<Vec<Letter>, Fault> {
        let Which::These(positions) = self else {
            return Ok(letters.into_iter().filter(|letter| letter.state == State::Open).collect());
        };
        let mut chosen: Vec<Letter> = Vec::with_capacity(positions.len());
        for position in positions {
            let found = letters.iter().find(|letter| letter.position == *position);
            let why = match found.map(|letter| letter.state) {
                Some(State::Open) => None,
                Some(State::Replayed(at)) => Some(format!("dead letter {position} was replayed at {at}")),
                Some(State::Discarded(at)) => Some(format!("dead letter {position} was discarded at {at}")),
                None => Some(format!("there is no dead letter {position}")),
            };
            if let Some(message) = why {
                return Err(Fault::new(Code::DeadLetterUnknown, message)
                    .hint("`pillarbox dead-letters list` shows the open ones; nothing was done"));
            }
            if !chosen.iter().any(|letter| letter.position == *position) {
                chosen.extend(found.cloned());
            }
        }
        chosen.sort_by_key(|letter| letter.position);
        Ok(chosen)
    }
}

/// Does it; gives the letters as they are then. One that is still open was refused, and says why.
///
/// # Errors
/// Nothing was done: a letter is not open, or another command is at work. Or, with some orders given:
/// a server does not answer, or no relay carries them out in time; it will when it runs.
pub async fn carry_out(
    config: &Config,
    cluster: &Cluster,
    act: Act,
    which: &Which,
    timeout: Duration,
) -> Result<Vec<Letter>, Fault> {
    let desk = Desk::open(config, cluster, timeout).await?;
    desk.wait().await?;
    let chosen = which.among(topic::list(cluster, config).await?)?;
    for letter in &chosen {
        desk.order(act, letter).await?;
    }
    desk.wait().await?;
    let mut letters = topic::list(cluster, config).await?;
    letters.retain(|letter| chosen.iter().any(|chosen| chosen.pb_pos == letter.pb_pos));
    let ignored = letters
        .iter()
        .zip(&chosen)
        .find(|(now, then)| now.state == State::Open && now.refusals == then.refusals);
    match ignored {
        Some((letter, _)) => Err(Fault::new(
            Code::DeadLetterUnknown,
            format!("the relay passed over the order for dead letter {}", letter.position),
        )
        .hint(
            "see the relay's log: it may be of another version, or its configuration knows no dead letters",
        )),
        None => Ok(letters),
    }
}

/// A session that holds the lock of the pipeline's dead letters; it ends with it.
struct Desk<'a>(Orders<'a>);

impl<'a> Desk<'a> {
    async fn open(config: &'a Config, cluster: &'a Cluster, timeout: Duration) -> Result<Self, Fault> {
        let orders = Orders::open(config, cluster, "pillarbox dead-letters", timeout).await?;
        let row = orders.session.query_one(LOCK, &[&config.pipeline.as_str()]).await;
        let locked: bool = row.and_then(|row| row.try_get(0)).map_err(|error| orders.fault(&error))?;
        if !locked {
            let message = "another command works on the dead letters of this pipeline";
            return Err(Fault::new(Code::PipelineBusy, message).hint("try again when it has ended"));
        }
        Ok(Self(orders))
    }

    async fn order(&self, act: Act, letter: &Letter) -> Result<(), Fault> {
        let Orders { config, cluster, .. } = self.0;
        let pipeline = config.pipeline.as_str();
        let content = match act {
            Act::Discard => order::discard(pipeline, &letter.pb_pos),
            Act::Replay => {
                let row = topic::row(cluster, config, letter).await?;
                if row.len() > ROW_BYTES_MAX {
                    let message = format!(
                        "dead letter {} has {} bytes, a replay takes at most {ROW_BYTES_MAX}",
                        letter.position,
                        row.len()
                    );
                    return Err(Fault::new(Code::EventTooLarge, message)
                        .hint("write its content again in a smaller row, then discard the letter"));
                }
                order::replay(pipeline, &letter.pb_pos, &letter.shape, &row).map_err(|error| {
                    Fault::new(Code::DeadLetterTopicUnfit, "a dead letter is damaged").because(error)
                })?
            }
        };
        self.0.emit(PREFIX, &content).await
    }

    /// Waits until everything that was committed so far is carried out.
    async fn wait(&self) -> Result<(), Fault> {
        self.0.settle(PREFIX, &order::flush(self.0.config.pipeline.as_str()), HINT).await
    }
}
