//! A part of a table's keys: several pipelines share a table, each with a slot and a walsender of its own.
//!
//! ```text
//! key --hashtext--> 31 bits --modulo--> the shard; no key is the empty key
//! ```
//! Postgres decides first, by the row filter of the publication, so that a pipeline does not read the rows of others. The
//! relay decides again, by the same rule: while the publication had another filter, WAL is decoded with that one.
//! Never a guess: a filter that is written in another way is another filter.

use std::fmt;

/// More than this, and every walsender decodes WAL mostly for others.
const COUNT_MAX: u32 = 16;

/// One of so many parts of a table's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: u32,
    count: u32,
}

/// What becomes of a row of another shard, which only comes where WAL was decoded with another filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtherShard {
    /// The pipeline halts: it may be that no other one has the row, as after a change of shards.
    #[default]
    Stop,
    /// It is left to its pipeline.
    Skip,
}

impl Shard {
    /// `1/2` is the first of two.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expected NUMBER/COUNT, as 1/2, of at most {COUNT_MAX}");
        let (number, count) = text.split_once('/').ok_or_else(expected)?;
        let number = number.trim().parse().map_err(|_| expected())?;
        let count = count.trim().parse().map_err(|_| expected())?;
        let legal = (2..=COUNT_MAX).contains(&count) && (1..=count).contains(&number);
        if legal { Ok(Self { number, count }) } else { Err(expected()) }
    }

    /// The row filter of the publication. `key_column` is quoted, and of a text type.
    pub fn filter(self, key_column: &str) -> String {
        let Self { number, count } = self;
        format!("(hashtext(coalesce({key_column}, '')) & 2147483647) % {count} = {}", number - 1)
    }

    /// Whether a filter, as the catalog spells it, is that of this shard; `spellings` are those of the key column.
    pub fn is_filter<'a>(self, found: &str, mut spellings: impl Iterator<Item = &'a str>) -> bool {
        let Self { number, count } = self;
        let printed =
            |hashed: &str| format!("(((hashtext({hashed}) & 2147483647) % {count}) = {})", number - 1);
        spellings.any(|column| {
            // Of text; of varchar and char(n), which it takes as text.
            found == printed(&format!("COALESCE({column}, ''::text)"))
                || ["character varying", "bpchar"]
                    .iter()
                    .any(|kind| found == printed(&format!("(COALESCE({column}, ''::{kind}))::text")))
        })
    }

    /// Whether rows with this key are of this shard. A key of type char(n) comes without its trailing blanks.
    pub fn holds(self, key: Option<&[u8]>) -> bool {
        (hashtext(key.unwrap_or_default()) & 0x7fff_ffff) % self.count == self.number - 1
    }
}

/// What `hashtext` of Postgres gives for a text, in a database whose encoding is that of the stream, with a deterministic
/// collation, on a little-endian server. A start asks the server whether it does so.
pub fn hashtext(text: &[u8]) -> u32 {
    let length = u32::try_from(text.len()).expect("a value of Postgres has less than 1 GiB");
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let mut state = [start; 3];
    let mut words = text.chunks_exact(12);
    for chunk in &mut words {
        for (word, bytes) in state.iter_mut().zip(chunk.chunks_exact(4)) {
            *word = word.wrapping_add(u32::from_le_bytes(bytes.try_into().expect("4 bytes")));
        }
        mix(&mut state);
    }
    for (at, byte) in words.remainder().iter().enumerate() {
        // The lowest byte of the third word is not used.
        let at = if at < 8 { at } else { at + 1 };
        let word = &mut state[at / 4];
        *word = word.wrapping_add(u32::from(*byte) << (8 * (at % 4)));
    }
    finish(&mut state);
    state[2]
}

fn mix([a, b, c]: &mut [u32; 3]) {
    for (left, right) in [(4, 6), (16, 19)] {
        *a = a.wrapping_sub(*c) ^ c.rotate_left(left);
        *c = c.wrapping_add(*b);
        *b = b.wrapping_sub(*a) ^ a.rotate_left(right);
        *a = a.wrapping_add(*c);
        *c = c.wrapping_sub(*b) ^ b.rotate_left(if left == 4 { 8 } else { 4 });
        *b = b.wrapping_add(*a);
    }
}

fn finish([a, b, c]: &mut [u32; 3]) {
    let step = |into: &mut u32, from: u32, by: u32| *into = (*into ^ from).wrapping_sub(from.rotate_left(by));
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_at_least_two() {
        assert_eq!(Shard::parse("2/3").map(|shard| shard.to_string()), Ok("2/3".to_owned()));
        for wrong in ["", "1", "0/2", "3/2", "1/1", "1/17", "-1/2", "a/b", "1/2/3"] {
            assert!(Shard::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_is_known_as_postgres_prints_it() {
        let shard = Shard::parse("2/2").expect("a shard");
        let is_filter = |found: &str, name: &'static str| shard.is_filter(found, [name].into_iter());
        // pg_publication_tables.rowfilter of Postgres 15 and 18, for varchar, text and char(n).
        for printed in [
            "(((hashtext((COALESCE(aggregateid, ''::bpchar))::text) & 2147483647) % 2) = 1)",
            "(((hashtext((COALESCE(aggregateid, ''::character varying))::text) & 2147483647) % 2) = 1)",
            "(((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647) % 2) = 1)",
        ] {
            assert!(is_filter(printed, "aggregateid"), "{printed}");
            assert!(!is_filter(&printed.replace("= 1", "= 0"), "aggregateid"));
            assert!(!is_filter(printed, "id"));
            assert!(!is_filter(printed, "\"AggregateId\""));
        }
        // Grouped otherwise it takes other rows; cast otherwise it hashes other bytes.
        for other in [
            "(aggregateid > 'k'::text)",
            "((hashtext(COALESCE(aggregateid, ''::text)) & (2147483647 % 2)) = 1)",
            "(((hashtext((COALESCE((aggregateid)::bpchar, ''::bpchar))::text) & 2147483647) % 2) = 1)",
        ] {
            assert!(!is_filter(other, "aggregateid"), "{other}");
        }
    }
}
