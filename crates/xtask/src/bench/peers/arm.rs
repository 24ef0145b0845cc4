//! Who is compared, and what each promises.

use clap::ValueEnum;
use serde::Serialize;

/// One program with one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Arm {
    /// The limit: `pg_recvlogical` to a null file; drains only
    PgRecvlogical,
    /// Exactly once
    Pillarbox,
    /// The same again: what differs between the two is noise
    PillarboxAgain,
    /// Kafka Connect, standalone, defaults: at least once
    DebeziumDefault,
    /// Kafka Connect, standalone, tuned: at least once
    DebeziumTuned,
    /// Kafka Connect, distributed, tuned: exactly once
    DebeziumExactlyOnce,
    /// mq-bridge: at least once
    MqBridge,
    /// faucet with a transactional producer: exactly once
    FaucetExactlyOnce,
}

impl Arm {
    /// The name in tables, pictures and on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn is_pillarbox(self) -> bool {
        matches!(self, Arm::Pillarbox | Arm::PillarboxAgain)
    }

    /// True where a duplicate is a fault, not a property.
    pub(super) fn is_exactly_once(self) -> bool {
        self.is_pillarbox() || matches!(self, Arm::DebeziumExactlyOnce | Arm::FaucetExactlyOnce)
    }
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
