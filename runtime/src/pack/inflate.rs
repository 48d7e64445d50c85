//! From a layer's blob to tar bytes: gzip, zstd or nothing, told apart by content and never by a media type.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use tar_core::Header;

/// Bytes read from the blob at a time.
const INPUT: usize = 128 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd skippable frame may come first; the low four bits of its first byte are free.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A blob that is being decompressed.
pub enum Inflate<R: Read> {
    /// A tar archive as it is.
    Plain(Input<R>),
    /// gzip members, one after the other.
    Gzip(Box<Gzip<R>>),
    /// zstd frames, one after the other.
    Zstd(Box<zstd::Decoder<'static, Input<R>>>),
}

impl<R: Read> Inflate<R> {
    /// Looks at the first bytes of `blob`.
    pub fn open(mut blob: R) -> Result<Self> {
        let mut head = Vec::with_capacity(512);
        blob.by_ref()
            .take(512)
            .read_to_end(&mut head)
            .map_err(|error| read_error(&error))?;
        let kind = recognise(&head)?;
        let input = BufReader::with_capacity(INPUT, Cursor::new(head).chain(blob));
        Ok(match kind {
            Kind::Plain => Inflate::Plain(input),
            Kind::Gzip => Inflate::Gzip(Box::new(Gzip {
                input,
                stream: Decompress::new_gzip(15),
                between: false,
            })),
            Kind::Zstd => {
                let decoder = zstd::Decoder::with_buffer(input)
                    .map_err(|error| Error::Host(format!("cannot make a zstd context: {error}")))?;
                Inflate::Zstd(Box::new(decoder))
            }
        })
    }

    /// Fills `buffer` as far as the blob goes; less than its length only at the end of the blob.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.read(room)? {
                0 => break,
                read => filled = filled.saturating_add(read),
            }
        }
        Ok(filled)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let result = match self {
                Inflate::Plain(input) => input.read(buffer),
                Inflate::Gzip(gzip) => return gzip.read(buffer),
                Inflate::Zstd(decoder) => decoder.read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(&error)),
                Ok(read) => return Ok(read),
            }
        }
    }

    fn error(&self, error: &io::Error) -> Error {
        if !matches!(self, Inflate::Zstd(_)) || error.raw_os_error().is_some() {
            return read_error(error);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Image("the layer is truncated: its zstd stream ends early".into()),
            _ => Error::Image(format!("the layer is damaged: zstd: {error}")),
        }
    }
}

enum Kind {
    Plain,
    Gzip,
    Zstd,
}

fn recognise(head: &[u8]) -> Result<Kind> {
    let skippable = head.first().is_some_and(|byte| byte & 0xf0 == 0x50)
        && head.get(1..).is_some_and(|rest| rest.starts_with(&ZSTD_SKIPPABLE));
    if head.starts_with(&GZIP) {
        return Ok(Kind::Gzip);
    }
    if head.starts_with(&ZSTD) || skippable {
        return Ok(Kind::Zstd);
    }
    if head.is_empty() {
        return Err(Error::Image("the layer is empty: not even an empty tar archive".into()));
    }
    let block: Option<&[u8; 512]> = head.try_into().ok();
    let is_tar = block.is_some_and(|block| {
        block.iter().all(|byte| *byte == 0) || Header::from_bytes(block).verify_checksum().is_ok()
    });
    if is_tar {
        return Ok(Kind::Plain);
    }
    Err(Error::Image("the layer is neither gzip, zstd nor tar".into()))
}

/// The blob's reader failed: an error of the system, or what the caller's own reader has to say.
fn read_error(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(code) => Error::sys("read the layer", "read()", io::Error::from_raw_os_error(code)),
        None => Error::Image(format!("read the layer: {error}")),
    }
}

/// gzip members. zlib itself checks each member's length and checksum.
pub struct Gzip<R: Read> {
    input: Input<R>,
    stream: Decompress,
    between: bool,
}

impl<R: Read> Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let input = match self.input.fill_buf() {
                Ok(input) => input,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(&error)),
            };
            if input.is_empty() {
                return match self.between {
                    true => Ok(0),
                    false => Err(Error::Image(
                        "the layer is truncated: its gzip stream ends early".into(),
                    )),
                };
            }
            if self.between {
                if input.first() != GZIP.first() {
                    return Err(Error::Image("the layer has garbage after its gzip stream".into()));
                }
                self.stream.reset(true);
                self.between = false;
            }
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, buffer, FlushDecompress::None)
                .map_err(|error| Error::Image(format!("the layer is damaged: gzip: {error}")))?;
            let read = self.stream.total_in().saturating_sub(read);
            let written = self.stream.total_out().saturating_sub(written);
            self.input.consume(usize::try_from(read).unwrap_or(0));
            self.between = status == Status::StreamEnd;
            if written > 0 {
                return Ok(usize::try_from(written).unwrap_or(0));
            }
            if read == 0 && !self.between {
                return Err(Error::Image("the layer is damaged: its gzip stream is stuck".into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(blob: &[u8]) -> Result<Vec<u8>> {
        let mut inflate = Inflate::open(blob)?;
        let mut all = Vec::new();
        let mut buffer = vec![0; 1000];
        loop {
            let read = inflate.fill(&mut buffer)?;
            all.extend_from_slice(&buffer[..read]);
            if read < buffer.len() {
                return Ok(all);
            }
        }
    }

    fn tar() -> Vec<u8> {
        vec![0; 10_240]
    }

    #[test]
    fn every_kind_is_told_by_its_content() {
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        let members = [gzip(&tar()[..5000]), gzip(b""), gzip(&tar()[5000..])].concat();
        let frames = [
            zstd::encode_all(&tar()[..5000], 1).unwrap(),
            vec![0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3],
            zstd::encode_all(&tar()[5000..], 1).unwrap(),
        ]
        .concat();
        let skippable_first = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &zstd].concat();
        for blob in [gzip(&tar()), zstd, tar(), members, frames, skippable_first] {
            assert_eq!(inflate(&blob).unwrap(), tar());
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text: Vec<u8> = (0..3000_u32).flat_map(u32::to_le_bytes).collect();
        for blob in [gzip(&text), zstd::encode_all(&text[..], 1).unwrap()] {
            for end in 0..blob.len() {
                assert!(matches!(inflate(&blob[..end]), Err(Error::Image(_))), "{end}");
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let mut wrong_checksum = gzip(&tar());
        let place = wrong_checksum.len() - 8;
        wrong_checksum[place] ^= 1;
        let mut wrong_length = gzip(&tar());
        *wrong_length.last_mut().unwrap() ^= 1;
        let garbage_after = [gzip(&tar()), b"garbage".to_vec()].concat();
        for blob in [wrong_checksum, wrong_length, garbage_after] {
            assert!(matches!(inflate(&blob), Err(Error::Image(_))));
        }
        let error = inflate(b"<html>not found</html>").unwrap_err();
        assert_eq!(error.to_string(), "the layer is neither gzip, zstd nor tar");
        let error = inflate(&[b'x'; 4096]).unwrap_err();
        assert_eq!(error.to_string(), "the layer is neither gzip, zstd nor tar");
    }

    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }

    #[test]
    fn an_error_of_the_reader_is_told_as_it_is() {
        for head in [gzip(&tar()), zstd::encode_all(&tar()[..], 1).unwrap(), tar()] {
            let short = Cursor::new(head[..head.len() - 5].to_vec());
            let error = Inflate::open(short.chain(Failing)).and_then(|mut inflate| inflate.fill(&mut [0; 20_000]));
            assert_eq!(error.unwrap_err().errno(), Some(libc::EIO));
        }
    }
}
