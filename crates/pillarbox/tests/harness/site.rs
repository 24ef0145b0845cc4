//! A Postgres and a Kafka of our own, the configuration files of the relays on them, and the comparison of what
//! was committed with what Kafka holds.
//!
//! Must never judge with the relay's own slot, decoder or Kafka client.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pillarbox_lab::history::{self, Report, Rules};
use pillarbox_lab::workload::{self, Log, WorkloadOptions};
use pillarbox_lab::{Kafka, KafkaOptions, Postgres, PostgresOptions, consumer, ports, wal};

use super::relay::{BINARY, Relay};
use super::until::until;

/// The database everything is in.
const DATABASE: &str = "postgres";

/// The judge's slot.
const CHECKER: &str = "checker";

/// How long a one-shot command may take: `setup` on a busy machine.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// How long an independent consumer may take to read everything.
const READ_MAX: Duration = Duration::from_secs(300);

/// Both servers, and a folder for files and logs. Dropping it ends and removes all.
pub(crate) struct Site {
    /// The source.
    pub(crate) postgres: Postgres,
    /// The destination.
    pub(crate) kafka: Kafka,
    dir: tempfile::TempDir,
}

/// A configuration file and what it says. Relays of one pipeline have a file each.
#[derive(Clone)]
pub(crate) struct Configuration {
    /// Name of the pipeline.
    pub(crate) pipeline: String,
    /// Partitions of each topic.
    pub(crate) partitions: u32,
    /// Where the relay's HTTP interface listens.
    pub(crate) port: u16,
    /// The file.
    pub(crate) file: PathBuf,
    /// Variables that the file refers to.
    pub(crate) env: Vec<(&'static str, &'static str)>,
    log: PathBuf,
}

/// How a relay reaches both servers.
#[derive(Clone)]
pub(crate) struct Way {
    /// The database.
    pub(crate) url: String,
    /// `host:port,...` of brokers.
    pub(crate) brokers: String,
}

/// What a one-shot command said.
pub(crate) struct Answer {
    /// Its exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Its data.
    pub(crate) stdout: String,
    /// Its talk.
    pub(crate) stderr: String,
}

