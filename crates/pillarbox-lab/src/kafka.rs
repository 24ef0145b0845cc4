//! A private Kafka cluster: the real broker, KRaft, one or three combined nodes on loopback.
//!
//! ```text
//! jars by Maven -> server.properties -> format -> JVMs -> every node sees every broker -> ready
//! ```
//! Topics are never made by accident (`auto.create.topics.enable=false`). Must never listen beyond loopback.

mod broker;
mod classes;
mod listener;
mod options;
mod rpc;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use rustix::process::Signal;

use self::broker::{Broker, ClusterSetup, NodePorts};
use self::classes::Classes;
pub use self::listener::{Listener, User};
pub use self::options::{KafkaOptions, Profile};
use crate::account::{Account, give, server_account};
use crate::cache::{Progress, quiet};
use crate::folder::Temporary;
use crate::process::ServerProcess;
use crate::{LabError, download, ports};

/// How long a cluster may take to serve: 4 s when idle, much longer beside two compilers.
const READY_MAX: Duration = Duration::from_secs(180);
/// How often the brokers are asked; the wait ends at once when one dies.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long an orderly stop may take before the JVM is killed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A private cluster. Brokers are named by their node id, from 1. Dropping it ends it and removes its
/// temporary folder.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Broker>,
    setup: ClusterSetup,
    // Last: removed after the processes have gone.
    _temporary: Option<Temporary>,
}

impl Kafka {
    /// Starts a cluster and waits until every broker serves and knows all others.
    pub fn start(options: KafkaOptions) -> Result<Self, LabError> {
        Self::start_with(options, &quiet)
    }

    /// The same, telling what it is doing.
    pub fn start_with(options: KafkaOptions, progress: &dyn Fn(Progress)) -> Result<Self, LabError> {
        Self::start_from(&options, progress, None)
    }

