//! The ways in which rows are written, and tables and publications that change under a running relay.
//!
//! Must never compare with anything but what was committed: each row has a number, which its payload repeats.

use std::fs;

use rdkafka::message::Message;
use serde_json::Value;

use crate::harness::records::{Isolation, header, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{PATIENCE, site};

/// A pipeline with a table, a publication and a topic of its own.
struct Shape<'a> {
    site: &'a Site,
    table: String,
    pipeline: String,
    configuration: Configuration,
    relay: Relay,
    rows: u32,
}

impl<'a> Shape<'a> {
    /// One partition, so that the order of everything shows.
    fn start(site: &'a Site, pipeline: &str, columns: &str) -> Self {
        let table = format!("public.{pipeline}_outbox");
        let outbox = format!("{{ table: {table}{columns} }}");
        let configuration = site.configure_outbox(pipeline, 1, &[], &outbox);
        let pipeline = pipeline.to_owned();
        site.setup(&configuration);
        let mut relay = site.relay(&configuration);
        relay.wait_state("streaming", PATIENCE);
        Self { site, table, pipeline, configuration, relay, rows: 0 }
    }

    fn sql(&self, text: &str) {
        let text = text.replace("TABLE_", &self.table);
        self.site.postgres.execute("postgres", &text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// The values of the next row: its id is its number.
    fn row(&mut self) -> String {
        self.rows += 1;
        let (n, pipeline) = (self.rows, &self.pipeline);
        format!("('00000000-0000-0000-0000-{n:012}', '{pipeline}', 'k', 'made', '{n}')")
    }

    fn insert(&mut self) {
        let row = self.row();
        self.sql(&format!("INSERT INTO TABLE_ (id, aggregatetype, aggregateid, type, payload) VALUES {row}"));
    }

    fn published(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let topic = format!("outbox.event.{}", self.pipeline);
        read(&self.site.kafka.bootstrap(), &topic, Isolation::Committed, |message| {
            let id = header(message, "id").expect("an id");
            let payload = std::str::from_utf8(message.payload().expect("a payload")).expect("text");
            assert!(payload.trim_matches('"').contains(id.trim_start_matches(['0', '-'])), "{id}: {payload}");
            found.push(id[24..].parse().expect("a number"));
        });
        found
    }

    /// Everything that was written is there, once, in order.
    fn complete(&self) {
        self.site.caught_up(&self.configuration, PATIENCE);
        assert_eq!(self.published(), (1..=self.rows).collect::<Vec<_>>(), "{}", self.pipeline);
    }

    fn halts(&mut self, code: &str, words: &[&str]) {
        self.relay.wait_state("halted", PATIENCE);
        let fault = self.relay.status().expect("a status")["fault"].clone();
        assert_eq!(fault["code"].as_str(), Some(code), "{}: {fault}", self.pipeline);
        let told = fault.to_string();
        assert!(words.iter().all(|word| told.contains(word)), "{}: {words:?} in {told}", self.pipeline);
        assert!(fault["hint"].is_string(), "{told}");
    }

    /// Starts once more, with something replaced in its file.
    fn again_with(&mut self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.configuration.file).expect("the file");
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&self.configuration.file, text.replace(from, to)).expect("the file");
        assert_eq!(self.relay.terminate(PATIENCE).code(), Some(0));
        self.relay.start_again();
        self.relay.wait_state("streaming", PATIENCE);
    }
}

/// fault: 26 several rows by one INSERT, COPY, savepoints that roll back, messages outside of transactions
/// holds: each committed row once, in the order it was written; nothing of what was rolled back
/// told: nothing
#[test]
fn rows_come_in_the_order_they_were_written_however_that_was() {
    let site = site();
    let mut shape = Shape::start(&site, "ways", "");
    let columns = "INSERT INTO TABLE_ (id, aggregatetype, aggregateid, type, payload) VALUES";
    for _ in 0..5 {
        let [a, b, c, d] = [(); 4].map(|()| shape.row());
        let gone = "(gen_random_uuid(), 'ways', 'k', 'made', '0')";
        let copied = shape.rows + 1;
        shape.rows += 20;
        shape.sql(&format!(
            "SELECT pg_logical_emit_message(false, 'pillarbox', 'stray'); BEGIN; {columns} {a}, {b}; SAVEPOINT s; \
             {columns} {gone}, {gone}; SAVEPOINT t; {columns} {gone}; ROLLBACK TO SAVEPOINT s; {columns} {c}; \
             RELEASE SAVEPOINT s; SELECT pg_logical_emit_message(false, 'pillarbox', 'stray'); {columns} {d}; \
             COPY TABLE_ (id, aggregatetype, aggregateid, type, payload) FROM PROGRAM \
             'for n in $(seq {copied} {}); do printf \"00000000-0000-0000-0000-%012d,ways,k,made,%d\\n\" $n $n; done' \
             WITH (FORMAT csv); COMMIT",
            shape.rows
        ));
        shape.sql(&format!(
            "BEGIN; {columns} {gone}; SELECT pg_logical_emit_message(false, 'x', 'y'); ROLLBACK"
        ));
    }
    shape.complete();
    assert_eq!(shape.relay.count("starts_total"), 1);
}

