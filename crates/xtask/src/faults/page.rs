//! The page: a table for each part of the world that is struck.
//!
//! Must never depend on anything but the marks.

use super::marks::Mark;
use super::rows::{Part, ROWS, Row};

const OPENING: &str = "\
# Faults, and what becomes of a pipeline

Each fault below is brought about by a test, on real servers and with the built binary. The tests say what they do, what
held, and what the operator was told; `cargo xtask faults` writes this page from them, and `cargo xtask tidy` fails when
it is out of date. A number is a name: the numbers have gaps.

\"Nothing lost\" means: an independent `read_committed` consumer found each committed event once, in commit order, and
nothing that was rolled back. The column *test* has the arguments of `cargo test`. `--test limits` brings the sizes and times of
its faults about in a smaller form, unless `PILLARBOX_LIMITS` is `full`.
";

/// The whole page.
pub(super) fn render(marks: &[Mark]) -> String {
    let mut page = OPENING.to_owned();
    for part in Part::ALL {
        let rows: String =
            ROWS.iter().filter(|row| row.part == part).map(|row| table_rows(row, marks)).collect();
        if rows.is_empty() {
            continue;
        }
        page.push_str(&format!(
            "\n## {}\n\n| # | fault | what held | what the operator is told | test |\n| --- | --- | --- | --- | --- |\n{rows}",
            part.heading()
        ));
    }
    page
}

/// A line for each test of this fault.
fn table_rows(row: &Row, marks: &[Mark]) -> String {
    let tests = marks.iter().filter(|mark| mark.rows.contains(&row.number));
    tests
        .map(|mark| {
            let cells = [
                row.number.to_string(),
                format!("{}: {}", row.title, mark.name),
                mark.holds.clone(),
                linked(&mark.told),
                format!("`{}`", mark.command),
            ];
            format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
        })
        .collect()
}

/// Codes lead to their pages.
fn linked(text: &str) -> String {
    let mut parts = text.split("PB-");
    let mut linked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.chars().take_while(char::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        match digits {
            4 => linked.push_str(&format!("[PB-{number}](errors/PB-{number}.md){rest}")),
            _ => linked.push_str(&format!("PB-{part}")),
        }
    }
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_to_their_pages_and_nothing_else_does() {
        assert_eq!(linked("a PB-1013, PB-x"), "a [PB-1013](errors/PB-1013.md), PB-x");
    }

    #[test]
    fn a_test_of_two_faults_stands_in_both_rows() {
        let [name, holds, told, path, command] = ["n", "h|", "t", "p", "c"].map(str::to_owned);
        let page = render(&[Mark { rows: vec![13, 40], name, holds, told, path, line: 1, command }]);
        assert!(page.contains("\n| 13 | the slot is dropped: n | h\\| | t | `c` |\n"), "{page}");
        assert!(page.contains("\n| 40 | "), "{page}");
    }
}
