//! Roles, databases and settings of Postgres that do not fit.

use pillarbox_lab::{Kafka, KafkaOptions, Postgres, PostgresOptions};

use crate::said::{CANARY_PASSWORD, Said, pillarbox};

/// Where nobody listens: most of these do not get as far as Kafka.
const NO_KAFKA: &str = "127.0.0.1:1";

fn told(words: &[&str], url: &str) -> Said {
    told_with(words, url, NO_KAFKA)
}

fn told_with(words: &[&str], url: &str, brokers: &str) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pillarbox.yaml");
    let text = format!(
        "pipeline: orders\npostgres: {{ url: \"{url}\" }}\nkafka: {{ brokers: [\"{brokers}\"] }}\n\
         outbox: {{ table: public.outbox }}\nhttp: {{ listen: off }}\n"
    );
    std::fs::write(&file, text).expect("the file");
    pillarbox(words, &file)
}

#[test]
fn logins_that_postgres_refuses() {
    let options = PostgresOptions {
        superuser_password: Some("another".to_owned()),
        hba: ["local all all scram-sha-256", "host all postgres,relay,weak 127.0.0.1/32 scram-sha-256"]
            .map(str::to_owned)
            .to_vec(),
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start(options).expect("Postgres starts");
    let sql = format!(
        "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'right'; \
         CREATE ROLE weak LOGIN PASSWORD '{CANARY_PASSWORD}'; CREATE ROLE outside LOGIN"
    );
    postgres.execute("postgres", &sql).expect("the roles");
    let at = format!("127.0.0.1:{}", postgres.port());
    for words in [&["run", "--exit-on-halt"][..], &["setup"]] {
        let wrong = format!("postgres://relay:{CANARY_PASSWORD}@{at}/postgres");
        told(words, &wrong).expect(77, 1002, &["relay", "postgres.password"]);
        told(words, &format!("postgres://relay@{at}/postgres")).expect(77, 1002, &["set postgres.password"]);
        let no_database = format!("postgres://relay:right@{at}/nowhere");
        told(words, &no_database).expect(78, 1003, &["nowhere", "postgres.url"]);
        let no_entry = format!("postgres://outside@{at}/postgres");
        told(words, &no_entry).expect(
            77,
            1004,
            &["pg_hba.conf", "host \"postgres\" \"outside\"", "pg_reload_conf"],
        );
        let weak = format!("postgres://weak:{CANARY_PASSWORD}@{at}/postgres");
        told(words, &weak).expect(77, 1008, &["ALTER ROLE \"weak\" REPLICATION;"]);
    }
    // A finding is the answer "no", whatever it is.
    let weak = format!("postgres://weak:{CANARY_PASSWORD}@{at}/postgres");
    let check = told(&["check"], &weak);
    check.expect(69, 1008, &["ALTER ROLE \"weak\" REPLICATION;", "PB-2001"]);
}

#[test]
fn a_wal_level_that_is_not_logical_names_the_command_and_the_restart() {
    let postgres = Postgres::start(PostgresOptions::default().setting("wal_level", "replica"));
    let postgres = postgres.expect("Postgres starts");
    let kafka = Kafka::start(KafkaOptions::default()).expect("Kafka starts");
    let url = postgres.superuser_url("postgres");
    let words = ["replica, not logical", "ALTER SYSTEM SET wal_level = logical;", "restart Postgres"];
    told_with(&["check"], &url, &kafka.bootstrap()).expect(1, 1006, &words);
    told_with(&["setup"], &url, &kafka.bootstrap()).expect(78, 1006, &words);
}
