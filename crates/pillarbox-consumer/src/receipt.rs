//! Where events went, as the relay says it to whoever wrote them, and as a consumer compares it with what it applied.
//!
//! Pure. Must never take a receipt for one of another pipeline.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use pillarbox_wire::Sequence;
use pillarbox_wire::topic::{PipelineName, validate_topic_name};

/// Most digits of a partition and of a sequence: what `integer` and `bigint` hold for certain.
const PARTITION_DIGITS_MAX: usize = 9;
const SEQUENCE_DIGITS_MAX: usize = 18;

/// For each partition the last event that must be applied: `<pipeline>:<topic>/<partition>=<sequence>,...`
///
/// `GET /api/v1/events` of the relay gives it, for a token of `pillarbox.token()` or for the ids of events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    source: String,
    targets: Vec<Target>,
}

/// The last event of one partition that must be applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The sequence in its `pb-pos`.
    pub sequence: Sequence,
}

impl Receipt {
    /// The pipeline.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What must be applied; nothing where nothing was ever written.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Whether a consumer that has applied this sequence last in each partition (`None`: nothing yet) has applied all of
    /// it. Parked events count as not applied: that is for the caller to look at.
    #[must_use]
    pub fn is_reached_by(&self, mut applied: impl FnMut(&Target) -> Option<Sequence>) -> bool {
        self.targets.iter().all(|target| applied(target).is_some_and(|sequence| sequence >= target.sequence))
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.source)?;
        for (number, Target { topic, partition, sequence }) in self.targets.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{topic}/{partition}={sequence}")?;
        }
        Ok(())
    }
}

/// Why a text is no receipt. It is not repeated: it can be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptError {
    /// It is a token of the source: the relay turns it into a receipt.
    Token,
    /// It is neither.
    Malformed,
}

impl fmt::Display for ReceiptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "this is a token of the source, not a receipt",
            Self::Malformed => "not a receipt, expected <pipeline>:<topic>/<partition>=<sequence>,...",
        })?;
        f.write_str("; hint: the relay gives the receipt, GET /api/v1/events?token=..&wait=5")
    }
}

impl Error for ReceiptError {}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let (source, rest) = text.split_once(':').ok_or(ReceiptError::Malformed)?;
        if !source.is_empty() && source.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ReceiptError::Token);
        }
        PipelineName::validate(source).map_err(|_| ReceiptError::Malformed)?;
        let targets = match rest {
            "" => Ok(Vec::new()),
            rest => rest.split(',').map(|text| target(text).ok_or(ReceiptError::Malformed)).collect(),
        };
        Ok(Self { source: source.to_owned(), targets: targets? })
    }
}

fn target(text: &str) -> Option<Target> {
    let (topic, place) = text.split_once('/')?;
    let (partition, sequence) = place.split_once('=')?;
    validate_topic_name(topic).ok()?;
    let partition = digits(partition, PARTITION_DIGITS_MAX)?.try_into().ok()?;
    let sequence = Sequence(digits(sequence, SEQUENCE_DIGITS_MAX)?);
    Some(Target { topic: topic.to_owned(), partition, sequence })
}

/// A number without a sign.
fn digits(text: &str, most: usize) -> Option<u64> {
    let plain = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written() {
        for text in ["orders:", "orders:a/0=1", "o_1:outbox.event.order/11=48213,x-Y_z/0=999999999999999999"]
        {
            assert_eq!(text.parse::<Receipt>().expect(text).to_string(), text);
        }
        let receipt: Receipt = "orders:a/2=7,b/0=1".parse().expect("a receipt");
        assert_eq!((receipt.source(), receipt.targets().len()), ("orders", 2));
        assert_eq!(receipt.targets()[0], Target { topic: "a".into(), partition: 2, sequence: Sequence(7) });
    }

    #[test]
    fn what_is_no_receipt() {
        use ReceiptError::{Malformed, Token};
        for (text, error) in [
            ("", Malformed),
            ("orders", Malformed),
            (":a/0=1", Malformed),
            ("Orders:a/0=1", Malformed),
            ("1orders:a/0=1", Malformed),
            ("orders:a/0=1,", Malformed),
            ("orders:a/0", Malformed),
            ("orders:/0=1", Malformed),
            ("orders:a b/0=1", Malformed),
            ("orders:a/-1=1", Malformed),
            ("orders:a/+1=1", Malformed),
            ("orders:a/0=", Malformed),
            ("orders:a/1000000000=1", Malformed),
            ("orders:a/0=1000000000000000000", Malformed),
            ("orders:a/0=1\n", Malformed),
            ("7234567890123456789:1:16/B374D900", Token),
        ] {
            assert_eq!(text.parse::<Receipt>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn every_partition_must_be_there() {
        let receipt: Receipt = "orders:a/0=7,a/1=2".parse().expect("a receipt");
        for (applied, expected) in [
            ([Some(7), Some(2)], true),
            ([Some(8), Some(3)], true),
            ([Some(6), Some(9)], false),
            ([Some(7), None], false),
        ] {
            let at = |target: &Target| applied[usize::try_from(target.partition).ok()?].map(Sequence);
            assert_eq!(receipt.is_reached_by(at), expected, "{applied:?}");
        }
        assert!("orders:".parse::<Receipt>().expect("a receipt").is_reached_by(|_| None));
    }
}
