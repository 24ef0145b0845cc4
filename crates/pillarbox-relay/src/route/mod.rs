//! Stage 4, route: an event gets its topic and partition.
//!
//! Topic names come from the template and, where there is one, the pattern; partitions come from
//! the row's own column, from murmur2 over the key (as the Java client does), or over the commit LSN where there is no key. Partition counts are the pinned ones: same
//! key, same partition, always. Never looks at the clock or the network: a topic it does not know
//! is asked for, and the event is presented again.

use std::collections::HashMap;

use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::partition::{partition_for_key, partition_for_lsn};
use pillarbox_wire::position::PartitionId;
use pillarbox_wire::topic::validate_topic_name;
use uuid::Uuid;

use crate::config::{Outbox, PatternScratch, TopicPart, TopicPattern, TopicTemplate};
use crate::outbox::{Event, TOPIC_PARTS_MAX};
use crate::position::checkpoint::TopicRecord;

/// A topic as this pipeline uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Kafka's id for it.
    pub id: Uuid,
    /// The pinned partition count, at least 1.
    pub partitions: u32,
    /// The slot of partition 0.
    pub first_slot: u32,
    /// Whether a checkpoint in Kafka records it already.
    pub recorded: bool,
    /// What it takes.
    pub limits: TopicLimits,
}

impl Topic {
    /// What the checkpoint remembers of it.
    pub fn record(&self) -> TopicRecord {
        let Self { id, partitions, first_slot, .. } = self;
        TopicRecord { topic_id: id.to_string(), partitions: *partitions, first_slot: *first_slot }
    }
}

/// A topic that has to be looked up before an event can go to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTopic {
    /// Its name.
    pub name: String,
    /// What is recorded of it, if it holds events already: it must be the same one, and is never created.
    pub recorded: Option<TopicRecord>,
}

impl From<String> for WantedTopic {
    fn from(name: String) -> Self {
        Self { name, recorded: None }
    }
}

/// What a topic takes, from DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLimits {
    /// `max.message.bytes`: the largest record batch.
    pub batch_bytes_max: usize,
    /// `retention.ms`; `None` = for ever.
    pub retention_ms: Option<i64>,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// Whether `cleanup.policy` says compact.
    pub compacted: bool,
}

/// An index into [`Router::topics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicIndex(pub usize);

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The topic.
    pub topic: TopicIndex,
    /// The partition in it.
    pub partition: PartitionId,
    /// The partition's slot in the checkpoint's sequences.
    pub slot: usize,
}

/// An event that has no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Ask for the topic, then present the event again.
    #[error("topic `{0}` is not known yet")]
    UnknownTopic(String),
    /// A template column is NULL.
    #[error("column `{0}`, which names the topic, is NULL")]
    NullColumn(String),
    /// The row chose a topic that is not listed, or one of Kafka's or Pillarbox's own.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Kafka does not allow the name. It is data, so it is not quoted.
    #[error("the topic name is not legal: {0}")]
    IllegalName(String),
    /// The row asks for a partition that the topic does not have.
    #[error("the row asks for partition {asked}, topic `{topic}` has {partitions}")]
    NoSuchPartition {
        /// The topic.
        topic: String,
        /// Its pinned partition count.
        partitions: u32,
        /// What the row asks for.
        asked: u32,
    },
    /// Compaction needs a key.
    #[error("topic `{0}` is compacted, but the event has no key")]
    KeylessCompacted(String),
}

/// How the topic of an outbox's rows comes to be.
#[derive(Debug, Clone)]
struct Rule {
    template: TopicTemplate,
    pattern: Option<TopicPattern>,
    allowed: Option<Vec<String>>,
}

/// What the names of internal topics begin with.
const INTERNAL_PREFIX: &[u8] = b"__";

/// Knows the topics.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
    topics: Vec<Topic>,
    by_name: HashMap<Vec<u8>, TopicIndex>,
    /// The topic of the last event, as long as its name means it: most events go where the one before went.
    recent: Option<TopicIndex>,
    name: Vec<u8>,
    pattern_scratch: PatternScratch,
}

impl Router {
    /// A router by the outboxes' settings that knows `topics` already.
    pub fn new(outboxes: &[Outbox], topics: Vec<Topic>) -> Self {
        assert!(outboxes.iter().all(|outbox| outbox.topic.parts().len() <= TOPIC_PARTS_MAX));
        let rule = |outbox: &Outbox| Rule {
            template: outbox.topic.clone(),
            pattern: outbox.pattern.clone(),
            allowed: outbox.topics_allowed.clone(),
        };
        let mut router = Self {
            rules: outboxes.iter().map(rule).collect(),
            topics: Vec::new(),
            by_name: HashMap::new(),
            recent: None,
            name: Vec::new(),
            pattern_scratch: PatternScratch::default(),
        };
        topics.into_iter().for_each(|topic| router.learn(topic));
        router
    }

