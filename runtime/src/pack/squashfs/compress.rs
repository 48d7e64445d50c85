//! The compressors that a squashfs image may use. One [`Compressor`] per thread: contexts and tables are made once and
//! used for every block, and what a block becomes depends on the block alone, never on those before it.
#![forbid(unsafe_code)]

use super::format::Append;
use crate::error::{Error, Result};
use flate2::{Compress, FlushCompress, Status};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use serde::{Deserialize, Serialize};

/// How data and metadata blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zstd, level 1 to 22.
    Zstd {
        /// 1 is the fastest.
        level: i32,
    },
    /// lz4, the block format without frames.
    Lz4,
    /// zlib streams, which squashfs calls gzip; level 1 to 9.
    Gzip {
        /// 1 is the fastest.
        level: u32,
    },
    /// Everything is stored as it is.
    None,
}

impl Compression {
    /// The compressor's number in the superblock. Images that store everything name gzip, which every kernel has.
    pub fn id(self) -> u16 {
        match self {
            Compression::Gzip { .. } | Compression::None => 1,
            Compression::Lz4 => 5,
            Compression::Zstd { .. } => 6,
        }
    }

    /// The options block after the superblock. lz4 must have one; for the others it tells readers the level.
    pub fn options(self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Compression::None => return None,
            Compression::Zstd { level } => bytes.u32(u32::try_from(level).unwrap_or(1)),
            Compression::Lz4 => {
                bytes.u32(1);
                bytes.u32(0);
            }
            Compression::Gzip { level } => {
                bytes.u32(level);
                bytes.u16(15);
                bytes.u16(0);
            }
        }
        Some(bytes)
    }

    /// Refuses levels that the compressor does not have.
    pub fn check(self) -> Result<()> {
        let (name, level, top) = match self {
            Compression::Zstd { level } => ("zstd", i64::from(level), 22),
            Compression::Gzip { level } => ("gzip", i64::from(level), 9),
            Compression::Lz4 | Compression::None => return Ok(()),
        };
        if (1..=top).contains(&level) {
            return Ok(());
        }
        Err(Error::Host(format!(
            "{name} has no compression level {level}; use 1 to {top}"
        )))
    }
}

/// A compressor with everything that it keeps between blocks.
pub struct Compressor {
    codec: Codec,
}

enum Codec {
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Lz4(Box<CompressTable>),
    Gzip(Box<Compress>),
    None,
}

impl Compressor {
    /// Makes the contexts and tables.
    pub fn new(compression: Compression) -> Result<Self> {
        compression.check()?;
        let codec = match compression {
            Compression::Zstd { level } => {
                let context = zstd::bulk::Compressor::new(level)
                    .map_err(|error| Error::Host(format!("cannot make a zstd context: {error}")))?;
                Codec::Zstd(Box::new(context))
            }
            // Always the large table: a small one finds other matches, and which one a thread has would then show.
            Compression::Lz4 => Codec::Lz4(Box::new(CompressTable::large())),
            Compression::Gzip { level } => Codec::Gzip(Box::new(Compress::new(flate2::Compression::new(level), true))),
            Compression::None => Codec::None,
        };
        Ok(Compressor { codec })
    }

    /// Compresses `input` into `output`, whose old content does not matter. Gives the number of bytes at the start of
    /// `output`, or nothing when the result would not be smaller than `input`.
    pub fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Option<usize>> {
        let size = match &mut self.codec {
            Codec::None => return Ok(None),
            Codec::Zstd(context) => {
                output.clear();
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                context.compress_to_buffer(input, output).map_err(failed("zstd"))?
            }
            Codec::Lz4(table) => {
                let bound = get_maximum_output_size(input.len());
                if output.len() < bound {
                    output.resize(bound, 0);
                }
                compress_into_with_table(input, output, table).map_err(failed("lz4"))?
            }
            Codec::Gzip(stream) => match deflate(stream, input, output)? {
                Some(size) => size,
                None => return Ok(None),
            },
        };
        Ok((size < input.len()).then_some(size))
    }
}

/// One zlib stream; nothing when it does not fit into as many bytes as the input has.
fn deflate(stream: &mut Compress, input: &[u8], output: &mut Vec<u8>) -> Result<Option<usize>> {
    stream.reset();
    output.clear();
    output.reserve(input.len());
    let status = stream
        .compress_vec(input, output, FlushCompress::Finish)
        .map_err(failed("gzip"))?;
    Ok((status == Status::StreamEnd).then_some(output.len()))
}

fn failed<E: std::fmt::Display>(name: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Host(format!("{name} cannot compress a block: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const ALL: [Compression; 4] = [
        Compression::Zstd { level: 1 },
        Compression::Lz4,
        Compression::Gzip { level: 6 },
        Compression::None,
    ];

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size)
        .collect()
    }

    #[test]
    fn what_was_compressed_before_does_not_show() {
        let text = b"squash the file system ".repeat(5000);
        for compression in ALL {
            let mut used = Compressor::new(compression).unwrap();
            let mut output = Vec::new();
            for size in [10, 1000, 70_000, 131_072] {
                used.compress(&noise(size), &mut output).unwrap();
                used.compress(text.get(..size).unwrap_or(&text), &mut output).unwrap();
            }
            let size = used.compress(&text, &mut output).unwrap();
            let mut fresh = Vec::new();
            let fresh_size = Compressor::new(compression)
                .unwrap()
                .compress(&text, &mut fresh)
                .unwrap();
            assert_eq!(size, fresh_size, "{compression:?}");
            if let Some(size) = size {
                assert!(size < text.len());
                assert_eq!(output[..size], fresh[..size], "{compression:?}");
            }
        }
    }

    #[test]
    fn noise_is_stored() {
        for compression in ALL {
            let mut output = Vec::new();
            let size = Compressor::new(compression)
                .unwrap()
                .compress(&noise(131_072), &mut output);
            assert_eq!(size.unwrap(), None, "{compression:?}");
        }
    }

    #[test]
    fn gzip_blocks_are_zlib_streams() {
        let text = b"abc".repeat(1000);
        let mut output = Vec::new();
        let size = Compressor::new(Compression::Gzip { level: 9 })
            .unwrap()
            .compress(&text, &mut output)
            .unwrap()
            .unwrap();
        let mut back = Vec::new();
        flate2::read::ZlibDecoder::new(&output[..size])
            .read_to_end(&mut back)
            .unwrap();
        assert_eq!(back, text);
    }

    #[test]
    fn levels_that_do_not_exist_are_refused() {
        for compression in [
            Compression::Zstd { level: 23 },
            Compression::Zstd { level: 0 },
            Compression::Gzip { level: 10 },
        ] {
            assert!(matches!(Compressor::new(compression), Err(Error::Host(_))));
        }
    }
}
