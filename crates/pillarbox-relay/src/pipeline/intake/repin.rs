//! An order to move a topic's pin, as it goes through the stream.
//!
//! ```text
//! order -> seal what was taken -> forget the topic -> ask for it -> learn it with new slots
//!                                                        -> sequences copied, record in this set
//! ```
//! A part of the way that is gone changes nothing that is committed: the order is presented again. Pure.

use pillarbox_wire::position::Position;

use super::fill::Fill;
use super::{Now, Taken};
use crate::decode::Note;
use crate::error::{Code, Fault};
use crate::position::checkpoint::TopicRecord;
use crate::repartition::Order;
use crate::route::{Topic, TopicIndex};

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
    pub(super) fn take_repartition(&mut self, note: &Note<'_>, now: Now) -> Result<Taken, Fault> {
        let Some(order) = Order::parse(note.content, &self.pipeline) else { return Ok(Taken::Done) };
        let Some(name) = order.topic else {
            self.since.get_or_insert(now.monotonic);
            return Ok(Taken::Done);
        };
        if let Some((asked, former)) = self.repin.asked.take_if(|(asked, _)| *asked == name) {
            if !self.router.knows(&asked) {
                self.repin.asked = Some((asked.clone(), former));
                return Ok(Taken::NeedsTopic(asked));
            }
            return self.repin(note, &asked, former, now).map(|()| Taken::Done);
        }
        let recorded =
            self.router.find(&name).map(|to| to.topic).filter(|at| self.router.topics()[at.0].recorded);
        let Some(former) = recorded.filter(|_| name != self.letters.topic) else { return Ok(Taken::Done) };
        // One Kafka transaction holds events of one pin.
        if self.open.is_some_and(|open| open.events > 0) {
            return Ok(self.split(now));
        }
        if !self.set.is_empty() {
            return Ok(self.seal_before(now));
        }
        self.router.forget(&name);
        self.repin.asked = Some((name.clone(), former));
        Ok(Taken::NeedsTopic(name))
    }

    /// The topic was learnt anew: its sequences go on in the new slots.
    fn repin(&mut self, note: &Note<'_>, name: &str, former: TopicIndex, now: Now) -> Result<(), Fault> {
        let to = self.router.find(name).expect("learnt").topic;
        let [old, new] = [former, to].map(|at| self.router.topics()[at.0].clone());
        check(&old, &new)?;
        if old.partitions == new.partitions {
            self.router.return_to(name, former);
            return Ok(());
        }
        let slots = old.first_slot as usize..(old.first_slot + old.partitions) as usize;
        self.sequences.copy_within(slots, new.first_slot as usize);
        self.repin.moved.extend(self.router.record(to));
        let Note { transaction, index, .. } = *note;
        let position = Position { epoch: self.epoch, commit_lsn: transaction.commit_lsn, index };
        self.published(position, now);
        Ok(())
    }
}

/// The same rules as at a start.
fn check(old: &Topic, new: &Topic) -> Result<(), Fault> {
    let name = &old.name;
    if old.id != new.id {
        let message = format!(
            "topic {name} was deleted and re-created: its id is {}, events went to {}",
            new.id, old.id
        );
        return Err(Fault::new(Code::TopicReplaced, message)
            .hint("its earlier events are gone: find out which consumers still need them before you go on"));
    }
    if new.partitions < old.partitions {
        let message =
            format!("topic {name} has {} partitions, {} are pinned", new.partitions, old.partitions);
        return Err(
            Fault::new(Code::TopicShrank, message).hint("a topic cannot shrink: this is another topic")
        );
    }
    Ok(())
}
