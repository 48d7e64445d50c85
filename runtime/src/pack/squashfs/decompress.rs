//! The way back from compressed blocks. Input is hostile: whatever it claims, no more than the caller's limit comes out,
//! and no more than a few times that is allocated.
#![forbid(unsafe_code)]

use super::lzo;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::Read;

/// What a block may take of memory beside its output when it is xz: the dictionary is never larger than a block.
const XZ_MEMORY_KIB: u32 = 8 << 10;

/// A decompressor with what it keeps between blocks.
pub struct Decompressor {
    codec: Codec,
}

enum Codec {
    Gzip(Box<Decompress>),
    Lzo,
    Xz,
    Lz4,
    Zstd(Box<zstd::bulk::Decompressor<'static>>),
}

impl Decompressor {
    /// The decompressor of this number in the superblock; the error is a text about the image.
    pub fn new(id: u16) -> Result<Self, String> {
        let codec = match id {
            1 => Codec::Gzip(Box::new(Decompress::new(true))),
            3 => Codec::Lzo,
            4 => Codec::Xz,
            5 => Codec::Lz4,
            6 => {
                let context =
                    zstd::bulk::Decompressor::new().map_err(|error| format!("cannot make a zstd context: {error}"))?;
                Codec::Zstd(Box::new(context))
            }
            2 => return Err("it is compressed with lzma, which Linux cannot read either".to_owned()),
            other => return Err(format!("it has the unknown compressor {other}")),
        };
        Ok(Decompressor { codec })
    }

    /// Inflates a block into `output`, whose old content goes. An error when it is broken or yields more than `limit`
    /// bytes; the text is the library's.
    pub fn decompress(&mut self, input: &[u8], output: &mut Vec<u8>, limit: usize) -> Result<(), String> {
        output.clear();
        output.reserve(limit);
        match &mut self.codec {
            Codec::Gzip(stream) => inflate(stream, input, output, limit),
            Codec::Lzo => lzo::decompress(input, output, limit).map_err(|_| "corrupt lzo data".to_owned()),
            Codec::Xz => unxz(input, output, limit),
            Codec::Lz4 => {
                output.resize(limit, 0);
                let size = lz4_flex::block::decompress_into(input, output).map_err(|error| error.to_string())?;
                output.truncate(size);
                Ok(())
            }
            Codec::Zstd(context) => {
                // A vector may have more room than was asked for.
                output.resize(limit, 0);
                let size = context
                    .decompress_to_buffer(input, output.as_mut_slice())
                    .map_err(|error| error.to_string())?;
                output.truncate(size);
                Ok(())
            }
        }
    }
}

fn inflate(stream: &mut Decompress, input: &[u8], output: &mut Vec<u8>, limit: usize) -> Result<(), String> {
    stream.reset(true);
    output.resize(limit, 0);
    let status = stream.decompress(input, output, FlushDecompress::Finish);
    match status.map_err(|error| error.to_string())? {
        Status::StreamEnd => {
            output.truncate(usize::try_from(stream.total_out()).unwrap_or(0));
            Ok(())
        }
        _ => Err("the stream does not end".to_owned()),
    }
}

fn unxz(input: &[u8], output: &mut Vec<u8>, limit: usize) -> Result<(), String> {
    let reader = lzma_rust2::XzReader::new_mem_limit(input, false, XZ_MEMORY_KIB);
    let read = reader.take(limit as u64 + 1).read_to_end(output);
    read.map_err(|error| error.to_string())?;
    if output.len() > limit {
        return Err("there is more than belongs into a block".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::compress::{Compression, Compressor};
    use super::*;

    #[test]
    fn what_was_compressed_comes_back_and_never_more_than_the_limit() {
        let text = b"squash the file system ".repeat(500);
        for compression in [
            Compression::Zstd { level: 1 },
            Compression::Lz4,
            Compression::Gzip { level: 6 },
        ] {
            let mut packed = Vec::new();
            let size = Compressor::new(compression).unwrap().compress(&text, &mut packed);
            let packed = &packed[..size.unwrap().unwrap()];
            let mut decompressor = Decompressor::new(compression.id()).unwrap();
            let mut output = Vec::new();
            for limit in [text.len(), text.len() + 7] {
                decompressor.decompress(packed, &mut output, limit).unwrap();
                assert_eq!(output, text, "{compression:?}");
            }
            assert!(
                decompressor.decompress(packed, &mut output, text.len() - 1).is_err(),
                "{compression:?}"
            );
            for end in 0..packed.len() {
                let short = decompressor.decompress(&packed[..end], &mut output, text.len());
                assert!(
                    short.is_err() || output.len() < text.len(),
                    "{compression:?} cut at {end}"
                );
            }
            // It works again after an error.
            decompressor.decompress(packed, &mut output, text.len()).unwrap();
        }
    }

    #[test]
    fn unknown_compressors_are_refused() {
        for id in [0, 2, 7, u16::MAX] {
            assert!(Decompressor::new(id).is_err());
        }
    }
}
