//! A reader of squashfs 4.0 images. The bytes may be anybody's: every place, length and number is checked before it is
//! used, nothing is allocated because of a number alone, and each walk through the image comes to an end. What it reads
//! it reads only when asked: opening takes the superblock and the owners.
//!
//! It does not judge trees. A directory may contain itself; whoever walks must not enter a directory twice.
#![forbid(unsafe_code)]

mod blocks;
mod content;
mod cursor;
mod directory;
mod inode;
mod scan;
mod source;
mod xattr;

pub use blocks::stored_size;
pub use content::{Piece, Words};
pub use directory::{Entries, Entry};
pub use inode::{Content, FileContent, Inode, InodeRef, Listing};
pub use source::ReadAt;
pub use xattr::Xattr;

use super::format::{Fields, METADATA_SIZE, SUPERBLOCK_SIZE, Superblock};
use crate::error::{Error, Result};
use blocks::Blocks;
use content::Fragments;
use cursor::Cursor;
use std::cell::RefCell;
use xattr::Xattrs;

/// An opened image.
pub struct Reader<S> {
    superblock: Superblock,
    blocks: RefCell<Blocks<S>>,
    ids: Vec<u32>,
    xattrs: Xattrs,
    fragments: RefCell<Fragments>,
}

impl<S: ReadAt> Reader<S> {
    /// Opens an image.
    pub fn open(source: S) -> Result<Self> {
        let size = source.size().map_err(|error| unreadable(0, 0, error))?;
        if size < SUPERBLOCK_SIZE {
            return Err(broken("it is too short"));
        }
        let mut bytes = [0; SUPERBLOCK_SIZE as usize];
        source
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| unreadable(0, bytes.len(), error))?;
        let superblock = Superblock::decode(&bytes, size).map_err(|text| broken(&text))?;
        let mut blocks = Blocks::new(source, &superblock)?;
        let ids = read_ids(&mut blocks, &superblock)?;
        let xattrs = Xattrs::open(&blocks, superblock.xattr_table)?;
        Ok(Reader {
            superblock,
            blocks: RefCell::new(blocks),
            ids,
            xattrs,
            fragments: RefCell::default(),
        })
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory.
    pub fn root(&self) -> InodeRef {
        self.superblock.root
    }

    /// Reads an inode.
    pub fn inode(&self, reference: InodeRef) -> Result<Inode> {
        let mut cursor = self.inode_cursor(reference)?;
        self.read_inode(&mut cursor)
    }

    fn read_inode(&self, cursor: &mut Cursor) -> Result<Inode> {
        inode::read(
            &mut self.blocks.borrow_mut(),
            cursor,
            &self.ids,
            self.superblock.block_size,
        )
    }

    fn inode_cursor(&self, reference: InodeRef) -> Result<Cursor> {
        let cursor = Cursor::at_reference(self.superblock.inode_table, reference)?;
        if cursor.position().0 >= self.superblock.directory_table {
            return Err(broken("an inode lies outside of its table"));
        }
        Ok(cursor)
    }

    /// The entries of a directory.
    pub fn entries(&self, listing: &Listing) -> Result<Entries<'_, S>> {
        let reference = u64::from(listing.block) << 16 | u64::from(listing.offset);
        let cursor = match listing.size {
            0 => Cursor::new(0, 0),
            _ => Cursor::at_reference(self.superblock.directory_table, reference)?,
        };
        Ok(Entries {
            reader: self,
            cursor,
            rest: u64::from(listing.size),
            run: (0, 0),
        })
    }

    /// The extended attributes of an inode.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        self.xattrs.set(&mut self.blocks.borrow_mut(), inode.xattrs)
    }

    /// Reads bytes of the image as they are.
    pub fn raw(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        self.blocks.borrow().raw(place, buffer)
    }
}

fn read_ids<S: ReadAt>(blocks: &mut Blocks<S>, superblock: &Superblock) -> Result<Vec<u32>> {
    let mut ids = Vec::with_capacity(usize::from(superblock.ids));
    for number in 0..u64::from(superblock.ids) {
        let bytes: [u8; 4] = indexed(blocks, superblock.id_table, number, 4)?;
        ids.push(Fields::new(&bytes).u32());
    }
    Ok(ids)
}

/// Entry `number` of a table whose metadata blocks are listed at `table`; no entry lies in two blocks.
fn indexed<const N: usize, S: ReadAt>(blocks: &mut Blocks<S>, table: u64, number: u64, size: u64) -> Result<[u8; N]> {
    let per_block = METADATA_SIZE as u64 / size;
    let mut place = [0; 8];
    blocks.raw(table.saturating_add((number / per_block).saturating_mul(8)), &mut place)?;
    let offset = usize::try_from((number % per_block).saturating_mul(size)).unwrap_or(usize::MAX);
    Cursor::new(u64::from_le_bytes(place), offset).array(blocks)
}

/// The image is wrong.
fn broken(what: &str) -> Error {
    Error::Image(format!("the squashfs image cannot be read: {what}"))
}

fn unreadable(place: u64, size: usize, error: std::io::Error) -> Error {
    Error::sys(
        "read a squashfs image",
        format!("pread({size} bytes at {place})"),
        error,
    )
}
