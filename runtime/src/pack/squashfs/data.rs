//! File contents: cut into blocks, compressed by the pool, written in the order in which they came. Whole blocks of
//! zeros are not stored; what is left of a file after its last whole block shares a fragment with other tails.
#![forbid(unsafe_code)]

use super::compress::Compressor;
use super::format::{Append, DATA_STORED, NO_FRAGMENT, NO_TABLE};
use super::metadata::Metadata;
use super::output::Output;
use super::pool::{Block, Pool};
use crate::error::{Error, Result};
use std::collections::VecDeque;

/// A file whose content was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRef(u32);

/// Where a file's content is.
#[derive(Debug, Clone, Copy)]
pub struct FileData {
    /// Place of its first stored block.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes of it in blocks of zeros.
    pub sparse: u64,
    /// Its fragment, or [`NO_FRAGMENT`].
    pub fragment: u32,
    /// Where its tail begins in the fragment.
    pub offset: u32,
    first_block: usize,
    blocks: usize,
}

impl FileData {
    /// A file without content.
    pub const EMPTY: FileData = FileData {
        start: 0,
        size: 0,
        sparse: 0,
        fragment: NO_FRAGMENT,
        offset: 0,
        first_block: 0,
        blocks: 0,
    };
}

/// What a block under way is for.
enum Target {
    /// The block of a file with this index among all blocks; `first` names the file whose content begins here.
    Data { index: usize, first: Option<usize> },
    /// The fragment of this index.
    Fragment { index: usize },
}

/// A block under way, in order of submission; the result is there once a thread has finished with it.
struct Pending {
    target: Target,
    result: Option<Block>,
}

/// Writes the contents of files, one file after the other.
pub struct DataWriter {
    pool: Pool,
    block_size: usize,
    in_flight: usize,
    pending: VecDeque<Pending>,
    next_sequence: u64,
    spare: Vec<Block>,
    files: Vec<FileData>,
    blocks: Vec<u32>,
    fragments: Vec<(u64, u32)>,
    current: Option<FileData>,
    started: bool,
    block: Vec<u8>,
    tails: Vec<u8>,
}

impl DataWriter {
    /// A writer that keeps a few blocks per thread in memory.
    pub fn new(pool: Pool, block_size: u32, threads: usize) -> Self {
        let block_size = block_size as usize;
        DataWriter {
            pool,
            block_size,
            in_flight: threads.max(1).saturating_mul(3).saturating_add(2),
            pending: VecDeque::new(),
            next_sequence: 0,
            spare: Vec::new(),
            files: Vec::new(),
            blocks: Vec::new(),
            fragments: Vec::new(),
            current: None,
            started: false,
            block: Vec::with_capacity(block_size),
            tails: Vec::with_capacity(block_size),
        }
    }

    /// Begins the next file.
    pub fn begin(&mut self) {
        self.started = false;
        self.block.clear();
        self.current = Some(FileData {
            first_block: self.blocks.len(),
            ..FileData::EMPTY
        });
    }

