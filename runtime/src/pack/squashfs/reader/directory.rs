//! The entries of a directory, read as they come.
#![forbid(unsafe_code)]

use super::super::format::{DIRECTORY_RUN, Fields, NAME_MAX};
use super::cursor::Cursor;
use super::inode::InodeRef;
use super::source::ReadAt;
use super::{Reader, broken};
use crate::error::Result;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name; never empty, `.`, `..`, and never with a slash or a NUL.
    pub name: Box<[u8]>,
    /// Its inode.
    pub inode: InodeRef,
}

/// An iterator over the entries; it ends after an error.
pub struct Entries<'r, S> {
    pub(super) reader: &'r Reader<S>,
    pub(super) cursor: Cursor,
    /// Bytes of the listing that are still to come.
    pub(super) rest: u64,
    /// Entries under the current header that are still to come, and the place of their inodes' block.
    pub(super) run: (u32, u32),
}

impl<S: ReadAt> Entries<'_, S> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.shorten(N)?;
        self.cursor.array(&mut self.reader.blocks.borrow_mut())
    }

    fn shorten(&mut self, size: usize) -> Result<()> {
        let rest = self.rest.checked_sub(size as u64);
        self.rest = rest.ok_or_else(|| broken("a directory ends in the middle of an entry"))?;
        Ok(())
    }

    fn header(&mut self) -> Result<()> {
        let bytes: [u8; 12] = self.take()?;
        let mut fields = Fields::new(&bytes);
        let count = fields.u32().saturating_add(1);
        if count as usize > DIRECTORY_RUN {
            return Err(broken("a directory has an impossible header"));
        }
        self.run = (count, fields.u32());
        Ok(())
    }

    fn entry(&mut self) -> Result<Entry> {
        if self.run.0 == 0 {
            self.header()?;
        }
        let bytes: [u8; 8] = self.take()?;
        let mut fields = Fields::new(&bytes);
        let offset = fields.u16();
        let (_number, _kind) = (fields.u16(), fields.u16());
        let size = usize::from(fields.u16()).saturating_add(1);
        if size > NAME_MAX {
            return Err(broken("a directory has a name of more than 255 bytes"));
        }
        self.shorten(size)?;
        let name = self.cursor.bytes(&mut self.reader.blocks.borrow_mut(), size)?;
        if matches!(name.as_slice(), b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(broken("a directory has an impossible name"));
        }
        self.run.0 = self.run.0.saturating_sub(1);
        let inode = u64::from(self.run.1) << 16 | u64::from(offset);
        Ok(Entry {
            name: name.into(),
            inode,
        })
    }
}

impl<S: ReadAt> Iterator for Entries<'_, S> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest == 0 {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.rest = 0;
        }
        Some(entry)
    }
}
