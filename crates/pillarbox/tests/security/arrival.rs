//! An event through everything that can be locked: verify-full, two roles, SCRAM on both sides, ACLs.

use std::process::Command;
use std::time::Duration;

use rdkafka::message::Message;

use crate::harness::records::{Isolation, read};
use crate::harness::until::until;
use crate::said::{CANARY_PASSWORD, CANARY_PAYLOAD, pillarbox};
use crate::servers::{self, Secured};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn an_event_arrives_through_locked_doors() {
    let secured = Secured::start();
    let configuration = secured.configuration();
    let file = &configuration.file;
    let printed = pillarbox(&["setup", "--print-sql"], file).told();
    secured.do_as_told_in_postgres(&printed);
    // Nothing is allowed before an administrator has done as told.
    pillarbox(&["setup"], file).expect(77, 2004, &["--print-acls"]);
    let printed = pillarbox(&["check", "--print-acls"], file).told();
    secured.do_as_told_in_kafka(&printed, &secured.listener("LOGIN"));
    let done = pillarbox(&["setup"], file);
    assert_eq!(done.exit(), Some(0), "{}", done.told());
    let checked = pillarbox(&["check", "-v"], file);
    assert_eq!(checked.exit(), Some(0), "{}", checked.told());

    let mut relay = secured.site.relay(&configuration);
    relay.wait_state("streaming", LONG);
    let insert = format!(
        "INSERT INTO outbox VALUES (gen_random_uuid(), 'order', '7', 'placed', '\"{CANARY_PAYLOAD}\"')"
    );
    secured.site.postgres.execute("postgres", &insert).expect("a row");
    relay.wait_count("events_total", 1, LONG);
    let mut seen = Vec::new();
    let bootstrap = secured.site.kafka.bootstrap();
    read(&bootstrap, "outbox.event.order", Isolation::Committed, |record| {
        seen.push(String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned());
    });
    assert_eq!(seen, [format!("\"{CANARY_PAYLOAD}\"")]);
    // The nonce of the lineage, by the role for SQL alone.
    let sql = "SELECT count(*)::text FROM pillarbox.lineage";
    until("the lineage advances", LONG, || {
        (secured.site.postgres.query_one("postgres", sql).expect("a count") == "1").then_some(())
    });
    let roles = "SELECT string_agg(DISTINCT usename || ' ' || ssl, ',' ORDER BY usename || ' ' || ssl) \
        FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE 'pillarbox/%'";
    assert_eq!(
        secured.site.postgres.query_one("postgres", roles).expect("roles"),
        "pillarbox true,pillarbox_sql true"
    );
    let said = [relay.get("/metrics"), relay.get("/api/v1/status")];
    let status = pillarbox(&["status", "-o", "json"], file);
    assert!(status.told().contains("\"healthy\""), "{}", status.told());
    assert!(relay.terminate(LONG).success());
    let log = servers::read(&file.with_extension("log"));
    for canary in [CANARY_PASSWORD, CANARY_PAYLOAD] {
        assert!(!log.contains(canary) && !format!("{said:?}").contains(canary), "{canary} is shown");
    }
    base_backups_are_fenced(&secured);
}

/// The role that replicates may not copy the cluster, nor read another database.
fn base_backups_are_fenced(secured: &Secured) {
    let port = secured.site.postgres.port().to_string();
    for options in ["replication=true dbname=postgres", "dbname=template1"] {
        let mut psql = Command::new("psql");
        let place = format!("host=127.0.0.1 port={port} user=pillarbox sslmode=require {options}");
        psql.args(["-X", "-c", "IDENTIFY_SYSTEM"]).arg(place).env("PGPASSWORD", CANARY_PASSWORD);
        let output = psql.output().expect("psql");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("pg_hba.conf rejects"), "{options}: {told}");
    }
}