    /// The same with the classes from there.
    fn start_from(
        options: &KafkaOptions,
        progress: &dyn Fn(Progress),
        classes: Option<&Classes>,
    ) -> Result<Self, LabError> {
        let mut attempt = 1;
        loop {
            match Self::start_once(options, progress, classes) {
                Err(LabError::PortTaken { .. }) if options.ports.is_none() && attempt < ports::STARTS_MAX => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn start_once(
        options: &KafkaOptions,
        progress: &dyn Fn(Progress),
        classes: Option<&Classes>,
    ) -> Result<Self, LabError> {
        let name = format!("kafka {}", options.version);
        let nodes = node_ports(options)?;
        let java = download::need_java()?;
        let libs = download::kafka_libs(&options.version, progress)?;
        let classes =
            classes.map_or_else(|| Classes::find(&options.version, &java), |given| Ok(given.clone()))?;
        let account = server_account()?;
        let (root, temporary) = root_folder(options, account)?;
        give(&root, account)?;
        let setup = ClusterSetup {
            options: options.clone(),
            classpath: format!("{}/*", libs.display()),
            cluster_id: cluster_id(&root)?,
            account,
            classes,
        };
        let make = |(i, ports): (usize, &NodePorts)| Broker::new(i + 1, ports.clone(), &root, &setup);
        let brokers = nodes.iter().enumerate().map(make).collect::<Result<Vec<_>, _>>()?;
        progress(Progress::Preparing(name.clone()));
        let prepare = |b: &Broker| b.prepare(&nodes, &setup).transpose();
        let formats = brokers.iter().filter_map(prepare).collect::<Result<Vec<_>, _>>()?;
        formats.into_iter().try_for_each(Broker::formatted)?;
        progress(Progress::Starting(name.clone()));
        let mut kafka = Self { brokers, setup, _temporary: temporary };
        for broker in &mut kafka.brokers {
            broker.start(&kafka.setup)?;
        }
        kafka.wait_ready()?;
        progress(Progress::Ready(name));
        Ok(kafka)
    }

    /// Waits until every running broker lists every running broker as alive. Its listeners open one by one.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        let deadline = Instant::now() + READY_MAX;
        let mut expected: Vec<i32> =
            self.running().map(|b| i32::try_from(b.id).unwrap_or(i32::MAX)).collect();
        expected.sort_unstable();
        for broker in self.brokers.iter_mut() {
            let Some(process) = broker.process.as_mut() else { continue };
            while !(sees(broker.ports.broker, &self.setup.cluster_id, &expected)
                && broker.ports.listeners.iter().all(listens))
            {
                if process.wait(LOOK_EVERY)?.is_some() || Instant::now() > deadline {
                    return Err(process.not_ready(READY_MAX));
                }
            }
        }
        Ok(())
    }

    /// Addresses of all brokers, running or not: `127.0.0.1:port,...`.
    pub fn bootstrap(&self) -> String {
        let address = |b: &Broker| format!("127.0.0.1:{}", b.ports.broker);
        self.brokers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// The address of a listener of the first broker, by its name.
    pub fn listener(&self, name: &str) -> Result<String, LabError> {
        Ok(format!("127.0.0.1:{}", self.listener_port(1, name)?))
    }

    /// The port of a listener of a broker, whatever it advertises.
    pub fn listener_port(&self, broker: usize, name: &str) -> Result<u16, LabError> {
        let unknown = || LabError::Option { what: format!("no kafka listener {name}") };
        let index = self.setup.options.listeners.iter().position(|listener| listener.name == name);
        let ports = &self.broker(broker)?.ports.listeners;
        ports.get(index.ok_or_else(unknown)?).copied().ok_or_else(unknown)
    }

    /// The id of a topic.
    pub fn topic_id(&self, name: &str) -> Result<uuid::Uuid, LabError> {
        let metadata = rpc::metadata(self.any_port()?, true)?;
        let of_name =
            |topic: &&MetadataResponseTopic| topic.name.as_ref().is_some_and(|n| n.as_str() == name);
        let found = metadata.topics.iter().find(of_name).map(|topic| topic.topic_id);
        found.ok_or_else(|| LabError::Kafka { what: format!("no topic {name}") })
    }

    /// The client port of a broker.
    pub fn port(&self, broker: usize) -> Result<u16, LabError> {
        Ok(self.broker(broker)?.ports.broker)
    }

    /// How many brokers the cluster has, running or not.
    pub fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    /// The process id of a broker's JVM, while it runs.
    pub fn pid(&self, broker: usize) -> Option<u32> {
        self.broker(broker).ok()?.process.as_ref().map(ServerProcess::pid)
    }

    /// The folder of a broker's partitions.
    pub fn log_dir(&self, broker: usize) -> Result<PathBuf, LabError> {
        Ok(self.broker(broker)?.log_dir())
    }

    /// A command of Kafka's own, such as `org.apache.kafka.tools.TopicCommand`, told where the cluster is.
    pub fn tool(&self, class: &str) -> Command {
        let mut command = self.setup.java(Profile::Quick, &[]);
        command.args([class, "--bootstrap-server", &self.bootstrap()]);
        command
    }

    /// The Java class path with Kafka's server, clients and tools: for small Java programs.
    pub fn classpath(&self) -> &str {
        &self.setup.classpath
    }

    /// Kills a broker (SIGKILL).
    pub fn kill9(&mut self, broker: usize) -> Result<(), LabError> {
        match self.broker_mut(broker)?.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Stops a broker in order (SIGTERM: it hands its partitions over); kills it after 30 s.
    pub fn stop_broker(&mut self, broker: usize) -> Result<(), LabError> {
        match self.broker_mut(broker)?.process.take() {
            Some(process) => end(process),
            None => Ok(()),
        }
    }

    /// Starts a stopped or killed broker again, on the same ports, and waits until it has rejoined.
    pub fn start_broker(&mut self, broker: usize) -> Result<(), LabError> {
        self.launch_broker(broker)?;
        self.wait_ready()
    }

    /// Starts a stopped or killed broker again without waiting: for a cluster that lost its quorum.
    pub fn launch_broker(&mut self, broker: usize) -> Result<(), LabError> {
        self.broker(broker)?;
        let node = &mut self.brokers[broker - 1];
        if node.process.as_mut().is_some_and(ServerProcess::is_running) {
            return Err(LabError::State { name: format!("kafka broker {broker}"), state: "running" });
        }
        node.start(&self.setup)
    }

    /// Stops a broker's JVM where it stands (SIGSTOP): to others it is a stalled machine.
    pub fn suspend(&mut self, broker: usize) -> Result<(), LabError> {
        self.signal(broker, Signal::STOP)
    }

    /// Lets a suspended broker go on (SIGCONT).
    pub fn resume(&mut self, broker: usize) -> Result<(), LabError> {
        self.signal(broker, Signal::CONT)
    }

    /// Stops all brokers in order. All are told at once: combined nodes would wait for each other.
    pub fn stop(&mut self) -> Result<(), LabError> {
        let mut processes: Vec<_> = self.brokers.iter_mut().filter_map(|b| b.process.take()).collect();
        for process in &mut processes {
            process.signal(Signal::TERM)?;
        }
        processes.into_iter().try_for_each(end)
    }

    /// Starts all stopped brokers again and waits until they serve.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        for broker in &mut self.brokers {
            if !broker.process.as_mut().is_some_and(ServerProcess::is_running) {
                broker.start(&self.setup)?;
            }
        }
        self.wait_ready()
    }

    /// Creates a topic on all brokers (at most 3 replicas) and waits until every running broker knows
    /// a leader for each of its partitions.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        configs: &[(&str, &str)],
    ) -> Result<(), LabError> {
        let replicas = if self.brokers.len() < 3 { 1 } else { 3 };
        rpc::create_topic(self.any_port()?, name, partitions, replicas, configs)?;
        let deadline = Instant::now() + READY_MAX;
        for broker in self.brokers.iter_mut() {
            let Some(process) = broker.process.as_mut() else { continue };
            while !leads(broker.ports.broker, name, partitions) {
                if process.wait(LOOK_EVERY)?.is_some() || Instant::now() > deadline {
                    return Err(process.timed_out("learn of the topic", READY_MAX));
                }
            }
        }
        Ok(())
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, name: &str) -> Result<(), LabError> {
        rpc::delete_topic(self.any_port()?, name)
    }

    /// Takes all members out of a consumer group (of the classic protocol): what the death of a member comes to once
    /// its session has timed out, without the wait. Those alive find out at their next heartbeat, and join again. For
    /// a cluster of one broker, which coordinates every group.
    pub fn empty_group(&self, group: &str) -> Result<(), LabError> {
        let port = self.any_port()?;
        match rpc::group_members(port, group)? {
            members if members.is_empty() => Ok(()),
            members => rpc::leave_group(port, group, members),
        }
    }

    fn running(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.iter().filter(|b| b.process.is_some())
    }

    fn any_port(&self) -> Result<u16, LabError> {
        let stopped = || LabError::State { name: "kafka".into(), state: "not running" };
        self.running().next().map(|b| b.ports.broker).ok_or_else(stopped)
    }

    fn signal(&mut self, broker: usize, signal: Signal) -> Result<(), LabError> {
        match self.broker_mut(broker)?.process.as_mut() {
            Some(process) => process.signal(signal),
            None => Err(LabError::State { name: format!("kafka broker {broker}"), state: "not running" }),
        }
    }

    fn broker(&self, id: usize) -> Result<&Broker, LabError> {
        self.brokers.iter().find(|b| b.id == id).ok_or_else(|| no_broker(id))
    }

    fn broker_mut(&mut self, id: usize) -> Result<&mut Broker, LabError> {
        self.brokers.iter_mut().find(|b| b.id == id).ok_or_else(|| no_broker(id))
    }
}

fn no_broker(id: usize) -> LabError {
    LabError::Option { what: format!("no kafka broker {id}: they count from 1") }
}

/// True if somebody takes connections there.
fn listens(port: &u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok()
}

/// True if the broker on this port is of this cluster, not of another that was given the same port, and lists exactly
/// these brokers as alive.
fn sees(port: u16, cluster_id: &str, expected: &[i32]) -> bool {
    rpc::metadata(port, false).is_ok_and(|m| {
        if m.cluster_id.as_ref().is_none_or(|found| found.as_str() != cluster_id) {
            return false;
        }
        let mut alive: Vec<i32> = m.brokers.iter().map(|b| *b.node_id).collect();
        alive.sort_unstable();
        alive == expected
    })
}

/// True if the broker on this port knows a leader for every partition of the topic.
fn leads(port: u16, topic: &str, partitions: u32) -> bool {
    rpc::metadata(port, true).is_ok_and(|m| {
        let found = m.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == topic));
        found.is_some_and(|t| {
            t.partitions.len() == partitions as usize && t.partitions.iter().all(|p| *p.leader_id >= 0)
        })
    })
}

