//! The relay under test: the release binary as a user runs it, as a child process.
//!
//! Must never link the relay into the bench: what is measured is the process, its start included.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use pillarbox_lab::account::{give, server_account};
use pillarbox_lab::process::{Launch, ServerProcess};
use rustix::process::Signal;

use crate::budget::Budget;
use crate::destination::Destination;
use crate::load::Events;
use crate::servers::{DATABASE, PARTITIONS, Servers};
use crate::tree;

/// How long `pillarbox setup` may take.
const SETUP_MAX: Duration = Duration::from_secs(60);
/// How long a relay may take to become ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often a relay is asked for its state.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(5);
/// How long an orderly end may take: the product's own deadline and a little more.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How long one answer over HTTP may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Builds the binary as it is released, and gives its path.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    eprintln!("bench: building target/release/pillarbox");
    let status = tree::cargo().args(["build", "--quiet", "--release", "--package", "pillarbox"]).status()?;
    ensure!(status.success(), "cannot build pillarbox: {status}");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tree::root().join("target"), PathBuf::from);
    Ok(target.join("release/pillarbox"))
}

/// What is measured and how it is called: the binary of this tree, and others in turns with it.
pub(crate) fn binaries(against: &[PathBuf]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut binaries = vec![("this tree".to_owned(), build()?)];
    for path in against {
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        binaries.push((name, path));
    }
    Ok(binaries)
}

/// What a pipeline relays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    events: Events,
    /// What topics begin with. Pipelines that share a table share it.
    topic: &'a str,
    /// One shard of the rows, as `1/2`.
    shard: Option<&'a str>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(events: Events, topic: &'a str) -> Self {
        Self { events, topic, shard: None }
    }

    pub(crate) fn shard(topic: &'a str, shard: &'a str) -> Self {
        Self { events: Events::Rows, topic, shard: Some(shard) }
    }

    /// Its section of the configuration.
    fn section(&self) -> String {
        let from = match self.events {
            Events::Rows => "outbox:\n  table: public.outbox",
            Events::Messages => "messages:\n  prefix: outbox",
        };
        let shard = self.shard.map(|shard| format!("  shard: {shard}\n")).unwrap_or_default();
        format!("{from}\n{shard}  topic: \"{}.{{aggregatetype}}\"\n", self.topic)
    }
}

/// A pipeline: its name, topic and configuration file.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) destination: Destination,
    pub(crate) log: PathBuf,
    binary: PathBuf,
    config: PathBuf,
    http_port: u16,
}

impl Pipeline {
    /// Writes the configuration of a pipeline of rows. Several relays of one pipeline differ in `instance`.
    pub(crate) fn new(
        servers: &Servers,
        binary: &Path,
        dir: &Path,
        name: &str,
        instance: u32,
    ) -> anyhow::Result<Pipeline> {
        Pipeline::of(&Source::new(Events::Rows, name), servers, binary, dir, name, instance)
    }

    /// The same of what is to be relayed.
    pub(crate) fn of(
        source: &Source<'_>,
        servers: &Servers,
        binary: &Path,
        dir: &Path,
        name: &str,
        instance: u32,
    ) -> anyhow::Result<Pipeline> {
        let topic = format!("{}.order", source.topic);
        let bootstrap = servers.kafka.bootstrap();
        let http_port = pillarbox_lab::ports::free(1)?[0];
        let config = dir.join(format!("{name}-{instance}.yaml"));
        let url = servers.postgres.superuser_url(DATABASE);
        let text = configuration(source, name, &url, &bootstrap, http_port);
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        give(&config, server_account()?)?;
        Ok(Pipeline {
            name: name.into(),
            destination: Destination { bootstrap, topic, partitions: PARTITIONS },
            log: dir.join(format!("{name}-{instance}.log")),
            binary: binary.into(),
            config,
            http_port,
        })
    }

    /// `pillarbox setup`: publication, slot and first checkpoint, before the backlog is written. The event topic is made
    /// here, so that a reader can wait on it.
    pub(crate) fn setup(&self, servers: &mut Servers) -> anyhow::Result<()> {
        servers.kafka.create_topic(&self.destination.topic, PARTITIONS, &[])?;
        self.setup_database()
    }

    /// The same for a topic that is there.
    pub(crate) fn setup_database(&self) -> anyhow::Result<()> {
        let mut process = self.launch("setup")?;
        match process.wait(SETUP_MAX)? {
            Some(status) if status.success() => Ok(()),
            other => bail!("pillarbox setup: {other:?}\n{}", self.last_words()),
        }
    }

    /// Starts the relay.
    pub(crate) fn start(&self) -> anyhow::Result<Relay> {
        let started = Instant::now();
        Ok(Relay { process: self.launch("run")?, pipeline: self.clone(), started })
    }