    /// The topics known so far.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Whether a topic of this name is known.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name.as_bytes())
    }

    /// Partition 0 of a known topic, for records that no row routes.
    pub fn find(&self, name: &str) -> Option<Destination> {
        let topic = *self.by_name.get(name.as_bytes())?;
        let slot = self.topics[topic.0].first_slot as usize;
        Some(Destination { topic, partition: PartitionId(0), slot })
    }

    /// The slot after the last one in use.
    pub fn next_slot(&self) -> u32 {
        self.topics.iter().map(|topic| topic.first_slot + topic.partitions).max().unwrap_or(0)
    }

    /// From now on the topic is known.
    pub fn learn(&mut self, topic: Topic) {
        assert!(topic.partitions > 0, "a topic has partitions");
        self.recent = None;
        self.by_name.insert(topic.name.clone().into_bytes(), TopicIndex(self.topics.len()));
        self.topics.push(topic);
    }

    /// From now on the topic is to be learnt anew; what was routed to it before stays.
    pub fn forget(&mut self, name: &str) {
        self.recent = None;
        self.by_name.remove(name.as_bytes());
    }

    /// The topic goes on as it was known before.
    pub fn return_to(&mut self, name: &str, former: TopicIndex) {
        self.recent = None;
        self.by_name.insert(name.as_bytes().to_vec(), former);
    }

    /// A topic that gets its first event: what the checkpoint must remember of it, once.
    pub fn record(&mut self, topic: TopicIndex) -> Option<(String, TopicRecord)> {
        let topic = &mut self.topics[topic.0];
        if std::mem::replace(&mut topic.recorded, true) {
            return None;
        }
        Some((topic.name.clone(), topic.record()))
    }

    /// Where the event goes.
    pub fn route(&mut self, event: &Event<'_>, commit_lsn: Lsn) -> Result<Destination, RouteError> {
        self.write_name(event)?;
        let topic = self.named().ok_or_else(|| self.unknown())?;
        let Topic { partitions, first_slot, limits, ref name, .. } = self.topics[topic.0];
        let partition = match (event.partition, event.key) {
            (_, None) if limits.compacted => return Err(RouteError::KeylessCompacted(name.clone())),
            (Some(asked), _) if asked >= partitions => {
                return Err(RouteError::NoSuchPartition { topic: name.clone(), partitions, asked });
            }
            (Some(asked), _) => PartitionId(asked),
            (None, Some(key)) => partition_for_key(key, partitions),
            (None, None) => partition_for_lsn(commit_lsn, partitions),
        };
        Ok(Destination { topic, partition, slot: (first_slot + partition.0) as usize })
    }

    /// The topic whose name was written.
    fn named(&mut self) -> Option<TopicIndex> {
        if let Some(recent) = self.recent
            && self.topics[recent.0].name.as_bytes() == self.name
        {
            return Some(recent);
        }
        self.recent = self.by_name.get(&self.name).copied();
        self.recent
    }

    fn write_name(&mut self, event: &Event<'_>) -> Result<(), RouteError> {
        self.name.clear();
        let rule = &self.rules[event.outbox];
        for (at, part) in rule.template.parts().iter().enumerate() {
            match part {
                TopicPart::Literal(text) => self.name.extend_from_slice(text.as_bytes()),
                TopicPart::Column(column) => {
                    let value =
                        event.topic_values[at].ok_or_else(|| RouteError::NullColumn(column.clone()))?;
                    self.name.extend_from_slice(value);
                }
            }
        }
        if let Some(pattern) = &rule.pattern {
            pattern.apply(&mut self.name, &mut self.pattern_scratch);
        }
        match &rule.allowed {
            Some(allowed) if !allowed.iter().any(|topic| topic.as_bytes() == self.name) => {
                Err(RouteError::Forbidden("the topic is not among topics_allowed"))
            }
            // A value that the pattern does not match is the topic itself: any row could choose it.
            None if rule.pattern.is_some() && self.name.starts_with(INTERNAL_PREFIX) => Err(
                RouteError::Forbidden("the topic's name begins with two underscores, as internal ones do"),
            ),
            _ => Ok(()),
        }
    }

    fn unknown(&self) -> RouteError {
        match validate_topic_name(&self.name) {
            Ok(()) => RouteError::UnknownTopic(String::from_utf8_lossy(&self.name).into_owned()),
            Err(error) => RouteError::IllegalName(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableName;

    fn topic(name: &str, partitions: u32, first_slot: u32, compacted: bool) -> Topic {
        let limits = TopicLimits {
            batch_bytes_max: 1 << 20,
            retention_ms: None,
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
            compacted,
        };
        Topic { name: name.into(), id: Uuid::nil(), partitions, first_slot, recorded: false, limits }
    }

    fn event<'a>(kind: Option<&'a [u8]>, key: Option<&'a [u8]>) -> Event<'a> {
        let mut topic_values = [None; TOPIC_PARTS_MAX];
        topic_values[1] = kind;
        Event {
            outbox: 0,
            id: b"1",
            key,
            payload: None,
            topic_values,
            headers: Default::default(),
            headers_absent: 0,
            partition: None,
            time_ms: None,
        }
    }

    fn router() -> Router {
        router_of(outbox())
    }

    fn outbox() -> Outbox {
        let table = TableName { schema: "public".into(), name: "outbox".into() };
        let topic = TopicTemplate::parse("t.{aggregatetype}").unwrap();
        Outbox { topic, ..Outbox::debezium(table) }
    }

    fn router_of(outbox: Outbox) -> Router {
        Router::new(&[outbox], vec![topic("t.a", 8, 0, false), topic("t.c", 4, 8, true)])
    }

    #[test]
    fn a_pattern_makes_the_name_and_a_list_bounds_it() {
        let pattern = Outbox {
            topic: TopicTemplate::column("kind"),
            pattern: Some(TopicPattern::parse("shop-([ac])", "t.$1").unwrap()),
            ..outbox()
        };
        let listed = Outbox { topics_allowed: Some(vec!["t.a".into()]), ..pattern.clone() };
        let forbidden = |error: &RouteError| matches!(error, RouteError::Forbidden(_));
        // The column's piece is the first here.
        let value = |kind: &'static [u8]| {
            let mut event = event(None, Some(b"k"));
            event.topic_values[0] = Some(kind);
            event
        };
        let to = router_of(pattern.clone()).route(&value(b"shop-c"), Lsn(8)).unwrap();
        assert_eq!(to.topic, TopicIndex(1));
        for (outbox, kind, unknown) in [
            (&pattern, &b"other"[..], Some("other")),
            (&pattern, b"__consumer_offsets", None),
            (&listed, b"shop-c", None),
            (&listed, b"t.a", Some("")),
        ] {
            let answer = router_of(outbox.clone()).route(&value(kind), Lsn(8));
            match unknown {
                None => assert!(answer.as_ref().is_err_and(forbidden), "{answer:?}"),
                Some("") => assert!(answer.is_ok(), "{answer:?}"),
                Some(name) => assert_eq!(answer, Err(RouteError::UnknownTopic(name.into()))),
            }
        }
    }

    #[test]
    fn a_key_decides_the_partition_as_the_java_client_does() {
        let mut router = router();
        let to = router.route(&event(Some(b"a"), Some(b"foobar")), Lsn(8)).unwrap();
        // Java: murmur2("foobar") = -790332482
        let expected = (-790_332_482_i32 & 0x7fff_ffff) as u32 % 8;
        assert_eq!(to.partition, PartitionId(expected));
        assert_eq!(to.slot, expected as usize);
    }

    #[test]
    fn a_topic_that_is_forgotten_is_not_routed_to() {
        let mut router = router();
        let to_a = event(Some(b"a"), Some(b"k"));
        let former = router.route(&to_a, Lsn(8)).unwrap().topic;
        router.forget("t.a");
        assert_eq!(router.route(&to_a, Lsn(8)), Err(RouteError::UnknownTopic("t.a".into())));
        router.learn(topic("t.a", 16, 12, false));
        assert_ne!(router.route(&to_a, Lsn(8)).unwrap().topic, former);
        router.return_to("t.a", former);
        assert_eq!(router.route(&to_a, Lsn(8)).unwrap().topic, former);
    }

    #[test]
    fn slots_follow_the_topic() {
        let to = router().route(&event(Some(b"c"), Some(b"k")), Lsn(8)).unwrap();
        assert_eq!(to.slot, 8 + to.partition.0 as usize);
    }

    #[test]
    fn a_row_may_ask_for_its_partition() {
        let asked = |partition| Event { partition, ..event(Some(b"a"), Some(b"foobar")) };
        let to = router().route(&asked(Some(7)), Lsn(8)).unwrap();
        assert_eq!((to.partition, to.slot), (PartitionId(7), 7));
        let none = RouteError::NoSuchPartition { topic: "t.a".into(), partitions: 8, asked: 8 };
        assert_eq!(router().route(&asked(Some(8)), Lsn(8)), Err(none));
    }

    #[test]
    fn what_has_no_destination_says_why() {
        for (kind, key, expected) in [
            (Some(&b"x"[..]), None, RouteError::UnknownTopic("t.x".into())),
            (None, None, RouteError::NullColumn("aggregatetype".into())),
            (Some(b"c"), None, RouteError::KeylessCompacted("t.c".into())),
        ] {
            assert_eq!(router().route(&event(kind, key), Lsn(8)), Err(expected));
        }
        let illegal = router().route(&event(Some(b"a/b"), None), Lsn(8));
        assert!(matches!(illegal, Err(RouteError::IllegalName(_))), "{illegal:?}");
    }
}
