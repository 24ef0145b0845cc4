//! One thing wrong at a time: each has its own code, and a hint that repairs it.

use pillarbox_lab::certificates::Validity;
use pillarbox_lab::{Postgres, PostgresOptions};

use crate::harness::site::Configuration;
use crate::said::{CANARY_PASSWORD, edited, pillarbox, run};
use crate::servers::{Secured, served};

/// What is replaced by what, the code, and a word of the hint.
type Row = (&'static str, String, String, u16, &'static str);

/// `setup` and `check` of the edited file.
fn refused(configuration: &Configuration, (name, from, to, code, word): &Row) {
    println!("{name}");
    let file = edited(configuration, from, to).file;
    pillarbox(&["setup"], &file).expect(77, *code, &[word]);
    let checked = pillarbox(&["check"], &file);
    assert!(checked.told().contains(&format!("error[PB-{code:04}]")), "{name}: {}", checked.told());
    assert_eq!(checked.exit(), Some(1), "{name}: {}", checked.told());
}

fn in_postgres(secured: &Secured, plain: &Postgres) -> Vec<Row> {
    let port = |port: u16| format!("127.0.0.1:{port}/postgres");
    let ours = port(secured.site.postgres.port());
    let row = |name, from: &str, to: &str, code, word| (name, from.to_owned(), to.to_owned(), code, word);
    let (ca, other) = (secured.path("ca.pem"), secured.path("other.pem"));
    let (certificate, key) = (secured.path("stranger.pem"), secured.path("stranger.key"));
    let stranger = format!("cert: {certificate}, key: {key}, mode: verify-full");
    let url = format!("pillarbox:{CANARY_PASSWORD}@127.0.0.1");
    vec![
        row(
            "another authority",
            &format!("verify-full, ca: {ca}"),
            &format!("verify-full, ca: {other}"),
            1032,
            "postgres.tls.ca",
        ),
        row("another host", &url, &url.replace("127.0.0.1", "localhost"), 1033, "subjectAltName localhost"),
        row("a wrong password", &url, "pillarbox:wrong@127.0.0.1", 1002, "postgres.password"),
        row("plaintext", "mode: verify-full", "mode: disable", 1005, "verify-full"),
        row("a strange certificate", "mode: verify-full", &stranger, 1035, "ssl_ca_file"),
        row("a server without TLS", &ours, &port(plain.port()), 1031, "ssl = on"),
    ]
}

fn in_kafka(secured: &Secured) -> Vec<Row> {
    let login = secured.listener("LOGIN");
    let row = |name, from: &str, to: &str, code, word| (name, from.to_owned(), to.to_owned(), code, word);
    let at = |name, listener: &str, code, word| row(name, &login, &secured.listener(listener), code, word);
    let (ca, other) = (secured.path("ca.pem"), secured.path("other.pem"));
    let sasl = format!("mechanism: scram-sha-512, username: relay, password: {CANARY_PASSWORD}");
    let oauth = format!(
        "mechanism: oauthbearer, token_url: \"http://127.0.0.1:1/\", client_id: relay, client_secret: {CANARY_PASSWORD}"
    );
    vec![
        row(
            "another authority",
            &format!("tls: {{ ca: {ca}"),
            &format!("tls: {{ ca: {other}"),
            2032,
            "kafka.tls.ca",
        ),
        at("another host", "ELSEWHERE", 2033, "subjectAltName"),
        at("an expired certificate", "EXPIRED", 2034, "renew"),
        at("no certificate of ours", "CARDED", 2035, "kafka.tls.cert"),
        row("TLS to a plaintext port", &login, &secured.site.kafka.bootstrap(), 2031, "SASL_SSL listener"),
        row("plaintext to a TLS port", "tls: { ca: ", "tls: { mode: disable, ca: ", 2002, "kafka.tls"),
        row("no login", &format!("sasl: {{ {sasl} }}"), "compression: none", 2002, "kafka.sasl"),
        row(
            "a wrong password",
            &sasl,
            "mechanism: scram-sha-512, username: relay, password: wrong",
            2037,
            "kafka.sasl.username",
        ),
        row(
            "a mechanism that is not offered",
            &sasl,
            &sasl.replace("scram-sha-512", "plain"),
            2038,
            "SCRAM-SHA-512",
        ),
        row("a provider that is not there", &sasl, &oauth, 2039, "kafka.sasl.token_url"),
        row("no ACL", "pipeline: orders", "pipeline: returns", 2004, "--print-acls"),
    ]
}

#[test]
fn each_mistake_has_its_code() {
    let mut secured = Secured::start();
    let plain = Postgres::start(PostgresOptions::default()).expect("a server without TLS");
    let configuration = secured.configuration();
    let file = &configuration.file;
    secured.do_as_told_in_postgres(&pillarbox(&["setup", "--print-sql"], file).told());
    let acls = pillarbox(&["check", "--print-acls"], file).told();
    secured.do_as_told_in_kafka(&acls, &secured.listener("LOGIN"));
    let done = pillarbox(&["setup"], file);
    assert_eq!(done.exit(), Some(0), "{}", done.told());
    for row in in_postgres(&secured, &plain).iter().chain(&in_kafka(&secured)) {
        refused(&configuration, row);
    }
    // `run` says the same.
    let wrong = edited(&configuration, "username: relay, password: ", "username: relay, password: x").file;
    run(&wrong).expect(77, 2037, &["kafka.sasl.username"]);
    let expired = served(&secured.authority, &["127.0.0.1"], Validity::Expired);
    secured.site.postgres.serve_tls(expired).expect("served");
    let row = (
        "an expired certificate",
        "mode: verify-full".to_owned(),
        "mode:  verify-full".to_owned(),
        1034,
        "renew",
    );
    crate::harness::until::until("the certificate is served", std::time::Duration::from_secs(30), || {
        pillarbox(&["check"], file).told().contains("PB-1034").then_some(())
    });
    refused(&configuration, &row);
    run(file).expect(77, 1034, &["renew"]);
}
