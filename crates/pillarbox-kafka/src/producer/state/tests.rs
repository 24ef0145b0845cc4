//! The machine against tables and against a model coordinator with random answers.

use super::*;
use crate::error::Error;
use proptest::prelude::*;
use std::collections::HashMap;

const GIVE_UP: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::from_secs(100);

fn identity(producer_id: i64, producer_epoch: i16) -> ProducerIdentity {
    ProducerIdentity { producer_id, producer_epoch }
}

fn machine(ids: usize) -> Machine {
    let identities = (0..ids).map(|id| identity(id as i64, 0)).collect();
    Machine::new(identities, ids, GIVE_UP, Protocol::Kip890)
}

fn older_machine(ids: usize) -> Machine {
    let identities = (0..ids).map(|id| identity(id as i64, 0)).collect();
    Machine::new(identities, ids, GIVE_UP, Protocol::Older)
}

fn answered(code: i16) -> Failure {
    Failure::Answered { code: ErrorCode(code), object: "id".to_owned() }
}

fn replay(code: i16) -> Verdict {
    Verdict::Replay { cause: Cause { api: ApiKey::Produce, code: Some(ErrorCode(code)) }, slow: false }
}

fn no_answer() -> Error {
    let (api, after) = (ApiKey::Produce, Duration::from_secs(1));
    Error::RequestTimeout { broker: "b:9092".to_owned(), api, after }
}

fn ok_produced() -> Input {
    Input::Produced { result: Ok(5), reached: Reached::Acked }
}

fn failed(verdict: Verdict, reached: Reached) -> Input {
    Input::Produced { result: Err(verdict), reached }
}

fn ended(id: usize, result: Result<ProducerIdentity, Failure>) -> Input {
    Input::Ended { id: IdSlot(id), result, broken: false }
}

/// Actions in one line each, for tables.
fn brief(actions: &[Action]) -> Vec<String> {
    let brief = |action: &Action| match action {
        Action::Produce { txn, id, identity, .. } => {
            format!("produce {} {}:{}", txn.0, id.0, identity.producer_epoch)
        }
        Action::EndTxn { id, identity, commit, .. } => {
            format!("{} {}:{}", if *commit { "commit" } else { "abort" }, id.0, identity.producer_epoch)
        }
        Action::Renew { id, identity, .. } => format!("renew {}:{}", id.0, identity.producer_epoch),
        Action::Committed { txn, .. } => format!("committed {}", txn.0),
        Action::Lost { reason } => {
            format!("lost {}", format!("{reason:?}").split([' ', '{']).next().unwrap())
        }
    };
    actions.iter().map(brief).collect()
}

/// Inputs, and the actions each must lead to.
type Script = Vec<(Input, &'static [&'static str])>;

/// Feeds the inputs one by one and compares the actions of each.
fn run(machine: &mut Machine, script: Script) {
    for (at, (input, expected)) in script.into_iter().enumerate() {
        let actions = machine.step(NOW, input.clone());
        assert_eq!(brief(&actions), expected, "step {at}: {input:?}");
    }
}

#[test]
fn the_next_is_produced_while_the_last_commits_and_ends_only_after_it() {
    run(
        &mut machine(2),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (Input::Submitted, &[]),
            (ok_produced(), &["commit 0:0", "produce 1 1:0"]),
            (ok_produced(), &[]),
            (ended(0, Ok(identity(0, 1))), &["committed 0", "commit 1:0"]),
            (Input::Submitted, &["produce 2 0:1"]),
            (ended(1, Ok(identity(1, 1))), &["committed 1"]),
        ],
    );
}

#[test]
fn an_unanswered_commit_is_repeated_and_its_id_waits() {
    let mut machine = machine(2);
    run(
        &mut machine,
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (ok_produced(), &["commit 0:0"]),
            (ended(0, Err(Failure::NoAnswer)), &["commit 0:0"]),
            (Input::Submitted, &[]),
            (ended(0, Err(answered(51))), &["commit 0:0"]),
        ],
    );
    assert!(!machine.can_submit(), "the id of the unknown transaction is not free");
    run(&mut machine, vec![(ended(0, Ok(identity(0, 1))), &["committed 0", "lost Disconnected"])]);
    assert!(!machine.can_submit(), "the markers of that commit may be lost");
}

