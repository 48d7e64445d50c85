//! The tar archive of a layer, entry by entry. The parsing is tar-core's; what it leaves to its callers (content,
//! padding, the end of the stream) and where it needs a second look (sizes that extensions override) is here.
#![forbid(unsafe_code)]

use super::names::{one_line, quoted};
use super::stream::Stream;
use crate::error::{Error, Result};
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions, SparseEntry};

/// The longest path or link target (PATH_MAX of Linux with its final NUL).
const PATH_MAX: u32 = 4096;
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Another name of a file that came before.
    HardLink,
    /// Character or block device.
    Device,
    /// Named pipe.
    Fifo,
}

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// One entry; its content, where it has any, is still in the stream.
#[derive(Debug)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name, as it is in the archive.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970; dates before are 0.
    pub mtime: u32,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where the data of a sparse file goes, in order and within `size`.
    pub extents: Option<Vec<Extent>>,
    /// Names and values of extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads an archive.
pub struct Reader {
    stream: Stream,
    parser: Parser,
    content: u64,
    padding: u64,
    name: Vec<u8>,
}

impl Reader {
    /// A reader at the start of `stream`.
    pub fn new(stream: Stream, max_metadata: u32, max_extents: usize) -> Self {
        let mut parser = Parser::new(Limits {
            max_metadata_size: max_metadata,
            max_path_len: Some(PATH_MAX),
            max_sparse_entries: max_extents,
            ..Limits::default()
        });
        // A date before 1970 or an odd owner is no reason to refuse a layer; numbers that count are checked below.
        parser.set_ignore_pax_errors(true);
        Reader {
            stream,
            parser,
            content: 0,
            padding: 0,
            name: Vec::new(),
        }
    }

    /// The next entry; what is left of the content of the one before is skipped. Nothing at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        let mut wanted = 512;
        loop {
            let window = self.stream.at_least(wanted)?;
            let event = self.parser.parse(window).map_err(|error| damaged(&error.to_string()))?;
            let (consumed, entry, content) = match event {
                ParseEvent::NeedData { min_bytes } => {
                    let have = window.len();
                    if have < wanted {
                        return at_end(window, &self.name);
                    }
                    wanted = min_bytes.max(have.saturating_add(1));
                    continue;
                }
                ParseEvent::End { consumed } => {
                    self.stream.consume(consumed);
                    return Ok(None);
                }
                ParseEvent::GlobalExtensions { consumed, .. } => {
                    self.stream.consume(consumed);
                    wanted = 512;
                    continue;
                }
                ParseEvent::Entry { consumed, entry } => {
                    let (entry, content) = plain(&entry)?;
                    (consumed, entry, content)
                }
                ParseEvent::SparseEntry {
                    consumed,
                    entry,
                    sparse_map,
                    real_size,
                } => {
                    let (entry, content) = sparse(&entry, &sparse_map, real_size)?;
                    (consumed, entry, content)
                }
            };
            self.stream.consume(consumed);
            self.name.clone_from(&entry.path);
            self.content = content;
            self.padding = content.wrapping_neg() % BLOCK;
            return Ok(Some(entry));
        }
    }

    /// Hands the next `size` bytes of content to `sink`, piece by piece.
    pub fn content(&mut self, mut size: u64, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while size > 0 {
            let bytes = self.stream.some()?;
            if bytes.is_empty() {
                return Err(truncated(&self.name));
            }
            let now = usize::try_from(size.min(self.content)).unwrap_or(usize::MAX);
            let bytes = bytes.get(..now).unwrap_or(bytes);
            if bytes.is_empty() {
                return Err(damaged("an entry has less content than its map says"));
            }
            sink(bytes)?;
            let taken = bytes.len();
            self.stream.consume(taken);
            self.content = self.content.saturating_sub(taken as u64);
            size = size.saturating_sub(taken as u64);
        }
        Ok(())
    }

    /// Reads what is behind the end of the archive.
    pub fn finish(mut self) -> Result<()> {
        self.stream.drain()
    }

    fn skip(&mut self) -> Result<()> {
        self.content(self.content, |_| Ok(()))?;
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        if self.stream.at_least(padding)?.len() < padding {
            return Err(truncated(&self.name));
        }
        self.stream.consume(padding);
        Ok(())
    }
}

/// The stream ended where a header should be: archives without their end marker are common and complete.
fn at_end(rest: &[u8], name: &[u8]) -> Result<Option<Entry>> {
    match rest.iter().all(|byte| *byte == 0) {
        true => Ok(None),
        false => Err(truncated(name)),
    }
}

