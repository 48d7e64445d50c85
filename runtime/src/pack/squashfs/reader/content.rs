//! The contents of files: size words, blocks, fragments.
#![forbid(unsafe_code)]

use super::super::format::Fields;
use super::cursor::Cursor;
use super::inode::FileContent;
use super::source::ReadAt;
use super::{Reader, broken, indexed};
use crate::error::Result;
use std::rc::Rc;

/// Fragments in memory: neighbours in the tree mostly share one.
const CACHED: usize = 4;

/// A piece of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// These bytes.
    Bytes(&'b [u8]),
    /// So many zeros, of which none is stored.
    Hole(u64),
}

/// Fragments that were decompressed, the latest last.
#[derive(Default)]
pub struct Fragments {
    known: Vec<(u32, Rc<Vec<u8>>)>,
}

/// The size words of a file's blocks, one after the other; ends after an error.
pub struct Words<'r, S> {
    reader: &'r Reader<S>,
    cursor: Cursor,
    rest: u64,
}

impl<S: ReadAt> Iterator for Words<'_, S> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.checked_sub(1)?;
        let word = self.cursor.array(&mut self.reader.blocks.borrow_mut());
        if word.is_err() {
            self.rest = 0;
        }
        Some(word.map(u32::from_le_bytes))
    }
}

impl<S: ReadAt> Reader<S> {
    /// The size words of the blocks of a file.
    pub fn words(&self, file: &FileContent) -> Words<'_, S> {
        let (place, offset) = file.words;
        Words {
            reader: self,
            cursor: Cursor::new(place, offset),
            rest: file.blocks,
        }
    }

    /// Hands the content of a file to `take`, in order and whole.
    pub fn content(&self, file: &FileContent, mut take: impl FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
        let block_size = u64::from(self.superblock.block_size);
        let (mut place, mut rest) = (file.start, file.size);
        let mut block = Vec::new();
        for word in self.words(file) {
            let word = word?;
            let expected = rest.min(block_size);
            rest = rest.saturating_sub(expected);
            if word == 0 {
                take(Piece::Hole(expected))?;
                continue;
            }
            self.blocks.borrow_mut().data(place, word, &mut block)?;
            if block.len() as u64 != expected {
                return Err(broken("a data block has not the size that it must have"));
            }
            let size = super::stored_size(word, self.superblock.block_size as usize)?;
            place = place.saturating_add(size as u64);
            take(Piece::Bytes(&block))?;
        }
        match rest {
            0 => Ok(()),
            _ => self.tail(file, |bytes| take(Piece::Bytes(bytes))),
        }
    }

    /// Hands what a file has in its fragment to `take`.
    pub fn tail(&self, file: &FileContent, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let size = file.tail(self.superblock.block_size) as usize;
        if size == 0 {
            return Ok(());
        }
        let fragment = self.fragment(file.fragment)?;
        let start = file.offset as usize;
        let end = start.saturating_add(size);
        let bytes = fragment.get(start..end);
        take(bytes.ok_or_else(|| broken("a file's end lies outside of its fragment"))?)
    }

    /// The place and the size word of a fragment.
    pub fn fragment_entry(&self, number: u32) -> Result<(u64, u32)> {
        if number >= self.superblock.fragments {
            return Err(broken("a file's end is in a fragment that is not there"));
        }
        let blocks = &mut self.blocks.borrow_mut();
        let bytes: [u8; 16] = indexed(blocks, self.superblock.fragment_table, u64::from(number), 16)?;
        let mut fields = Fields::new(&bytes);
        Ok((fields.u64(), fields.u32()))
    }

    fn fragment(&self, number: u32) -> Result<Rc<Vec<u8>>> {
        let mut fragments = self.fragments.borrow_mut();
        if let Some((_, bytes)) = fragments.known.iter().find(|(known, _)| *known == number) {
            return Ok(Rc::clone(bytes));
        }
        let (place, word) = self.fragment_entry(number)?;
        let mut bytes = Vec::new();
        self.blocks.borrow_mut().data(place, word, &mut bytes)?;
        let bytes = Rc::new(bytes);
        if fragments.known.len() >= CACHED {
            fragments.known.remove(0);
        }
        fragments.known.push((number, Rc::clone(&bytes)));
        Ok(bytes)
    }
}
