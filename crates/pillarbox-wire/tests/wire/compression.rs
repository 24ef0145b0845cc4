//! Compressed batches against another implementation: read back, CRC included, by the `kafka-protocol` codec, which has
//! its own LZ4 (the C library), snappy framing and gzip.

use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use pillarbox_wire::record_batch::{
    BATCH_HEADER_LEN, BatchBuilder, Compression, Compressor, ProducerIdentity, compression_of, record_count,
    stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn plain(values: &[Vec<u8>]) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    for value in values {
        batch.append(1_760_000_000_123, Some(b"key"), Some(value), &[]).expect("it fits");
    }
    batch.take()
}

/// What is sent: compressed where that is smaller.
fn sent(compressor: &mut Compressor, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![7; 3];
    if compressor.compress(plain, &mut out) { out } else { plain.to_vec() }
}

fn read_back(batch: &[u8]) -> Vec<Vec<u8>> {
    let mut batch = batch.to_vec();
    stamp(&mut batch, ProducerIdentity { producer_id: 4711, producer_epoch: 3 }, 5);
    let sets = RecordBatchDecoder::decode_all(&mut Bytes::from(batch)).expect("a valid batch");
    let records = sets.into_iter().flat_map(|set| set.records);
    records
        .map(|record| {
            assert!(record.transactional && record.producer_id == 4711);
            assert_eq!(record.timestamp, 1_760_000_000_123);
            record.value.expect("a value").to_vec()
        })
        .collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

#[test]
fn every_codec_shrinks_what_repeats_and_is_read_back() {
    // Beyond one block of snappy and of LZ4, and beyond one buffer of gzip.
    let values: Vec<Vec<u8>> = (0..3_000)
        .map(|n| format!("{{\"order\": {n}, \"state\": \"paid\", \"total\": {}}}", n * 31 % 977).into_bytes())
        .collect();
    let plain = plain(&values);
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        let mut compressor = Compressor::new(codec);
        // Twice: the working memory is used again.
        for _ in 0..2 {
            let sent = sent(&mut compressor, &plain);
            assert!(sent.len() < plain.len() / 2, "{codec}: {} of {}", sent.len(), plain.len());
            assert_eq!(compression_of(&sent), codec);
            assert_eq!(record_count(&sent), 3_000);
            assert_eq!(read_back(&sent), values, "{codec}");
        }
        println!("{codec}: {} of {} bytes", sent(&mut compressor, &plain).len(), plain.len());
    }
}

#[test]
fn what_does_not_get_smaller_is_left_as_it_is() {
    for codec in Compression::ALL {
        let mut compressor = Compressor::new(codec);
        for plain in [plain(&[noise(200_000)]), plain(&[b"v".to_vec()])] {
            assert!(!compressor.compress(&plain, &mut Vec::new()), "{codec}");
            assert_eq!(compression_of(&plain), Compression::None);
        }
        // A codec that gave up works on.
        let zeros = vec![vec![0; 100_000]];
        let sent = sent(&mut compressor, &self::plain(&zeros));
        assert_eq!((compression_of(&sent), read_back(&sent)), (codec, zeros));
    }
}

#[test]
fn names_are_kafkas() {
    for (name, number) in [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)] {
        let codec: Compression = name.parse().expect("a codec");
        assert_eq!((codec as u8, codec.to_string().as_str()), (number, name));
    }
    assert!("LZ4".parse::<Compression>().is_err());
}

proptest! {
    #[test]
    fn whatever_is_sent_is_within_the_plain_batch(
        values in vec(vec(0..4_u8, 0..400), 1..40), codec in 0..5_usize,
    ) {
        let plain = plain(&values);
        let codec = Compression::ALL[codec];
        let sent = sent(&mut Compressor::new(codec), &plain);
        prop_assert!(sent.len() <= plain.len() && sent.len() > BATCH_HEADER_LEN);
        prop_assert_eq!(read_back(&sent), values);
    }
}
