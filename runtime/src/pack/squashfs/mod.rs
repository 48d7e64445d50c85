//! A writer of squashfs 4.0 images. Contents of files go in first, one after the other, then the tree that names them;
//! nothing is read back and nothing but the tree is kept in memory. The same input gives the same bytes, whatever the
//! number of threads.
#![forbid(unsafe_code)]

mod compress;
mod data;
mod decompress;
mod directory;
pub mod format;
mod inode;
mod lzo;
mod metadata;
mod output;
mod pool;
pub mod reader;
mod tables;
mod tree;
mod xattr;

pub use compress::{Compression, Compressor};
pub use data::FileRef;
pub use inode::device_number;
pub use tree::{Attributes, Body, Node, NodeId, Tree};
pub use xattr::{XattrSets, is_storable};

use crate::error::{Error, Result};
use data::DataWriter;
use format::{Append, SUPERBLOCK_SIZE, Superblock, flag};
use metadata::Metadata;
use output::Output;
use pool::{Pool, ThreadStart};
use std::fs::File;
use tables::Tables;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Size of the file.
    pub size: u64,
    /// Number of inodes.
    pub inodes: u32,
}

/// Writes one image.
pub struct Writer<'f> {
    output: Output<'f>,
    data: DataWriter,
    compression: Compression,
    block_size: u32,
    copied: Vec<u8>,
}

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

impl<'f> Writer<'f> {
    /// Begins an image in `file`, which must be empty. `block_size` is a power of two from 4 KiB to 1 MiB.
    pub fn new(file: &'f File, compression: Compression, block_size: u32, threads: usize) -> Result<Self> {
        Writer::with_thread_start((file, 0), compression, block_size, threads, || Ok(()))
    }

    /// The same at a place in the file; each of its threads begins with `start`, for what the threads must not have of their
    /// maker.
    pub fn with_thread_start(
        (file, origin): (&'f File, u64),
        compression: Compression,
        block_size: u32,
        threads: usize,
        start: ThreadStart,
    ) -> Result<Self> {
        if !block_size.is_power_of_two() || !format::BLOCK_SIZES.contains(&block_size) {
            return Err(Error::Host(format!(
                "squashfs has no block size {block_size}; use a power of two from 4096 to 1048576"
            )));
        }
        let mut output = Output::new(file, origin, SUPERBLOCK_SIZE);
        if let Some(options) = compression.options() {
            let mut block = Vec::new();
            block.u16(u16::try_from(options.len()).unwrap_or(0) | format::METADATA_STORED);
            block.extend_from_slice(&options);
            output.append(&block)?;
        }
        let pool = Pool::new(compression, threads, start)?;
        Ok(Writer {
            output,
            data: DataWriter::new(pool, block_size, threads),
            compression,
            block_size,
            copied: Vec::new(),
        })
    }

    /// Begins the content of the next file.
    pub fn begin_file(&mut self) {
        self.data.begin();
    }

    /// Adds bytes to it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.write(bytes, &mut self.output)
    }

    /// Adds `size` zeros to it.
    pub fn hole(&mut self, size: u64) -> Result<()> {
        self.data.hole(size, &mut self.output)
    }

    /// Ends it. Nothing when it is empty: such a file has no content to refer to.
    pub fn end_file(&mut self) -> Result<FileRef> {
        self.data.end(&mut self.output)
    }

    /// Copies `size` bytes as they are, in pieces that `read` fills, each from its offset; gives the place of the first.
    /// What they are the caller says afterwards, with [`Writer::add_stored`] or [`Writer::add_stored_fragment`].
    pub fn copy(&mut self, size: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<u64> {
        self.data.settle(&mut self.output)?;
        let start = self.output.position();
        self.copied.resize(COPY, 0);
        let mut done = 0;
        while done < size {
            let now = usize::try_from(size.saturating_sub(done)).unwrap_or(COPY).min(COPY);
            let piece = self.copied.get_mut(..now).unwrap_or_default();
            read(done, piece)?;
            self.output.append(piece)?;
            done = done.saturating_add(now as u64);
        }
        Ok(start)
    }

    /// Adds a file whose blocks were copied to `start`; `words` are their size words, 0 for a hole.
    pub fn add_stored(&mut self, size: u64, start: u64, words: &[u32]) -> Result<FileRef> {
        self.data.add_stored(size, start, words)
    }

    /// Adds a fragment that was copied to `place`; gives its number.
    pub fn add_stored_fragment(&mut self, place: u64, word: u32) -> Result<u32> {
        self.data.add_stored_fragment(place, word, &mut self.output)
    }

    /// The end of a file with copied blocks is in this fragment, from `offset`.
    pub fn set_fragment(&mut self, file: FileRef, fragment: u32, offset: u32) {
        self.data.set_fragment(file, fragment, offset);
    }

    /// The end of a file with copied blocks are these bytes, fewer than a block and at least one.
    pub fn add_end(&mut self, file: FileRef, bytes: &[u8]) -> Result<()> {
        self.data.add_end(file, bytes, &mut self.output)
    }

    /// Memory that the list of files and blocks takes, about.
    pub fn memory(&self) -> usize {
        self.data.memory()
    }

    /// Writes the tree and everything else, the superblock last.
    pub fn finish(mut self, tree: &Tree) -> Result<Written> {
        self.data.flush(&mut self.output)?;
        let mut compressor = Compressor::new(self.compression)?;
        let mut tables = Tables::build(tree, &self.data, &mut compressor)?;
        let output = &mut self.output;
        let (inode_table, directory_table) = tables.write(&mut compressor, output)?;
        let fragment_table = self.data.write_fragment_table(&mut compressor, output)?;
        let export_table = tables.write_export(&mut compressor, output)?;
        let id_table = write_ids(&tree.ids, &mut compressor, output)?;
        let xattr_table = tree.xattrs.write(&mut compressor, output)?;
        let superblock = Superblock {
            inodes: tables.count,
            time: 0,
            block_size: self.block_size,
            fragments: u32::try_from(self.data.fragments()).unwrap_or(u32::MAX),
            compressor: self.compression.id(),
            flags: self.flags(tree),
            ids: u16::try_from(tree.ids.len()).map_err(|_| Error::Image("the image has too many owners".into()))?,
            root: tables.root.reference(),
            bytes_used: self.output.position(),
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        let size = self.output.finish(&superblock.encode())?;
        Ok(Written {
            size,
            inodes: tables.count,
        })
    }

    fn flags(&self, tree: &Tree) -> u16 {
        let mut flags = flag::EXPORTABLE | flag::ALWAYS_FRAGMENTS;
        if self.compression == Compression::None {
            flags |= flag::STORED_INODES | flag::STORED_DATA | flag::STORED_FRAGMENTS;
            flags |= flag::STORED_XATTRS | flag::STORED_IDS;
        } else {
            flags |= flag::COMPRESSOR_OPTIONS;
        }
        if self.data.fragments() == 0 {
            flags |= flag::NO_FRAGMENTS;
        }
        if tree.xattrs.is_empty() {
            flags |= flag::NO_XATTRS;
        }
        flags
    }
}

fn write_ids(ids: &[u32], compressor: &mut Compressor, output: &mut Output<'_>) -> Result<u64> {
    let mut table = Metadata::default();
    for id in ids {
        table.append(&id.to_le_bytes(), compressor)?;
    }
    table.write_indexed(|_| Vec::new(), compressor, output)
}
