//! What can go wrong, in one table: every finding and error of Pillarbox has a code, a class and an
//! exit code here, and a page in `docs/errors/`.
//!
//! Stages raise their own typed errors; at the edge each becomes a [`Fault`], which carries the
//! words a person needs (what was attempted on which object, why it failed, how to repair it).
//! Never holds a payload, a key, a header value or a secret.

use std::fmt;

/// What the pipeline does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again with back-off: the world may heal by itself.
    Retry,
    /// Stop and wait for a person: going on could lose an event.
    Halt,
    /// This event can never be published as it is; the pipeline halts at its position.
    Reject,
    /// The configuration or the command line is wrong.
    Config,
    /// The server refuses for lack of a privilege or a wrong credential.
    Permission,
    /// A bug in Pillarbox.
    Bug,
}

/// How the process ends (sysexits where one fits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Ok = 0,
    /// The answer is no: a check found errors, an unhealthy status.
    Negative = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The pipeline halted and a person must act.
    Halted = 65,
    /// A server cannot be reached.
    Unavailable = 69,
    /// A bug.
    Bug = 70,
    /// Try again later.
    TryAgain = 75,
    /// A privilege or credential is missing.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

macro_rules! codes {
    ($($name:ident = $number:literal, $class:ident, $exit:ident, $title:literal;)*) => {
        /// The stable code of an error or finding, printed as `PB-nnnn`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $title] $name = $number,)*
        }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// What the pipeline does about it.
            pub fn class(self) -> Class {
                match self { $(Code::$name => Class::$class,)* }
            }

            /// How a command that ends with it exits.
            pub fn exit(self) -> ExitCode {
                match self { $(Code::$name => ExitCode::$exit,)* }
            }

            /// One line that names the situation.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    ConfigUnreadable = 1, Config, Config, "the configuration file cannot be read";
    ConfigSyntax = 2, Config, Config, "the configuration file is not valid";
    ConfigValue = 3, Config, Config, "a configuration value is not legal";
    ConfigSecret = 4, Config, Config, "a reference to a secret cannot be resolved";
    ConfigUnsupported = 5, Config, Config, "an option is not supported by this version";

    PgUnreachable = 1001, Retry, Unavailable, "Postgres cannot be reached";
    PgAuthentication = 1002, Permission, Permission, "Postgres rejects the user or password";
    PgNoDatabase = 1003, Config, Config, "the database does not exist";
    PgNoEntry = 1004, Permission, Permission, "pg_hba.conf has no entry for this connection";
    PgTlsRequired = 1005, Permission, Permission, "Postgres demands TLS";
    PgWalLevel = 1006, Config, Config, "wal_level is not logical";
    PgVersion = 1007, Config, Config, "this Postgres version is not supported";
    PgNoReplicationRole = 1008, Permission, Permission, "the role may not replicate";
    PgPrivilege = 1009, Permission, Permission, "the role lacks a privilege";
    PublicationMissing = 1010, Halt, Halted, "the publication does not exist";
    PublicationLacksTable = 1011, Halt, Halted, "the publication does not publish the outbox table's inserts";
    PublicationSkipped = 1012, Halt, Halted, "Postgres skipped the publication while decoding";
    SlotMissing = 1013, Halt, Halted, "the replication slot does not exist";
    SlotLost = 1014, Halt, Halted, "the replication slot has lost WAL that was not relayed";
    SlotUnfit = 1015, Halt, Halted, "the replication slot cannot serve this pipeline";
    SlotActive = 1016, Retry, TryAgain, "another client streams from the replication slot";
    TableMissing = 1017, Config, Config, "the outbox table does not exist";
    ColumnMissing = 1018, Halt, Halted, "an outbox column does not exist";
    PgLimit = 1019, Retry, TryAgain, "Postgres has no free slot, walsender or connection";
    PgProtocol = 1020, Retry, Unavailable, "Postgres broke off or spoke unexpectedly";
    NotSetUp = 1021, Config, Config, "the database is not set up for this pipeline";
    PgSetting = 1022, Config, Config, "a Postgres setting is risky";
    PgStandby = 1023, Retry, TryAgain, "the server is in recovery";
    PgTlsNotOffered = 1031, Permission, Permission, "Postgres does not offer TLS";
    PgCertificateUntrusted = 1032, Permission, Permission, "the certificate of Postgres is not trusted";
    PgCertificateName = 1033, Permission, Permission, "the certificate of Postgres is for another host";
    PgCertificateExpired = 1034, Permission, Permission, "the certificate of Postgres is out of date";
    PgClientCertificate = 1035, Permission, Permission, "Postgres does not accept the relay's certificate";
    PgTlsFailed = 1036, Retry, Unavailable, "the TLS handshake with Postgres failed";
    HousekeepingUnfit = 1040, Config, Config, "the outbox table cannot be kept small as configured";

    KafkaUnreachable = 2001, Retry, Unavailable, "Kafka cannot be reached";
    KafkaTlsOrSasl = 2002, Retry, Permission, "Kafka demands TLS or SASL";
    KafkaTransactionVersion = 2003, Retry, Ok, "Kafka does not offer transaction.version 2";
    KafkaAuthorization = 2004, Permission, Permission, "Kafka denies an operation";
    TopicMissing = 2005, Halt, Halted, "the topic does not exist and may not be created";
    TopicGone = 2006, Halt, Halted, "a topic that holds events of this pipeline is gone";
    TopicReplaced = 2007, Halt, Halted, "a topic that holds events of this pipeline was re-created";
    CheckpointTopicMissing = 2008, Halt, Halted, "the checkpoint topic does not exist";
    CheckpointMissing = 2009, Halt, Halted, "the checkpoint topic holds no checkpoint";
    CheckpointUnreadable = 2010, Halt, Halted, "the checkpoint cannot be understood";
    CheckpointTopicUnfit = 2011, Halt, Halted, "the checkpoint topic has the wrong shape";
    TopicCreate = 2012, Halt, Halted, "the topic cannot be created";
    TopicGrew = 2013, Retry, Ok, "a topic has more partitions than are pinned";
    TopicShrank = 2014, Halt, Halted, "a topic has fewer partitions than are pinned";
    KafkaFenced = 2015, Retry, TryAgain, "another relay fenced this one, or a Kafka transaction timed out";
    KafkaProduce = 2016, Retry, TryAgain, "Kafka did not take the events";
    KafkaDurability = 2017, Config, Config, "a topic can lose acknowledged events";
    KafkaProtocol = 2018, Retry, Unavailable, "Kafka broke off or spoke unexpectedly";
    KafkaRejected = 2019, Halt, Halted, "a topic refuses an event as it is";
    KafkaMarkersLost = 2020, Retry, TryAgain, "brokers ended a transaction only in part";
    TopicUnknown = 2021, Config, Negative, "no event of the pipeline went to the topic";
    KafkaTransactionEnding = 2022, Retry, TryAgain, "brokers are still ending a transaction";
    KafkaTlsNotOffered = 2031, Retry, Permission, "the broker's port does not speak TLS";
    KafkaCertificateUntrusted = 2032, Permission, Permission, "the certificate of a broker is not trusted";
    KafkaCertificateName = 2033, Permission, Permission, "the certificate of a broker is for another host";
    KafkaCertificateExpired = 2034, Permission, Permission, "the certificate of a broker is out of date";
    KafkaClientCertificate = 2035, Permission, Permission, "Kafka does not accept the relay's certificate";
    KafkaTlsFailed = 2036, Retry, Unavailable, "the TLS handshake with Kafka failed";
    KafkaAuthentication = 2037, Permission, Permission, "Kafka rejects the user or password";
    KafkaSaslMechanism = 2038, Permission, Permission, "Kafka does not take this way to log in";
    KafkaToken = 2039, Retry, Permission, "the identity provider gives no token";
    KafkaSetting = 2040, Config, Config, "a topic setting costs the broker work";

    SystemIdDiffers = 3001, Halt, Halted, "the checkpoint belongs to another database cluster";
    TimelineDiverged = 3002, Halt, Halted, "published events do not exist in this database's history";
    SlotAhead = 3003, Halt, Halted, "the slot was confirmed beyond the checkpoint";
    ServerBehind = 3004, Halt, Halted, "the database is older than the checkpoint";
    LineageDiffers = 3005, Halt, Halted, "the database is a clone or a restored copy";
    GenerationChanged = 3006, Halt, Halted, "routing changed inside a split transaction";
    DrainDeadline = 3007, Retry, TryAgain, "the drain did not finish in time";
    CommitStalled = 3008, Retry, TryAgain, "nothing could be committed to Kafka for too long";
    PipelineBusy = 3009, Retry, TryAgain, "the pipeline is in use";
    RelayUnreachable = 3010, Retry, Unavailable, "no running relay answers";
    TokenForeign = 3011, Config, Negative, "a token is of another database, or of the lost end of a history";
    EventUnknown = 3012, Config, Negative, "the event is not among the last ones that reached Kafka";
    BadQuestion = 3013, Config, Usage, "a question about events cannot be understood";
    NothingToAccept = 3014, Config, Negative, "the database continues the history that was published";

    IllegalTopic = 4001, Reject, Halted, "a row routes to a topic name that Kafka does not allow";
    EventTooLarge = 4002, Reject, Halted, "an event is larger than its topic allows";
    MissingValue = 4003, Reject, Halted, "a required column of a row is NULL";
    KeylessCompacted = 4004, Reject, Halted, "an event without a key goes to a compacted topic";
    BadValue = 4005, Reject, Halted, "a column value cannot be relayed";
    TopicForbidden = 4011, Reject, Halted, "a row routes to a topic that it may not choose";
    OutboxUpdated = 4012, Reject, Halted, "a row of an outbox table was updated";
    BadMessage = 4021, Reject, Halted, "a message cannot become an event";
    StrayMessage = 4022, Retry, Ok, "a message outside of a transaction was not relayed";
    DeadLettered = 4030, Retry, Ok, "a row went to dead letters";
    DeadLetterUnknown = 4031, Config, Negative, "there is no such open dead letter";
    DeadLetterTopicUnfit = 4032, Config, Config, "the topic of dead letters has the wrong shape";

    PrivateServer = 5001, Retry, Unavailable, "a private server did not start";
    SystemLimit = 5002, Retry, TryAgain, "the system gives no more files or threads";

    Internal = 7001, Bug, Bug, "an internal invariant does not hold";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PB-{:04}", *self as u16)
    }
}

