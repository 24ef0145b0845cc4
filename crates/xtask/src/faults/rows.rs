//! The faults that tests must bring about: a flat list. A number is a name: it never gets another meaning, so the
//! numbers have gaps.
//!
//! Must never hold what a test says itself.

use super::Wrong;
use super::marks::Mark;

/// Where findings about the list itself are.
const LIST: &str = "crates/xtask/src/faults/rows.rs";

/// A fault.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) number: u16,
    pub(super) part: Part,
    pub(super) title: &'static str,
}

/// The part of the world that is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Relay,
    Postgres,
    History,
    Rows,
    Kafka,
    Links,
}

impl Part {
    pub(super) const ALL: [Part; 6] =
        [Part::Relay, Part::Postgres, Part::History, Part::Rows, Part::Kafka, Part::Links];

    pub(super) fn heading(self) -> &'static str {
        match self {
            Part::Relay => "The relay's own process",
            Part::Postgres => "Postgres",
            Part::History => "The database's history",
            Part::Rows => "What is written, and into what",
            Part::Kafka => "Kafka",
            Part::Links => "Everything between them",
        }
    }
}

macro_rules! rows {
    ($($number:literal $part:ident $title:literal;)*) => {
        &[$(Row { number: $number, part: Part::$part, title: $title },)*]
    };
}

/// Every fault.
pub(super) const ROWS: &[Row] = rows! {
    1 Relay "the relay is killed at any step of its life";
    2 Relay "the relay is stopped and wakes up";
    3 Relay "relays start and die in turn";
    4 Relay "the relay is told to end under load";
    5 Relay "the relay runs out of memory";
    6 Relay "the relay's disk is full";
    7 Relay "the relay's clock is wrong, or jumps";
    8 Relay "the relay may open no more files or threads";
    9 Postgres "Postgres crashes or stops, and comes back";
    11 Postgres "the walsender is ended";
    12 Links "the slot is held by a leader that nobody reaches";
    13 Postgres "the slot is dropped";
    14 Postgres "the slot is invalidated";
    15 Postgres "the slot is advanced by somebody";
    16 History "a standby that has everything is promoted";
    17 History "a standby that lacks the end is promoted";
    18 History "a standby without the slot is promoted";
    19 History "an older copy takes the database's place";
    20 History "a copy of the database runs beside it";
    22 Postgres "the synchronous standby does not answer";
    23 Postgres "Postgres takes no writes";
    24 Postgres "a transaction stays open";
    25 Rows "transactions that are huge, empty, or made of many";
    26 Rows "rows by COPY, by several, in savepoints; messages outside of transactions";
    27 Rows "the table changes";
    28 Rows "the publication changes";
    29 Rows "replica identity, TOAST, partitions, TRUNCATE";
    30 Rows "a row that can never be published";
    31 Rows "a record larger than its topic allows";
    32 Kafka "a broker dies, leaders and coordinators move";
    33 Kafka "no broker answers for a long time";
    34 Links "the end of a transaction arrives late";
    35 Links "a write arrives after its transaction was aborted";
    36 Links "a transaction takes longer than it may";
    37 Kafka "a foreign client takes a transactional id";
    38 Kafka "a transactional id or a producer id expires";
    39 Kafka "too few replicas are in sync";
    40 Kafka "a topic is deleted, re-created, grown, or loses records";
    41 Kafka "the checkpoint topic is deleted";
    43 Links "a link is slow, cut, torn, or silent";
};

/// Rows without a test; marks and exceptions without a row.
pub(super) fn compare(marks: &[Mark]) -> Vec<Wrong> {
    let has_test = |number: u16| marks.iter().any(|mark| mark.rows.contains(&number));
    let missing = ROWS.iter().filter(|row| !has_test(row.number));
    let missing = missing
        .map(|row| Wrong::new(LIST, 0, format!("no test brings about fault {}: {}", row.number, row.title)));
    let known = |number: &u16| ROWS.iter().any(|row| row.number == *number);
    let unknown = marks.iter().flat_map(|mark| {
        let numbers = mark.rows.iter().filter(|number| !known(number));
        numbers.map(|number| Wrong::new(&mark.path, mark.line, format!("no fault has the number {number}")))
    });
    missing.chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(rows: &[u16]) -> Mark {
        let [name, holds, told, path, command] = ["a"; 5].map(str::to_owned);
        Mark { rows: rows.to_vec(), name, holds, told, path, line: 1, command }
    }

    #[test]
    fn numbers_ascend() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn a_row_without_a_test_and_a_number_without_a_row_are_found() {
        let all: Vec<u16> = ROWS.iter().map(|row| row.number).collect();
        assert_eq!(compare(&[mark(&all)]), Vec::new());
        let wrong = compare(&[mark(&all[1..])]);
        assert!(wrong.len() == 1 && wrong[0].message.contains("no test brings about fault 1:"), "{wrong:?}");
        let wrong = compare(&[mark(&all), mark(&[10])]);
        assert!(wrong.len() == 1 && wrong[0].message.contains("the number 10"), "{wrong:?}");
    }
}
