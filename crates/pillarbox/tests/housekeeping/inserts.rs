//! Insert and delete in one transaction: the table is always empty, and nothing but the insert is sent, whatever the
//! replica identity, also where the payload lies out of line.

use crate::world::*;

#[test]
fn insert_and_delete_in_one_transaction_on_postgres_15() {
    insert_and_delete(15);
}

#[test]
fn insert_and_delete_in_one_transaction_on_postgres_18() {
    insert_and_delete(18);
}

/// 20 kB that do not compress, a value of their own for each `n`.
const LARGE: &str =
    "(SELECT to_jsonb(string_agg(md5('$' || n::text || i::text), '')) FROM generate_series(1, 640) i)";

const IDENTITIES: [&str; 4] = ["DEFAULT", "FULL", "NOTHING", "USING INDEX outbox_pkey"];

fn insert_and_delete(version: u32) {
    let site = site(version);
    let configuration = site.configure("insdel", 1, &[]);
    site.setup(&configuration);
    execute(&site, "SELECT pg_create_logical_replication_slot('spy', 'pgoutput')");
    let mut relay = streaming(&site, &configuration);
    let mut sent = 0;
    for identity in IDENTITIES {
        execute(&site, &format!("ALTER TABLE outbox REPLICA IDENTITY {identity}"));
        for value in ["to_jsonb('$' || n::text)", LARGE] {
            execute(&site, &come_and_go(&value.replace('$', identity)));
            sent += 5;
        }
    }
    assert_eq!(one(&site, "SELECT count(*) FROM outbox"), "0");
    assert_eq!(sent_kinds(&site), "B8 C8 I40", "on {version}");

    // A publication of somebody else's that sends deletes too: they are no events.
    execute(&site, "ALTER TABLE outbox REPLICA IDENTITY FULL");
    execute(&site, "ALTER PUBLICATION pillarbox_insdel SET (publish = 'insert, update, delete, truncate')");
    for value in ["to_jsonb('all' || n::text)", LARGE] {
        execute(&site, &come_and_go(&value.replace('$', "all")));
        sent += 5;
    }
    execute(&site, "TRUNCATE outbox");
    assert!(sent_kinds(&site).contains("D10"), "the spy sees deletes when they are sent");

    site.caught_up(&configuration, PATIENCE);
    let values = values(&site, "outbox.event.order");
    assert_eq!(each_once(&values), sent, "on {version}");
    let whole = values.keys().filter(|value| value.len() == 640 * 32 + 2).count();
    assert_eq!(whole, sent / 2, "whole payloads on {version}");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

fn come_and_go(value: &str) -> String {
    format!(
        "BEGIN; INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
         SELECT gen_random_uuid(), 'order', 'k', 'made', {value} FROM generate_series(1, 5) n; \
         DELETE FROM outbox; COMMIT"
    )
}

/// What the walsender would send to anybody with our publication, each kind with its number; relations aside.
fn sent_kinds(site: &crate::harness::site::Site) -> String {
    one(
        site,
        "SELECT string_agg(kind || count, ' ' ORDER BY kind) FROM (SELECT chr(get_byte(data, 0)) AS kind, count(*) \
         FROM pg_logical_slot_get_binary_changes('spy', NULL, NULL, 'proto_version', '1', 'publication_names', 'pillarbox_insdel') \
         GROUP BY 1) k WHERE kind NOT IN ('R', 'Y')",
    )
}
