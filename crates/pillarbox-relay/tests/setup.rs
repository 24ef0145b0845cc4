//! Servers ring: setup, check and the lineage against real servers, the oldest and the newest.
//!
//! One cluster serves all tests, each with a pipeline name of its own; databases are private.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pillarbox_lab::kafka::{Kafka, KafkaOptions};
use pillarbox_lab::postgres::{Postgres, PostgresOptions};
use pillarbox_relay::check::{self, Severity};
use pillarbox_relay::config::{self, Config, Housekeeping, Outbox, TableName};
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_relay::position::checkpoint::PositionRecord;
use pillarbox_relay::setup::{self, Options, Progress, Report, StepKind};
use pillarbox_relay::sink;
use pillarbox_relay::source::{Connection, Frame, Wake};
use pillarbox_relay::sql::{LINEAGE_PREFIX, Lineage, Session};

const LONG: Duration = Duration::from_secs(30);
const VERSIONS: [u32; 2] = [15, 18];

static KAFKA: LazyLock<Kafka> = LazyLock::new(|| Kafka::start(KafkaOptions::brokers(1)).expect("a broker"));

/// A database `shop` and a role `relay` that may replicate and, if `owner`, owns the database.
struct Site {
    postgres: Postgres,
    config: Config,
}

impl Site {
    fn start(version: u32, pipeline: &str, owner: bool) -> Self {
        let options = PostgresOptions::version(version).setting("max_slot_wal_keep_size", "1GB");
        let postgres = Postgres::start(options).expect("a server");
        let sql = |database: &str, sql: &str| postgres.execute(database, sql).expect(sql);
        sql("postgres", "CREATE ROLE relay LOGIN REPLICATION");
        sql("postgres", "CREATE DATABASE shop");
        if owner {
            sql("postgres", "ALTER DATABASE shop OWNER TO relay");
            sql("postgres", "GRANT pg_read_all_stats TO relay");
        }
        let table = TableName { schema: "public".into(), name: "outbox".into() };
        let config = Config {
            pipeline: pipeline.parse().expect("a name"),
            postgres: config::Postgres {
                host: "127.0.0.1".into(),
                port: postgres.port(),
                user: "relay".into(),
                password: None,
                database: "shop".into(),
                slot: format!("pillarbox_{pipeline}"),
                publication: format!("pillarbox_{pipeline}"),
                tls: Default::default(),
                sql: None,
            },
            kafka: config::Kafka {
                brokers: vec![KAFKA.bootstrap()],
                tls: None,
                sasl: None,
                compression: config::Compression::None,
                topics: config::Topics::default(),
                transaction: config::Transaction::default(),
            },
            outbox: vec![Outbox::debezium(table)],
            messages: None,
        };
        Self { postgres, config }
    }

    fn sql(&self, sql: &str) {
        self.postgres.execute("shop", sql).expect(sql);
    }

    fn one(&self, sql: &str) -> String {
        self.postgres.query_one("shop", sql).expect(sql)
    }

    async fn setup(&self, options: Options) -> Result<Report, Fault> {
        setup::apply(&self.config, options, &mut |_| {}).await
    }

    async fn checkpoint(&self) -> Option<PositionRecord> {
        let cluster = sink::connect(&self.config).await.expect("a cluster");
        sink::read_checkpoint(&cluster, &self.config)
            .await
            .expect("a checkpoint")
            .and_then(|table| table.position)
    }

    /// Codes of what is wrong, the worst first.
    async fn complaints(&self, least: Severity) -> Vec<Code> {
        let mut findings = check::run(&self.config).await;
        findings.retain(|finding| finding.severity >= least);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings.into_iter().filter_map(|finding| finding.code).collect()
    }

    fn connect(&self) -> Connection {
        Connection::connect(&self.config.postgres, "pillarbox/test", LONG).expect("a connection")
    }
}

const ADOPT: Options = Options { dry_run: false, adopt_slot: true };
const DRY: Options = Options { dry_run: true, adopt_slot: false };

fn kinds(report: &Report) -> Vec<StepKind> {
    report.steps.iter().map(|step| step.kind).collect()
}

