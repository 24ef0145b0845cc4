//! One combined KRaft node (broker and controller) of a lab cluster: its configuration, its data folder, its
//! JVM. Must never format a folder that holds data already.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::classes::Classes;
use super::listener::{Listener, User};
use super::{KafkaOptions, Profile};
use crate::LabError;
use crate::account::{Account, give};
use crate::process::{Launch, ServerProcess};

/// How long formatting may take: 1 s when idle.
const FORMAT_MAX: Duration = Duration::from_secs(120);

/// The ports of a node on 127.0.0.1.
#[derive(Debug, Clone)]
pub(super) struct NodePorts {
    /// For clients and other brokers.
    pub(super) broker: u16,
    /// For the KRaft quorum.
    pub(super) controller: u16,
    /// For the other listeners, in their order.
    pub(super) listeners: Vec<u16>,
}

/// A node, running or not.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) id: usize,
    pub(super) ports: NodePorts,
    pub(super) dir: PathBuf,
    pub(super) process: Option<ServerProcess>,
}

/// What all nodes of a cluster share.
#[derive(Debug)]
pub(super) struct ClusterSetup {
    pub(super) options: KafkaOptions,
    pub(super) classpath: String,
    pub(super) cluster_id: String,
    pub(super) account: Option<Account>,
    pub(super) classes: Classes,
}

impl Broker {
    /// A node whose folder exists; ids count from 1.
    pub(super) fn new(
        id: usize,
        ports: NodePorts,
        root: &Path,
        setup: &ClusterSetup,
    ) -> Result<Self, LabError> {
        let dir = root.join(format!("broker-{id}"));
        if !dir.exists() {
            // Closed to others: it will hold records.
            DirBuilder::new().mode(0o700).create(&dir).map_err(LabError::io("make", &dir))?;
            give(&dir, setup.account)?;
        }
        Ok(Self { id, ports, dir, process: None })
    }

    /// Where the node keeps its partitions.
    pub(super) fn log_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Writes the node's configuration, and starts formatting its folder where that is new.
    pub(super) fn prepare(
        &self,
        nodes: &[NodePorts],
        setup: &ClusterSetup,
    ) -> Result<Option<ServerProcess>, LabError> {
        let file = self.properties_file();
        fs::write(&file, self.properties(nodes, setup)).map_err(LabError::io("write", &file))?;
        give(&file, setup.account)?;
        if self.log_dir().join("meta.properties").exists() {
            return Ok(None);
        }
        let mut command = setup.java(Profile::Quick, &["-Xmx128m"]);
        self.at_home(&mut command);
        command.args(["kafka.tools.StorageTool", "format", "-t", &setup.cluster_id, "-c"]).arg(&file);
        for User { name, password } in &setup.options.scram {
            for hash in ["256", "512"] {
                let user = format!("SCRAM-SHA-{hash}=[name={name},password={password}]");
                command.arg("--add-scram").arg(user);
            }
        }
        let log = self.dir.join("format.log");
        let name = format!("format of kafka broker {}", self.id);
        ServerProcess::start(Launch { name, command, log, account: setup.account }).map(Some)
    }

    /// Waits for what `prepare` started.
    pub(super) fn formatted(mut process: ServerProcess) -> Result<(), LabError> {
        match process.wait(FORMAT_MAX)? {
            Some(status) if status.success() => Ok(()),
            _ => Err(LabError::Setup { name: "kafka.tools.StorageTool", output: process.last_words() }),
        }
    }

    /// Starts the JVM; does not wait until it serves.
    pub(super) fn start(&mut self, setup: &ClusterSetup) -> Result<(), LabError> {
        let heap =
            [format!("-Xms{0}m", setup.options.heap_mb / 2), format!("-Xmx{}m", setup.options.heap_mb)];
        let collected = setup.classes.collected();
        let flags: Vec<&str> = heap.iter().chain(&collected).map(String::as_str).collect();
        let mut command = setup.java(setup.options.profile, &flags);
        self.at_home(&mut command);
        command.arg("kafka.Kafka").arg(self.properties_file());
        let log = self.dir.join("server.log");
        // Only this start's words belong into an error about it.
        let _ = fs::remove_file(&log);
        let name = format!("kafka broker {}", self.id);
        self.process = Some(ServerProcess::start(Launch { name, command, log, account: setup.account })?);
        Ok(())
    }

