//! A lane: one arm with a slot, a topic and a folder of its own, and the process that works in it.
//!
//! ```text
//! set up --launch--> running --exit--> running again (a supervisor's work; counted)
//!                        └--kill -9--> running again        running --SIGTERM--> ended --> slot and topic dropped
//! ```
//! | failure | consequence |
//! | --- | --- |
//! | a peer ends by itself | started again after [`RESTART_AFTER`], at most [`RESTARTS_MAX`] times, and told in the run |
//! | a peer ignores SIGTERM | killed after [`STOP_MAX`]; what it cost is already known |
//!
//! Must never let a lane see the slot, topic or state of another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pillarbox_lab::account::{give_tree, server_account};
use pillarbox_lab::process::{Launch, ServerProcess};
use rustix::process::Signal;

use super::arm::Arm;
use super::{PUBLICATION, debezium, faucet, mq_bridge};
use crate::destination::Destination;
use crate::relay::Pipeline;
use crate::servers::{DATABASE, PARTITIONS, Servers};

/// How long an orderly end may take.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How long a walsender may stay after its client.
const LEAVE_MAX: Duration = Duration::from_secs(30);
/// What a supervisor waits before it starts a program again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// More than that is not a start that failed, but a peer that does not work.
const RESTARTS_MAX: u32 = 10;
/// How often a worker is asked whether it takes its connector.
const ASK_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a peer finds everything.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) slot: String,
    pub(super) topic: String,
    pub(super) dir: PathBuf,
    /// For a REST interface, if the peer has one.
    pub(super) port: u16,
    /// Transactions a second that will come; none where there is a backlog, or nothing.
    pub(super) rate: Option<u32>,
    url: String,
    postgres_port: u16,
    bootstrap: String,
}

impl Site {
    /// A configuration with the names of this lane for `@name@`, `@slot@` and so on.
    pub(super) fn fill(&self, text: &str) -> String {
        [
            ("@name@", self.name.as_str()),
            ("@slot@", &self.slot),
            ("@topic@", &self.topic),
            ("@state@", &self.dir.display().to_string()),
            ("@port@", &self.port.to_string()),
            ("@page@", &self.rate.map(faucet::page).unwrap_or_default().to_string()),
            ("@url@", &self.url),
            ("@postgres_port@", &self.postgres_port.to_string()),
            ("@database@", DATABASE),
            ("@publication@", PUBLICATION),
            ("@bootstrap@", &self.bootstrap),
        ]
        .iter()
        .fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value))
    }
}

/// An arm that is set up and does not run.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) arm: Arm,
    pub(super) slot: String,
    pub(super) destination: Destination,
    site: Site,
    pipeline: Option<Pipeline>,
}

impl Lane {
    /// Makes topic, slot and configuration: what is written from now on is the lane's to deliver.
    pub(super) fn setup(
        servers: &mut Servers,
        arm: Arm,
        run: &str,
        binary: Option<&Path>,
        rate: Option<u32>,
        dir: &Path,
    ) -> anyhow::Result<Lane> {
        let name = format!("{}_{run}", arm.name().replace('-', "_"));
        let dir = dir.join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let site = Site {
            slot: name.clone(),
            topic: format!("{name}.order"),
            port: pillarbox_lab::ports::free(1)?[0],
            rate,
            url: servers.postgres.superuser_url(DATABASE),
            postgres_port: servers.postgres.port(),
            bootstrap: servers.kafka.bootstrap(),
            name,
            dir,
        };
        let pipeline = match binary {
            Some(binary) => Some(Pipeline::new(servers, binary, &site.dir, &site.name, 1)?),
            None => None,
        };
        match &pipeline {
            Some(pipeline) => pipeline.setup(servers)?,
            None => prepare(servers, arm, &site)?,
        }
        give_tree(&site.dir, server_account()?)?;
        let (bootstrap, topic) = (site.bootstrap.clone(), site.topic.clone());
        let destination = Destination { bootstrap, topic, partitions: PARTITIONS };
        let slot = pipeline.as_ref().map_or_else(|| site.slot.clone(), Pipeline::slot);
        Ok(Lane { arm, slot, destination, site, pipeline })
    }

