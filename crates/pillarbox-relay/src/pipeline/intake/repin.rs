//! An order to move a topic's pin, as it goes through the stream.
//!
//! ```text
//! order -> seal what was taken -> forget the topic -> ask for it -> learn it with new slots
//!                                                        -> sequences copied, record in this set
//! ```
//! A part of the way that is gone changes nothing that is committed: the order is presented again. Pure.

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::position::Position;

use super::fill::Fill;
use super::{Now, Taken};
use crate::decode::Note;
use crate::position::checkpoint::TopicRecord;
use crate::repartition::Order;
use crate::route::{TopicIndex, WantedTopic};

/// What the filling set has to do with moves.
#[derive(Default)]
pub(super) struct Repin {
    /// The topic that is asked for anew, and how it is known until then.
    asked: Option<(String, TopicIndex)>,
    /// Records of moved pins in the filling set.
    pub(super) moved: Vec<(String, TopicRecord)>,
}

impl Fill {
    /// Takes an order; what nobody can carry out is passed over.
    pub(super) fn take_repartition(&mut self, note: &Note<'_>, now: Now) -> Taken {
        let Some(order) = Order::parse(note.content, &self.pipeline) else { return Taken::Done };
        let Some(name) = order.topic else {
            self.since.get_or_insert(now.monotonic);
            return Taken::Done;
        };
        let Some((_, former)) = self.repin.asked.take_if(|(asked, _)| *asked == name) else {
            return self.begin_repin(name, now);
        };
        if !self.router.knows(&name) {
            return self.ask(name, former);
        }
        self.repin(note, &name, former, now);
        Taken::Done
    }

    fn begin_repin(&mut self, name: String, now: Now) -> Taken {
        let known = self.router.find(&name).map(|to| to.topic);
        let recorded = known.filter(|at| self.router.topics()[at.0].recorded);
        let Some(former) = recorded.filter(|_| name != self.letters.topic) else { return Taken::Done };
        // One Kafka transaction holds events of one pin.
        if self.open.is_some_and(|open| open.events > 0) {
            return self.split(now);
        }
        if !self.set.is_empty() {
            return self.seal_before(now);
        }
        self.router.forget(&name);
        hit(Step::RepinAsked);
        self.ask(name, former)
    }

    fn ask(&mut self, name: String, former: TopicIndex) -> Taken {
        self.repin.asked = Some((name.clone(), former));
        let recorded = Some(self.router.topics()[former.0].record());
        Taken::NeedsTopic(WantedTopic { name, recorded })
    }

    /// The topic was learnt anew: its sequences go on in the new slots.
    fn repin(&mut self, note: &Note<'_>, name: &str, former: TopicIndex, now: Now) {
        let to = self.router.find(name).expect("learnt").topic;
        let [old, new] = [former, to].map(|at| self.router.topics()[at.0].record());
        if old.partitions == new.partitions {
            self.router.return_to(name, former);
            return;
        }
        let slots = old.first_slot as usize..(old.first_slot + old.partitions) as usize;
        self.sequences.copy_within(slots, new.first_slot as usize);
        self.repin.moved.extend(self.router.record(to));
        let Note { transaction, index, .. } = *note;
        let position = Position { epoch: self.epoch, commit_lsn: transaction.commit_lsn, index };
        self.published(position, now);
        hit(Step::RepinTaken);
    }
}