#[tokio::test]
async fn from_nothing_to_ready_and_then_nothing_more() {
    use StepKind::{CheckpointTopic, FirstCheckpoint, OutboxTable, Publication, Schema, Slot};
    for version in VERSIONS {
        let site = Site::start(version, &format!("fresh{version}"), true);
        let before = site.complaints(Severity::Error).await;
        for code in [Code::NotSetUp, Code::TableMissing, Code::PublicationMissing, Code::SlotMissing] {
            assert!(before.contains(&code), "{code} in {before:?}");
        }
        assert!(before.contains(&Code::CheckpointTopicMissing), "{before:?}");

        let would = site.setup(DRY).await.expect("a plan");
        assert!(!would.applied && !would.steps.is_empty());
        assert_eq!(site.complaints(Severity::Error).await, before, "a dry run changes nothing");

        let mut told = Vec::new();
        let mut tell = |progress: Progress<'_>| {
            if let Progress::Done(step) = progress {
                told.push(step.kind);
            }
        };
        let report = setup::apply(&site.config, Options::default(), &mut tell).await.expect("set up");
        assert_eq!(told, [Schema, OutboxTable, Publication, CheckpointTopic, Slot, FirstCheckpoint]);
        assert_eq!(kinds(&report), kinds(&would));

        let checkpoint = site.checkpoint().await.expect("a checkpoint");
        assert_eq!(Some(checkpoint.resume_lsn), report.begins_at);
        assert_eq!(checkpoint.epoch, 1);
        let slot = site.connect().slot(&site.config.postgres.slot).expect("an answer").expect("a slot");
        assert_eq!(slot.confirmed_flush_lsn, report.begins_at);
        assert_eq!(site.complaints(Severity::Error).await, [], "on {version}");

        let again = site.setup(Options::default()).await.expect("set up");
        assert_eq!((again.steps, again.begins_at), (Vec::new(), None));
        let adopted = site.setup(ADOPT).await.expect("set up");
        assert_eq!(adopted.steps, Vec::new(), "a slot that is not ahead is not adopted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_wait_for_each_other() {
    let site = Site::start(18, "twins", true);
    let (one, two) = tokio::join!(site.setup(Options::default()), site.setup(Options::default()));
    let (one, two) = (one.expect("set up"), two.expect("set up"));
    assert_eq!(one.steps.len() + two.steps.len(), 6, "{one:?} {two:?}");
    assert!(one.steps.is_empty() || two.steps.is_empty(), "{one:?} {two:?}");
    assert_eq!(site.complaints(Severity::Error).await, []);
}

#[tokio::test]
async fn a_role_without_privileges_needs_the_printed_sql_and_no_more() {
    for version in VERSIONS {
        let site = Site::start(version, &format!("poor{version}"), false);
        let fault = site.setup(Options::default()).await.expect_err("a refusal");
        assert_eq!((fault.code, fault.code.exit()), (Code::PgPrivilege, ExitCode::Permission), "{fault:?}");
        assert!(fault.hint.expect("a hint").contains("--print-sql"));
        assert_eq!(site.checkpoint_topic().await, None, "nothing was done in Kafka");

        let sql = setup::print_sql(&site.config);
        site.sql(&sql);
        site.sql(&sql);
        let report = site.setup(Options::default()).await.expect("set up");
        assert_eq!(kinds(&report), [StepKind::CheckpointTopic, StepKind::Slot, StepKind::FirstCheckpoint]);
        assert_eq!(site.complaints(Severity::Error).await, [], "on {version}");
        assert_eq!(site.one("SELECT has_table_privilege('relay', 'outbox', 'SELECT')"), "f");
        printed_sql_of_tables_that_are_kept(&site);
    }
}

/// Partitions are made once, by whoever runs it; grants are the least that will do.
fn printed_sql_of_tables_that_are_kept(site: &Site) {
    let kept = |name: &str, housekeeping| {
        let table = TableName { schema: "public".into(), name: name.into() };
        Outbox { housekeeping, ..Outbox::debezium(table) }
    };
    let outbox = vec![
        kept("it's", Housekeeping::Partitions(config::Partitions::default())),
        kept("rows", Housekeeping::Delete(config::Batches::default())),
    ];
    let sql = setup::print_sql(&Config { outbox, ..site.config.clone() });
    site.sql(&sql);
    site.sql(&sql);
    let parts = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
        JOIN pg_class r ON r.oid = i.inhparent WHERE r.relname = 'it''s' AND r.relowner = c.relowner";
    assert_eq!(site.one(parts), "8");
    assert_eq!(site.one("SELECT has_table_privilege('relay', 'rows', 'DELETE')"), "t");
    assert_eq!(site.one("SELECT has_table_privilege('relay', 'rows', 'INSERT, UPDATE')"), "f");
}

impl Site {
    async fn checkpoint_topic(&self) -> Option<String> {
        let cluster = sink::connect(&self.config).await.expect("a cluster");
        let topic = pillarbox_kafka::admin::describe_topic(&cluster, &self.config.checkpoint_topic()).await;
        topic.expect("an answer").map(|topic| topic.name)
    }
}

#[tokio::test]
async fn the_slot_of_another_tool_is_adopted_only_when_told() {
    let site = Site::start(18, "heir", true);
    site.one("SELECT pg_create_logical_replication_slot('pillarbox_heir', 'pgoutput')");
    let fault = site.setup(Options::default()).await.expect_err("a refusal");
    assert_eq!(fault.code, Code::CheckpointMissing, "{fault:?}");
    assert!(fault.hint.expect("a hint").contains("--adopt-slot"));
    let report = site.setup(ADOPT).await.expect("set up");
    assert_eq!(report.steps.last().map(|step| step.kind), Some(StepKind::FirstCheckpoint));
    assert!(!kinds(&report).contains(&StepKind::Slot));
    let confirmed = site.one("SELECT confirmed_flush_lsn FROM pg_replication_slots");
    assert_eq!(site.checkpoint().await.expect("a checkpoint").resume_lsn.to_string(), confirmed);
}

#[tokio::test]
async fn a_lost_slot_is_never_made_anew_and_a_gap_is_given_up_only_when_told() {
    let site = Site::start(18, "gap", true);
    site.setup(Options::default()).await.expect("set up");
    let first = site.checkpoint().await.expect("a checkpoint");
    site.one("SELECT pg_drop_replication_slot('pillarbox_gap')");
    site.sql("CREATE TABLE filler AS SELECT generate_series(1, 1000) AS n");
    for options in [Options::default(), ADOPT] {
        let fault = site.setup(options).await.expect_err("a refusal");
        assert_eq!(fault.code, Code::SlotMissing);
        let cause = fault.cause.expect("a cause");
        assert!(cause.contains(&format!("WAL from {}", first.resume_lsn)), "{cause}");
    }
    assert_eq!(site.one("SELECT count(*) FROM pg_replication_slots"), "0");

    site.one("SELECT pg_create_logical_replication_slot('pillarbox_gap', 'pgoutput')");
    assert_eq!(site.setup(Options::default()).await.expect_err("a refusal").code, Code::SlotAhead);
    assert!(site.complaints(Severity::Error).await.contains(&Code::SlotAhead));
    let report = site.setup(ADOPT).await.expect("set up");
    let second = site.checkpoint().await.expect("a checkpoint");
    assert_eq!((Some(second.resume_lsn), second.epoch), (report.begins_at, first.epoch + 1));
    assert_eq!(site.complaints(Severity::Error).await, []);
}

#[tokio::test]
async fn what_is_there_already_is_kept_and_completed() {
    let site = Site::start(18, "partly", true);
    site.sql("CREATE TABLE public.outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text)");
    site.sql("ALTER TABLE public.outbox OWNER TO relay; CREATE PUBLICATION pillarbox_partly; ALTER PUBLICATION pillarbox_partly OWNER TO relay");
    let fault = site.setup(Options::default()).await.expect_err("a refusal");
    assert_eq!(fault.code, Code::ColumnMissing, "{fault:?}");
    site.sql("ALTER TABLE public.outbox ADD payload bytea");
    let report = site.setup(Options::default()).await.expect("set up");
    assert!(!kinds(&report).contains(&StepKind::OutboxTable));
    assert_eq!(site.one("SELECT tablename FROM pg_publication_tables"), "outbox");
    assert_eq!(site.complaints(Severity::Error).await, []);
}

#[tokio::test]
async fn unreachable_servers_are_findings_and_change_nothing() {
    let mut site = Site::start(18, "away", true);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port");
    let port = std::mem::replace(&mut site.config.postgres.port, closed.port());
    assert_eq!(site.setup(Options::default()).await.expect_err("a refusal").code, Code::PgUnreachable);
    assert!(site.complaints(Severity::Error).await.contains(&Code::PgUnreachable));
    site.config.postgres.port = port;
    site.config.kafka.brokers = vec![closed.to_string()];
    assert_eq!(site.setup(Options::default()).await.expect_err("a refusal").code, Code::KafkaUnreachable);
    assert_eq!(site.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pillarbox'"), "0");
}

#[tokio::test]
async fn the_lineage_travels_through_wal_and_counts_on() {
    for version in VERSIONS {
        let site = Site::start(version, &format!("line{version}"), true);
        site.setup(Options::default()).await.expect("set up");
        let pipeline = site.config.pipeline.as_str();
        assert_eq!(site.connect().lineage_row(pipeline).expect("an answer"), None);
        let mut lineage = Lineage::new(&site.config.postgres, "pillarbox/test");
        let first = lineage.advance(pipeline).await.expect("a nonce");
        let second = lineage.advance(pipeline).await.expect("a nonce");
        assert!(first.as_str().starts_with("1-") && second.as_str().starts_with("2-"), "{first} {second}");
        let row = site.connect().lineage_row(pipeline).expect("an answer");
        assert_eq!(row, Some((2, second.to_string())));

        let messages = read_messages(&site, 2);
        let expected = [&first, &second].map(|nonce| format!("{pipeline}:{nonce}"));
        assert_eq!(messages, expected, "on {version}");

        // The connection is renewed after the server has ended it.
        site.one("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pillarbox/test'");
        let mut next = lineage.advance(pipeline).await;
        if next.is_err() {
            next = lineage.advance(pipeline).await;
        }
        assert!(next.expect("a nonce").as_str().starts_with("3-"));
    }
}

/// A checkpoint carries what the stream brings, and a start compares it with what queries see: while commits wait for a
/// standby that does not answer, both must be the same.
#[tokio::test]
async fn the_lineage_waits_for_no_standby() {
    let mut site = Site::start(18, "waits", true);
    site.setup(Options::default()).await.expect("set up");
    site.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    // A reload reaches those who wait at some time; a start is over when it has.
    site.postgres.kill9().expect("killed");
    site.postgres.start_again().expect("a server");
    // Commits do wait, for ever: this one says so.
    let url = site.postgres.superuser_url("shop");
    tokio::spawn(async move {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client.batch_execute("CREATE TABLE waits ()").await
    });
    let deadline = Instant::now() + LONG;
    while site.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "0" {
        assert!(Instant::now() < deadline, "no commit waits for a standby");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut lineage = Lineage::new(&site.config.postgres, "pillarbox/test");
    let nonce = lineage.advance("waits").await.expect("a nonce, with no standby");
    let row = site.connect().lineage_row("waits").expect("an answer");
    assert_eq!(row, Some((1, nonce.to_string())));
    assert_eq!(read_messages(&site, 1), [format!("waits:{nonce}")]);
}

/// The contents of the lineage messages in the stream, unconfirmed.
fn read_messages(site: &Site, count: usize) -> Vec<String> {
    let postgres = &site.config.postgres;
    let mut stream =
        site.connect().start_replication(&postgres.slot, &postgres.publication).expect("a stream");
    let wake = Wake::new().expect("an eventfd");
    let deadline = Instant::now() + LONG;
    let mut found = Vec::new();
    while found.len() < count {
        while let Some(frame) = stream.frames.next().expect("a frame") {
            if let Frame::XLogData { data, .. } = frame {
                found.extend(lineage_content(data));
            }
        }
        assert!(Instant::now() < deadline, "not in time: {found:?}");
        stream.link.wait(&wake, true, Duration::from_secs(1)).expect("a wait");
        stream.link.read_into(&mut stream.frames).expect("bytes");
    }
    stream.link.close();
    found
}

/// Message: `M`, flags, LSN, prefix and NUL, length, content.
fn lineage_content(data: &[u8]) -> Option<String> {
    let rest =
        data.strip_prefix(b"M")?.get(9..)?.strip_prefix(LINEAGE_PREFIX.as_bytes())?.strip_prefix(b"\0")?;
    Some(String::from_utf8_lossy(rest.get(4..)?).into_owned())
}

#[tokio::test]
async fn refused_sql_sessions_have_the_same_codes() {
    let site = Site::start(18, "session", true);
    let mut settings = site.config.postgres.clone();
    settings.database = "nowhere".into();
    let fault = Session::connect(&settings, "pillarbox/test").await.expect_err("a refusal");
    assert_eq!(fault.code, Code::PgNoDatabase, "{fault:?}");
    settings.port = 1;
    let fault = Session::connect(&settings, "pillarbox/test").await.expect_err("a refusal");
    assert_eq!(fault.code, Code::PgUnreachable, "{fault:?}");
    let mut lineage = Lineage::new(&site.config.postgres, "pillarbox/test");
    let fault = lineage.advance("session").await.expect_err("not set up");
    assert_eq!(fault.code, Code::NotSetUp, "{fault:?}");
}

#[test]
fn migrations_can_be_undone() {
    let site = Site::start(18, "undo", true);
    site.sql(include_str!("../../../sql/0001_pillarbox.up.sql"));
    site.sql(include_str!("../../../sql/0001_pillarbox.down.sql"));
    assert_eq!(site.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pillarbox'"), "0");
    site.sql(include_str!("../../../sql/0001_pillarbox.up.sql"));
}
