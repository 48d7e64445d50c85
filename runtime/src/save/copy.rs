//! Contents of the files of layers: their blocks are copied as they are where the saved file has the same compressor
//! and block size, in the order in which they lie in the layer, so that neighbours travel together. Blocks that are not
//! compressed go anywhere with the same block size. The rest is decompressed and compressed again.
//!
//! A fragment holds the ends of several files. It is copied as it is when all of its files are in the saved tree; else
//! the ends go into new fragments, so that what was deleted is not in the saved file.
#![forbid(unsafe_code)]

use super::Shape;
use super::lower::Layer;
use super::merge::{LowerFile, Merged};
use crate::error::{Error, Result};
use crate::pack::squashfs::format::DATA_STORED;
use crate::pack::squashfs::reader::{Piece, stored_size};
use crate::pack::squashfs::{Body, FileRef, NodeId, Tree, Writer};
use std::collections::{BTreeMap, HashMap};

/// A fragment: its layer and its number there.
type FragmentKey = (usize, u32);

/// Something that is copied as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Extent {
    layer: usize,
    place: u64,
    size: u64,
}

/// Writes the contents of all files; gives the number of bytes that were copied as they are.
pub fn contents(merged: &mut Merged<'_>, shape: &Shape, writer: &mut Writer<'_>) -> Result<u64> {
    let mut files = std::mem::take(&mut merged.files);
    files.sort_unstable_by_key(|file| (file.layer, file.file.start, file.file.fragment, file.file.offset));
    let (stored, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_copied(merged, shape, file));
    for file in &other {
        recompress(merged, file, writer)?;
    }
    let fragments = whole_fragments(merged, shape, &stored)?;
    let mut extents = Vec::with_capacity(stored.len().saturating_add(fragments.len()));
    for file in &stored {
        extents.push(extent_of(merged, shape, file)?);
    }
    for ((layer, _), (place, word)) in &fragments {
        extents.push(Extent {
            layer: *layer,
            place: *place,
            size: stored_size(*word, shape.block_size as usize)? as u64,
        });
    }
    let places = copy(merged, &extents, writer)?;
    let copied = places.keys().map(|extent| extent.size).fold(0, u64::saturating_add);
    let mut numbers = HashMap::new();
    let (files, rest) = extents.split_at(stored.len());
    for ((key, (_, word)), extent) in fragments.iter().zip(rest) {
        let place = places.get(extent).copied().unwrap_or_default();
        numbers.insert(*key, writer.add_stored_fragment(place, *word)?);
    }
    let mut ends = Vec::new();
    for (file, extent) in stored.iter().zip(files) {
        let place = places.get(extent).copied().unwrap_or_default();
        let content = writer.add_stored(file.file.size, place, merged.words_of(file))?;
        set_content(&mut merged.tree, file.node, content);
        if file.file.tail(shape.block_size) > 0 {
            match numbers.get(&(file.layer, file.file.fragment)) {
                Some(number) => writer.set_fragment(content, *number, file.file.offset),
                None => ends.push((file, content)),
            }
        }
    }
    write_ends(merged, ends, writer)?;
    Ok(copied)
}

fn set_content(tree: &mut Tree, node: NodeId, content: FileRef) {
    if let Some(node) = tree.get_mut(node) {
        node.body = Body::File(Some(content));
    }
}

fn layer_of<'m, 'l>(merged: &'m Merged<'l>, number: usize) -> Result<&'m Layer<'l>> {
    let missing = || Error::Image("a layer is missing".into());
    merged.layers.get(number).ok_or_else(missing)
}

/// Whether blocks of the layer that begin with this word mean the same in the saved file.
fn fits(merged: &Merged<'_>, shape: &Shape, layer: usize, word: u32) -> bool {
    merged.layers.get(layer).is_some_and(|layer| {
        let superblock = layer.reader.superblock();
        let same = superblock.compressor == shape.compression.id();
        superblock.block_size == shape.block_size && (same || word == 0 || word & DATA_STORED != 0)
    })
}