    /// Starts the program.
    pub(super) fn start(&self) -> anyhow::Result<Running<'_>> {
        let started = Instant::now();
        let registered = self.arm != Arm::DebeziumExactlyOnce;
        let process = self.launch()?;
        Ok(Running { lane: self, process, started, restarts: 0, registered, asked: started, ended: None })
    }

    /// Drops slot and topic, so that neither WAL nor disk is held by a lane that is done.
    pub(super) fn clear(&self, servers: &Servers) -> anyhow::Result<()> {
        let waiting = Instant::now();
        while servers.walsender(&self.slot).is_some() {
            ensure!(waiting.elapsed() < LEAVE_MAX, "the walsender of {} stays", self.slot);
            std::thread::sleep(LOOK_EVERY);
        }
        servers.sql(&format!("SELECT pg_drop_replication_slot('{}')", self.slot))?;
        Ok(servers.kafka.delete_topic(&self.destination.topic)?)
    }

    fn launch(&self) -> anyhow::Result<ServerProcess> {
        if let Some(pipeline) = &self.pipeline {
            return pipeline.launch("run");
        }
        let command = match self.arm {
            Arm::MqBridge => mq_bridge::command(&self.site)?,
            Arm::FaucetExactlyOnce => faucet::command(&self.site)?,
            arm => debezium::command(arm, &self.site)?,
        };
        let launch = Launch { name: self.arm.name(), command, log: self.log(), account: server_account()? };
        Ok(ServerProcess::start(launch)?)
    }

    fn log(&self) -> PathBuf {
        match &self.pipeline {
            Some(pipeline) => pipeline.log.clone(),
            None => self.site.dir.join("log"),
        }
    }

    /// The end of the log. The rows are ours, so nothing in it is a secret.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Topic, slot and configuration of a peer. Every peer can start from a slot that exists.
fn prepare(servers: &mut Servers, arm: Arm, site: &Site) -> anyhow::Result<()> {
    servers.kafka.create_topic(&site.topic, PARTITIONS, &[])?;
    servers.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", site.slot))?;
    match arm {
        Arm::MqBridge => mq_bridge::install().and_then(|_| mq_bridge::configure(site)),
        Arm::FaucetExactlyOnce => faucet::install().and_then(|_| faucet::configure(site)),
        arm => debezium::configure(arm, site),
    }
}

/// An arm at work. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Running<'a> {
    lane: &'a Lane,
    process: ServerProcess,
    pub(super) started: Instant,
    /// How often it ended by itself and was started again.
    pub(super) restarts: u32,
    /// A distributed worker has its connector.
    registered: bool,
    asked: Instant,
    ended: Option<Instant>,
}

impl Running<'_> {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What an operator or a supervisor would do now: register the connector, start again what ended. True if the
    /// process is another one than before.
    pub(super) fn tend(&mut self) -> anyhow::Result<bool> {
        if !self.registered && self.asked.elapsed() >= ASK_EVERY {
            self.registered = debezium::register(&self.lane.site)?;
            self.asked = Instant::now();
        }
        if self.process.is_running() {
            return Ok(false);
        }
        if self.ended.get_or_insert_with(Instant::now).elapsed() < RESTART_AFTER {
            return Ok(false);
        }
        let may = !self.lane.arm.is_pillarbox() && self.restarts < RESTARTS_MAX;
        ensure!(may, "{} ended:\n{}", self.lane.arm, self.lane.last_words());
        self.restarts += 1;
        self.process = self.lane.launch()?;
        self.ended = None;
        Ok(true)
    }

    /// Kills the process and starts it again at once; gives the moment just before the signal.
    pub(super) fn kill_and_start(&mut self) -> anyhow::Result<Instant> {
        let at = Instant::now();
        self.process.kill()?;
        self.process = self.lane.launch()?;
        Ok(at)
    }

    /// Asks the process to end, and insists.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM)?;
        if self.process.wait(STOP_MAX)?.is_none() {
            eprintln!("bench: {} did not end in {STOP_MAX:?}; killed", self.lane.arm);
            self.process.kill()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_left_in_a_configuration() {
        let site = Site {
            name: "n".into(),
            slot: "s".into(),
            topic: "t".into(),
            dir: "/d".into(),
            port: 1,
            rate: Some(100),
            url: "u".into(),
            postgres_port: 2,
            bootstrap: "b".into(),
        };
        let root = crate::tree::root().join("bench/peers");
        for file in [
            "debezium/worker.properties",
            "debezium/connector.properties",
            "mq-bridge/route.yaml",
            "faucet/pipeline-backlog.yaml",
            "faucet/pipeline-steady.yaml",
        ] {
            let text = fs::read_to_string(root.join(file)).expect("a file of the tree");
            assert!(text.contains('@') && !site.fill(&text).contains('@'), "{file}");
        }
    }
}
