//! A place in a table of metadata blocks, from which bytes are read one after the other.
#![forbid(unsafe_code)]

use super::super::format::METADATA_SIZE;
use super::blocks::{Blocks, MetadataBlock};
use super::broken;
use super::source::ReadAt;
use crate::error::Result;
use std::rc::Rc;

/// The next byte to read. Each block that is entered lies behind the one before, so reading always comes to an end.
#[derive(Clone)]
pub struct Cursor {
    place: u64,
    offset: usize,
    block: Option<Rc<MetadataBlock>>,
}

impl Cursor {
    /// At `offset` of the uncompressed bytes of the block at `place`.
    pub fn new(place: u64, offset: usize) -> Self {
        Cursor {
            place,
            offset,
            block: None,
        }
    }

    /// As references in inodes have it: the block's place from `table` in the high bits, the offset in the low 16.
    pub fn at_reference(table: u64, reference: u64) -> Result<Self> {
        let offset = usize::try_from(reference & 0xffff).unwrap_or(usize::MAX);
        let place = table.checked_add(reference >> 16);
        match place {
            Some(place) if offset < METADATA_SIZE => Ok(Cursor::new(place, offset)),
            _ => Err(broken("a reference leads nowhere")),
        }
    }

    /// The place of the block that the next byte is in, and its offset there.
    pub fn position(&self) -> (u64, usize) {
        match &self.block {
            Some(block) if self.offset >= block.bytes.len() => (block.next, 0),
            _ => (self.place, self.offset),
        }
    }

    /// Fills `buffer`.
    pub fn read<S: ReadAt>(&mut self, blocks: &mut Blocks<S>, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let block = self.block(blocks)?;
            let found = block.bytes.get(self.offset..).unwrap_or_default();
            let now = found.len().min(buffer.len());
            let (Some(found), Some((target, rest))) = (found.get(..now), buffer.split_at_mut_checked(now)) else {
                return Err(broken("a reference leads nowhere"));
            };
            target.copy_from_slice(found);
            buffer = rest;
            self.offset = self.offset.saturating_add(now);
        }
        Ok(())
    }

    /// Skips at most `size` bytes of the block that it is in; gives how many, at least one.
    pub fn skip_in_block<S: ReadAt>(&mut self, blocks: &mut Blocks<S>, size: u64) -> Result<u64> {
        let there = self.block(blocks)?.bytes.len().saturating_sub(self.offset);
        let now = usize::try_from(size).unwrap_or(usize::MAX).min(there);
        self.offset = self.offset.saturating_add(now);
        Ok(now as u64)
    }

    /// Reads a structure of `N` bytes.
    pub fn array<const N: usize, S: ReadAt>(&mut self, blocks: &mut Blocks<S>) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(blocks, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads `size` bytes; the caller bounds it.
    pub fn bytes<S: ReadAt>(&mut self, blocks: &mut Blocks<S>, size: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.read(blocks, &mut bytes)?;
        Ok(bytes)
    }

    /// The block with the next byte.
    fn block<S: ReadAt>(&mut self, blocks: &mut Blocks<S>) -> Result<Rc<MetadataBlock>> {
        let block = match self.block.take() {
            Some(block) if self.offset < block.bytes.len() => block,
            Some(block) => {
                (self.place, self.offset) = (block.next, 0);
                blocks.metadata(block.next)?
            }
            None => blocks.metadata(self.place)?,
        };
        if self.offset >= block.bytes.len() {
            return Err(broken("a reference leads past its block"));
        }
        self.block = Some(Rc::clone(&block));
        Ok(block)
    }
}
