//! Whether a publication publishes the shard that the file says, and whether the relay can tell its rows, too. Pure.
//!
//! Must never let a pipeline relay keys of another one: each would have its own order of them.

use super::statements::{add_to_publication, published, qualified};
use crate::config::{Outbox, hashtext};
use crate::error::{Code, Fault};
use crate::source::{KeyFacts, Publication, PublishedTable, quote_identifier};

/// Texts of which the server is asked for the hash: none, a short one, one of more than two rounds.
pub(crate) const SAMPLES: [&str; 3] = ["", "key-1", "a text of more than twenty-four bytes"];

/// Whether the publication `name` takes the filter of a shard, if the table has one: where it publishes deletes, too, an
/// application could not delete its rows any more.
///
/// # Errors
/// PB-1011 with the statement.
pub(crate) fn takes_shard(name: &str, publication: &Publication, outbox: &Outbox) -> Result<(), Fault> {
    if outbox.shard.is_none() || !publication.changes {
        return Ok(());
    }
    let name = quote_identifier(name);
    let message = format!(
        "publication {name} publishes updates or deletes of {}, which is shared by key",
        outbox.table
    );
    Err(Fault::new(Code::PublicationLacksTable, message)
        .because("with a row filter Postgres would refuse every UPDATE and DELETE of the table")
        .hint(format!("ALTER PUBLICATION {name} SET (publish = 'insert');")))
}

/// Whether the relay computes the shard of a row as the server does, if the table has one.
///
/// # Errors
/// PB-1011 with what is in the way.
pub(crate) fn verify_key(outbox: &Outbox, key: &KeyFacts) -> Result<(), Fault> {
    let Some(shard) = outbox.shard else { return Ok(()) };
    let ours = SAMPLES.map(|text| hashtext(text.as_bytes()).cast_signed());
    let obstacle = if !["UTF8", "SQL_ASCII"].contains(&key.encoding.as_str()) {
        format!("the database has the encoding {}, its texts have other bytes in the stream", key.encoding)
    } else if !key.fits {
        let column = quote_identifier(&outbox.key_column);
        format!("column {column} is not text, varchar or char(n) with a collation of Postgres' own")
    } else if key.hashes != ours {
        "hashtext() of this server gives other numbers than the relay knows".to_owned()
    } else {
        return Ok(());
    };
    let message = format!("the relay cannot tell which rows of {} are of shard {shard}", outbox.table);
    Err(Fault::new(Code::PublicationLacksTable, message)
        .because(obstacle)
        .hint("relay the table by one pipeline, without outbox.shard"))
}

/// The ways in which Postgres may print the name of a column.
fn spellings(column: &str) -> [String; 2] {
    [quote_identifier(column), column.to_owned()]
}

/// Whether the rows of a published table are those of its shard, if it has one. The filter of a table without shards is its
/// owner's business.
///
/// # Errors
/// PB-1011 with the statement.
pub(crate) fn verify_shard(
    name: &str,
    publication: &Publication,
    outbox: &Outbox,
    table: &PublishedTable,
) -> Result<(), Fault> {
    let Some(shard) = outbox.shard else { return Ok(()) };
    takes_shard(name, publication, outbox)?;
    let found = table.row_filter.as_deref().unwrap_or_default();
    if shard.is_filter(found, spellings(&outbox.key_column).iter().map(String::as_str)) {
        return Ok(());
    }
    let quoted = quote_identifier(name);
    let message = format!("publication {quoted} does not publish shard {shard} of {} alone", outbox.table);
    let found = if found.is_empty() {
        "it has no row filter".to_owned()
    } else {
        format!("its row filter is {found}")
    };
    let hint = if table.named {
        let dropped = qualified(&outbox.table);
        format!(
            "BEGIN; ALTER PUBLICATION {quoted} DROP TABLE {dropped}; {} COMMIT; -- if the number of shards was changed, only once all of them have relayed everything: see PB-1011",
            add_to_publication(name, outbox)
        )
    } else {
        format!(
            "{quoted} is for all tables or a schema, where no filter counts. Without a slot: another name in postgres.publication, setup makes it. With one: DROP and CREATE PUBLICATION in one transaction, for all tables of the file, this one as {}",
            published(outbox)
        )
    };
    Err(Fault::new(Code::PublicationLacksTable, message).because(found).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Shard, TableName};

    #[test]
    fn another_filter_is_told_with_the_statement() {
        let table = TableName { schema: "public".into(), name: "Outbox".into() };
        let mut outbox = Outbox::debezium(table.clone());
        let mut published = PublishedTable {
            table,
            published: true,
            named: true,
            under_partition_names: false,
            row_filter: None,
            columns: Vec::new(),
        };
        let mut publication =
            Publication { inserts: true, changes: false, via_root: true, tables: Vec::new() };
        let verify = |publication: &Publication, outbox: &Outbox, published: &PublishedTable| {
            verify_shard("p", publication, outbox, published)
        };
        assert_eq!(verify(&publication, &outbox, &published), Ok(()));
        outbox.shard = Shard::parse("1/2").ok();
        let fault = verify(&publication, &outbox, &published).expect_err("no filter");
        let hint = fault.hint.expect("a statement");
        assert!(hint.contains("DROP TABLE \"public\".\"Outbox\";"), "{hint}");
        assert!(hint.contains("ADD TABLE \"public\".\"Outbox\" WHERE ((hashtext(coalesce(\"aggregateid\", '')) & 2147483647) % 2 = 0);"), "{hint}");
        published.named = false;
        let fault = verify(&publication, &outbox, &published).expect_err("no filter");
        let hint = fault.hint.expect("advice");
        assert!(!hint.contains("ALTER") && hint.contains("\"Outbox\" WHERE ("), "{hint}");
        published.named = true;
        published.row_filter = Some(
            "(((hashtext((COALESCE(aggregateid, ''::character varying))::text) & 2147483647) % 2) = 0)"
                .into(),
        );
        assert_eq!(verify(&publication, &outbox, &published), Ok(()));
        publication.changes = true;
        let fault = verify(&publication, &outbox, &published).expect_err("deletes");
        assert!(
            fault.hint.is_some_and(|hint| hint.contains("SET (publish = 'insert')")),
            "{}",
            fault.message
        );
        publication.changes = false;
        outbox.shard = Shard::parse("2/2").ok();
        assert!(verify(&publication, &outbox, &published).is_err());
    }

    #[test]
    fn a_server_that_hashes_otherwise_gets_no_shard() {
        let mut outbox = Outbox::debezium(TableName { schema: "public".into(), name: "outbox".into() });
        // hashtext() of Postgres 15 and 18 for `SAMPLES`.
        let known = KeyFacts {
            encoding: "UTF8".into(),
            fits: true,
            hashes: vec![-1_477_818_771, -497_482_992, 1_589_256_965],
        };
        let others = [
            KeyFacts { encoding: "LATIN1".into(), ..known.clone() },
            KeyFacts { fits: false, ..known.clone() },
            KeyFacts { hashes: vec![0, 1, 2], ..known.clone() },
        ];
        assert!(others.iter().all(|other| verify_key(&outbox, other).is_ok()), "no shard, no question");
        outbox.shard = Shard::parse("1/2").ok();
        assert_eq!(verify_key(&outbox, &known), Ok(()));
        for other in others {
            let fault = verify_key(&outbox, &other).expect_err("another hash");
            assert!(fault.code == Code::PublicationLacksTable && fault.hint.is_some(), "{other:?}");
        }
    }
}
