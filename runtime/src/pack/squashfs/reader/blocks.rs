//! Blocks of an image, decompressed: metadata blocks with a cache, data blocks and fragments.
#![forbid(unsafe_code)]

use super::super::decompress::Decompressor;
use super::super::format::{DATA_STORED, METADATA_SIZE, METADATA_STORED, Superblock};
use super::source::ReadAt;
use super::{broken, unreadable};
use crate::error::Result;
use std::collections::HashMap;
use std::rc::Rc;

/// Metadata blocks in memory: 4 MiB at most. When they are too many all go, which costs a little and needs no order.
const CACHED: usize = 512;

/// A decompressed metadata block, and where the next one begins.
pub struct MetadataBlock {
    /// Its content, at most [`METADATA_SIZE`] bytes and at least one.
    pub bytes: Vec<u8>,
    /// The place of the block behind it.
    pub next: u64,
}

/// Reads and decompresses.
pub struct Blocks<S> {
    source: S,
    /// No block lies at or past this place.
    end: u64,
    block_size: usize,
    decompressor: Decompressor,
    metadata: HashMap<u64, Rc<MetadataBlock>>,
    packed: Vec<u8>,
}

impl<S: ReadAt> Blocks<S> {
    /// Takes the source of an image.
    pub fn new(source: S, superblock: &Superblock) -> Result<Self> {
        Ok(Blocks {
            source,
            end: superblock.bytes_used,
            block_size: superblock.block_size as usize,
            decompressor: Decompressor::new(superblock.compressor).map_err(|text| broken(&text))?,
            metadata: HashMap::new(),
            packed: Vec::new(),
        })
    }

    /// Reads `size` bytes at `place` as they are.
    pub fn raw(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        let inside = place
            .checked_add(buffer.len() as u64)
            .is_some_and(|end| end <= self.end);
        if !inside {
            return Err(broken("something lies past its end"));
        }
        self.source
            .read_exact_at(buffer, place)
            .map_err(|error| unreadable(place, buffer.len(), error))
    }

    /// The metadata block at `place`.
    pub fn metadata(&mut self, place: u64) -> Result<Rc<MetadataBlock>> {
        if let Some(block) = self.metadata.get(&place) {
            return Ok(Rc::clone(block));
        }
        let mut head = [0; 2];
        self.raw(place, &mut head)?;
        let word = u16::from_le_bytes(head);
        let size = usize::from(word & !METADATA_STORED);
        if size == 0 || size > METADATA_SIZE {
            return Err(broken("a metadata block has an impossible size"));
        }
        let begin = place.saturating_add(2);
        let mut bytes = vec![0; size];
        self.raw(begin, &mut bytes)?;
        if word & METADATA_STORED == 0 {
            std::mem::swap(&mut bytes, &mut self.packed);
            self.decompressor
                .decompress(&self.packed, &mut bytes, METADATA_SIZE)
                .map_err(|text| broken(&format!("a metadata block cannot be decompressed: {text}")))?;
        }
        if bytes.is_empty() {
            return Err(broken("a metadata block is empty"));
        }
        let next = begin.saturating_add(size as u64);
        let block = Rc::new(MetadataBlock { bytes, next });
        if self.metadata.len() >= CACHED {
            self.metadata.clear();
        }
        self.metadata.insert(place, Rc::clone(&block));
        Ok(block)
    }

    /// The data block or fragment at `place` with this size word, into `output`: at most a block.
    pub fn data(&mut self, place: u64, word: u32, output: &mut Vec<u8>) -> Result<()> {
        let size = stored_size(word, self.block_size)?;
        if word & DATA_STORED != 0 {
            output.resize(size, 0);
            return self.raw(place, output);
        }
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(size, 0);
        let read = self.raw(place, &mut packed);
        self.packed = packed;
        read?;
        self.decompressor
            .decompress(&self.packed, output, self.block_size)
            .map_err(|text| broken(&format!("a data block cannot be decompressed: {text}")))
    }
}

/// Bytes that a block takes in the image.
pub fn stored_size(word: u32, block_size: usize) -> Result<usize> {
    let size = (word & !DATA_STORED) as usize;
    if size > block_size {
        return Err(broken("a data block has an impossible size"));
    }
    Ok(size)
}
