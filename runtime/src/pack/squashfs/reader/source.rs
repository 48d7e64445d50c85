//! Where an image's bytes come from.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any place, by whoever holds a reference.
pub trait ReadAt {
    /// How many there are.
    fn size(&self) -> Result<u64>;
    /// Fills `buffer` with the bytes at `place`; an error when there are not so many.
    fn read_exact_at(&self, buffer: &mut [u8], place: u64) -> Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> Result<u64> {
        self.metadata().map(|meta| meta.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], place: u64) -> Result<()> {
        FileExt::read_exact_at(self, buffer, place)
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], place: u64) -> Result<()> {
        let start = usize::try_from(place).unwrap_or(usize::MAX);
        let found = start
            .checked_add(buffer.len())
            .and_then(|end| self.get(start..end))
            .ok_or(ErrorKind::UnexpectedEof)
            .map_err(Error::from)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> Result<u64> {
        (**self).size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], place: u64) -> Result<()> {
        (**self).read_exact_at(buffer, place)
    }
}
