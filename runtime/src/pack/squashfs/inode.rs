//! Inodes as bytes: the basic form where it can hold the values, else the extended one.
#![forbid(unsafe_code)]

use super::data::FileData;
use super::format::{Append, NO_XATTRS, Position, kind};
use super::tree::Attributes;

/// What every inode begins with.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The node's attributes.
    pub attributes: Attributes,
    /// Its number, from 1.
    pub number: u32,
    /// How many names it has.
    pub links: u32,
}

impl Head {
    fn encode(&self, kind: u16, bytes: &mut Vec<u8>) {
        bytes.u16(kind);
        bytes.u16(self.attributes.mode);
        bytes.u16(self.attributes.user);
        bytes.u16(self.attributes.group);
        bytes.u32(self.attributes.mtime);
        bytes.u32(self.number);
    }

    fn has_xattrs(&self) -> bool {
        self.attributes.xattrs != NO_XATTRS
    }
}

/// A regular file.
pub fn file(head: &Head, data: &FileData, blocks: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56 + blocks.len() * 4);
    let small = match (u32::try_from(data.start), u32::try_from(data.size)) {
        (Ok(start), Ok(size)) if head.links == 1 && data.sparse == 0 && !head.has_xattrs() => Some((start, size)),
        _ => None,
    };
    if let Some((start, size)) = small {
        head.encode(kind::FILE, &mut bytes);
        bytes.u32(start);
        bytes.u32(data.fragment);
        bytes.u32(data.offset);
        bytes.u32(size);
    } else {
        head.encode(kind::FILE + kind::EXTENDED, &mut bytes);
        bytes.u64(data.start);
        bytes.u64(data.size);
        bytes.u64(data.sparse);
        bytes.u32(head.links);
        bytes.u32(data.fragment);
        bytes.u32(data.offset);
        bytes.u32(head.attributes.xattrs);
    }
    for word in blocks {
        bytes.u32(*word);
    }
    bytes
}

/// A symbolic link.
pub fn symlink(head: &Head, target: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28 + target.len());
    let extended = if head.has_xattrs() { kind::EXTENDED } else { 0 };
    head.encode(kind::SYMLINK + extended, &mut bytes);
    bytes.u32(head.links);
    bytes.u32(u32::try_from(target.len()).unwrap_or(0));
    bytes.extend_from_slice(target);
    if head.has_xattrs() {
        bytes.u32(head.attributes.xattrs);
    }
    bytes
}

/// A device (with its number), a named pipe or a socket.
pub fn special(head: &Head, kind: u16, device: Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let extended = if head.has_xattrs() { kind::EXTENDED } else { 0 };
    head.encode(kind + extended, &mut bytes);
    bytes.u32(head.links);
    if let Some(device) = device {
        bytes.u32(device);
    }
    if head.has_xattrs() {
        bytes.u32(head.attributes.xattrs);
    }
    bytes
}

/// Where a directory's listing is, and the ways into it.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its first byte in the directory table.
    pub position: Option<Position>,
    /// Its bytes.
    pub size: u32,
    /// One entry for each metadata block in which a header begins, the first excepted.
    pub index: Vec<IndexEntry>,
    /// Subdirectories.
    pub directories: u32,
}

/// A way into the middle of a long listing: the header at `offset` lies in `block` and its first name is `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Bytes of the listing before the header.
    pub offset: u32,
    /// Place of the metadata block in the directory table.
    pub block: u32,
    /// The first name under the header.
    pub name: Box<[u8]>,
}

/// A directory. Readers count three bytes more than the listing has: they stand for `.` and `..`.
pub fn directory(head: &Head, listing: &Listing, parent: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    let size = listing.size.saturating_add(3);
    let position = listing.position.unwrap_or(Position { block: 0, offset: 0 });
    match u16::try_from(size) {
        Ok(small) if listing.index.is_empty() && !head.has_xattrs() => {
            head.encode(kind::DIRECTORY, &mut bytes);
            bytes.u32(position.block);
            bytes.u32(head.links);
            bytes.u16(small);
            bytes.u16(position.offset);
            bytes.u32(parent);
        }
        _ => {
            head.encode(kind::DIRECTORY + kind::EXTENDED, &mut bytes);
            bytes.u32(head.links);
            bytes.u32(size);
            bytes.u32(position.block);
            bytes.u32(parent);
            bytes.u16(u16::try_from(listing.index.len()).unwrap_or(u16::MAX));
            bytes.u16(position.offset);
            bytes.u32(head.attributes.xattrs);
            for entry in listing.index.iter().take(usize::from(u16::MAX)) {
                bytes.u32(entry.offset);
                bytes.u32(entry.block);
                bytes.u32(u32::try_from(entry.name.len().saturating_sub(1)).unwrap_or(0));
                bytes.extend_from_slice(&entry.name);
            }
        }
    }
    bytes
}

/// A device number as the kernel encodes it (include/linux/kdev_t.h, `new_encode_dev`).
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}