#[test]
fn with_the_older_protocol_an_id_is_renewed_before_its_next_transaction() {
    let renewed = |result| Input::Renewed { id: IdSlot(0), result };
    run(
        &mut older_machine(2),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (ok_produced(), &["commit 0:0"]),
            (ended(0, Ok(identity(0, 0))), &["committed 0", "renew 0:0"]),
            (Input::Submitted, &["produce 1 1:0"]),
            (Input::Submitted, &[]),
            (ok_produced(), &["commit 1:0"]),
            (renewed(Err(answered(51))), &["renew 0:0"]),
            (renewed(Ok(identity(0, 1))), &["produce 2 0:1"]),
            (ended(1, Ok(identity(1, 0))), &["committed 1", "renew 1:0"]),
            (failed(replay(6), Reached::Acked), &["abort 0:1"]),
            (ended(0, Ok(identity(0, 1))), &["renew 0:1"]),
            (renewed(Ok(identity(0, 2))), &["produce 2 0:2"]),
        ],
    );
}

#[test]
fn with_the_older_protocol_a_renewal_that_fails_ends_the_producer() {
    for (result, lost) in [
        (Err(Failure::NoAnswer), "lost Disconnected"),
        (Err(answered(47)), "lost Fenced"),
        (Err(answered(-1)), "lost Undecidable"),
    ] {
        let mut machine = older_machine(1);
        machine.step(NOW, Input::Submitted);
        machine.step(NOW, ok_produced());
        machine.step(NOW, ended(0, Ok(identity(0, 0))));
        let actions = machine.step(NOW, Input::Renewed { id: IdSlot(0), result });
        assert_eq!(brief(&actions), [lost]);
    }
}

#[test]
fn a_commit_on_a_new_connection_is_the_last() {
    run(
        &mut machine(2),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (ok_produced(), &["commit 0:0"]),
            (
                Input::Ended { id: IdSlot(0), result: Ok(identity(0, 1)), broken: true },
                &["committed 0", "lost Disconnected"],
            ),
        ],
    );
}

#[test]
fn after_a_broken_connection_nothing_is_produced_or_aborted() {
    run(
        &mut machine(3),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (ok_produced(), &["commit 0:0"]),
            (Input::Submitted, &["produce 1 1:0"]),
            (ended(0, Err(Failure::NoAnswer)), &["commit 0:0"]),
            (failed(replay(6), Reached::Acked), &[]),
            (Input::Submitted, &[]),
            (ended(0, Ok(identity(0, 1))), &["committed 0", "lost Disconnected"]),
        ],
    );
}

#[test]
fn a_failed_produce_is_aborted_under_its_own_identity_and_replayed_before_the_rest() {
    run(
        &mut machine(3),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (Input::Submitted, &[]),
            (Input::Submitted, &[]),
            (ok_produced(), &["commit 0:0", "produce 1 1:0"]),
            (failed(replay(6), Reached::Acked), &["abort 1:0"]),
            (ended(0, Ok(identity(0, 1))), &["committed 0"]),
            (ended(1, Err(answered(51))), &["abort 1:0"]),
            (ended(1, Ok(identity(1, 1))), &["produce 1 1:1"]),
            (ok_produced(), &["commit 1:1", "produce 2 2:0"]),
        ],
    );
}

#[test]
fn what_was_never_sent_needs_no_abort() {
    run(
        &mut machine(1),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (failed(replay(6), Reached::Nothing), &["produce 0 0:0"]),
        ],
    );
}

#[test]
fn an_abort_of_nothing_renews_the_identity() {
    run(
        &mut machine(1),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (failed(replay(6), Reached::Unsure), &["abort 0:0"]),
            (ended(0, Err(answered(48))), &["renew 0:0"]),
            (Input::Renewed { id: IdSlot(0), result: Err(answered(51)) }, &["renew 0:0"]),
            (Input::Renewed { id: IdSlot(0), result: Ok(identity(0, 1)) }, &["produce 0 0:1"]),
        ],
    );
}