fn truncated(name: &[u8]) -> Error {
    Error::Image(format!(
        "the layer is truncated: its tar archive ends after {}",
        quoted(name)
    ))
}

fn damaged(reason: &str) -> Error {
    Error::Image(format!("the layer's tar archive is damaged: {}", one_line(reason)))
}

fn plain(parsed: &ParsedEntry<'_>) -> Result<(Entry, u64)> {
    let entry = convert(parsed)?;
    let content = if entry.kind == Kind::File { entry.size } else { 0 };
    Ok((entry, content))
}

fn sparse(parsed: &ParsedEntry<'_>, map: &[SparseEntry], real_size: u64) -> Result<(Entry, u64)> {
    let mut entry = convert(parsed)?;
    if entry.kind != Kind::File {
        return Ok((entry, 0));
    }
    let (mut end, mut stored) = (0_u64, 0_u64);
    let mut extents = Vec::with_capacity(map.len());
    for piece in map {
        let next = piece.offset.checked_add(piece.length).filter(|next| *next <= real_size);
        let (Some(next), true) = (next, piece.offset >= end) else {
            return Err(damaged("the map of a sparse file is out of order or beyond its size"));
        };
        end = next;
        stored = stored.saturating_add(piece.length);
        extents.push(Extent {
            offset: piece.offset,
            length: piece.length,
        });
    }
    let content = sparse_content(parsed, stored)?;
    entry.size = real_size;
    entry.extents = Some(extents);
    Ok((entry, content))
}

/// How many bytes of content follow. For the PAX 1.0 form the map is part of the entry's size; tar-core takes it off the
/// header's size but not off a size given by an extension, so there the data's own length decides.
fn sparse_content(parsed: &ParsedEntry<'_>, stored: u64) -> Result<u64> {
    if parsed.size == stored {
        return Ok(stored);
    }
    let mut version = None;
    let mut overridden = false;
    for extension in PaxExtensions::new(parsed.pax.unwrap_or(&[])).flatten() {
        match extension.key_bytes() {
            b"GNU.sparse.major" => version = Some(extension.value_bytes()),
            b"size" => overridden = true,
            _ => {}
        }
    }
    let map = parsed.size.checked_sub(stored);
    match map {
        Some(map) if overridden && version == Some(b"1") && map.is_multiple_of(BLOCK) => Ok(stored),
        _ => Err(damaged("the size of a sparse file does not agree with its map")),
    }
}

fn convert(parsed: &ParsedEntry<'_>) -> Result<Entry> {
    check_numbers(parsed.pax.unwrap_or(&[]))?;
    let kind = kind(parsed)?;
    Ok(Entry {
        kind,
        path: parsed.path.to_vec(),
        link: parsed.link_target.as_deref().unwrap_or(&[]).to_vec(),
        mode: parsed.mode,
        mtime: mtime(parsed.mtime),
        size: if kind == Kind::File { parsed.size } else { 0 },
        extents: None,
        xattrs: parsed
            .xattrs
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
    })
}

/// Links, directories and devices have no content whatever their header says (as Go's archive/tar reads them, with which
/// images are made).
fn kind(parsed: &ParsedEntry<'_>) -> Result<Kind> {
    Ok(match parsed.entry_type {
        // Old archives mark a directory by its name alone.
        EntryType::Regular if parsed.path.ends_with(b"/") && parsed.size == 0 => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Char | EntryType::Block => Kind::Device,
        EntryType::Fifo => Kind::Fifo,
        other => {
            let name = quoted(&parsed.path);
            return Err(Error::Image(format!(
                "the layer's entry {name} has an unknown type ({:?})",
                char::from(other.to_byte())
            )));
        }
    })
}

/// Two's complement for dates before 1970; squashfs ends in 2106.
fn mtime(seconds: u64) -> u32 {
    match i64::try_from(seconds) {
        Ok(seconds) => u32::try_from(seconds).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

/// The numbers on which the place of the next header depends must be numbers.
fn check_numbers(pax: &[u8]) -> Result<()> {
    for extension in PaxExtensions::new(pax).flatten() {
        let key = extension.key_bytes();
        let counts =
            key == b"size" || (key.starts_with(b"GNU.sparse.") && !key.ends_with(b".name") && !key.ends_with(b".map"));
        let number = extension.value().ok().and_then(|value| value.parse::<u64>().ok());
        if counts && number.is_none() {
            return Err(damaged(&format!("the extension {} is not a number", quoted(key))));
        }
    }
    Ok(())
}