/// Ends a JVM in order, or by force after a while.
fn end(mut process: ServerProcess) -> Result<(), LabError> {
    process.signal(Signal::TERM)?;
    if process.wait(STOP_MAX)?.is_none() {
        process.kill()?;
    }
    Ok(())
}

/// The ports of all nodes.
fn node_ports(options: &KafkaOptions) -> Result<Vec<NodePorts>, LabError> {
    let count = options.brokers;
    if count != 1 && count != 3 {
        return Err(LabError::Option { what: format!("a kafka cluster has 1 or 3 brokers, not {count}") });
    }
    let more = options.listeners.len();
    let free = ports::free((2 + more) * count)?;
    let (own, others) = free.split_at(2 * count);
    let brokers = options.ports.clone().unwrap_or_else(|| own[..count].to_vec());
    if brokers.len() != count {
        return Err(LabError::Option { what: format!("{} ports for {count} kafka brokers", brokers.len()) });
    }
    let node = |(i, broker): (usize, u16)| NodePorts {
        broker,
        controller: own[count + i],
        listeners: others[i * more..][..more].to_vec(),
    };
    Ok(brokers.into_iter().enumerate().map(node).collect())
}

/// The folder of the cluster, and the guard that removes it where it is not to be kept.
fn root_folder(
    options: &KafkaOptions,
    account: Option<Account>,
) -> Result<(PathBuf, Option<Temporary>), LabError> {
    if let Some(dir) = &options.data_dir {
        fs::create_dir_all(dir).map_err(LabError::io("make", dir))?;
        return Ok((dir.canonicalize().map_err(LabError::io("find", dir))?, None));
    }
    let temporary = Temporary::new("kafka", account)?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// The cluster's id: kept beside its data, so that a kept folder stays one cluster.
fn cluster_id(root: &Path) -> Result<String, LabError> {
    let file = root.join("cluster.id");
    if file.exists() {
        let text = fs::read_to_string(&file).map_err(LabError::io("read", &file))?;
        return Ok(text.trim().to_owned());
    }
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    // A first digit of '-' would look like an option to the formatter, one time in 64.
    bytes[0] &= 0x7f;
    let id = base64_url(&bytes);
    fs::write(&file, &id).map_err(LabError::io("write", &file))?;
    Ok(id)
}

/// 16 bytes as 22 characters: Kafka's text form of a uuid.
fn base64_url(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let number = u128::from_be_bytes(*bytes);
    // 128 bits are 21 digits of 6 bits and a last one of 2, padded on the right.
    let digit = |i: u32| {
        let bits = if i < 21 { number >> (122 - 6 * i) } else { number << 4 };
        char::from(DIGITS[(bits & 63) as usize])
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_is_base64() {
        assert_eq!(base64_url(&[0; 16]), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(base64_url(&[255; 16]), "_____________________w");
        let ascending: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(base64_url(&ascending), "AAECAwQFBgcICQoLDA0ODw");
    }

    #[test]
    fn a_cluster_has_one_or_three_brokers() {
        assert!(node_ports(&KafkaOptions::brokers(2)).is_err());
        assert_eq!(node_ports(&KafkaOptions::brokers(3)).expect("ports").len(), 3);
    }
}
