//! Kafka Connect with Debezium's connector for Postgres: the real one, a standalone worker on loopback.
//!
//! ```text
//! jars by Maven -> worker.properties -> JVM -> REST answers -> ready; connectors come and go over REST
//! ```
//! Its offsets live in a file that goes with it. Must never listen beyond loopback.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::account::{give, server_account};
use crate::cache::quiet;
use crate::folder::Temporary;
use crate::http::exchange;
use crate::process::{Launch, ServerProcess};
use crate::{LabError, download, ports};

/// The Debezium whose records the router is compared with.
pub const DEBEZIUM: &str = "3.7.0.Final";
/// The Connect that it runs in.
pub const KAFKA: &str = "4.3.1";
/// How long a worker may take to answer: 5 s when idle, much longer beside two compilers.
const READY_MAX: Duration = Duration::from_secs(120);
/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one answer may take: making a connector validates it against the database.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub struct Connect {
    process: ServerProcess,
    port: u16,
    // Last: removed after the process has gone.
    _temporary: Temporary,
}

impl Connect {
    /// Starts a worker on these brokers, with StringConverters, and waits until it answers.
    pub fn start(bootstrap: &str) -> Result<Self, LabError> {
        download::need_java()?;
        let libs = download::debezium_libs(DEBEZIUM, KAFKA, &quiet)?;
        let account = server_account()?;
        let temporary = Temporary::new("connect", account)?;
        let dir = temporary.path();
        let port = ports::free(1)?[0];
        let file = dir.join("worker.properties");
        let offsets = dir.join("offsets").display().to_string();
        fs::write(&file, properties(bootstrap, port, &offsets)).map_err(LabError::io("write", &file))?;
        give(&file, account)?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
            .arg(format!("-Djava.io.tmpdir={}", dir.display()))
            .args(["-cp", &format!("{}/*", libs.display()), "org.apache.kafka.connect.cli.ConnectStandalone"])
            .arg(&file)
            .current_dir(dir)
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("CLASSPATH");
        let log = dir.join("connect.log");
        let name = format!("connect {KAFKA}");
        let process = ServerProcess::start(Launch { name, command, log, account })?;
        let mut connect = Self { process, port, _temporary: temporary };
        let deadline = Instant::now() + READY_MAX;
        while !matches!(connect.ask("GET", "/connectors", ""), Ok((200, _))) {
            if connect.process.wait(LOOK_EVERY)?.is_some() || Instant::now() > deadline {
                return Err(connect.process.not_ready(READY_MAX));
            }
        }
        Ok(connect)
    }

    /// The address of a connector.
    pub fn url(&self, connector: &str) -> String {
        format!("http://127.0.0.1:{}/connectors/{connector}", self.port)
    }

    /// One request to the REST interface: status code and body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String), LabError> {
        exchange(self.port, method, path, body, ANSWER_MAX)
            .map_err(LabError::io("ask", format!("connect{path}")))
    }
}

fn properties(bootstrap: &str, port: u16, offsets: &str) -> String {
    let string = "org.apache.kafka.connect.storage.StringConverter";
    let listeners = format!("http://127.0.0.1:{port}");
    let lines = [
        ("bootstrap.servers", bootstrap),
        ("listeners", &listeners),
        ("key.converter", string),
        ("value.converter", string),
        ("offset.storage.file.filename", offsets),
        // A stop writes them anyway; short, so that what is confirmed in between is seen soon.
        ("offset.flush.interval.ms", "1000"),
    ];
    lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}
