//! Directory listings: entries in the order of their bytes, in runs under headers. A run shares the metadata block of
//! its inodes and the high bits of their numbers; a new run begins with each metadata block of the listing itself, so
//! that the index of a long directory can lead into its middle.
#![forbid(unsafe_code)]

use super::compress::Compressor;
use super::format::{Append, DIRECTORY_RUN, METADATA_SIZE, Position};
use super::inode::{IndexEntry, Listing};
use super::metadata::Metadata;
use crate::error::{Error, Result};

/// One name of a directory.
pub struct DirectoryEntry<'n> {
    /// The name.
    pub name: &'n [u8],
    /// Where its inode is.
    pub inode: Position,
    /// The inode's number.
    pub number: u32,
    /// The inode's basic type.
    pub kind: u16,
}

/// The entries under one header.
struct Run<'n> {
    block: u32,
    number: u32,
    first: &'n [u8],
    entries: Vec<u8>,
    count: u32,
}

/// Writes the listing of one directory.
pub fn write<'n>(
    entries: impl Iterator<Item = DirectoryEntry<'n>>,
    table: &mut Metadata,
    compressor: &mut Compressor,
) -> Result<Listing> {
    let mut listing = Listing {
        position: Some(table.position()?),
        ..Listing::default()
    };
    let mut run: Option<Run<'n>> = None;
    for entry in entries {
        let delta = match &run {
            Some(open) => fits(open, &entry, table.position()?),
            None => None,
        };
        if delta.is_none() {
            end_run(run.take(), &mut listing, table, compressor)?;
        }
        let open = run.get_or_insert_with(|| Run {
            block: entry.inode.block,
            number: entry.number,
            first: entry.name,
            entries: Vec::new(),
            count: 0,
        });
        open.entries.u16(entry.inode.offset);
        open.entries.extend_from_slice(&delta.unwrap_or(0).to_le_bytes());
        open.entries.u16(entry.kind);
        open.entries
            .u16(u16::try_from(entry.name.len().saturating_sub(1)).unwrap_or(0));
        open.entries.extend_from_slice(entry.name);
        open.count += 1;
    }
    end_run(run, &mut listing, table, compressor)?;
    Ok(listing)
}

/// The difference of inode numbers when the entry can go under the open header.
fn fits(run: &Run<'_>, entry: &DirectoryEntry<'_>, position: Position) -> Option<i16> {
    let written = usize::from(position.offset)
        .saturating_add(HEADER)
        .saturating_add(run.entries.len());
    if run.block != entry.inode.block || run.count as usize >= DIRECTORY_RUN || written >= METADATA_SIZE {
        return None;
    }
    i16::try_from(i64::from(entry.number).saturating_sub(i64::from(run.number))).ok()
}

/// Bytes of a header.
const HEADER: usize = 12;

fn end_run(
    run: Option<Run<'_>>,
    listing: &mut Listing,
    table: &mut Metadata,
    compressor: &mut Compressor,
) -> Result<()> {
    let Some(run) = run else { return Ok(()) };
    let block = table.position()?.block;
    let before = match listing.index.last() {
        Some(entry) => Some(entry.block),
        None => listing.position.map(|position| position.block),
    };
    if before != Some(block) {
        listing.index.push(IndexEntry {
            offset: listing.size,
            block,
            name: run.first.into(),
        });
    }
    let mut bytes = Vec::with_capacity(HEADER.saturating_add(run.entries.len()));
    bytes.u32(run.count.saturating_sub(1));
    bytes.u32(run.block);
    bytes.u32(run.number);
    bytes.extend_from_slice(&run.entries);
    table.append(&bytes, compressor)?;
    listing.size = u32::try_from(bytes.len())
        .ok()
        .and_then(|size| listing.size.checked_add(size))
        .filter(|size| *size < u32::MAX - 3)
        .ok_or_else(|| Error::Image("the layer has a directory with too many entries".into()))?;
    Ok(())
}