#[test]
fn ends_of_the_producer() {
    let large = || Verdict::Lose(LostReason::TooLarge { topic: "t".to_owned() });
    let cases: Vec<(&str, Script)> = vec![
        (
            "fenced on produce",
            vec![(failed(Verdict::Lose(LostReason::Fenced), Reached::Unsure), &["lost Fenced"])],
        ),
        (
            "fenced on commit",
            vec![(ok_produced(), &["commit 0:0"]), (ended(0, Err(answered(90))), &["lost Fenced"])],
        ),
        (
            "timed out",
            vec![(ok_produced(), &["commit 0:0"]), (ended(0, Err(answered(48))), &["lost TimedOut"])],
        ),
        (
            "abort finds it ended",
            vec![
                (failed(replay(6), Reached::Acked), &["abort 0:0"]),
                (ended(0, Err(answered(48))), &["lost TimedOut"]),
            ],
        ),
        (
            "anything else on commit proves nothing",
            vec![(ok_produced(), &["commit 0:0"]), (ended(0, Err(answered(120))), &["lost Undecidable"])],
        ),
        (
            "too large: aborted, then handed back",
            vec![
                (failed(large(), Reached::Acked), &["abort 0:0"]),
                (ended(0, Ok(identity(0, 1))), &["lost TooLarge"]),
            ],
        ),
        (
            "no answer to produce",
            vec![(failed(Verdict::of_error(&no_answer()), Reached::Unsure), &["lost Disconnected"])],
        ),
        (
            "no answer to an abort",
            vec![
                (failed(replay(6), Reached::Acked), &["abort 0:0"]),
                (ended(0, Err(Failure::NoAnswer)), &["lost Disconnected"]),
            ],
        ),
        (
            "no answer to a renewal",
            vec![
                (failed(replay(6), Reached::Unsure), &["abort 0:0"]),
                (ended(0, Err(answered(48))), &["renew 0:0"]),
                (Input::Renewed { id: IdSlot(0), result: Err(Failure::NoAnswer) }, &["lost Disconnected"]),
            ],
        ),
        ("too large, nothing sent", vec![(failed(large(), Reached::Nothing), &["lost TooLarge"])]),
    ];
    for (name, script) in cases {
        let mut machine = machine(2);
        run(&mut machine, vec![(Input::Submitted, &["produce 0 0:0"])]);
        println!("{name}");
        run(&mut machine, script);
        assert!(!machine.can_submit(), "{name}: a lost producer takes nothing");
        assert_eq!(machine.step(NOW, ended(0, Ok(identity(0, 9)))), vec![], "{name}: nor does anything");
    }
}

#[test]
fn a_refused_transaction_lets_the_earlier_ones_commit_first() {
    run(
        &mut machine(2),
        vec![
            (Input::Submitted, &["produce 0 0:0"]),
            (Input::Submitted, &[]),
            (ok_produced(), &["commit 0:0", "produce 1 1:0"]),
            (failed(Verdict::Lose(LostReason::TopicGone { name: "t".to_owned() }), Reached::Nothing), &[]),
            (ended(0, Ok(identity(0, 1))), &["committed 0", "lost TopicGone"]),
        ],
    );
}

#[test]
fn repetitions_end_after_the_limit() {
    let mut machine = machine(1);
    machine.step(NOW, Input::Submitted);
    machine.step(NOW, ok_produced());
    let before = machine.step(NOW + GIVE_UP - Duration::from_millis(1), ended(0, Err(Failure::NoAnswer)));
    assert_eq!(brief(&before), ["commit 0:0"]);
    let after = machine.step(NOW + GIVE_UP, ended(0, Err(Failure::NoAnswer)));
    assert_eq!(brief(&after), ["lost Unreachable"]);
}

#[test]
fn replays_end_after_the_limit_and_a_commit_starts_it_anew() {
    let mut machine = machine(1);
    machine.step(NOW, Input::Submitted);
    machine.step(NOW, failed(replay(6), Reached::Nothing));
    let late = NOW + GIVE_UP;
    machine.step(late - Duration::from_millis(1), ok_produced());
    machine.step(late, ended(0, Ok(identity(0, 1))));
    machine.step(late, Input::Submitted);
    assert_eq!(brief(&machine.step(late, failed(replay(6), Reached::Nothing))), ["produce 1 0:1"]);
    let lost = machine.step(late + GIVE_UP, failed(replay(6), Reached::Nothing));
    assert_eq!(brief(&lost), ["lost Unreachable"]);
}