impl Code {
    /// The code with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as u16 == number)
    }
}

/// An error as a person meets it: code, message (object named, lower case, no full stop), the
/// cause in the words of whoever raised it, and the hint that repairs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What was attempted, on which object.
    pub message: String,
    /// Why it failed, in the server's or library's words.
    pub cause: Option<String>,
    /// The command or setting that repairs it.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault with neither cause nor hint yet.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None, hint: None }
    }

    /// What the system refuses, and where its limits are.
    pub fn system_limit(attempt: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::new(Code::SystemLimit, attempt).because(cause).hint(
            "raise the limits of the process: `ulimit -n` and `ulimit -u`, LimitNOFILE and TasksMax of a unit, pids of a container",
        )
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds the fix.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the pipeline does about it.
    pub fn class(&self) -> Class {
        self.code.class()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_unique() {
        assert!(Code::ALL.windows(2).all(|pair| (pair[0] as u16) < pair[1] as u16));
    }

    #[test]
    fn code_prints_with_four_digits() {
        assert_eq!(Code::ConfigValue.to_string(), "PB-0003");
        assert_eq!(Code::SlotAhead.to_string(), "PB-3003");
    }

    #[test]
    fn halting_codes_exit_65() {
        for code in Code::ALL {
            if matches!(code.class(), Class::Halt | Class::Reject) {
                assert_eq!(code.exit(), ExitCode::Halted, "{code}");
            }
        }
    }
}
