//! The file that an image is written to: strictly from front to back, the superblock last. Write-back is started as we
//! go, so that the `fdatasync` of the one who publishes the image has little left to do.
#![forbid(unsafe_code)]

use super::format::PADDING;
use crate::error::{Error, Result};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

/// Write-back is started after this many bytes.
const WRITE_BACK: u64 = 8 << 20;

/// An output file and how far it is written. Positions are those in the image.
pub struct Output<'f> {
    file: &'f File,
    /// Where the image begins in the file.
    origin: u64,
    position: u64,
    started: u64,
}

impl<'f> Output<'f> {
    /// Starts to write at `position` of an image that begins at `origin`.
    pub fn new(file: &'f File, origin: u64, position: u64) -> Self {
        Output {
            file,
            origin,
            position,
            started: 0,
        }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes `bytes` at the end and gives their place.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let place = self.position;
        self.write_at(bytes, place)?;
        self.position = place.saturating_add(bytes.len() as u64);
        self.start_write_back();
        Ok(place)
    }

    /// Pads the file, writes `superblock` to its head and gives its size.
    pub fn finish(self, superblock: &[u8]) -> Result<u64> {
        let size = self.position.next_multiple_of(PADDING);
        let end = self.origin.saturating_add(size);
        self.file
            .set_len(end)
            .map_err(|error| Error::sys("write the pack", format!("ftruncate({end})"), error))?;
        self.write_at(superblock, 0)?;
        Ok(size)
    }

    fn write_at(&self, bytes: &[u8], place: u64) -> Result<()> {
        let place = self.origin.saturating_add(place);
        self.file.write_all_at(bytes, place).map_err(|error| {
            Error::sys(
                "write the pack",
                format!("pwrite({} bytes at {place})", bytes.len()),
                error,
            )
        })
    }

    /// POSIX_FADV_DONTNEED begins to write the dirty pages of the range and does not wait for them; pages that are
    /// dirty or being written stay in memory (mm/fadvise.c). It is only a hint: a failure costs nothing.
    fn start_write_back(&mut self) {
        let ready = self.position.saturating_sub(self.started);
        if ready < WRITE_BACK {
            return;
        }
        let from = self.origin.saturating_add(self.started);
        let _ = fadvise(self.file, from, NonZeroU64::new(ready), Advice::DontNeed);
        self.started = self.position;
    }
}
