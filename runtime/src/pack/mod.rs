//! From one layer of an image to one pack: a stream of (compressed) tar bytes goes in, a squashfs file comes out, in one
//! pass, on all cores. Nothing is extracted, and memory holds the tree of names and a few blocks, whatever the size.
//!
//! ```text
//! blob -> inflate -> hash (diff id) -> tar entries -> tree + blocks -> compress on N threads -> write in order
//! ```
#![forbid(unsafe_code)]

mod inflate;
mod layer;
pub(crate) mod names;
pub mod squashfs;
mod stream;
mod tar;

pub use squashfs::Compression;

use crate::digest::Digest;
use crate::error::{Error, Result};
pub(crate) use inflate::Inflate;
pub(crate) use layer::is_kept;
use layer::{Dropped, Layer};
use serde::{Deserialize, Serialize};
use squashfs::{FileRef, Writer, Written};
use std::fs::File;
use std::io::Read;
use tar::{Entry, Reader};

/// How a pack is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The compressor of data and metadata.
    pub compression: Compression,
    /// Size of data blocks: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Threads that compress; two more inflate and hash.
    pub threads: usize,
    /// What a layer may ask for.
    pub limits: Limits,
}

impl Default for Options {
    /// zstd at its fastest, blocks of 128 KiB, one thread.
    fn default() -> Self {
        Options {
            compression: Compression::Zstd { level: 1 },
            block_size: 131_072,
            threads: 1,
            limits: Limits::default(),
        }
    }
}

/// Limits of a layer: beyond them it is refused. They bound memory and time, not what is usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the uncompressed archive, and of all its files with their holes.
    pub max_bytes: u64,
    /// Entries of the archive.
    pub max_entries: u64,
    /// Memory for the tree of names.
    pub max_tree_bytes: u64,
    /// Bytes of the extensions (long names, extended attributes) of one entry.
    pub max_header_bytes: u32,
    /// Pieces of one sparse file.
    pub max_extents: usize,
}

impl Default for Limits {
    /// 1 TiB, 4 million entries, 256 MiB of names, 1 MiB of extensions, 100,000 pieces.
    fn default() -> Self {
        Limits {
            max_bytes: 1 << 40,
            max_entries: 4_000_000,
            max_tree_bytes: 256 << 20,
            max_header_bytes: 1 << 20,
            max_extents: 100_000,
        }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Digest of all uncompressed bytes.
    pub diff_id: Digest,
    /// How many they were.
    pub tar_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Inodes of the pack.
    pub inodes: u32,
    /// Size of the pack.
    pub pack_bytes: u64,
    /// The root is opaque: nothing of the layers below is to be seen. overlayfs does not read this from a layer's
    /// root, so whoever stacks the packs leaves the lower ones out.
    pub opaque_root: bool,
    /// Device nodes that were left out.
    pub dropped_devices: u64,
    /// Entries that lost a set-id bit.
    pub cleared_set_id: u64,
    /// Extended attributes that were left out.
    pub dropped_xattrs: u64,
}

/// Converts one layer. `blob` is its compressed bytes, read to the end; whether they are the right ones is for the
/// caller to check. `output` is an empty file that nobody else sees; after an error it holds garbage.
pub fn pack_layer(blob: impl Read + Send, output: &File, options: &Options) -> Result<Summary> {
    let inflate = Inflate::open(blob)?;
    let writer = Writer::new(output, options.compression, options.block_size, options.threads)?;
    std::thread::scope(|scope| {
        let limits = &options.limits;
        let (stream, hasher) = stream::start(scope, inflate, limits.max_bytes)?;
        let reader = Reader::new(stream, limits.max_header_bytes, limits.max_extents);
        let converted = convert(reader, writer, limits)?;
        let (diff_id, tar_bytes) = hasher
            .join()
            .map_err(|_| Error::Host("the hashing thread ended early".into()))?;
        Ok(Summary {
            diff_id,
            tar_bytes,
            entries: converted.entries,
            inodes: converted.written.inodes,
            pack_bytes: converted.written.size,
            opaque_root: converted.opaque_root,
            dropped_devices: converted.dropped.devices,
            cleared_set_id: converted.dropped.set_id,
            dropped_xattrs: converted.dropped.xattrs,
        })
    })
}

struct Converted {
    entries: u64,
    written: Written,
    opaque_root: bool,
    dropped: Dropped,
}

fn convert(mut reader: Reader, mut writer: Writer<'_>, limits: &Limits) -> Result<Converted> {
    let mut layer = Layer::default();
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    while let Some(entry) = reader.next()? {
        entries += 1;
        bytes = bytes.saturating_add(entry.size);
        check_limits(entries, bytes, limits)?;
        layer.add(&entry, || content(&entry, &mut reader, &mut writer))?;
        layer.check_memory(writer.memory(), limits)?;
    }
    reader.finish()?;
    let dropped = layer.dropped;
    let (tree, opaque_root) = layer.finish()?;
    let written = writer.finish(&tree)?;
    Ok(Converted {
        entries,
        written,
        opaque_root,
        dropped,
    })
}

fn check_limits(entries: u64, bytes: u64, limits: &Limits) -> Result<()> {
    if entries > limits.max_entries {
        let limit = limits.max_entries;
        return Err(Error::Image(format!("the layer has more than {limit} entries")));
    }
    if bytes > limits.max_bytes {
        let limit = limits.max_bytes;
        return Err(Error::Image(format!("the layer's files are larger than {limit} bytes")));
    }
    Ok(())
}

/// Moves the content of a file from the archive to the pack.
fn content(entry: &Entry, reader: &mut Reader, writer: &mut Writer<'_>) -> Result<Option<FileRef>> {
    if entry.size == 0 {
        return Ok(None);
    }
    writer.begin_file();
    match &entry.extents {
        None => reader.content(entry.size, |bytes| writer.write(bytes))?,
        Some(extents) => {
            let mut position = 0_u64;
            for extent in extents {
                writer.hole(extent.offset.saturating_sub(position))?;
                reader.content(extent.length, |bytes| writer.write(bytes))?;
                position = extent.offset.saturating_add(extent.length);
            }
            writer.hole(entry.size.saturating_sub(position))?;
        }
    }
    writer.end_file().map(Some)
}
