//! Reads back what a codec made of the records of a batch, ours or another producer's.
//!
//! Must never give or hold more than the limit it is told: a kilobyte can stand for gigabytes. Every announced length is
//! held against it first. Arbitrary input gives nothing, never a panic.

use std::io::{self, Read};

use super::compression::{Compression, SNAPPY_HEADER};

impl Compression {
    /// The records of a batch, at most `bytes_max` of them; none where they are more, or damaged.
    #[must_use]
    pub fn decompress(self, records: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
        match self {
            Self::None => (records.len() <= bytes_max).then(|| records.to_vec()),
            Self::Gzip => bounded(flate2::read::MultiGzDecoder::new(records), bytes_max),
            Self::Snappy => snappy(records, bytes_max),
            Self::Lz4 => bounded(lz4_flex::frame::FrameDecoder::new(records), bytes_max),
            Self::Zstd => bounded(zstd::stream::read::Decoder::new(records).ok()?, bytes_max),
        }
    }
}

/// Everything that comes, if it is no more than the limit.
fn bounded(reader: impl Read, bytes_max: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let beyond = u64::try_from(bytes_max).ok()?.checked_add(1)?;
    let read: io::Result<usize> = reader.take(beyond).read_to_end(&mut plain);
    (read.ok()? <= bytes_max).then_some(plain)
}

/// The frames of `snappy-java`, or one bare block, as other clients write.
fn snappy(records: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    // The magic number alone: versions differ between writers, blocks do not.
    if !records.starts_with(&SNAPPY_HEADER[..8]) {
        let mut plain = Vec::new();
        snappy_block(records, bytes_max, &mut plain)?;
        return Some(plain);
    }
    let mut rest = records.get(SNAPPY_HEADER.len()..)?;
    let mut plain = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (block, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        snappy_block(block, bytes_max, &mut plain)?;
        rest = tail;
    }
    Some(plain)
}

/// Appends the block.
fn snappy_block(block: &[u8], bytes_max: usize, plain: &mut Vec<u8>) -> Option<()> {
    let length = snap::raw::decompress_len(block).ok()?;
    let start = plain.len();
    if length > bytes_max.checked_sub(start)? {
        return None;
    }
    plain.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut plain[start..]).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record_batch::{BATCH_HEADER_LEN, BatchBuilder, Compressor};

    /// The records of a batch with one value, plain and compressed.
    fn records(codec: Compression, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut batch = BatchBuilder::new();
        batch.append(0, None, Some(value), &[]).expect("it fits");
        let plain = batch.take();
        let mut compressed = Vec::new();
        assert!(Compressor::new(codec).compress(&plain, &mut compressed), "{codec} does not shrink it");
        (plain[BATCH_HEADER_LEN..].to_vec(), compressed[BATCH_HEADER_LEN..].to_vec())
    }

    #[test]
    fn what_was_compressed_comes_back_and_a_bomb_does_not() {
        let value = vec![b'x'; 4 << 20];
        for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
            let (plain, compressed) = records(codec, &value);
            assert!(compressed.len() < plain.len() / 15, "{codec}");
            let read = |bytes: &[u8], bytes_max| codec.decompress(bytes, bytes_max);
            assert!(read(&compressed, plain.len()).as_ref() == Some(&plain), "{codec}");
            assert!(read(&compressed, plain.len() - 1).is_none(), "{codec}");
            // A frame of LZ4 may end behind any block.
            let cut = read(&compressed[..compressed.len() / 2], plain.len());
            assert!(cut.is_none_or(|cut| cut.len() < plain.len()), "{codec}");
        }
    }

    #[test]
    fn a_length_that_is_only_announced_takes_no_memory() {
        // A bare block that claims four gigabytes.
        let block = b"\xff\xff\xff\xff\x0f\x00";
        assert_eq!(Compression::Snappy.decompress(block, 1 << 30), None);
        let framed = [&SNAPPY_HEADER[..], &6_u32.to_be_bytes(), block].concat();
        assert_eq!(Compression::Snappy.decompress(&framed, 1 << 30), None);
    }

    #[test]
    fn a_bare_block_of_snappy_is_read() {
        let block = snap::raw::Encoder::new().compress_vec(b"some bytes").expect("compressed");
        assert_eq!(Compression::Snappy.decompress(&block, 10).as_deref(), Some(&b"some bytes"[..]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_nothing_or_within_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for codec in Compression::ALL {
                let plain = codec.decompress(&bytes, 1_000);
                prop_assert!(plain.is_none_or(|plain| plain.len() <= 1_000));
            }
        }
    }
}
