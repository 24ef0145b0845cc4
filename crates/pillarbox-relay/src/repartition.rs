//! Moves the pin of a topic: from some place in the history of the database on, all partitions that the topic has
//! now get events.
//!
//! ```text
//!            more partitions exist              order in WAL                 the relay comes to it
//! [pinned n] ---------------------> [grew: n] --------------> [ordered: n] -----------------------> [pinned m]
//!  PB-2013 warns, keys stay                       checkpoint with the new pin, sequences go on in new slots
//! ```
//! What was read before the order is sealed first, so that one Kafka transaction holds events of one pin only.
//!
//! | failure | then |
//! | --- | --- |
//! | the relay dies between order and commit | the order is read again: the pin moves once |
//! | the relay dies after the commit | the checkpoint holds the new pin and covers the order |
//! | the order names no topic of the pipeline, or cannot be understood | ignored; the command says so |
//! | the topic did not grow | nothing changes |
//! | the topic is gone, re-created or shrank | halt (PB-2006, PB-2007, PB-2014), as at a start |
//! | the command dies behind its order | the relay carries it out all the same |
//!
//! A key that moves has its earlier events in one partition and its later ones in another: their order then rests on
//! consumers who finish the old partition first. Never moves anything that is published.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Code, Fault};
use crate::orders::Orders;
use crate::sink;

/// The prefix of orders.
pub const PREFIX: &str = "pillarbox.repartition";

const HINT: &str =
    "the order is in WAL and is carried out by a relay that streams: see `pillarbox status`, then ask again";

/// What an order says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The pipeline that it is for.
    pub pipeline: String,
    /// The topic whose pin moves; none: only commit a checkpoint beyond the order.
    pub topic: Option<String>,
}

impl Order {
    /// Reads a message's content; `None` = it is for another pipeline, or cannot be understood.
    pub fn parse(content: &[u8], pipeline: &str) -> Option<Self> {
        serde_json::from_slice::<Self>(content).ok().filter(|order| order.pipeline == pipeline)
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain records always serialise")
    }
}

/// What a move means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The topic.
    pub topic: String,
    /// Partitions that get events until the move.
    pub pinned: u32,
    /// Partitions that get events from then on.
    pub partitions: u32,
}

impl Plan {
    /// The share of keys, 0 to 1, that go to another partition from then on.
    pub fn moved(&self) -> f64 {
        // A hash h stays iff h mod n = h mod m: n of every lcm(n, m) hashes do.
        let (n, m) = (u64::from(self.pinned), u64::from(self.partitions));
        1.0 - gcd(n, m) as f64 * n.min(m) as f64 / (n * m) as f64
    }

    /// Whether anything changes.
    pub fn is_needed(&self) -> bool {
        self.partitions > self.pinned
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Looks at the checkpoint and at Kafka.
///
/// # Errors
/// The pipeline never wrote to the topic, the topic is not the same any more, or a server does not answer.
pub async fn plan(config: &Config, cluster: &Cluster, topic: &str) -> Result<Plan, Fault> {
    let table = sink::read_checkpoint(cluster, config).await?;
    let record = table.as_ref().and_then(|table| table.topics.get(topic)).ok_or_else(|| {
        let message = format!("topic {topic} holds no event of pipeline {}", config.pipeline);
        Fault::new(Code::TopicUnknown, message)
            .hint("`pillarbox check` lists its topics; a topic without events is not pinned yet")
    })?;
    if topic == config.dead_letter_topic() {
        let message = format!("topic {topic} keeps one partition: dead letters are one order of records");
        return Err(Fault::new(Code::TopicUnknown, message).hint("name a topic of events"));
    }
    let now = sink::topics::again(cluster, topic, record).await?;
    Ok(Plan { topic: topic.to_owned(), pinned: record.partitions, partitions: now.partitions })
}

/// Gives the order and waits until it is carried out; the plan says what became of it.
///
/// # Errors
/// As [`plan`]; or no relay carries it out in time: one that streams later will.
pub async fn carry_out(
    config: &Config,
    cluster: &Cluster,
    plan: &Plan,
    timeout: Duration,
) -> Result<Plan, Fault> {
    let orders = Orders::open(config, cluster, "pillarbox repartition", timeout).await?;
    let pipeline = config.pipeline.to_string();
    let order = Order { pipeline: pipeline.clone(), topic: Some(plan.topic.clone()) };
    orders.emit(PREFIX, &order.bytes()).await?;
    orders.settle(PREFIX, &Order { pipeline, topic: None }.bytes(), HINT).await?;
    let table = sink::read_checkpoint(cluster, config).await?;
    let now = table.as_ref().and_then(|table| table.topics.get(&plan.topic)).map(|record| record.partitions);
    match now {
        Some(now) if now > plan.pinned => Ok(Plan { partitions: now, ..plan.clone() }),
        _ => Err(Fault::new(
            Code::TopicUnknown,
            format!("the relay passed over the order for topic {}", plan.topic),
        )
        .hint("the relay may be of another version: see its log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_keys_that_move_is_what_counting_finds() {
        for (pinned, partitions) in [(1, 2), (4, 12), (6, 8), (5, 7), (12, 13)] {
            let plan = Plan { topic: "t".into(), pinned, partitions };
            let hashes = 0..pinned * partitions;
            let moved = hashes.clone().filter(|hash| hash % pinned != hash % partitions).count();
            let share = moved as f64 / f64::from(hashes.end);
            assert!((plan.moved() - share).abs() < 1e-9, "{pinned} -> {partitions}: {share}");
        }
    }

    #[test]
    fn orders_of_other_pipelines_are_none() {
        let order = Order { pipeline: "orders".into(), topic: Some("t".into()) };
        assert_eq!(Order::parse(&order.bytes(), "orders"), Some(order.clone()));
        assert_eq!(Order::parse(&order.bytes(), "others"), None);
        assert_eq!(Order::parse(b"{}", "orders"), None);
    }
}