impl Site {
    /// Starts both servers at once; creates the outbox table and, in a slot of its own, the judge's memory.
    pub(crate) fn start(postgres: PostgresOptions, kafka: KafkaOptions) -> Self {
        let started = Instant::now();
        let (postgres, kafka) = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| {
                Kafka::share_classes(&kafka.version).expect("a broker's classes");
                Kafka::start(kafka).expect("Kafka starts")
            });
            (Postgres::start(postgres).expect("Postgres starts"), kafka.join().expect("Kafka starts"))
        });
        let dir = tempfile::Builder::new().prefix("pillarbox-test-").tempdir().expect("a folder");
        let site = Self { postgres, kafka, dir };
        workload::prepare(&site.url(), &wal::Outbox::default()).expect("the outbox table");
        wal::create_slot(&site.url(), CHECKER).expect("the checker's slot");
        println!("servers ready after {:.1?}", started.elapsed());
        site
    }

    /// The database as its superuser.
    pub(crate) fn url(&self) -> String {
        self.postgres.superuser_url(DATABASE)
    }

    /// Writes a configuration file on a free port. `more` is YAML for the section `kafka`, a line each.
    pub(crate) fn configure(&self, pipeline: &str, partitions: u32, more: &[&str]) -> Configuration {
        self.configure_outbox(pipeline, partitions, more, "{ table: public.outbox }")
    }

    /// The same with a section `outbox` of its own, in one line.
    pub(crate) fn configure_outbox(
        &self,
        pipeline: &str,
        partitions: u32,
        more: &[&str],
        outbox: &str,
    ) -> Configuration {
        let way = Way { url: self.url(), brokers: self.kafka.bootstrap() };
        self.configure_by(&way, pipeline, partitions, more, outbox)
    }

    /// The same for a relay that goes another way.
    pub(crate) fn configure_by(
        &self,
        way: &Way,
        pipeline: &str,
        partitions: u32,
        more: &[&str],
        outbox: &str,
    ) -> Configuration {
        let port = ports::free(1).expect("a free port")[0];
        let file = self.dir.path().join(format!("{pipeline}-{port}.yaml"));
        let brokers = way.brokers.replace(',', "\", \"");
        let more: String = more.iter().map(|line| format!("\n  {line}")).collect();
        let text = format!(
            "pipeline: {pipeline}\npostgres: {{ url: \"{}\" }}\nkafka:\n  brokers: [\"{brokers}\"]\n  \
             topics: {{ partitions: {partitions} }}{more}\noutbox: {outbox}\n\
             http: {{ listen: \"127.0.0.1:{port}\" }}\n",
            way.url
        );
        fs::write(&file, text).expect("the file is written");
        let log = file.with_extension("log");
        Configuration { pipeline: pipeline.to_owned(), partitions, port, file, env: Vec::new(), log }
    }

    /// A path for a file that a command shall write.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that a command has written, with an HTTP port of its own.
    pub(crate) fn configured(&self, pipeline: &str, partitions: u32, file: PathBuf) -> Configuration {
        let port = ports::free(1).expect("a free port")[0];
        let text = fs::read_to_string(&file).expect("the file is there");
        fs::write(&file, format!("{text}http: {{ listen: \"127.0.0.1:{port}\" }}\n")).expect("it is written");
        let log = file.with_extension("log");
        Configuration { pipeline: pipeline.to_owned(), partitions, port, file, env: Vec::new(), log }
    }

    /// `pillarbox setup` of this file.
    ///
    /// # Panics
    /// Where it does not succeed.
    pub(crate) fn setup(&self, configuration: &Configuration) {
        let answer = self.command(&["setup"], configuration);
        assert_eq!(answer.code, Some(0), "setup failed:\n{}{}", answer.stdout, answer.stderr);
    }

    /// Starts a relay with this file.
    pub(crate) fn relay(&self, configuration: &Configuration) -> Relay {
        let Configuration { file, port, env, log, .. } = configuration.clone();
        Relay::start(file, port, env, log)
    }

    /// The same by a line of shell in which `exec "$@"` is the relay: for limits and redirections.
    pub(crate) fn relay_by(&self, configuration: &Configuration, shell: &'static str) -> Relay {
        let Configuration { file, port, env, log, .. } = configuration.clone();
        Relay::start_by(file, port, env, log, Some(shell))
    }

    /// Runs a one-shot command, `-c FILE` appended, to its end.
    ///
    /// # Panics
    /// Where it does not end in time.
    pub(crate) fn command(&self, words: &[&str], configuration: &Configuration) -> Answer {
        let [out, err] =
            ["stdout", "stderr"].map(|name| self.dir.path().join(format!("{}.{name}", words[0])));
        let open = |path: &Path| Stdio::from(File::create(path).expect("a file"));
        let mut command = Command::new(BINARY);
        command.args(words).arg("-c").arg(&configuration.file).envs(configuration.env.iter().copied());
        command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
        let mut child = command.spawn().expect("the command starts");
        let started = Instant::now();
        let status = loop {
            match child.try_wait().expect("the command is our child") {
                Some(status) => break status,
                None if started.elapsed() > COMMAND_MAX => {
                    let _ = child.kill();
                    panic!("{words:?} did not end within {COMMAND_MAX:?}");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let read = |path: &Path| fs::read_to_string(path).expect("text");
        Answer { code: status.code(), stdout: read(&out), stderr: read(&err) }
    }

    /// Waits until everything committed so far is confirmed by the pipeline; gives the time it took.
    pub(crate) fn caught_up(&self, configuration: &Configuration, limit: Duration) -> Duration {
        let ask = |sql: &str| self.postgres.query_one(DATABASE, sql).expect("Postgres answers");
        let lsn = ask("SELECT pg_current_wal_flush_lsn()");
        let reached = format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'pillarbox_{}'",
            configuration.pipeline
        );
        until(&format!("confirmed up to {lsn}"), limit, || (ask(&reached) == "t").then_some(())).1
    }

    /// Compares what the writers and the WAL say was committed with what a `read_committed` librdkafka finds.
    pub(crate) fn judge(&self, log: &Log, options: &WorkloadOptions, partitions: u32) -> Report {
        let wal = wal::transactions(&self.url(), CHECKER, &options.outbox).expect("the WAL is read");
        let expected = log.expected(wal, &options.outbox).expect("writers and WAL agree");
        let topics = options.topics();
        let observed =
            consumer::read_to_end(&self.kafka.bootstrap(), &topics, READ_MAX).expect("Kafka is read");
        let rules = Rules::all(topics.iter().map(|topic| (topic.as_str(), partitions)));
        let report = history::check(&expected, &observed, &rules);
        println!("{report}");
        report
    }
}
