//! The encoder against two other implementations: byte for byte what the Java client makes of the same records, and
//! read back, CRC included, by the `kafka-protocol` codec.

use bytes::Bytes;
use kafka_protocol::records::{Record, RecordBatchDecoder, TimestampType};
use pillarbox_wire::partition::{murmur2, partition_for_key};
use pillarbox_wire::record_batch::{
    BATCH_HEADER_LEN, BATCH_LEN_MAX, BatchBuilder, BatchError, Header, ProducerIdentity, record_count, stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;

const KAFKA_CLIENT: &str = include_str!("../data/kafka-client.txt");

/// A record that owns its content.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Owned {
    fn new(timestamp_ms: i64, key: &[u8], value: &[u8]) -> Self {
        Owned { timestamp_ms, key: Some(key.to_vec()), value: Some(value.to_vec()), headers: vec![] }
    }

    fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect()
    }

    /// Appends, and checks that the predicted length was right.
    fn append_to(&self, batch: &mut BatchBuilder) -> Result<(), BatchError> {
        let (key, value, headers) = (self.key.as_deref(), self.value.as_deref(), self.headers());
        let (count, len) = (batch.count(), batch.len());
        let record_len = batch.record_len(self.timestamp_ms, key, value, &headers);
        batch.append(self.timestamp_ms, key, value, &headers)?;
        assert_eq!((batch.count(), batch.len()), (count + 1, len + record_len));
        Ok(())
    }
}

fn build(records: &[Owned], identity: ProducerIdentity, base_sequence: i32) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    for record in records {
        record.append_to(&mut batch).expect("the record fits");
    }
    let mut bytes = batch.take();
    stamp(&mut bytes, identity, base_sequence);
    bytes
}

fn identity(producer_id: i64, producer_epoch: i16) -> ProducerIdentity {
    ProducerIdentity { producer_id, producer_epoch }
}

/// As `KafkaClientSays.pattern`.
fn pattern(len: usize, step: usize, start: usize) -> Vec<u8> {
    (0..len).map(|i| (start + i * step) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The batches of `KafkaClientSays.java`, by name.
fn batches_of_the_java_client() -> Vec<(&'static str, Vec<u8>)> {
    const T: i64 = 1_760_000_000_123;
    let mut nulls = [Owned::new(T, b"", b""), Owned::new(T, b"", b"")];
    (nulls[0].key, nulls[0].value) = (None, None);
    nulls[0].headers.push(("none".to_owned(), None));
    nulls[1].headers.push((String::new(), Some(vec![])));
    let times = [
        Owned::new(T, b"a", b"1"),
        Owned::new(T - 70_000, b"b", b"2"),
        Owned::new(T + 9_000_000_000, b"c", b"3"),
        Owned::new(0, b"d", b"4"),
    ];
    let mut headers = Owned::new(T, b"key", b"value");
    headers.headers = vec![
        ("id".to_owned(), Some(b"0b7b6f0e".to_vec())),
        ("grün".to_owned(), Some(pattern(200, 7, 1))),
        ("id".to_owned(), Some(b"twice".to_vec())),
    ];
    let many: Vec<Owned> = (0..150)
        .map(|i| {
            let value = pattern(if i == 70 { 9_000 } else { i }, 3, i);
            Owned::new(T + i as i64, &pattern(i % 9, 5, i), &value)
        })
        .collect();
    vec![
        ("one", build(&[Owned::new(T, b"k", b"v")], identity(4_711, 3), 0)),
        ("nulls", build(&nulls, identity(0, 0), 17)),
        ("times", build(&times, identity(i64::MAX, i16::MAX), i32::MAX)),
        ("headers", build(&[headers], identity(9, 1), 5)),
        ("many", build(&many, identity(1_000, 2), 40)),
    ]
}

#[test]
fn batches_are_the_java_clients_byte_for_byte() {
    let said: Vec<_> = KAFKA_CLIENT.lines().filter_map(|line| line.strip_prefix("batch ")).collect();
    let ours: Vec<_> =
        batches_of_the_java_client().iter().map(|(name, bytes)| format!("{name} {}", hex(bytes))).collect();
    assert_eq!(ours, said);
}

#[test]
fn partitions_are_the_java_clients() {
    let mut keys = 0;
    for line in KAFKA_CLIENT.lines().filter_map(|line| line.strip_prefix("murmur2 ")) {
        let key = pattern(keys, 37, 11 * keys + 3);
        let (twelve, seven) = (partition_for_key(&key, 12), partition_for_key(&key, 7));
        let key_text = if key.is_empty() { "-".to_owned() } else { hex(&key) };
        assert_eq!(line, format!("{key_text} {} {twelve} {seven}", murmur2(&key).cast_signed()));
        keys += 1;
    }
    assert_eq!(keys, 70);
}

/// Decodes with the other codec, which checks the CRC.
fn read_back(batch: &[u8]) -> Vec<Record> {
    let sets = RecordBatchDecoder::decode_all(&mut Bytes::copy_from_slice(batch)).expect("a valid batch");
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0].version, 2);
    sets.into_iter().flat_map(|set| set.records).collect()
}

