//! What became of each key, for people: a line a key, then what no key says, then the sum.

use super::Imported;
use super::fate::{Entry, Fate};

/// Widest column of keys; a longer key moves its own line only.
const KEY_WIDTH_MAX: usize = 52;

/// The fates in the order of the sum.
const WORDS: [&str; 4] = ["mapped", "default", "ignored", "unsupported"];

/// The report.
pub(crate) fn report(imported: &Imported) -> String {
    let width = imported.entries.iter().map(|entry| entry.key.written.len()).max().unwrap_or(0);
    let width = width.min(KEY_WIDTH_MAX);
    let mut text: String = imported.entries.iter().map(|entry| line(entry, width)).collect();
    for note in &imported.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    let count = |word: &str| imported.entries.iter().filter(|entry| fate(entry).word() == word).count();
    let counts: Vec<String> = WORDS.iter().map(|word| format!("{} {word}", count(word))).collect();
    text.push_str(&format!("{} keys: {}\n", imported.entries.len(), counts.join(", ")));
    text
}

fn line(entry: &Entry, width: usize) -> String {
    let fate = fate(entry);
    let told = match fate {
        Fate::Mapped(told) | Fate::Default(told) | Fate::Ignored(told) => told.clone(),
        Fate::Unsupported { why, todo } => format!("{why}; to do: {todo}"),
    };
    let read_as = entry.read_as.as_ref().map(|read_as| format!("{read_as}; ")).unwrap_or_default();
    format!("{:<11}  {:<width$}  {read_as}{told}\n", fate.word(), entry.key.written)
}

/// A fate that every key has by now.
fn fate(entry: &Entry) -> &Fate {
    entry.fate.as_ref().expect("every key has a fate")
}