    /// Adds content to the file.
    pub fn write(&mut self, mut bytes: &[u8], output: &mut Output<'_>) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.block_size.saturating_sub(self.block.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() >= self.block_size {
                self.end_block(output)?;
            }
        }
        Ok(())
    }

    /// Adds `size` zeros to the file without looking at each of them.
    pub fn hole(&mut self, mut size: u64, output: &mut Output<'_>) -> Result<()> {
        while size > 0 {
            if self.block.is_empty() && size >= self.block_size as u64 {
                self.zero_block(self.block_size as u64);
                size = size.saturating_sub(self.block_size as u64);
                continue;
            }
            let room = self.block_size.saturating_sub(self.block.len()) as u64;
            let now = room.min(size);
            let filled = self.block.len().saturating_add(usize::try_from(now).unwrap_or(0));
            self.block.resize(filled, 0);
            size = size.saturating_sub(now);
            if self.block.len() >= self.block_size {
                self.end_block(output)?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub fn end(&mut self, output: &mut Output<'_>) -> Result<FileRef> {
        let number = u32::try_from(self.files.len()).map_err(|_| Error::Image("too many files".into()))?;
        let tail = self.block.len() as u64;
        let mut place = (NO_FRAGMENT, 0);
        let whole = self.block_count().saturating_mul(self.block_size as u64);
        if !is_zero(&self.block) {
            // Blocks of this file may be written meanwhile: it must stay the current one until this is done.
            place = self.add_tail(output)?;
        } else if tail > 0 {
            self.zero_block(tail);
        }
        let mut file = self.current.take().unwrap_or(FileData::EMPTY);
        file.blocks = self.blocks.len().saturating_sub(file.first_block);
        file.size = whole.saturating_add(tail);
        (file.fragment, file.offset) = place;
        self.block.clear();
        self.files.push(file);
        Ok(FileRef(number))
    }

    /// Whole blocks of the current file so far.
    fn block_count(&self) -> u64 {
        let first = self.current.map_or(self.blocks.len(), |file| file.first_block);
        self.blocks.len().saturating_sub(first) as u64
    }

    /// The content of `file`, with the size words of its blocks.
    pub fn file(&self, file: FileRef) -> (FileData, &[u32]) {
        let data = self.files.get(file.0 as usize).copied().unwrap_or(FileData::EMPTY);
        let words = self
            .blocks
            .get(data.first_block..data.first_block.saturating_add(data.blocks));
        (data, words.unwrap_or(&[]))
    }

    /// Waits until all blocks under way are written. Whoever writes to the output himself does this first: the blocks
    /// of one file must lie side by side.
    pub fn settle(&mut self, output: &mut Output<'_>) -> Result<()> {
        while !self.pending.is_empty() {
            self.collect(output)?;
        }
        Ok(())
    }

    /// Adds a file whose blocks are in the output already, the first at `start`. A block whose word is 0 is a hole. What
    /// `size` counts beyond the blocks comes by [`DataWriter::add_end`] or [`DataWriter::set_fragment`].
    pub fn add_stored(&mut self, size: u64, start: u64, words: &[u32]) -> Result<FileRef> {
        let number = u32::try_from(self.files.len()).map_err(|_| Error::Image("too many files".into()))?;
        let block_size = self.block_size as u64;
        let holes = (0_u64..).zip(words).filter(|(_, word)| **word == 0);
        let sparse = holes.map(|(index, _)| block_size.min(size.saturating_sub(index.saturating_mul(block_size))));
        self.files.push(FileData {
            start,
            size,
            sparse: sparse.sum(),
            first_block: self.blocks.len(),
            blocks: words.len(),
            ..FileData::EMPTY
        });
        self.blocks.extend_from_slice(words);
        Ok(FileRef(number))
    }

    /// Adds a fragment that is in the output already; gives its number. The ends that wait for their own fragment have
    /// its number already, so that one is ended first.
    pub fn add_stored_fragment(&mut self, place: u64, word: u32, output: &mut Output<'_>) -> Result<u32> {
        self.end_fragment(output)?;
        let number = u32::try_from(self.fragments.len())
            .ok()
            .filter(|number| *number < NO_FRAGMENT);
        self.fragments.push((place, word));
        number.ok_or_else(|| Error::Image("too many fragments".into()))
    }

    /// The end of a stored file is in this fragment, from `offset`.
    pub fn set_fragment(&mut self, file: FileRef, fragment: u32, offset: u32) {
        if let Some(file) = self.files.get_mut(file.0 as usize) {
            (file.fragment, file.offset) = (fragment, offset);
        }
    }

    /// The end of a stored file are these bytes, fewer than a block.
    pub fn add_end(&mut self, file: FileRef, bytes: &[u8], output: &mut Output<'_>) -> Result<()> {
        self.block.clear();
        self.block.extend_from_slice(bytes);
        let (fragment, offset) = self.add_tail(output)?;
        self.set_fragment(file, fragment, offset);
        Ok(())
    }

    /// Number of fragments.
    pub fn fragments(&self) -> usize {
        self.fragments.len()
    }

    /// Memory that the list of files and blocks takes, about.
    pub fn memory(&self) -> usize {
        self.files
            .len()
            .saturating_mul(size_of::<FileData>())
            .saturating_add(self.blocks.len().saturating_mul(4))
    }

    /// Writes everything that is still under way. No file may follow.
    pub fn flush(&mut self, output: &mut Output<'_>) -> Result<()> {
        self.end_fragment(output)?;
        self.settle(output)
    }

    /// Writes the fragment table; gives its place.
    pub fn write_fragment_table(&self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<u64> {
        if self.fragments.is_empty() {
            return Ok(NO_TABLE);
        }
        let mut table = Metadata::default();
        for (place, word) in &self.fragments {
            let mut entry = Vec::with_capacity(16);
            entry.u64(*place);
            entry.u32(*word);
            entry.u32(0);
            table.append(&entry, compressor)?;
        }
        table.write_indexed(|_| Vec::new(), compressor, output)
    }

    /// A block of which only the length is stored: zero.
    fn zero_block(&mut self, size: u64) {
        self.blocks.push(0);
        if let Some(file) = &mut self.current {
            file.sparse = file.sparse.saturating_add(size);
        }
    }

    fn end_block(&mut self, output: &mut Output<'_>) -> Result<()> {
        if is_zero(&self.block) {
            self.block.clear();
            self.zero_block(self.block_size as u64);
            return Ok(());
        }
        let index = self.blocks.len();
        self.blocks.push(0);
        let first = (!self.started).then_some(self.files.len());
        self.started = true;
        let mut job = self.spare_block();
        std::mem::swap(&mut job.input, &mut self.block);
        self.submit(job, Target::Data { index, first }, output)
    }

    fn add_tail(&mut self, output: &mut Output<'_>) -> Result<(u32, u32)> {
        if self.tails.len().saturating_add(self.block.len()) > self.block_size {
            self.end_fragment(output)?;
        }
        let fragment = u32::try_from(self.fragments.len()).unwrap_or(NO_FRAGMENT);
        let offset = u32::try_from(self.tails.len()).unwrap_or(0);
        self.tails.extend_from_slice(&self.block);
        self.block.clear();
        Ok((fragment, offset))
    }

    fn end_fragment(&mut self, output: &mut Output<'_>) -> Result<()> {
        if self.tails.is_empty() {
            return Ok(());
        }
        let index = self.fragments.len();
        self.fragments.push((0, 0));
        let mut job = self.spare_block();
        std::mem::swap(&mut job.input, &mut self.tails);
        self.submit(job, Target::Fragment { index }, output)
    }

    fn spare_block(&mut self) -> Block {
        let mut block = self.spare.pop().unwrap_or_default();
        block.input.clear();
        block.input.reserve(self.block_size);
        block
    }

    fn submit(&mut self, mut job: Block, target: Target, output: &mut Output<'_>) -> Result<()> {
        while self.pending.len() >= self.in_flight {
            self.collect(output)?;
        }
        job.sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.saturating_add(1);
        self.pending.push_back(Pending { target, result: None });
        self.pool.submit(job)
    }

    /// Takes one finished block from the pool and writes all that are next in order.
    fn collect(&mut self, output: &mut Output<'_>) -> Result<()> {
        let block = self.pool.wait()?;
        let oldest = self.next_sequence.saturating_sub(self.pending.len() as u64);
        let index = usize::try_from(block.sequence.saturating_sub(oldest)).unwrap_or(usize::MAX);
        if let Some(pending) = self.pending.get_mut(index) {
            pending.result = Some(block);
        }
        while self.pending.front().is_some_and(|pending| pending.result.is_some()) {
            if let Some(Pending {
                target,
                result: Some(block),
            }) = self.pending.pop_front()
            {
                self.store(&target, &block, output)?;
                self.spare.push(block);
            }
        }
        Ok(())
    }

    fn store(&mut self, target: &Target, block: &Block, output: &mut Output<'_>) -> Result<()> {
        let (bytes, compressed) = block.stored();
        let place = output.append(bytes)?;
        let stored = if compressed { 0 } else { DATA_STORED };
        let word = u32::try_from(bytes.len()).unwrap_or(0) | stored;
        match *target {
            Target::Data { index, first } => {
                if let Some(slot) = self.blocks.get_mut(index) {
                    *slot = word;
                }
                if let Some(number) = first {
                    self.set_start(number, place);
                }
            }
            Target::Fragment { index } => {
                if let Some(slot) = self.fragments.get_mut(index) {
                    *slot = (place, word);
                }
            }
        }
        Ok(())
    }

    /// The first block of a file may be written before the file has ended.
    fn set_start(&mut self, number: usize, place: u64) {
        let ended = self.files.get_mut(number);
        if let Some(file) = ended.or(self.current.as_mut()) {
            file.start = place;
        }
    }
}

fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(1024)
        .all(|chunk| chunk.iter().fold(0, |bits, byte| bits | byte) == 0)
}