#[test]
fn replays_pause_longer_each_time() {
    let mut machine = machine(1);
    machine.step(NOW, Input::Submitted);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        match &machine.step(NOW, failed(replay(6), Reached::Nothing))[..] {
            [Action::Produce { pause, refresh: true, .. }] => pauses.push(*pause),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
}

/// One transactional id as its coordinator and the leaders see it (TV2).
#[derive(Clone, Debug)]
struct Id {
    epoch: i16,
    /// What the current epoch has written: the transaction, and whether all of it.
    open: Option<(TxnKey, bool)>,
    /// Epoch and direction of the last end, for repeated requests.
    ended: Option<(i16, bool)>,
}

/// A cluster with one coordinator; what is committed, in order.
struct Model {
    ids: Vec<Id>,
    committed: Vec<TxnKey>,
}

impl Model {
    fn produce(
        &mut self,
        id: IdSlot,
        identity: ProducerIdentity,
        txn: TxnKey,
        whole: bool,
    ) -> Result<(), i16> {
        let id = &mut self.ids[id.0];
        if id.epoch != identity.producer_epoch {
            return Err(47);
        }
        assert_eq!(id.open, None, "written twice under one identity");
        id.open = Some((txn, whole));
        Ok(())
    }

    fn end(
        &mut self,
        slot: IdSlot,
        identity: ProducerIdentity,
        commit: bool,
    ) -> Result<ProducerIdentity, Failure> {
        let id = &mut self.ids[slot.0];
        if id.ended == Some((identity.producer_epoch, commit)) {
            return Ok(self.identity(slot));
        }
        if id.epoch != identity.producer_epoch {
            return Err(answered(90));
        }
        let Some((txn, whole)) = id.open.take() else { return Err(answered(48)) };
        if commit {
            assert!(whole, "{txn:?} was committed in part");
            self.committed.push(txn);
        }
        id.ended = Some((id.epoch, commit));
        id.epoch += 1;
        Ok(self.identity(slot))
    }

    fn renew(&mut self, slot: IdSlot, identity: ProducerIdentity) -> Result<ProducerIdentity, Failure> {
        let id = &mut self.ids[slot.0];
        if id.ended.is_some_and(|(epoch, _)| epoch == identity.producer_epoch) {
            return Ok(self.identity(slot));
        }
        if id.epoch != identity.producer_epoch {
            return Err(answered(90));
        }
        id.ended = Some((id.epoch, false));
        id.epoch += 1;
        id.open = None;
        Ok(self.identity(slot))
    }

    /// InitProducerId of a successor for all ids: aborts what is open.
    fn fence(&mut self) {
        for id in &mut self.ids {
            id.open = None;
            id.ended = None;
            id.epoch += 1;
        }
    }

    fn identity(&self, slot: IdSlot) -> ProducerIdentity {
        identity(slot.0 as i64, self.ids[slot.0].epoch)
    }
}

/// What the network and the brokers do to one request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fine,
    AppliedUnanswered,
    Dropped,
    NeverSent,
    Concurrent,
    HalfWritten,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Fine),
        2 => Just(Fate::AppliedUnanswered),
        2 => Just(Fate::Dropped),
        1 => Just(Fate::NeverSent),
        1 => Just(Fate::Concurrent),
        2 => Just(Fate::HalfWritten),
    ]
}

/// Checks the order rules on the actions as they come, and answers them through the model. A lost producer is followed
/// by another, which begins where the committed ones end.
struct Play {
    machine: Machine,
    model: Model,
    waiting: Vec<Action>,
    /// Committed before this machine was made; its first transaction is this one.
    first: u64,
    submitted: u64,
    reported: Vec<TxnKey>,
    acked: Vec<TxnKey>,
    ending: HashMap<IdSlot, (ProducerIdentity, bool)>,
}

impl Play {
    fn new(ids: usize) -> Self {
        let id = Id { epoch: 0, open: None, ended: None };
        Self {
            machine: machine(ids),
            model: Model { ids: vec![id; ids], committed: Vec::new() },
            waiting: Vec::new(),
            first: 0,
            submitted: 0,
            reported: Vec::new(),
            acked: Vec::new(),
            ending: HashMap::new(),
        }
    }

    /// The checkpoint says what was committed; everything after it is submitted again.
    fn restart(&mut self) {
        self.model.fence();
        let identities = (0..self.model.ids.len()).map(|id| self.model.identity(IdSlot(id))).collect();
        self.machine = Machine::new(identities, self.model.ids.len(), GIVE_UP, Protocol::Kip890);
        self.waiting.clear();
        self.ending.clear();
        self.first = self.model.committed.len() as u64;
        self.submitted = self.first;
        self.reported.clone_from(&self.model.committed);
        self.acked.clone_from(&self.model.committed);
    }

    /// The number of a machine's transaction over all machines.
    fn number(&self, txn: TxnKey) -> TxnKey {
        TxnKey(self.first + txn.0)
    }

    fn feed(&mut self, input: Input) {
        for action in self.machine.step(NOW, input) {
            self.check(&action);
            match action {
                Action::Committed { txn, .. } => self.reported.push(self.number(txn)),
                Action::Lost { reason } => {
                    assert!(matches!(reason, LostReason::Disconnected { .. }), "{reason:?}");
                    return self.restart();
                }
                action => self.waiting.push(action),
            }
        }
    }

