//! Which partition an event belongs to: bit for bit what the Java client chooses for the same key.
//!
//! Must never change: same key, same partition, for as long as a topic's pinned partition count stands.

use crate::lsn::Lsn;
use crate::position::PartitionId;

/// The partition of an event with a key, as Java's `BuiltInPartitioner.partitionForKey`.
///
/// # Panics
/// When `partitions` is 0: a pinned count is at least 1.
#[must_use]
#[inline]
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionId {
    assert!(partitions > 0, "a topic has at least one partition");
    PartitionId((murmur2(key) & 0x7fff_ffff) % partitions)
}

/// The partition of an event without a key: all keyless events of a source transaction stay together.
///
/// The LSN is hashed because LSNs are multiples of 8: a plain remainder would leave most partitions empty.
///
/// # Panics
/// When `partitions` is 0.
#[must_use]
pub fn partition_for_lsn(commit_lsn: Lsn, partitions: u32) -> PartitionId {
    partition_for_key(&commit_lsn.0.to_be_bytes(), partitions)
}

/// Kafka's 32-bit murmur2 (`org.apache.kafka.common.utils.Utils.murmur2`); cast to `i32` for Java's value.
#[must_use]
#[inline]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Java's lengths are 32-bit; keys beyond that do not exist.
    let mut h = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * at);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// From `UtilsTest.testMurmur2` of the Java client.
    const JAVA_VECTORS: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];

    #[test]
    fn murmur2_is_javas() {
        for (key, hash) in JAVA_VECTORS {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn partition_masks_the_sign_before_the_remainder() {
        for (key, hash) in JAVA_VECTORS {
            let partition = partition_for_key(key.as_bytes(), 12);
            assert_eq!(partition.0.cast_signed(), (hash & i32::MAX) % 12, "{key}");
        }
        assert_eq!(partition_for_key(b"anything", 1), PartitionId(0));
    }

    #[test]
    fn aligned_lsns_reach_every_partition() {
        let reached: BTreeSet<_> = (0..1_000).map(|n| partition_for_lsn(Lsn(n * 8), 8)).collect();
        assert_eq!(reached.len(), 8);
    }

    #[test]
    fn lsn_is_hashed_big_endian() {
        let key = [0, 0, 0, 0x16, 0xB3, 0x74, 0xD8, 0x48];
        assert_eq!(partition_for_lsn(Lsn(0x16_B374_D848), 1_000_000), partition_for_key(&key, 1_000_000));
    }

    #[test]
    #[should_panic(expected = "at least one partition")]
    fn no_partitions_is_a_bug_of_the_caller() {
        let _ = partition_for_key(b"k", 0);
    }
}
