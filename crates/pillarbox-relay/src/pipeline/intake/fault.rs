//! Rows and streams that cannot be published, in words: where the row is, never what is in it.

use crate::batch::BatchError;
use crate::config::Messages;
use crate::decode::{DecodeError, Description, Note, Transaction};
use crate::error::{Code, Fault};
use crate::outbox::{MessageError, OutboxError};
use crate::route::RouteError;

fn place(relation: &Description, transaction: Transaction, index: u32) -> String {
    let at = format!("row {index} of the transaction at {}", transaction.commit_lsn);
    match relation.schema.as_str() {
        Messages::SCHEMA => format!("{at}, a message with prefix {},", relation.name),
        schema => format!("{at} in table {schema}.{}", relation.name),
    }
}

pub(super) fn message_fault(error: &MessageError, note: &Note<'_>) -> Fault {
    let Note { transaction, index, prefix, .. } = note;
    let at = format!("row {index} of the transaction at {}", transaction.commit_lsn);
    Fault::new(Code::BadMessage, format!("{at}, a message with prefix {prefix}, cannot become an event"))
        .because(error)
        .hint(
            "correct the writer, or name in messages.plain where its messages have their parts; \
             move past the message only on purpose",
        )
}

pub(super) fn decode_fault(error: DecodeError) -> Fault {
    Fault::new(Code::PgProtocol, "the replication stream cannot be understood").because(error)
}

pub(super) fn outbox_fault(error: &OutboxError, transaction: Transaction, index: u32) -> Fault {
    let code = match error {
        OutboxError::ColumnMissing { .. } => Code::ColumnMissing,
        OutboxError::Null { .. } => Code::MissingValue,
        OutboxError::Unreadable { .. } => Code::BadValue,
        OutboxError::OtherShard { .. } => Code::PublicationLacksTable,
    };
    let at = format!("row {index} of the transaction at {}", transaction.commit_lsn);
    Fault::new(code, format!("{at} cannot become an event")).because(error).hint(match code {
        Code::ColumnMissing => "correct outbox.columns, or add the column to the publication's column list",
        Code::PublicationLacksTable => {
            "if the publication had lost its filter for a while, set outbox.on_other_shard to skip; if the shards were changed, start with the former one until everything is relayed"
        }
        _ => "the pipeline waits at this row; correct the writer, and move past the row only on purpose",
    })
}

pub(super) fn update_fault(relation: &Description, transaction: Transaction, index: u32) -> Fault {
    let message = format!("{} was updated", place(relation, transaction, index));
    Fault::new(Code::OutboxUpdated, message)
        .hint("insert a new row instead, or set outbox.on_update to warn: an update gives no event")
}

pub(super) fn route_fault(
    error: &RouteError,
    relation: &Description,
    transaction: Transaction,
    index: u32,
) -> Fault {
    let (code, hint) = match error {
        RouteError::KeylessCompacted(_) => {
            (Code::KeylessCompacted, "give the rows a key, or set the topic's cleanup.policy to delete")
        }
        RouteError::NoSuchPartition { .. } => {
            (Code::BadValue, "correct the writer, or leave the partition to the key by NULL")
        }
        RouteError::Forbidden(_) => {
            (Code::TopicForbidden, "correct the writer, or list the topic in outbox.topics_allowed")
        }
        RouteError::NullColumn(_) => (Code::MissingValue, "add NOT NULL to the column that names the topic"),
        _ => (Code::IllegalTopic, "topic names have 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"),
    };
    let message = format!("{} cannot be routed", place(relation, transaction, index));
    Fault::new(code, message).because(error).hint(hint)
}

pub(super) fn too_large_fault(
    topic: &str,
    found: usize,
    allowed: usize,
    relation: &Description,
    transaction: Transaction,
    index: u32,
) -> Fault {
    let message = format!(
        "{} makes a batch of {found} bytes, topic {topic} takes {allowed}",
        place(relation, transaction, index)
    );
    Fault::new(Code::EventTooLarge, message)
        .hint(format!("kafka-configs.sh --alter --topic {topic} --add-config max.message.bytes={found}"))
}

pub(super) fn append_fault(
    error: &BatchError,
    relation: &Description,
    transaction: Transaction,
    index: u32,
) -> Fault {
    Fault::new(Code::BadValue, format!("{} cannot be encoded", place(relation, transaction, index)))
        .because(error)
}