/// fault: 27 columns added, dropped, renamed, retyped; another primary key; a needed column renamed
/// holds: rows are read by the names their columns had when they were written; none is misread
/// told: PB-1018 with the table and the column where a needed one is gone; with its new name in the file it goes on
#[test]
fn a_table_that_changes_under_load_is_read_as_it_was_at_each_row() {
    let site = site();
    let mut shape = Shape::start(&site, "altered", ", columns: { payload: payload }");
    let changes = [
        "ALTER TABLE TABLE_ ADD COLUMN extra int DEFAULT 7",
        "ALTER TABLE TABLE_ ADD COLUMN first text; UPDATE TABLE_ SET first = 'x' WHERE false",
        "ALTER TABLE TABLE_ RENAME COLUMN extra TO other",
        "ALTER TABLE TABLE_ ALTER COLUMN payload TYPE text",
        "ALTER TABLE TABLE_ ALTER COLUMN payload TYPE bytea USING convert_to(payload, 'UTF8')",
        "ALTER TABLE TABLE_ ALTER COLUMN payload TYPE jsonb USING convert_from(payload, 'UTF8')::jsonb",
        "ALTER TABLE TABLE_ DROP COLUMN other",
        "ALTER TABLE TABLE_ ALTER COLUMN id TYPE text",
        "ALTER TABLE TABLE_ DROP CONSTRAINT altered_outbox_pkey",
        "ALTER TABLE TABLE_ ADD PRIMARY KEY (id, aggregateid)",
    ];
    for change in changes {
        shape.insert();
        // Inside of a transaction, between its rows, too.
        let [before, after] = [shape.row(), shape.row()];
        let columns = "INSERT INTO TABLE_ (id, aggregatetype, aggregateid, type, payload) VALUES";
        shape.sql(&format!("BEGIN; {columns} {before}; {change}; {columns} {after}; COMMIT"));
        shape.insert();
    }
    shape.complete();
    assert_eq!(shape.relay.count("starts_total"), 1, "{}", shape.relay.log_tail());

    shape.sql("ALTER TABLE TABLE_ RENAME COLUMN payload TO body");
    let row = shape.row();
    shape.sql(&format!("INSERT INTO TABLE_ (id, aggregatetype, aggregateid, type, body) VALUES {row}"));
    shape.halts("PB-1018", &["public.altered_outbox", "payload"]);
    assert_eq!(shape.published().len(), (shape.rows - 1) as usize);
    shape.again_with("payload: payload", "payload: body");
    shape.complete();
}

/// fault: 27, 28 the table is dropped and made anew, or taken out of the publication, while the relay streams
/// holds: it halts within seconds; every row of before is relayed, rows of the time between are named as a gap
/// told: PB-1011 with the table, where in WAL it was seen, and the statement that repairs it
#[test]
fn a_table_that_leaves_the_publication_halts_a_running_relay() {
    let site = site();
    for (pipeline, change) in [
        (
            "renewed",
            "ALTER TABLE TABLE_ RENAME TO old; CREATE TABLE TABLE_ (LIKE old INCLUDING ALL); DROP TABLE old",
        ),
        ("removed", "ALTER PUBLICATION pillarbox_removed DROP TABLE TABLE_"),
    ] {
        let mut shape = Shape::start(&site, pipeline, "");
        (0..20).for_each(|_| shape.insert());
        shape.complete();
        shape.sql(change);
        shape.halts("PB-1011", &[&format!("public.{pipeline}_outbox"), "ALTER PUBLICATION"]);
        shape.sql(&format!("ALTER PUBLICATION pillarbox_{pipeline} ADD TABLE TABLE_"));
        (0..5).for_each(|_| shape.insert());
        assert_eq!(shape.relay.terminate(PATIENCE).code(), Some(0));
        shape.relay.start_again();
        shape.relay.wait_state("streaming", PATIENCE);
        shape.complete();
    }
}

/// fault: 28 the publication is dropped, gets a row filter, or publishes no inserts any more, while the relay streams
/// holds: it halts, and confirms nothing that it did not relay; a filter is left to whoever set it
/// told: PB-1010, PB-1011 or PB-1012; `check` warns of the filter
#[test]
fn a_publication_that_changes_under_a_running_relay_is_found_out() {
    let site = site();
    let mut shape = Shape::start(&site, "filtered", "");
    (0..5).for_each(|_| shape.insert());
    shape.sql("ALTER PUBLICATION pillarbox_filtered SET TABLE TABLE_ WHERE (type <> 'secret')");
    (0..5).for_each(|_| shape.insert());
    shape.complete();
    let checked = site.command(&["check"], &shape.configuration);
    assert!(checked.stdout.contains("filters rows of public.filtered_outbox"), "{}", checked.stdout);

    let mut shape = Shape::start(&site, "muted", "");
    (0..5).for_each(|_| shape.insert());
    shape.complete();
    shape.sql("ALTER PUBLICATION pillarbox_muted SET (publish = 'delete')");
    shape.halts("PB-1011", &["public.muted_outbox"]);

    let mut shape = Shape::start(&site, "vanished", "");
    (0..5).for_each(|_| shape.insert());
    shape.complete();
    shape.sql("DROP PUBLICATION pillarbox_vanished");
    shape.insert();
    shape.relay.wait_state("halted", PATIENCE);
    let code = shape.relay.fault().expect("a fault");
    assert!(["PB-1010", "PB-1012"].contains(&code.as_str()), "{code}");
    assert_eq!(shape.published().len(), 5);
}

