//! Topics that no relay would write: its own records, copied with one of them left out, moved or changed.
//!
//! Each begins with two aborted transactions of one producer, whose records nobody may see: a client that shows them
//! does not read committed. Must never write to a topic of the relay.

use std::time::Duration;

use pillarbox_wire::header::PB_POS;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::harness::records::{Isolation, read};
use crate::sql::Sql;
use crate::world::World;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Where the records come from: one key, so one partition, whose sequences are 1 to `EVENTS`.
const ORIGINAL: &str = "outbox.event.original";
const EVENTS: u64 = 10;

/// A topic of one partition.
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    /// The originals it holds, in order.
    pub(crate) events: &'static [i64],
    /// Of these the one that has the position of another one.
    misplaced: Option<(i64, i64)>,
}

/// 6 is missing.
pub(crate) const GAP: Topic =
    Topic { name: "planted.gap", events: &[1, 2, 3, 4, 5, 7, 8, 9, 10], misplaced: None };
/// 6 and 7 have changed places.
pub(crate) const SWAPPED: Topic =
    Topic { name: "planted.swapped", events: &[1, 2, 3, 4, 5, 7, 6, 8, 9, 10], misplaced: None };
/// 6 has its sequence, and the position of 3.
pub(crate) const FOREIGN: Topic =
    Topic { name: "planted.foreign", events: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], misplaced: Some((6, 3)) };
pub(crate) const TOPICS: [Topic; 3] = [GAP, SWAPPED, FOREIGN];

/// A record of the relay.
struct Original {
    key: Vec<u8>,
    value: Vec<u8>,
    pb_pos: String,
}

/// Fills the topics.
pub(crate) fn plant(world: &World) {
    world.publish(&Sql::connect(&world.site.url()), ORIGINAL, 1, EVENTS, 1);
    world.records_all(ORIGINAL, EVENTS);
    let bootstrap = world.site.kafka.bootstrap();
    let mut originals = Vec::new();
    read(&bootstrap, ORIGINAL, Isolation::Committed, |message| {
        let headers = message.headers().expect("headers");
        let header = headers.iter().find(|header| header.key == PB_POS).expect("a position");
        let pb_pos = String::from_utf8(header.value.expect("a value").to_vec()).expect("text");
        let bytes = |part: Option<&[u8]>| part.expect("bytes").to_vec();
        originals.push(Original { key: bytes(message.key()), value: bytes(message.payload()), pb_pos });
    });
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bootstrap).set("transactional.id", "planted");
    let producer: BaseProducer = config.create().expect("a producer");
    producer.init_transactions(ANSWER_MAX).expect("a producer id");
    for topic in TOPICS {
        for _ in 0..2 {
            producer.begin_transaction().expect("a transaction");
            producer.send(BaseRecord::to(topic.name).key("order-0").payload("{}")).expect("there is room");
            // On its way to the broker before the abort, which drops what waits.
            producer.flush(ANSWER_MAX).expect("Kafka takes it");
            producer.abort_transaction(ANSWER_MAX).expect("aborted");
        }
        producer.begin_transaction().expect("a transaction");
        for event in topic.events {
            let (original, pb_pos) = (at(&originals, *event), pb_pos(&originals, &topic, *event));
            let headers = OwnedHeaders::new().insert(Header { key: PB_POS, value: Some(&pb_pos) });
            let record =
                BaseRecord::to(topic.name).key(&original.key).payload(&original.value).headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("there is room");
        }
        producer.commit_transaction(ANSWER_MAX).expect("committed");
    }
}

fn at(originals: &[Original], event: i64) -> &Original {
    &originals[usize::try_from(event).expect("from 1 on") - 1]
}

fn pb_pos(originals: &[Original], topic: &Topic, event: i64) -> String {
    let own = at(originals, event).pb_pos.clone();
    let Some((_, other)) = topic.misplaced.filter(|(misplaced, _)| *misplaced == event) else { return own };
    let place = &at(originals, other).pb_pos;
    let (place, _) = place.rsplit_once(':').expect("a position and a sequence");
    let (_, sequence) = own.rsplit_once(':').expect("a position and a sequence");
    format!("{place}:{sequence}")
}
