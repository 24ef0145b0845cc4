//! Configuration files that are wrong: no server is needed to say so.

use std::path::Path;

use crate::said::{CANARY_PASSWORD, pillarbox};

const COMMANDS: [&[&str]; 3] = [&["run"], &["setup"], &["check"]];

fn refused(text: &str, code: u16, words: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pillarbox.yaml");
    std::fs::write(&file, text).expect("the file");
    for command in COMMANDS {
        pillarbox(command, &file).expect(78, code, words);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for command in COMMANDS {
        pillarbox(command, Path::new("/nowhere/at-all.yaml")).expect(78, 1, &["/nowhere/at-all.yaml"]);
    }
}

#[test]
fn yaml_that_is_broken_is_shown_at_its_place_without_the_password_beside_it() {
    let text = format!(
        "pipeline: orders\npostgres: {{ url: \"postgres://u@db/shop\", password: {CANARY_PASSWORD}\n\
         kafka: {{ brokers: [\"k:9092\"] }}\noutbox: {{ table: public.outbox }}\n"
    );
    refused(&text, 2, &["pillarbox.yaml:"]);
}

#[test]
fn an_unknown_option_gets_a_suggestion_and_its_line() {
    let text = format!(
        "pipeline: orders\npostgres:\n  url: postgres://u:{CANARY_PASSWORD}@db/shop\n  slott: x\n\
         kafka: {{ brokers: [\"k:9092\"] }}\noutbox: {{ table: public.outbox }}\n"
    );
    refused(&text, 2, &["slott", "`slot`", "pillarbox.yaml:4:3"]);
}

#[test]
fn an_illegal_value_names_the_option_and_not_the_password_in_its_line() {
    let text = format!(
        "pipeline: Orders!\npostgres: {{ url: \"postgres://u:{CANARY_PASSWORD}@db:port/shop\" }}\n\
         kafka: {{ brokers: [\"k:9092\"] }}\noutbox: {{ table: public.outbox }}\n"
    );
    refused(&text, 3, &["pipeline", "postgres.url"]);
}

#[test]
fn a_secret_that_cannot_be_read_names_its_source() {
    let text = "pipeline: orders\npostgres: { url: \"postgres://u@db/shop\", password: \"${file:/nowhere/pw}\" }\n\
                kafka: { brokers: [\"k:9092\"] }\noutbox: { table: public.outbox }\n";
    refused(text, 4, &["/nowhere/pw"]);
}