fn check_read_back(records: &[Owned], batch: &[u8], identity: ProducerIdentity, base_sequence: i32) {
    assert_eq!(record_count(batch) as usize, records.len());
    let read = read_back(batch);
    assert_eq!(read.len(), records.len());
    for (at, (read, record)) in read.iter().zip(records).enumerate() {
        assert!(read.transactional && !read.control && !read.delete_horizon);
        assert_eq!(read.timestamp_type, TimestampType::Creation);
        assert_eq!(read.partition_leader_epoch, -1);
        assert_eq!((read.producer_id, read.producer_epoch), (identity.producer_id, identity.producer_epoch));
        assert_eq!((read.offset, read.sequence), (at as i64, base_sequence.wrapping_add(at as i32)));
        let headers: Vec<_> = read
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_deref().map(<[u8]>::to_vec)))
            .collect();
        let read = Owned {
            timestamp_ms: read.timestamp,
            key: read.key.as_deref().map(<[u8]>::to_vec),
            value: read.value.as_deref().map(<[u8]>::to_vec),
            headers,
        };
        assert_eq!(&read, record);
    }
}

fn any_record() -> impl Strategy<Value = Owned> {
    let bytes = |max| prop::option::of(vec(any::<u8>(), 0..max));
    // The other codec keeps one header per name.
    let headers = prop::collection::btree_map("[a-zé-]{0,6}", bytes(150), 0..4);
    let timestamp = prop_oneof![0..4_000_000_000_000_i64, Just(0), Just(-1)];
    (timestamp, bytes(20), bytes(300), headers).prop_map(|(timestamp_ms, key, value, headers)| Owned {
        timestamp_ms,
        key,
        value,
        headers: headers.into_iter().collect(),
    })
}

proptest! {
    #[test]
    fn another_codec_reads_back_every_field(
        records in vec(any_record(), 1..80),
        producer_id in 0..i64::MAX,
        producer_epoch in 0..i16::MAX,
        base_sequence in 0..i32::MAX - 100,
    ) {
        let identity = identity(producer_id, producer_epoch);
        let batch = build(&records, identity, base_sequence);
        check_read_back(&records, &batch, identity, base_sequence);
    }

    #[test]
    fn a_flipped_bit_is_seen_by_the_crc(
        records in vec(any_record(), 1..4), at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let mut batch = build(&records, identity(1, 1), 0);
        let crc_from = 17;
        let at = crc_from + at.index(batch.len() - crc_from);
        batch[at] ^= 1 << bit;
        prop_assert!(RecordBatchDecoder::decode_all(&mut Bytes::from(batch)).is_err());
    }
}

#[test]
fn stamping_again_gives_the_batch_of_the_other_producer() {
    let records = [Owned::new(5, b"k", b"v"), Owned::new(6, b"k", b"w")];
    let mut batch = build(&records, identity(1, 0), 100);
    stamp(&mut batch, identity(2, 7), 0);
    assert_eq!(batch, build(&records, identity(2, 7), 0));
    check_read_back(&records, &batch, identity(2, 7), 0);
}

#[test]
fn an_unstamped_batch_has_no_producer_and_no_crc() {
    let mut batch = BatchBuilder::new();
    Owned::new(5, b"k", b"v").append_to(&mut batch).expect("fits");
    let bytes = batch.finish();
    assert_eq!(bytes[17..21], [0; 4], "CRC");
    assert_eq!(bytes[43..57], [0xff; 14], "producer id, epoch and base sequence are -1");
    assert!(RecordBatchDecoder::decode_all(&mut Bytes::copy_from_slice(bytes)).is_err());
}

