//! A blob that is a part of an open file, verified while it is read.
#![forbid(unsafe_code)]

use super::file::Part;
use super::manifest::BlobDescriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Bytes that are read at a time to hash a part.
const CHUNK: usize = 256 << 10;

/// Reads the blob. The last bytes are handed out only when the whole is right, as a registry's blob is read.
pub struct PartReader<'a> {
    file: BorrowedFd<'a>,
    at: u64,
    left: u64,
    digest: Digest,
    hasher: Sha256,
}

impl<'a> PartReader<'a> {
    /// The blob at this place of the file.
    pub fn new(file: BorrowedFd<'a>, offset: u64, blob: &BlobDescriptor) -> Self {
        PartReader {
            file,
            at: offset,
            left: blob.size,
            digest: blob.digest,
            hasher: Sha256::new(),
        }
    }

    fn wrong(&self, what: &str) -> io::Error {
        io::Error::other(Error::Image(format!("blob {} {what}", self.digest)))
    }

    /// Compares when all has been read.
    fn check(&self) -> io::Result<()> {
        if self.left > 0 {
            return Ok(());
        }
        match Digest::from_bytes(self.hasher.clone().finalize().into()) == self.digest {
            true => Ok(()),
            false => Err(self.wrong("does not match its digest")),
        }
    }
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..room).unwrap_or_default();
        if room.is_empty() {
            // An empty blob has a digest, too.
            return self.check().map(|()| 0);
        }
        let count = pread(self.file, room, self.at)?;
        if count == 0 {
            return Err(self.wrong("is truncated"));
        }
        self.hasher.update(room.get(..count).unwrap_or_default());
        self.at = self.at.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        self.check().map(|()| count)
    }
}

fn pread(file: BorrowedFd<'_>, room: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pread(file, &mut *room, at) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The digest of a part.
pub fn digest_of(file: BorrowedFd<'_>, part: Part) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut left) = (part.offset, part.size);
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        let room = buffer.get_mut(..room).unwrap_or_default();
        let count = pread(file, room, at).map_err(|error| Error::sys("read the archive", "pread", error))?;
        if count == 0 {
            return Err(Error::Image("the archive is truncated".to_owned()));
        }
        hasher.update(room.get(..count).unwrap_or_default());
        at = at.saturating_add(count as u64);
        left = left.saturating_sub(count as u64);
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn read(content: &[u8], offset: u64, digest: Digest, size: u64) -> Result<Vec<u8>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let blob = BlobDescriptor {
            digest,
            size,
            media_type: String::new(),
        };
        let mut bytes = Vec::new();
        let read = PartReader::new(file.as_fd(), offset, &blob).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_right_bytes_are_read_to_the_end() {
        assert_eq!(read(b"..blob..", 2, Digest::of(b"blob"), 4).unwrap(), b"blob");
        assert_eq!(read(b"", 0, Digest::of(b""), 0).unwrap(), b"");
        for (content, size, why) in [
            (&b"..blow.."[..], 4, "does not match"),
            (b"..blob..", 5, "does not match"),
            (b"..blob..", 0, "does not match"),
            (b"..bl", 4, "truncated"),
        ] {
            let error = read(content, 2, Digest::of(b"blob"), size).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_digest_of_a_part() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..blob..").unwrap();
        let part = Part { offset: 2, size: 4 };
        assert_eq!(digest_of(file.as_fd(), part).unwrap(), Digest::of(b"blob"));
        assert!(digest_of(file.as_fd(), Part { offset: 6, size: 4 }).is_err());
    }
}
