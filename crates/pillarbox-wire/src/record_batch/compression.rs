//! Compresses the records of a finished batch: the header stays readable, what follows it becomes one compressed piece.
//!
//! ```text
//! header (61 bytes) | record record record ...   -->   header, codec in its attributes | compressed
//! ```
//! Only ever makes a batch smaller: a batch that its codec does not shrink is left as it is, which every consumer of a
//! compressed topic reads as well. So a limit that the plain batch keeps is kept by whatever is sent.
//!
//! Formats: gzip as RFC 1952; snappy in the frames of `snappy-java` (a magic number, then blocks with their length);
//! LZ4 frames of independent blocks, the only ones that the Java client reads; Zstandard frames.

use std::fmt;
use std::io::{Cursor, Write};
use std::str::FromStr;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::{
    ATTRIBUTES, ATTRIBUTES_TRANSACTIONAL, BATCH_HEADER_LEN, BATCH_LENGTH, BATCH_LENGTH_STARTS_AT, put,
};

/// Magic number, version 1, readable by version 1.
pub(super) const SNAPPY_HEADER: &[u8; 16] = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";

/// Plain bytes in a snappy block: what `snappy-java` uses, and so what readers have room for.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;

/// The fastest levels: a relay compresses on the thread that reads, and the levels above gain a few per cent of size
/// for twice the time and more.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: u32 = 1;

/// How the records of a batch are compressed. The number is the protocol's, bits 0 to 2 of the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy.
    Snappy = 2,
    /// LZ4.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Compression {
    /// Every codec, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The name that Kafka's own settings use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or(UnknownCompression)
    }
}

/// Not the name of a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected none, lz4, zstd, snappy or gzip")]
pub struct UnknownCompression;

/// The codec that a batch says it was compressed with.
///
/// # Panics
/// When `batch` is shorter than a batch's header, or names a codec that Kafka does not know: it was not made here.
#[must_use]
pub fn compression_of(batch: &[u8]) -> Compression {
    let attributes = batch.get(ATTRIBUTES + 1).expect("only a finished batch has attributes");
    Compression::ALL[usize::from(attributes & 7)]
}

/// A codec with its working memory, which is used again for every batch.
pub struct Compressor {
    codec: Codec,
}

enum Codec {
    None,
    Gzip,
    Snappy { encoder: Box<snap::raw::Encoder>, block: Vec<u8> },
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Default for Compressor {
    fn default() -> Self {
        Self { codec: Codec::None }
    }
}

impl Compressor {
    /// # Panics
    /// When there is no memory for the codec.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let codec = match compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip,
            Compression::Snappy => Codec::Snappy {
                encoder: Box::new(snap::raw::Encoder::new()),
                block: vec![0; snap::raw::max_compress_len(SNAPPY_BLOCK_BYTES)],
            },
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => {
                Codec::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("memory for a zstd context"))
            }
        };
        Self { codec }
    }

    /// Whether it leaves every batch as it is.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self.codec, Codec::None)
    }

    /// Writes `plain`, a finished batch, compressed into `out`. False, and `out` undefined, when that would not be
    /// smaller: then `plain` itself is what to send.
    ///
    /// # Panics
    /// When `plain` is shorter than a batch's header: it was not made here.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let (header, records) = plain.split_at(BATCH_HEADER_LEN);
        out.clear();
        // The room that is left is the limit of the codecs that know one.
        out.reserve(plain.len());
        out.extend_from_slice(header);
        let number = match self.write(records, out) {
            Some(number) if out.len() < plain.len() => number,
            _ => return false,
        };
        let batch_length = (out.len() - BATCH_LENGTH_STARTS_AT) as i32; // shorter than `plain`, which fits
        put(out, BATCH_LENGTH, batch_length.to_be_bytes());
        put(out, ATTRIBUTES, (ATTRIBUTES_TRANSACTIONAL | number as i16).to_be_bytes());
        true
    }

    /// Appends the compressed records; none where the codec gave up.
    fn write(&mut self, records: &[u8], out: &mut Vec<u8>) -> Option<Compression> {
        match &mut self.codec {
            Codec::None => None,
            Codec::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(out, level);
                encoder.write_all(records).and_then(|()| encoder.finish()).ok()?;
                Some(Compression::Gzip)
            }
            Codec::Snappy { encoder, block } => {
                out.extend_from_slice(SNAPPY_HEADER);
                for plain in records.chunks(SNAPPY_BLOCK_BYTES) {
                    let len = encoder.compress(plain, block).ok()?;
                    out.extend_from_slice(&(len as u32).to_be_bytes()); // a block has some 38 KiB at most
                    out.extend_from_slice(&block[..len]);
                }
                Some(Compression::Snappy)
            }
            Codec::Lz4 => {
                let frame =
                    FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(frame, out);
                encoder.write_all(records).ok()?;
                encoder.finish().ok()?;
                Some(Compression::Lz4)
            }
            Codec::Zstd(compressor) => {
                // Writes behind what is there, and gives up where the room ends: then it is not smaller.
                let end = out.len() as u64;
                let mut rest = Cursor::new(out);
                rest.set_position(end);
                compressor.compress_to_buffer(records, &mut rest).ok()?;
                Some(Compression::Zstd)
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.codec {
            Codec::None => "Compressor(none)",
            Codec::Gzip => "Compressor(gzip)",
            Codec::Snappy { .. } => "Compressor(snappy)",
            Codec::Lz4 => "Compressor(lz4)",
            Codec::Zstd(_) => "Compressor(zstd)",
        })
    }
}