    /// Where a JVM of this node keeps its files: in a folder that its account may write to. Before its class.
    fn at_home(&self, command: &mut Command) {
        command.arg(format!("-Djava.io.tmpdir={}", self.dir.display())).current_dir(&self.dir);
    }

    fn properties_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// The text of server.properties: the lab's settings, then the caller's (the last one wins).
    fn properties(&self, nodes: &[NodePorts], setup: &ClusterSetup) -> String {
        let voter = |(i, node): (usize, &NodePorts)| format!("{}@127.0.0.1:{}", i + 1, node.controller);
        let voters = nodes.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
        let replicas = nodes.len().min(3).to_string();
        // Two of three must hold a record before it is acknowledged; one of one.
        let in_sync = nodes.len().min(3).div_ceil(2).to_string();
        let NodePorts { broker, controller, listeners: ports } = &self.ports;
        let more = &setup.options.listeners;
        let place = |listener: &Listener, port: u16| format!(",{}://127.0.0.1:{port}", listener.name);
        let places: String = more.iter().zip(ports).map(|(listener, port)| place(listener, *port)).collect();
        let told = |(listener, port): (&Listener, &u16)| {
            place(listener, *listener.advertised.get(self.id - 1).unwrap_or(port))
        };
        let told: String = more.iter().zip(ports).map(told).collect();
        let advertised = format!("PLAINTEXT://127.0.0.1:{broker}{told}");
        let listeners = format!("PLAINTEXT://127.0.0.1:{broker}{places},CONTROLLER://127.0.0.1:{controller}");
        let protocols: String = more.iter().map(|listener| format!(",{}", listener.protocol())).collect();
        let protocols = format!("CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocols}");
        let (id, log_dir) = (self.id.to_string(), self.log_dir().display().to_string());
        let lab = [
            ("process.roles", "broker,controller"),
            ("node.id", &id),
            ("controller.quorum.voters", &voters),
            ("listeners", &listeners),
            ("advertised.listeners", &advertised),
            ("controller.listener.names", "CONTROLLER"),
            ("listener.security.protocol.map", &protocols),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("log.dirs", &log_dir),
            ("auto.create.topics.enable", "false"),
            ("default.replication.factor", &replicas),
            ("min.insync.replicas", &in_sync),
            ("offsets.topic.replication.factor", &replicas),
            ("transaction.state.log.replication.factor", &replicas),
            ("transaction.state.log.min.isr", &in_sync),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", &in_sync),
            // The defaults are sized for many clients; each partition costs files and start-up time here.
            ("offsets.topic.num.partitions", "4"),
            ("transaction.state.log.num.partitions", "8"),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
            // A dead broker is given up after 3 s, not 9: until then its partitions have no leader, and a
            // restarted one is refused as a duplicate of itself.
            ("broker.heartbeat.interval.ms", "500"),
            ("broker.session.timeout.ms", "3000"),
        ];
        let secured: Vec<_> = more.iter().flat_map(Listener::properties).collect();
        let own = secured.iter().chain(&setup.options.settings);
        let own = own.map(|(key, value)| (key.as_str(), value.as_str()));
        let line = |(key, value): (&str, &str)| format!("{key}={value}\n");
        lab.into_iter().chain(own).map(line).collect()
    }
}

impl ClusterSetup {
    /// A Java command with the cluster's class path. Its words go to standard error, at level INFO.
    pub(super) fn java(&self, profile: Profile, flags: &[&str]) -> Command {
        let mut command = Command::new("java");
        match profile {
            Profile::Quick => {
                command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).args(self.classes.shared())
            }
            Profile::Throughput => command.args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]),
        };
        command
            .args(flags)
            .args(["-XX:-UsePerfData", "-Djava.awt.headless=true"])
            .args(["-Dorg.slf4j.simpleLogger.showDateTime=true"])
            .args(["-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"])
            .args(["-cp", &self.classpath])
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("CLASSPATH");
        command
    }
}
