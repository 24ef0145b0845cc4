//! Start, between judging and fencing: transactions of a predecessor that brokers ended only in part.
//!
//! A broker that dies between deciding a transaction and writing its markers can come back without writing them (see
//! [`pillarbox_kafka::markers`]): the checkpoint, or events that it covers, stay invisible for ever. The coordinator
//! still knows the outcome, until fencing erases it. Hence the place: after judging, because only the pipeline's own
//! relay may touch its partitions; before fencing, because afterwards nobody can tell a commit from an abort.
//!
//! | found | done |
//! | --- | --- |
//! | nothing open, or under way | go on |
//! | a marker is missing, the coordinator knows which | write it, log it, read the checkpoint again and look again |
//! | a transaction is decided, the coordinator still writes its markers | start over and look again: it ends by itself |
//! | a transaction is open, its outcome forgotten | start over: never guess, never fence what could still tell |
//! | the marker may not be written | stop with the ACL to add |
//! | a topic may not be looked at | go on without it, say so |
//! | brokers that cannot be asked (before 3.0) | go on |

use pillarbox_kafka::Cluster;
use pillarbox_kafka::markers::{Ending, Report, restore};

use super::kafka_fault;
use super::read::{End, read};
use crate::config::{Config, TRANSACTION_IDS_OWNED};
use crate::error::{Code, Fault};
use crate::position::checkpoint::Table;

/// Restored markers can make a later checkpoint visible, and with it topics to look at: so often at most.
const ROUNDS_MAX: u32 = 16;

/// Writes what is missing in the checkpoint topic and in all topics that the checkpoint knows.
pub(super) async fn complete(cluster: &Cluster, config: &Config, table: Option<Table>) -> Result<(), Fault> {
    let mut table = table;
    for _ in 0..ROUNDS_MAX {
        let Some(report) = look(cluster, config, table.as_ref()).await? else { return Ok(()) };
        tell(&report);
        known(&report)?;
        ended(&report)?;
        if report.written.is_empty() {
            return Ok(());
        }
        table = read(cluster, config, End::Committed).await?;
    }
    Ok(())
}

/// An outcome is never guessed: the pipeline starts over until somebody has ended the transaction.
fn known(report: &Report) -> Result<(), Fault> {
    let Some(open) = report.unknown.first() else { return Ok(()) };
    let message = format!(
        "a transaction of {} is open in {}/{} from offset {}, its outcome forgotten",
        open.transactional_id, open.topic, open.partition, open.first_offset
    );
    Err(Fault::new(Code::KafkaMarkersLost, message).hint(
        "compare what the partition holds from that offset with the outbox, then end it: kafka-transactions.sh --bootstrap-server HOST:PORT abort, see the page of this code",
    ))
}

/// Whoever goes on before would wait all the same: the id is not given away, the checkpoint not visible.
fn ended(report: &Report) -> Result<(), Fault> {
    let Some(open) = report.ending.first() else { return Ok(()) };
    let id = &open.transactional_id;
    let partitions = report.ending.iter().filter(|other| other.transactional_id == *id).count();
    let message = format!(
        "a transaction of {id} is decided, but brokers have not ended it yet in {partitions} partition(s), {}/{} among them",
        open.topic, open.partition
    );
    Err(Fault::new(Code::KafkaTransactionEnding, message)
        .hint("it ends by itself, do not abort it; where it takes long, see whether the disk of the brokers is busy, and whether that partition has min.insync.replicas"))
}

async fn look(cluster: &Cluster, config: &Config, table: Option<&Table>) -> Result<Option<Report>, Fault> {
    let ids: Vec<String> =
        (0..TRANSACTION_IDS_OWNED).map(|n| format!("{}{n}", config.transactional_id_prefix())).collect();
    let mut topics = vec![(config.checkpoint_topic(), 1)];
    let recorded = table.into_iter().flat_map(|table| &table.topics);
    topics.extend(recorded.map(|(name, record)| (name.clone(), record.partitions)));
    match restore(cluster, &ids, &topics).await {
        Ok(report) => Ok(Some(report)),
        Err(pillarbox_kafka::Error::UnsupportedVersion { .. }) => Ok(None),
        Err(error) if error.is_authorization() => {
            let fault = kafka_fault(&error, "cannot complete a transaction that brokers ended only in part");
            Err(fault.hint(format!(
                "allow it once, then restart: kafka-acls.sh --add --cluster --operation ClusterAction --allow-principal USER (and Describe on transactional ids {}*)",
                config.transactional_id_prefix()
            )))
        }
        Err(error) => {
            Err(kafka_fault(&error, "cannot look for transactions that brokers ended only in part"))
        }
    }
}

fn tell(report: &Report) {
    for (open, ending) in &report.written {
        tracing::warn!(
            code = %Code::KafkaMarkersLost,
            topic = open.topic,
            partition = open.partition,
            first_offset = open.first_offset,
            transactional_id = open.transactional_id,
            ending = match ending { Ending::Commit => "commit", Ending::Abort => "abort" },
            "brokers had lost the end of a transaction, wrote it as its coordinator decided"
        );
    }
    for topic in &report.hidden {
        tracing::info!(topic, "cannot look for lost transaction markers here: Read is not granted");
    }
}

#[cfg(test)]
mod tests {
    use pillarbox_kafka::markers::Open;

    use super::*;
    use crate::error::Class;

    #[test]
    fn an_outcome_that_nobody_remembers_is_waited_for() {
        let open = || Open {
            topic: "orders".to_owned(),
            partition: 3,
            first_offset: 17,
            transactional_id: "pillarbox.orders.1".to_owned(),
        };
        let written = Report { written: vec![(open(), Ending::Commit)], ..Report::default() };
        assert_eq!(known(&written), Ok(()));
        let unknown = Report { unknown: vec![open()], ending: vec![open()], ..written };
        let fault = known(&unknown).expect_err("a fault");
        assert_eq!((fault.code, fault.class()), (Code::KafkaMarkersLost, Class::Retry));
        assert!(fault.message.contains("orders/3 from offset 17"), "{}", fault.message);
    }

    #[test]
    fn a_transaction_that_is_ending_is_waited_for_and_never_called_forgotten() {
        let open = |partition| Open {
            topic: "orders".to_owned(),
            partition,
            first_offset: 17,
            transactional_id: "pillarbox.orders.1".to_owned(),
        };
        let other = Open { transactional_id: "pillarbox.orders.2".to_owned(), ..open(3) };
        let ending = Report { ending: vec![open(3), open(4), other], ..Report::default() };
        assert_eq!(known(&ending), Ok(()));
        let fault = ended(&ending).expect_err("a fault");
        assert_eq!((fault.code, fault.class()), (Code::KafkaTransactionEnding, Class::Retry));
        assert!(fault.message.contains("2 partition(s), orders/3 among them"), "{}", fault.message);
        assert_eq!(ended(&Report::default()), Ok(()));
    }
}