#[test]
fn a_builder_starts_afresh_after_clear_and_take() {
    let first = [Owned::new(1_000_000, b"k", &[7; 500]), Owned::new(2_000_000, b"", b"")];
    let second = [Owned::new(3, b"a", b"b")];
    let expected = build(&second, identity(1, 1), 0);
    let mut batch = BatchBuilder::new();
    for take in [false, true] {
        assert!(batch.is_empty());
        assert_eq!((batch.count(), batch.len()), (0, BATCH_HEADER_LEN));
        for record in &first {
            record.append_to(&mut batch).expect("fits");
        }
        if take {
            batch.take();
        } else {
            batch.finish();
            batch.clear();
        }
        second[0].append_to(&mut batch).expect("fits");
        let mut bytes = batch.take();
        stamp(&mut bytes, identity(1, 1), 0);
        assert_eq!(bytes, expected);
        batch = BatchBuilder::with_buffer(bytes);
    }
}

#[test]
fn finishing_early_does_not_end_the_batch() {
    let records = [Owned::new(5, b"k", b"v"), Owned::new(900, b"k", b"w")];
    let mut batch = BatchBuilder::new();
    for record in &records {
        record.append_to(&mut batch).expect("fits");
        stamp(batch.finish(), identity(3, 3), 9);
    }
    let mut bytes = batch.take();
    stamp(&mut bytes, identity(1, 1), 0);
    assert_eq!(bytes, build(&records, identity(1, 1), 0));
}

#[test]
fn a_timestamp_out_of_range_leaves_the_batch_as_it_was() {
    let mut batch = BatchBuilder::new();
    batch.append(i64::MAX, None, None, &[]).expect("any first timestamp fits");
    let len = batch.len();
    let error = BatchError::TimestampRange { timestamp_ms: -2, base_timestamp_ms: i64::MAX };
    assert_eq!(batch.append(-2, None, Some(b"v"), &[]), Err(error));
    assert_eq!((batch.count(), batch.len()), (1, len));
    batch.append(-1, None, None, &[]).expect("the smallest delta fits");
}

/// One slice, counted many times, so that the test needs little memory: nothing may be copied.
#[test]
fn a_record_beyond_the_format_leaves_the_batch_as_it_was() {
    let part = vec![0; 64 << 20];
    let headers = [Header { name: "h", value: Some(part.as_slice()) }; 32];
    let mut batch = BatchBuilder::new();
    batch.append(1, Some(b"k"), None, &[]).expect("fits");
    let batch_bytes = batch.len();
    let record_bytes = batch.record_len(1, None, None, &headers);
    assert!(record_bytes > BATCH_LEN_MAX);
    let error = BatchError::TooLarge { record_bytes, batch_bytes };
    assert_eq!(batch.append(1, None, None, &headers), Err(error));

    // One byte more than is left.
    let fill = |value: &[u8]| batch.record_len(1, Some(value), None, &headers[..31]);
    let key = &part[..BATCH_LEN_MAX - batch_bytes + 1 - fill(&part[..32 << 20]) + (32 << 20)];
    assert_eq!(fill(key), BATCH_LEN_MAX - batch_bytes + 1);
    assert!(matches!(batch.append(1, Some(key), None, &headers[..31]), Err(BatchError::TooLarge { .. })));
    assert_eq!((batch.count(), batch.len()), (1, batch_bytes));
}

#[test]
#[should_panic(expected = "an empty batch is never sent")]
fn an_empty_batch_is_a_bug_of_the_caller() {
    BatchBuilder::new().finish();
}

#[test]
#[should_panic(expected = "only a finished batch is stamped")]
fn stamping_something_else_is_a_bug_of_the_caller() {
    stamp(&mut [0; BATCH_HEADER_LEN], identity(1, 1), 0);
}

#[test]
fn debug_shows_no_header_value() {
    let header = Header { name: "id", value: Some(b"4111-1111") };
    let mut batch = BatchBuilder::new();
    batch.append(0, Some(b"4111"), Some(b"4111"), &[header]).expect("fits");
    let text = format!("{header:?} {batch:?}");
    assert!(!text.contains("4111") && !text.contains("52, 49"), "{text}");
    assert_eq!(text, format!("Header(id, Some(9) bytes) BatchBuilder(1 records, {} bytes)", batch.len()));
}
