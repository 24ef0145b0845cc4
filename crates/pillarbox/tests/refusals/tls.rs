//! Servers that demand TLS or SASL from a relay that uses neither: it must say so, not hang or guess.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pillarbox_lab::certificates::{Authority, Issued, Validity};
use pillarbox_lab::{Kafka, KafkaOptions, PostgresOptions, ServerTls, ports};

use crate::harness::site::Site;
use crate::said::{CANARY_PASSWORD, edited, pillarbox, run};

fn tool(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn postgres_that_demands_tls() {
    let issued =
        Authority::new("test").and_then(|authority| authority.server(&["127.0.0.1"], Validity::Current));
    let Issued { certificate, key } = issued.expect("a certificate");
    let options = PostgresOptions {
        tls: Some(ServerTls { certificate, key, clients: None }),
        hba: [
            "local all all trust",
            "host all postgres 127.0.0.1/32 trust",
            "hostssl all all 127.0.0.1/32 trust",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..PostgresOptions::default()
    };
    let site = Site::start(options, KafkaOptions::default());
    site.postgres.execute("postgres", "CREATE ROLE relay LOGIN REPLICATION").expect("a role");
    let configuration = site.configure("orders", 1, &[]);
    let relay = format!("postgres://relay:{CANARY_PASSWORD}@127.0.0.1");
    let relay = edited(&configuration, "postgres://postgres@127.0.0.1", &relay);
    let relay = edited(&relay, "/postgres\"", "/postgres?sslmode=disable\"");
    let words = ["set postgres.tls to verify-full", "relay"];
    run(&relay.file).expect(77, 1005, &words);
    pillarbox(&["setup"], &relay.file).expect(77, 1005, &words);
    pillarbox(&["check"], &relay.file).expect(1, 1005, &words);
}

/// Opens two more listeners on a broker: one for TLS, one for SASL; gives their ports.
fn open_listeners(kafka: &mut Kafka, keystore: &Path) -> [u16; 2] {
    let [tls, sasl] = ports::free(2).expect("two ports").try_into().expect("two");
    kafka.stop_broker(1).expect("the broker stops");
    let dir = kafka.log_dir(1).expect("a folder");
    let properties = dir.parent().expect("the broker's folder").join("server.properties");
    let text = fs::read_to_string(&properties).expect("the file");
    let more = |line: &str| match line.split_once('=') {
        Some(("listeners" | "advertised.listeners", _)) => {
            format!("{line},SECURE://127.0.0.1:{tls},LOGIN://127.0.0.1:{sasl}\n")
        }
        Some(("listener.security.protocol.map", _)) => format!("{line},SECURE:SSL,LOGIN:SASL_PLAINTEXT\n"),
        _ => format!("{line}\n"),
    };
    let mut text: String = text.lines().map(more).collect();
    text.push_str(&format!(
        "ssl.keystore.location={}\nssl.keystore.password=keystore\nssl.key.password=keystore\n\
         sasl.enabled.mechanisms=PLAIN\nlistener.name.login.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_a=\"b\";\n",
        keystore.display()
    ));
    fs::write(&properties, text).expect("the file is written");
    kafka.start_broker(1).expect("the broker starts");
    [tls, sasl]
}

#[test]
fn kafka_that_demands_tls_or_sasl() {
    let mut site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let configuration = site.configure("orders", 1, &[]);
    site.setup(&configuration);
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the broker may look");
    let keystore = folder.path().join("keystore.p12");
    let mut keytool = Command::new("keytool");
    keytool.args([
        "-genkeypair",
        "-alias",
        "a",
        "-keyalg",
        "RSA",
        "-dname",
        "CN=localhost",
        "-storetype",
        "PKCS12",
    ]);
    tool(keytool.args(["-storepass", "keystore", "-keystore"]).arg(&keystore));
    fs::set_permissions(&keystore, fs::Permissions::from_mode(0o644)).expect("the broker may read");
    let plain = site.kafka.bootstrap();
    let ports = open_listeners(&mut site.kafka, &keystore);
    let refused = |port| {
        let address = format!("127.0.0.1:{port}");
        let file = edited(&configuration, &plain, &address).file;
        let words = [address.as_str(), "kafka.tls", "kafka.brokers"];
        // A broker that starts cuts handshakes, too: `run` tries for its 30 s.
        run(&file).expect(77, 2002, &words);
        pillarbox(&["setup"], &file).expect(77, 2002, &words);
        pillarbox(&["check"], &file).expect(1, 2002, &words);
    };
    // One after the other: they are the same pipeline, and one that has the slot keeps the other from Kafka.
    ports.into_iter().for_each(refused);
}