    pub(crate) fn slot(&self) -> String {
        format!("pillarbox_{}", self.name)
    }

    /// Starts the binary with a verb and the configuration.
    pub(crate) fn launch(&self, verb: &str) -> anyhow::Result<ServerProcess> {
        let mut command = Command::new(&self.binary);
        command.arg(verb).arg("-c").arg(&self.config);
        let name = format!("pillarbox {verb}");
        Ok(ServerProcess::start(Launch { name, command, log: self.log.clone(), account: server_account()? })?)
    }

    /// The end of the log. The rows are ours, so nothing in it is a secret.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// A running relay. Dropping it kills it.
pub(crate) struct Relay {
    process: ServerProcess,
    pipeline: Pipeline,
    pub(crate) started: Instant,
}

impl Relay {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// An error with the end of its log if the relay has ended by itself.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_running(), "the relay ended:\n{}", self.pipeline.last_words());
        Ok(())
    }

    /// Waits until the relay says it is in a state, e.g. `streaming`; gives how long that took.
    pub(crate) fn wait_state(&mut self, state: &str) -> anyhow::Result<Duration> {
        let waiting = Instant::now();
        while self.state().as_deref() != Some(state) {
            self.ensure_running()?;
            let last = self.state().unwrap_or_else(|| "silent".into());
            let words = || self.pipeline.last_words();
            ensure!(waiting.elapsed() < READY_MAX, "the relay is {last}, not {state}:\n{}", words());
            std::thread::sleep(ASK_EVERY);
        }
        Ok(waiting.elapsed())
    }

    /// What the relay says of itself, e.g. `streaming`.
    pub(crate) fn state(&self) -> Option<String> {
        Some(self.status()?.get("state")?.as_str()?.to_owned())
    }

    /// The Kafka transactions it says it has committed.
    pub(crate) fn commits(&self) -> Option<u64> {
        self.status()?.get("commits_total")?.as_u64()
    }

    /// Where its time went.
    pub(crate) fn budget(&self) -> Option<Budget> {
        Budget::parse(&get(self.pipeline.http_port, "/metrics").ok()?, &self.pipeline.name)
    }

    fn status(&self) -> Option<serde_json::Value> {
        let body = get(self.pipeline.http_port, "/api/v1/status").ok()?;
        let value: serde_json::Value = serde_json::from_str(&body).ok()?;
        Some(value)
    }

    /// Asks the relay to drain and end, and waits for it. False if it did not end with success in its own deadline: the
    /// figures of the run stand, but the report says so.
    pub(crate) fn stop(mut self) -> anyhow::Result<bool> {
        self.process.signal(Signal::TERM)?;
        let ended = self.process.wait(STOP_MAX)?;
        let in_order = ended.is_some_and(|status| status.success());
        if !in_order {
            eprintln!("bench: the relay did not end in order: {ended:?}\n{}", self.pipeline.last_words());
        }
        Ok(in_order)
    }

    /// Kills the relay; gives the moment just before the signal.
    pub(crate) fn kill(mut self) -> anyhow::Result<Instant> {
        let at = Instant::now();
        self.process.kill()?;
        Ok(at)
    }
}

/// The smallest configuration that keeps the runs apart: every pipeline, or all that share a table, has a topic of its own.
fn configuration(source: &Source<'_>, name: &str, url: &str, bootstrap: &str, http_port: u16) -> String {
    let section = source.section();
    format!(
        "pipeline: {name}\n\
         postgres: {{ url: \"{url}\" }}\n\
         kafka:\n  brokers: [\"{bootstrap}\"]\n  topics: {{ create: true, partitions: {PARTITIONS} }}\n\
         {section}\
         http: {{ listen: \"127.0.0.1:{http_port}\" }}\n"
    )
}

/// The body of an HTTP answer, whatever its status.
fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_what_the_bench_made() {
        for (events, from) in [
            (Events::Rows, "outbox:\n  table: public.outbox\n"),
            (Events::Messages, "messages:\n  prefix: outbox\n"),
        ] {
            let url = "postgres://postgres@127.0.0.1:5/postgres";
            let text = configuration(&Source::new(events, "bench1"), "bench1", url, "127.0.0.1:6", 7);
            for part in [
                "pipeline: bench1\n",
                from,
                "  topic: \"bench1.{aggregatetype}\"",
                "listen: \"127.0.0.1:7\"",
                "partitions: 8",
            ] {
                assert!(text.contains(part), "{text}");
            }
            assert_ne!(text.contains("\noutbox:"), text.contains("\nmessages:"), "{text}");
        }
    }
}