/// fault: 28 it gets a column list under load, as `check` advises where columns are sent for nothing; the payload changes
/// from jsonb to json
/// holds: nothing lost, nothing doubled, the stream goes on
/// told: `check` has the two statements as advice, and nothing once they were executed
#[test]
fn what_check_advises_can_be_done_under_load() {
    let site = site();
    let mut shape = Shape::start(&site, "thrifty", "");
    shape.sql(
        "ALTER TABLE TABLE_ ALTER COLUMN payload TYPE jsonb, ADD COLUMN note text DEFAULT repeat('x', 1000)",
    );
    (0..5).for_each(|_| shape.insert());
    let configuration = shape.configuration.clone();
    let advice = || {
        let checked = site.command(&["check", "-o", "json"], &configuration);
        let findings: Vec<Value> = serde_json::from_str(&checked.stdout).expect("JSON");
        findings.into_iter().filter(|finding| finding["severity"] == "advice").collect::<Vec<_>>()
    };
    let advised = advice();
    assert_eq!(advised.len(), 2, "{advised:?}");
    for finding in advised {
        // What follows is a remark.
        let statement = finding["fix"].as_str().and_then(|fix| fix.split("--").next()).expect("a statement");
        shape.sql(statement);
        (0..5).for_each(|_| shape.insert());
    }
    assert_eq!(advice(), Vec::<Value>::new());
    shape.complete();
    assert_eq!(shape.relay.count("starts_total"), 1, "{}", shape.relay.log_tail());
}

/// fault: 29 replica identity NOTHING and FULL, values out of line, UPDATE, DELETE, TRUNCATE, partitions on and off
/// holds: each inserted row is one event, once, in order, whatever becomes of the row; large values are whole
/// told: nothing; what takes rows away gives no event
#[test]
fn what_becomes_of_a_row_changes_no_event() {
    let site = site();
    let mut shape = Shape::start(&site, "kept", "");
    for identity in ["NOTHING", "FULL", "DEFAULT"] {
        shape.sql(&format!("ALTER TABLE TABLE_ REPLICA IDENTITY {identity}"));
        let n = shape.rows + 1;
        shape.rows = n;
        // Random digits do not compress: the value is stored out of line.
        shape.sql(&format!(
            "INSERT INTO TABLE_ SELECT '00000000-0000-0000-0000-{n:012}', 'kept', 'k', 'made', to_jsonb('{n} ' || \
             string_agg(md5(i::text), '')) FROM generate_series(1, 3000) i"
        ));
        shape.insert();
        shape.sql("DELETE FROM TABLE_ WHERE type = 'gone'");
        shape.insert();
        shape.sql("TRUNCATE TABLE_");
        shape.insert();
        let row = shape.row();
        shape.sql(&format!(
            "BEGIN; INSERT INTO TABLE_ (id, aggregatetype, aggregateid, type, payload) VALUES {row}; TRUNCATE TABLE_; COMMIT"
        ));
    }
    shape.complete();

    shape.sql("CREATE TABLE parted (LIKE TABLE_) PARTITION BY LIST (type)");
    shape.sql("CREATE TABLE parted_made PARTITION OF parted FOR VALUES IN ('made')");
    shape.sql(
        "BEGIN; DROP TABLE TABLE_; ALTER TABLE parted RENAME TO kept_outbox; \
               ALTER PUBLICATION pillarbox_kept ADD TABLE TABLE_; COMMIT",
    );
    shape.insert();
    shape.sql("ALTER TABLE TABLE_ DETACH PARTITION parted_made");
    shape
        .sql("INSERT INTO parted_made SELECT gen_random_uuid(), 'kept', 'k', 'made', '\"not of the table\"'");
    shape.sql("CREATE TABLE parted_more PARTITION OF TABLE_ FOR VALUES IN ('made')");
    shape.insert();
    shape.sql("DROP TABLE parted_more; DELETE FROM parted_made; ALTER TABLE TABLE_ ATTACH PARTITION parted_made FOR VALUES IN ('made')");
    shape.insert();
    shape.complete();
    until("it streams", PATIENCE, || (shape.relay.state()? == "streaming").then_some(()));
    assert_eq!(shape.relay.count("starts_total"), 1, "{}", shape.relay.log_tail());
}
