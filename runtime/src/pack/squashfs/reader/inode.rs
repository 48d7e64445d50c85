//! Inodes as they are read.
#![forbid(unsafe_code)]

use super::super::format::{Fields, NO_FRAGMENT, NO_XATTRS, kind};
use super::blocks::Blocks;
use super::broken;
use super::cursor::Cursor;
use super::source::ReadAt;
use crate::error::Result;

/// The longest target of a symbolic link (PATH_MAX).
const TARGET_MAX: u32 = 4096;

/// Where an inode is: the key that tells two names of one file from two files.
pub type InodeRef = u64;

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Number of names.
    pub links: u32,
    /// Number of the set of extended attributes, or [`NO_XATTRS`].
    pub xattrs: u32,
    /// What it is.
    pub content: Content,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory(Listing),
    /// A regular file.
    File(FileContent),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device and its number as the kernel encodes it.
    CharDevice(u32),
    /// A block device, likewise.
    BlockDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where a directory's entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    pub(super) block: u32,
    pub(super) offset: u16,
    pub(super) size: u32,
    /// Ways into the middle of a long listing; they follow the inode.
    pub(super) indexes: u16,
}

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileContent {
    /// Bytes.
    pub size: u64,
    /// Place of the first stored block.
    pub start: u64,
    /// The fragment with the file's tail, and where in it, or [`NO_FRAGMENT`].
    pub fragment: u32,
    /// Where the tail begins in the fragment.
    pub offset: u32,
    /// Blocks outside of the fragment.
    pub blocks: u64,
    /// Where the blocks' size words begin, in the table.
    pub(super) words: (u64, usize),
}

impl FileContent {
    /// Bytes in the fragment.
    pub fn tail(&self, block_size: u32) -> u32 {
        match self.fragment {
            NO_FRAGMENT => 0,
            _ => u32::try_from(self.size % u64::from(block_size)).unwrap_or(0),
        }
    }
}

/// Reads the inode at the cursor.
pub fn read<S: ReadAt>(blocks: &mut Blocks<S>, cursor: &mut Cursor, ids: &[u32], block_size: u32) -> Result<Inode> {
    let head: [u8; 16] = cursor.array(blocks)?;
    let mut fields = Fields::new(&head);
    let (number, mode, uid, gid) = (fields.u16(), fields.u16(), fields.u16(), fields.u16());
    let mtime = fields.u32();
    let id = |index: u16| {
        ids.get(usize::from(index))
            .copied()
            .ok_or_else(|| broken("an inode has no owner"))
    };
    let mut inode = Inode {
        mode: mode & 0o7777,
        uid: id(uid)?,
        gid: id(gid)?,
        mtime,
        links: 1,
        xattrs: NO_XATTRS,
        content: Content::Socket,
    };
    let extended = number > kind::EXTENDED;
    let basic = if extended { number - kind::EXTENDED } else { number };
    inode.content = match (basic, extended) {
        (kind::DIRECTORY, false) => directory(blocks, cursor, &mut inode)?,
        (kind::DIRECTORY, true) => extended_directory(blocks, cursor, &mut inode)?,
        (kind::FILE, false) => file(blocks, cursor, block_size)?,
        (kind::FILE, true) => extended_file(blocks, cursor, &mut inode, block_size)?,
        _ => special(blocks, cursor, &mut inode, basic, extended)?,
    };
    Ok(inode)
}

fn directory<S: ReadAt>(blocks: &mut Blocks<S>, cursor: &mut Cursor, inode: &mut Inode) -> Result<Content> {
    let bytes: [u8; 16] = cursor.array(blocks)?;
    let mut fields = Fields::new(&bytes);
    let block = fields.u32();
    inode.links = fields.u32();
    let (size, offset) = (u32::from(fields.u16()), fields.u16());
    listing(block, offset, size, 0)
}

fn extended_directory<S: ReadAt>(blocks: &mut Blocks<S>, cursor: &mut Cursor, inode: &mut Inode) -> Result<Content> {
    let bytes: [u8; 24] = cursor.array(blocks)?;
    let mut fields = Fields::new(&bytes);
    inode.links = fields.u32();
    let (size, block, _parent) = (fields.u32(), fields.u32(), fields.u32());
    let (indexes, offset) = (fields.u16(), fields.u16());
    inode.xattrs = fields.u32();
    listing(block, offset, size, indexes)
}

/// The size counts three bytes for `.` and `..`, which are not there.
fn listing(block: u32, offset: u16, size: u32, indexes: u16) -> Result<Content> {
    let size = match size {
        0 => 0,
        size => size
            .checked_sub(3)
            .ok_or_else(|| broken("a directory has an impossible size"))?,
    };
    Ok(Content::Directory(Listing {
        block,
        offset,
        size,
        indexes,
    }))
}

fn file<S: ReadAt>(blocks: &mut Blocks<S>, cursor: &mut Cursor, block_size: u32) -> Result<Content> {
    let bytes: [u8; 16] = cursor.array(blocks)?;
    let mut fields = Fields::new(&bytes);
    let (start, fragment, offset, size) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
    content(u64::from(start), fragment, offset, u64::from(size), cursor, block_size)
}

fn extended_file<S: ReadAt>(
    blocks: &mut Blocks<S>,
    cursor: &mut Cursor,
    inode: &mut Inode,
    block_size: u32,
) -> Result<Content> {
    let bytes: [u8; 40] = cursor.array(blocks)?;
    let mut fields = Fields::new(&bytes);
    let (start, size, _sparse) = (fields.u64(), fields.u64(), fields.u64());
    inode.links = fields.u32();
    let (fragment, offset) = (fields.u32(), fields.u32());
    inode.xattrs = fields.u32();
    content(start, fragment, offset, size, cursor, block_size)
}

fn content(start: u64, fragment: u32, offset: u32, size: u64, cursor: &Cursor, block_size: u32) -> Result<Content> {
    if i64::try_from(size).is_err() {
        return Err(broken("a file has an impossible size"));
    }
    let blocks = match fragment {
        NO_FRAGMENT => size.div_ceil(u64::from(block_size)),
        _ => size / u64::from(block_size),
    };
    Ok(Content::File(FileContent {
        size,
        start,
        fragment,
        offset,
        blocks,
        words: cursor.position(),
    }))
}

fn special<S: ReadAt>(
    blocks: &mut Blocks<S>,
    cursor: &mut Cursor,
    inode: &mut Inode,
    basic: u16,
    extended: bool,
) -> Result<Content> {
    inode.links = u32::from_le_bytes(cursor.array(blocks)?);
    let content = match basic {
        kind::SYMLINK => {
            let size = u32::from_le_bytes(cursor.array(blocks)?);
            if size == 0 || size > TARGET_MAX {
                return Err(broken("a symbolic link has an impossible size"));
            }
            let target = cursor.bytes(blocks, size as usize)?;
            if target.contains(&0) {
                return Err(broken("a symbolic link has a NUL in its target"));
            }
            Content::Symlink(target.into())
        }
        kind::CHAR_DEVICE => Content::CharDevice(u32::from_le_bytes(cursor.array(blocks)?)),
        kind::BLOCK_DEVICE => Content::BlockDevice(u32::from_le_bytes(cursor.array(blocks)?)),
        kind::FIFO => Content::Fifo,
        kind::SOCKET => Content::Socket,
        _ => return Err(broken("an inode is of no known kind")),
    };
    if extended {
        inode.xattrs = u32::from_le_bytes(cursor.array(blocks)?);
    }
    Ok(content)
}
