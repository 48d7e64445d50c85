//! Metadata blocks: 8 KiB pieces, each with a two-byte length word, in which inodes, directory listings and tables are
//! kept. They are small, so they are collected in memory, compressed, until their place in the image is known.
#![forbid(unsafe_code)]

use super::compress::Compressor;
use super::format::{Append, METADATA_SIZE, METADATA_STORED, Position};
use super::output::Output;
use crate::error::{Error, Result};

/// A table of metadata blocks under construction.
#[derive(Default)]
pub struct Metadata {
    current: Vec<u8>,
    blocks: Vec<u8>,
    starts: Vec<u64>,
    scratch: Vec<u8>,
}

impl Metadata {
    /// Where the next byte goes.
    pub fn position(&self) -> Result<Position> {
        let block = u32::try_from(self.blocks.len())
            .map_err(|_| Error::Image("the layer has more metadata than squashfs can hold".into()))?;
        let offset = u16::try_from(self.current.len()).unwrap_or(0);
        Ok(Position { block, offset })
    }

    /// Adds bytes; full blocks are compressed at once.
    pub fn append(&mut self, mut bytes: &[u8], compressor: &mut Compressor) -> Result<()> {
        while !bytes.is_empty() {
            let room = METADATA_SIZE.saturating_sub(self.current.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.extend_from_slice(now);
            bytes = later;
            if self.current.len() >= METADATA_SIZE {
                self.end_block(compressor)?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self, compressor: &mut Compressor) -> Result<()> {
        self.starts.push(self.blocks.len() as u64);
        let compressed = compressor.compress(&self.current, &mut self.scratch)?;
        let (bytes, stored) = match compressed.and_then(|size| self.scratch.get(..size)) {
            Some(bytes) => (bytes, 0),
            None => (self.current.as_slice(), METADATA_STORED),
        };
        let size = u16::try_from(bytes.len()).unwrap_or(0);
        self.blocks.u16(size | stored);
        self.blocks.extend_from_slice(bytes);
        self.current.clear();
        Ok(())
    }

    /// Ends the last block and writes the table; gives its place.
    pub fn write(mut self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<u64> {
        self.write_blocks(compressor, output).map(|(place, _)| place)
    }

    /// Writes the blocks, then the list of their places behind `header`; gives the place of the header.
    pub fn write_indexed(
        mut self,
        header: impl FnOnce(u64) -> Vec<u8>,
        compressor: &mut Compressor,
        output: &mut Output<'_>,
    ) -> Result<u64> {
        let (place, starts) = self.write_blocks(compressor, output)?;
        let mut list = header(place);
        for start in starts {
            list.u64(place.saturating_add(start));
        }
        output.append(&list)
    }

    fn write_blocks(&mut self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<(u64, Vec<u64>)> {
        if !self.current.is_empty() {
            self.end_block(compressor)?;
        }
        let place = output.append(&self.blocks)?;
        Ok((place, std::mem::take(&mut self.starts)))
    }
}