/// A file without any block is copied as well: its end may be in a fragment that is.
fn is_copied(merged: &Merged<'_>, shape: &Shape, file: &LowerFile) -> bool {
    let words = merged.words_of(file);
    fits(merged, shape, file.layer, 0) && words.iter().all(|word| fits(merged, shape, file.layer, *word))
}

fn extent_of(merged: &Merged<'_>, shape: &Shape, file: &LowerFile) -> Result<Extent> {
    let mut size = 0_u64;
    for word in merged.words_of(file) {
        size = size.saturating_add(stored_size(*word, shape.block_size as usize)? as u64);
    }
    Ok(Extent {
        layer: file.layer,
        place: if size == 0 { 0 } else { file.file.start },
        size,
    })
}

/// The fragments that are copied, with their places and size words: those all of whose files are copied.
fn whole_fragments(
    merged: &Merged<'_>,
    shape: &Shape,
    files: &[LowerFile],
) -> Result<BTreeMap<FragmentKey, (u64, u32)>> {
    let mut live: BTreeMap<FragmentKey, u32> = BTreeMap::new();
    for file in files {
        let tail = file.file.tail(shape.block_size);
        // An end that reaches out of its fragment is read, and refused.
        if tail > 0 && file.file.offset.saturating_add(tail) <= shape.block_size {
            *live.entry((file.layer, file.file.fragment)).or_default() += 1;
        }
    }
    let uses = merged
        .layers
        .iter()
        .map(|layer| layer.reader.fragment_uses())
        .collect::<Result<Vec<_>>>()?;
    let mut whole = BTreeMap::new();
    for ((layer, fragment), count) in live {
        let all = uses.get(layer).and_then(|uses| uses.get(&fragment));
        let (place, word) = layer_of(merged, layer)?.reader.fragment_entry(fragment)?;
        if all == Some(&count) && fits(merged, shape, layer, word) {
            whole.insert((layer, fragment), (place, word));
        }
    }
    Ok(whole)
}

/// Copies the extents, those side by side in one go, equal ones once; gives the place of each.
fn copy(merged: &Merged<'_>, extents: &[Extent], writer: &mut Writer<'_>) -> Result<HashMap<Extent, u64>> {
    let mut sorted: Vec<Extent> = extents.iter().copied().filter(|extent| extent.size > 0).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut places = HashMap::with_capacity(sorted.len());
    for run in sorted.chunk_by(|before, after| {
        before.layer == after.layer && before.place.checked_add(before.size) == Some(after.place)
    }) {
        let Some(first) = run.first() else { continue };
        let size = run.iter().map(|extent| extent.size).fold(0, u64::saturating_add);
        let reader = &layer_of(merged, first.layer)?.reader;
        let mut place = writer.copy(size, |offset, buffer| {
            reader.raw(first.place.saturating_add(offset), buffer)
        })?;
        for extent in run {
            places.insert(*extent, place);
            place = place.saturating_add(extent.size);
        }
    }
    Ok(places)
}

/// The ends of files whose fragments are not copied, in the order in which they lie.
fn write_ends(merged: &Merged<'_>, mut ends: Vec<(&LowerFile, FileRef)>, writer: &mut Writer<'_>) -> Result<()> {
    ends.sort_unstable_by_key(|(file, _)| (file.layer, file.file.fragment, file.file.offset));
    for (file, content) in ends {
        let reader = &layer_of(merged, file.layer)?.reader;
        reader.tail(&file.file, |bytes| writer.add_end(content, bytes))?;
    }
    Ok(())
}

fn recompress(merged: &mut Merged<'_>, file: &LowerFile, writer: &mut Writer<'_>) -> Result<()> {
    writer.begin_file();
    layer_of(merged, file.layer)?
        .reader
        .content(&file.file, |piece| match piece {
            Piece::Bytes(bytes) => writer.write(bytes),
            Piece::Hole(size) => writer.hole(size),
        })?;
    let content = writer.end_file()?;
    set_content(&mut merged.tree, file.node, content);
    Ok(())
}