    fn check(&mut self, action: &Action) {
        let producing = |action: &Action| matches!(action, Action::Produce { .. });
        match action {
            Action::Produce { txn, id, .. } => {
                assert!(!self.waiting.iter().any(producing), "two transactions produce at once");
                let txn = self.number(*txn);
                assert!((0..txn.0).all(|earlier| self.acked.contains(&TxnKey(earlier))), "{txn:?} overtakes");
                assert!(!self.ending.contains_key(id), "an id with an open EndTxn is used");
            }
            Action::EndTxn { id, identity, commit, .. } => {
                let earlier = self.ending.insert(*id, (*identity, *commit));
                assert!(
                    earlier.is_none_or(|earlier| earlier == (*identity, *commit)),
                    "another EndTxn instead of a repeat"
                );
                let commits = self.ending.values().filter(|(_, commit)| *commit).count();
                assert!(commits <= 1, "EndTxn overtakes");
            }
            Action::Committed { txn, .. } => {
                let txn = self.number(*txn);
                assert_eq!(txn.0, self.reported.len() as u64, "commits are reported in submit order");
                let committed = self.model.committed.get(self.reported.len());
                assert_eq!(committed, Some(&txn), "reported but not committed");
            }
            _ => {}
        }
    }

    fn answer(&mut self, at: usize, fate: Fate) {
        let action = self.waiting.swap_remove(at % self.waiting.len());
        let input = match action {
            Action::Produce { txn, id, identity, .. } => {
                self.answer_produce(self.number(txn), id, identity, fate)
            }
            Action::EndTxn { id, identity, commit, .. } => {
                let result = self.coordinate(fate, |model| model.end(id, identity, commit));
                if result.is_ok() || result == Err(answered(48)) {
                    self.ending.remove(&id);
                }
                Input::Ended { id, result, broken: false }
            }
            Action::Renew { id, identity, .. } => {
                Input::Renewed { id, result: self.coordinate(fate, |model| model.renew(id, identity)) }
            }
            other => panic!("{other:?} is no request"),
        };
        self.feed(input);
    }

    fn answer_produce(&mut self, txn: TxnKey, id: IdSlot, identity: ProducerIdentity, fate: Fate) -> Input {
        let whole = matches!(fate, Fate::Fine | Fate::AppliedUnanswered);
        let written = match fate {
            Fate::Dropped | Fate::NeverSent | Fate::Concurrent => Ok(()),
            _ => self.model.produce(id, identity, txn, whole),
        };
        assert_eq!(written, Ok(()), "the machine produced under a void identity");
        match fate {
            Fate::Fine => {
                self.acked.push(txn);
                ok_produced()
            }
            Fate::NeverSent => failed(replay(6), Reached::Nothing),
            Fate::HalfWritten => failed(replay(6), Reached::Acked),
            Fate::Concurrent => failed(replay(51), Reached::Unsure),
            Fate::AppliedUnanswered | Fate::Dropped => {
                failed(Verdict::of_error(&no_answer()), Reached::Unsure)
            }
        }
    }

    fn coordinate(
        &mut self,
        fate: Fate,
        request: impl FnOnce(&mut Model) -> Result<ProducerIdentity, Failure>,
    ) -> Result<ProducerIdentity, Failure> {
        match fate {
            Fate::Fine | Fate::HalfWritten => request(&mut self.model),
            Fate::AppliedUnanswered => {
                let _ = request(&mut self.model);
                Err(Failure::NoAnswer)
            }
            Fate::Concurrent => Err(answered(51)),
            Fate::Dropped | Fate::NeverSent => Err(Failure::NoAnswer),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_transaction_is_committed_once_in_order(
        ids in 1usize..5,
        steps in proptest::collection::vec((any::<usize>(), fate(), any::<bool>()), 0..200),
    ) {
        let mut play = Play::new(ids);
        for (at, fate, submit) in steps {
            if submit && play.machine.can_submit() {
                play.submitted += 1;
                play.feed(Input::Submitted);
            } else if !play.waiting.is_empty() {
                play.answer(at, fate);
            }
        }
        while !play.waiting.is_empty() {
            play.answer(0, Fate::Fine);
        }
        let expected: Vec<TxnKey> = (0..play.submitted).map(TxnKey).collect();
        prop_assert_eq!(&play.model.committed, &expected);
        prop_assert_eq!(&play.reported, &expected);
    }
}
