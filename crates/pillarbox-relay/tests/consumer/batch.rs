//! The batch form against one call after the other, and both against the rule in six lines.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::hex;
use super::store::{Refusal, Session, Store};

/// How the next event differs from a log that is as it should be.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Next,
    /// So many sequences are missing before it.
    Gap(u8),
    /// Reading goes on so many events earlier.
    Again(u8),
    /// The position does not rise though the sequence does.
    PositionBack,
    /// The sequence does not rise though the position does.
    SequenceBack,
    Malformed,
    OtherSource,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        12 => Just(Turn::Next),
        1 => (1..4u8).prop_map(Turn::Gap),
        3 => (1..9u8).prop_map(Turn::Again),
        2 => Just(Turn::OtherSource),
    ];
    // Few, or hardly a case would get past its first events.
    let bad = prop_oneof![Just(Turn::PositionBack), Just(Turn::SequenceBack), Just(Turn::Malformed)];
    prop::collection::vec(prop_oneof![30 => turn, 1 => bad], 1..60)
}

/// What a consumer is given, in its order.
fn log(turns: &[Turn]) -> Vec<String> {
    let (mut source, mut given) = (0, Vec::new());
    // Of each source its events so far and how many of them are behind the reader.
    let mut logs = [(Vec::new(), 0), (Vec::new(), 0)];
    for turn in turns {
        if matches!(turn, Turn::OtherSource) {
            source = 1 - source;
        }
        let (events, read): &mut (Vec<(u128, i64)>, usize) = &mut logs[source];
        let (position, sequence) = events.last().copied().unwrap_or((100, 0));
        match turn {
            Turn::Gap(lost) if *read == events.len() => {
                events.push((position + 40, sequence + 1 + i64::from(*lost)));
            }
            Turn::PositionBack => events.push((position - 1, sequence + 1)),
            Turn::SequenceBack => events.push((position + 1, sequence.max(1))),
            Turn::Again(back) => *read = read.saturating_sub(usize::from(*back)),
            _ => {}
        }
        if *read == events.len() {
            events.push((position + 7, sequence + 1));
        }
        let (position, sequence) = events[*read];
        *read += 1;
        let header = format!("{}:{}:{sequence}", ["orders", "returns"][source], hex(position));
        given.push(if matches!(turn, Turn::Malformed) { format!("{header}x") } else { header });
    }
    given
}

type State = HashMap<String, (String, i64)>;

/// The ordinals to apply, or the SQLSTATE.
fn rule(state: &mut State, headers: &[String], warn: bool, strict: bool) -> Result<Vec<i32>, &'static str> {
    let mut applied = Vec::new();
    for (ordinal, header) in (1..).zip(headers) {
        let mut parts = header.split(':').map(str::to_owned);
        let mut part = || parts.next().expect("three parts");
        let (source, position, sequence) = (part(), part(), part().parse::<i64>().map_err(|_| "PB003")?);
        let gap = match state.get(&source) {
            None => strict && sequence != 1,
            Some((p, s)) if sequence <= *s && position <= *p => continue,
            Some((p, s)) if sequence > *s && position > *p => sequence > *s + 1,
            Some(_) => return Err("PB002"),
        };
        if gap && !warn {
            return Err("PB001");
        }
        state.insert(source, (position, sequence));
        applied.push(ordinal);
    }
    Ok(applied)
}

async fn one_by_one(
    session: &Session,
    headers: &[String],
    offsets: &[i64],
    on_gap: &str,
    strict: bool,
) -> Result<Vec<i32>, Refusal> {
    let mut applied = Vec::new();
    for (ordinal, (header, offset)) in (1..).zip(headers.iter().zip(offsets)) {
        if session.accept_with(Some(header), Some(*offset), on_gap, strict).await? {
            applied.push(ordinal);
        }
    }
    Ok(applied)
}

/// All rows but the time, as text.
async fn rows(session: &Session) -> Vec<String> {
    let sql = "SELECT coalesce(array_agg(concat_ws(' ', source, position, sequence, kafka_offset) ORDER BY source), '{}') \
        FROM pillarbox.consumer_positions";
    session.one(sql, &[]).await
}

async fn case(stores: &(Session, Session), turns: &[Turn], sizes: &[usize], warn: bool, strict: bool) {
    let (one, many) = stores;
    let (on_gap, given) = (if warn { "warn" } else { "error" }, log(turns));
    let mut state = State::new();
    let (mut rest, mut offset) = (&given[..], 0);
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = (*sizes.next().expect("a cycle")).min(rest.len());
        let (chunk, behind) = rest.split_at(size);
        rest = behind;
        let offsets: Vec<i64> = (offset..).take(size).collect();
        offset += i64::try_from(size).expect("few");
        one.run("BEGIN").await;
        many.run("BEGIN").await;
        let single = one_by_one(one, chunk, &offsets, on_gap, strict).await;
        let batch = many.accept_batch(chunk, Some(&offsets), on_gap, strict).await;
        let before = state.clone();
        let expected = rule(&mut state, chunk, warn, strict);
        if expected.is_err() {
            state = before;
        }
        let end = if expected.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let sqlstate = |answer: Result<Vec<i32>, Refusal>| answer.map_err(|refusal| refusal.sqlstate);
        let expected = expected.map_err(str::to_owned);
        assert_eq!(sqlstate(single), expected, "one by one: {chunk:?}");
        assert_eq!(sqlstate(batch), expected, "as a batch: {chunk:?}");
        one.run(end).await;
        many.run(end).await;
        assert_eq!(rows(one).await, rows(many).await, "{chunk:?}");
    }
    for session in [one, many] {
        session.run("TRUNCATE pillarbox.consumer_positions").await;
    }
}

#[test]
fn a_batch_is_one_call_after_the_other() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sessions = runtime.block_on(async {
        let [one, many] = Store::each();
        (one.session().await, many.session().await)
    });
    let strategy = (turns(), prop::collection::vec(1..12usize, 1..6), any::<bool>(), any::<bool>());
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&strategy, |(turns, sizes, warn, strict)| {
        // A case that failed left its transaction open.
        runtime.block_on(async {
            for session in [&sessions.0, &sessions.1] {
                session.run("ROLLBACK; TRUNCATE pillarbox.consumer_positions").await;
            }
            case(&sessions, &turns, &sizes, warn, strict).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
