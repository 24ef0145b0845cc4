//! What Kafka cluster to start. Must never show the value of a setting in its debug form.

use std::path::PathBuf;

use super::listener::{Listener, User};

/// What the JVM is tuned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Starts fast and stays small: serial collector, first compiler only. For tests and `dev`.
    #[default]
    Quick,
    /// As a production broker runs: G1, both compilers. For benches.
    Throughput,
}

/// What cluster to start. `KafkaOptions::default()` is one throw-away broker of Kafka 4.3.1.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Kafka's version, e.g. `4.3.1`.
    pub version: String,
    /// Combined nodes: 1 or 3.
    pub brokers: usize,
    /// Heap of each JVM in MiB.
    pub heap_mb: u32,
    /// Broker settings beyond the lab's own; the last one wins.
    pub settings: Vec<(String, String)>,
    /// Kept data folder, made where missing; without it a temporary one that goes with the cluster.
    pub data_dir: Option<PathBuf>,
    /// Client ports, one a broker; free ones where not given.
    pub ports: Option<Vec<u16>>,
    /// What the JVM is tuned for.
    pub profile: Profile,
    /// Listeners beside the lab's own, on each broker.
    pub listeners: Vec<Listener>,
    /// Who may log in by SCRAM.
    pub scram: Vec<User>,
}

impl std::fmt::Debug for KafkaOptions {
    /// Without the values of settings, which may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|(key, _)| key).collect();
        let Self { version, brokers, data_dir, .. } = self;
        write!(
            f,
            "KafkaOptions {{ {version}, brokers: {brokers}, data_dir: {data_dir:?}, settings: {names:?} }}"
        )
    }
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            version: "4.3.1".to_owned(),
            brokers: 1,
            heap_mb: 512,
            settings: Vec::new(),
            data_dir: None,
            ports: None,
            profile: Profile::Quick,
            listeners: Vec::new(),
            scram: Vec::new(),
        }
    }
}

impl KafkaOptions {
    /// A throw-away cluster of so many brokers.
    pub fn brokers(brokers: usize) -> Self {
        Self { brokers, ..Self::default() }
    }

    /// Adds a broker setting.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Denies what no ACL allows, except to those who come by the lab's own listener.
    #[must_use]
    pub fn with_authorizer(self) -> Self {
        self.setting("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .setting("super.users", "User:ANONYMOUS")
    }
}
