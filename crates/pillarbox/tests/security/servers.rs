//! The two servers, their certificates and users, and the files of a relay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pillarbox_lab::certificates::{Authority, Issued, Validity};
use pillarbox_lab::kafka::{Listener, User};
use pillarbox_lab::{KafkaOptions, PostgresOptions, ServerTls};

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::said::CANARY_PASSWORD;

/// How long a reload of Postgres takes at most.
const RELOAD_MAX: Duration = Duration::from_secs(30);

/// Both servers, locked down.
pub(crate) struct Secured {
    pub(crate) site: Site,
    pub(crate) authority: Authority,
    folder: tempfile::TempDir,
}

pub(crate) fn served(by: &Authority, names: &[&str], validity: Validity) -> ServerTls {
    let Issued { certificate, key } = by.server(names, validity).expect("a certificate");
    ServerTls { certificate, key, clients: Some(by.pem()) }
}

/// What initdb's file is replaced with: nobody but the superuser, whom the tests themselves use.
const SUPERUSER_ONLY: [&str; 2] = ["local all all trust", "host all postgres 127.0.0.1/32 trust"];

fn kafka_options(authority: &Authority) -> KafkaOptions {
    let tls = |names: &[&str], validity| Some(served(authority, names, validity));
    let right = tls(&["127.0.0.1"], Validity::Current);
    let only_scram = ("sasl.enabled.mechanisms".to_owned(), "SCRAM-SHA-512".to_owned());
    let user = User { name: "relay".into(), password: CANARY_PASSWORD.into() };
    KafkaOptions {
        listeners: vec![
            Listener { tls: right.clone(), sasl: true, settings: vec![only_scram], ..Listener::new("LOGIN") },
            Listener { tls: right.clone(), demands_certificates: true, ..Listener::new("CARDED") },
            Listener { tls: right, sasl: true, ..Listener::new("OPEN") },
            Listener { tls: tls(&["elsewhere"], Validity::Current), ..Listener::new("ELSEWHERE") },
            Listener { tls: tls(&["127.0.0.1"], Validity::Expired), ..Listener::new("EXPIRED") },
        ],
        scram: vec![user],
        ..KafkaOptions::default()
    }
    .with_authorizer()
}

impl Secured {
    pub(crate) fn start() -> Self {
        let authority = Authority::new("the right one").expect("an authority");
        let other = Authority::new("another").expect("an authority");
        let postgres = PostgresOptions {
            tls: Some(served(&authority, &["127.0.0.1"], Validity::Current)),
            hba: SUPERUSER_ONLY.map(str::to_owned).to_vec(),
            ..PostgresOptions::default()
        };
        let site = Site::start(postgres, kafka_options(&authority));
        let folder = tempfile::tempdir().expect("a folder");
        let secured = Self { site, authority, folder };
        secured.file("ca.pem", &secured.authority.pem());
        secured.file("other.pem", &other.pem());
        let Issued { certificate, key } = other.client("pillarbox").expect("a certificate");
        secured.file("stranger.pem", &certificate);
        secured.file("stranger.key", &key);
        secured
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// A configuration with everything on, by two roles and a SCRAM user.
    pub(crate) fn configuration(&self) -> Configuration {
        let configuration = self.site.configure("orders", 1, &[]);
        let ca = self.path("ca.pem");
        let text = format!(
            "pipeline: orders\n\
             postgres:\n  url: \"postgres://pillarbox:{CANARY_PASSWORD}@127.0.0.1:{}/postgres\"\n  \
             sql: {{ user: pillarbox_sql, password: {CANARY_PASSWORD} }}\n  \
             tls: {{ mode: verify-full, ca: {ca} }}\n\
             kafka:\n  brokers: [\"{}\"]\n  tls: {{ ca: {ca} }}\n  \
             sasl: {{ mechanism: scram-sha-512, username: relay, password: {CANARY_PASSWORD} }}\n\
             outbox: {{ table: public.outbox }}\nhttp: {{ listen: \"127.0.0.1:{}\" }}\n",
            self.site.postgres.port(),
            self.site.kafka.listener("LOGIN").expect("a listener"),
            configuration.port
        );
        fs::write(&configuration.file, text).expect("the file");
        configuration
    }

    /// Does what `setup --print-sql` prints: runs the SQL, gives the roles their passwords, writes the lines of
    /// `pg_hba.conf` that stand in its comments.
    pub(crate) fn do_as_told_in_postgres(&self, printed: &str) {
        let postgres = &self.site.postgres;
        postgres.execute("postgres", printed).expect("the SQL runs");
        for role in ["pillarbox", "pillarbox_sql"] {
            let sql = format!("ALTER ROLE {role} PASSWORD '{CANARY_PASSWORD}'");
            postgres.execute("postgres", &sql).expect("a password");
        }
        let lines = printed.lines().filter_map(|line| line.strip_prefix("--   host"));
        let told: String = lines
            .map(|line| format!("host{}\n", line.replace("<address of the relay>", "127.0.0.1/32")))
            .collect();
        assert!(told.matches("hostssl").count() == 2 && told.contains("reject"), "{told}");
        let hba = postgres.data_dir().join("pg_hba.conf");
        fs::write(&hba, format!("{told}{}\n", SUPERUSER_ONLY.join("\n"))).expect("pg_hba.conf");
        postgres.execute("postgres", "SELECT pg_reload_conf()").expect("a reload");
        until("the lines are in force", RELOAD_MAX, || {
            let count = "SELECT (count(*) >= 7)::text FROM pg_hba_file_rules WHERE error IS NULL";
            (postgres.query_one("postgres", count).expect("an answer") == "true").then_some(())
        });
        // The REVOKE stands there for every version; this is the one of the server's.
        let revoke = printed
            .lines()
            .filter_map(|line| line.strip_prefix("--   "))
            .filter(|line| line.starts_with("REVOKE") && line.ends_with("Postgres 17 and later"));
        revoke.for_each(|line| postgres.execute("postgres", line).expect(line));
    }

    /// Does what `check --print-acls` prints, with Kafka's own tool, without what is optional.
    pub(crate) fn do_as_told_in_kafka(&self, printed: &str, listener: &str) {
        let commands: Vec<&str> = printed.lines().filter(|line| line.starts_with("kafka-acls.sh ")).collect();
        assert!(commands.len() >= 3, "{printed}");
        for command in commands {
            let words = command.replace(listener, &self.site.kafka.bootstrap());
            let mut java = Command::new("java");
            java.args(["-XX:TieredStopAtLevel=1", "-cp", self.site.kafka.classpath()]);
            java.arg("org.apache.kafka.tools.AclCommand").args(words.split(' ').skip(1));
            let output = java.output().expect("Java");
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// The path of a file of [`Self::file`], as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn listener(&self, name: &str) -> String {
        self.site.kafka.listener(name).expect("a listener")
    }
}

/// What a file holds, as text.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}
