//! The writable layer of a container as a tree, its contents written to the saved file. Everything in it is the user's
//! own; what is not (he can put other things there himself) is refused, since modes do not bind the process that reads.
#![forbid(unsafe_code)]

use super::check_memory;
use super::config::FILE_MAX;
use super::marks::{Mark, Marks};
use crate::error::{Error, Result};
use crate::pack::is_kept;
use crate::pack::names::{DEPTH_MAX, quoted};
use crate::pack::squashfs::{Attributes, Body, FileRef, NodeId, Tree, Writer};
use crate::plan::Identity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;
/// The longest list of names, and the longest value, of extended attributes (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const XATTR_MAX: usize = 64 << 10;

/// The upper layer.
pub struct Upper {
    /// Its tree. What must hide something of the layers and is not saved itself (whiteouts, sockets, devices) is
    /// [`Body::Absent`].
    pub tree: Tree,
    /// Marks of its directories.
    pub marks: HashMap<NodeId, Mark>,
    /// Content of its `/etc/environment`, if it has one.
    pub environment: Option<Vec<u8>>,
}

impl Upper {
    /// A layer to which nothing was written.
    pub fn empty() -> Self {
        Upper {
            tree: Tree::default(),
            marks: HashMap::new(),
            environment: None,
        }
    }
}

/// A directory that is still to be read.
struct Pending {
    parent: Rc<OwnedFd>,
    name: Box<[u8]>,
    node: NodeId,
    depth: usize,
}

struct Reading<'r, 'f> {
    upper: Upper,
    identity: &'r Identity,
    marks: &'r Marks,
    links: HashMap<(u64, u64), NodeId>,
    pending: Vec<Pending>,
    writer: &'r mut Writer<'f>,
}

/// Reads the layer below `root`. The caller is the user, and may read all that is his, whatever its modes.
pub fn read(root: &OwnedFd, identity: &Identity, marks: &Marks, writer: &mut Writer<'_>) -> Result<Upper> {
    let mut reading = Reading {
        upper: Upper::empty(),
        identity,
        marks,
        links: HashMap::new(),
        pending: Vec::new(),
        writer,
    };
    let root = open_directory(root, b".")?;
    reading.directory(root, NodeId::ROOT, 0, b"/")?;
    while let Some(next) = reading.pending.pop() {
        if let Some(fd) = found(open_directory(&*next.parent, &next.name))? {
            reading.directory(fd, next.node, next.depth, &next.name)?;
        }
    }
    Ok(reading.upper)
}

impl Reading<'_, '_> {
    fn directory(&mut self, fd: OwnedFd, node: NodeId, depth: usize, name: &[u8]) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::Request(format!("the directory {} is too deep", quoted(name))));
        }
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed("fstat", error))?;
        self.check_owner(&stat, name)?;
        let attributes = self.attributes(&stat, Some(&fd))?;
        if let Some(node) = self.upper.tree.get_mut(node) {
            node.attributes = attributes;
        }
        if let Some(mark) = self.marks.get(&(stat.st_dev, stat.st_ino)) {
            self.upper.marks.insert(node, mark.clone());
        }
        let names = list(&fd)?;
        let fd = Rc::new(fd);
        for (child, _) in names {
            self.entry(&fd, node, &child, depth)?;
            check_memory(self.upper.tree.memory().saturating_add(self.writer.memory()))?;
        }
        Ok(())
    }

    fn entry(&mut self, fd: &Rc<OwnedFd>, directory: NodeId, name: &[u8], depth: usize) -> Result<()> {
        let stat = rustix::fs::statat(&**fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed("fstatat", error));
        let Some(stat) = found(stat)? else { return Ok(()) };
        let key = (stat.st_dev, stat.st_ino);
        if let Some(known) = self.links.get(&key) {
            self.upper.tree.link(directory, name, *known);
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (attributes, body) = match kind {
            FileType::Directory => (Attributes::with_mode(0o755), Body::directory()),
            FileType::RegularFile => match self.file(fd, directory, name)? {
                Some(file) => file,
                None => return Ok(()),
            },
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&**fd, name, Vec::new()).map_err(|error| failed("readlinkat", error));
                let Some(target) = found(target)? else { return Ok(()) };
                (self.attributes(&stat, None)?, Body::Symlink(target.into_bytes().into()))
            }
            FileType::Fifo => (self.attributes(&stat, None)?, Body::Fifo),
            _ => (Attributes::with_mode(0), Body::Absent),
        };
        let node = self.upper.tree.add(attributes, body)?;
        self.upper.tree.link(directory, name, node);
        if kind == FileType::Directory {
            self.pending.push(Pending {
                parent: Rc::clone(fd),
                name: name.into(),
                node,
                depth: depth.saturating_add(1),
            });
        } else if stat.st_nlink > 1 {
            self.links.insert(key, node);
        }
        Ok(())
    }

    fn file(&mut self, directory: &OwnedFd, parent: NodeId, name: &[u8]) -> Result<Option<(Attributes, Body)>> {
        // Something else may have taken the name meanwhile; nothing that is opened like this waits or acts.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty())
            .map_err(|error| failed(&format!("openat({})", quoted(name)), error));
        let Some(file) = found(opened)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&file).map_err(|error| failed("fstat", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        self.check_owner(&stat, name)?;
        if name == b"environment" && self.upper.tree.child(NodeId::ROOT, b"etc") == Some(parent) {
            self.upper.environment = Some(beginning(&file)?);
        }
        let content = content(&file, stat.st_size.unsigned_abs(), self.writer)?;
        Ok(Some((self.attributes(&stat, Some(&file))?, Body::File(content))))
    }

    fn check_owner(&self, stat: &Stat, name: &[u8]) -> Result<()> {
        if stat.st_uid == self.identity.uid {
            return Ok(());
        }
        let name = quoted(name);
        Err(Error::Request(format!(
            "{name} in the container's writable layer belongs to uid {}; remove it",
            stat.st_uid
        )))
    }

    /// Attributes as an image has them: owner 0, no set-id bits, of the extended attributes `user.*`.
    fn attributes(&mut self, stat: &Stat, fd: Option<&OwnedFd>) -> Result<Attributes> {
        let kept = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => 0o1777,
            _ => 0o777,
        };
        let xattrs = fd.map(xattrs).transpose()?.unwrap_or_default();
        let borrowed: Vec<(&[u8], &[u8])> = xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        Ok(Attributes {
            mtime: u32::try_from(stat.st_mtime.max(0)).unwrap_or(u32::MAX),
            xattrs: self.upper.tree.xattrs.add(&borrowed)?,
            ..Attributes::with_mode(u16::try_from(stat.st_mode & kept).unwrap_or(0))
        })
    }
}

/// Moves the content of a file to the saved one, hole for hole.
fn content(file: &OwnedFd, size: u64, writer: &mut Writer<'_>) -> Result<Option<FileRef>> {
    if size == 0 {
        return Ok(None);
    }
    writer.begin_file();
    let mut buffer = vec![0; PIECE];
    let mut place = 0;
    while place < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(place)) {
            Ok(data) => data.clamp(place, size),
            Err(Errno::NXIO) => size,
            // A file system without holes.
            Err(_) => place,
        };
        writer.hole(data.saturating_sub(place))?;
        place = data;
        let hole = rustix::fs::seek(file, SeekFrom::Hole(place)).unwrap_or(size).min(size);
        let end = if hole > place { hole } else { size };
        while place < end {
            let wanted = usize::try_from(end.saturating_sub(place)).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let count = rustix::io::pread(file, piece, place).map_err(|error| failed("pread", error))?;
            if count == 0 {
                // It has become shorter meanwhile.
                return writer.end_file().map(Some);
            }
            writer.write(buffer.get(..count).unwrap_or_default())?;
            place = place.saturating_add(count as u64);
        }
    }
    writer.end_file().map(Some)
}

/// The first [`FILE_MAX`] bytes.
fn beginning(file: &OwnedFd) -> Result<Vec<u8>> {
    let mut bytes = vec![0; FILE_MAX];
    let mut size = 0;
    while let Some(room) = bytes.get_mut(size..).filter(|room| !room.is_empty()) {
        match rustix::io::pread(file, room, size as u64).map_err(|error| failed("pread", error))? {
            0 => break,
            count => size = size.saturating_add(count),
        }
    }
    bytes.truncate(size);
    Ok(bytes)
}

fn xattrs(fd: &OwnedFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Most files have none: the size is asked for first.
    match rustix::fs::flistxattr_query(fd) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(failed("flistxattr", error)),
    }
    let mut names = vec![0; XATTR_MAX];
    let size = rustix::fs::flistxattr(fd, &mut names[..]).map_err(|error| failed("flistxattr", error))?;
    names.truncate(size);
    let mut found = Vec::new();
    let mut buffer = vec![0; XATTR_MAX];
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        match rustix::fs::fgetxattr(fd, name, &mut buffer[..]) {
            Ok(size) => found.push((name.to_vec(), buffer.get(..size).unwrap_or_default().to_vec())),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(failed("fgetxattr", error)),
        }
    }
    Ok(found)
}

/// Names and kinds in a directory, without `.` and `..`.
pub fn list(directory: &OwnedFd) -> Result<Vec<(Box<[u8]>, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(|error| failed("open a directory", error))? {
        let entry = entry.map_err(|error| failed("getdents64", error))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.into(), entry.file_type()));
        }
        check_memory(names.len().saturating_mul(64))?;
    }
    Ok(names)
}

/// Opens a directory of the layer, never through a link.
pub fn open_directory(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    crate::directory::open(parent, name).map_err(|error| failed(&format!("openat({})", quoted(name)), error))
}

/// Nothing when it went away meanwhile, or is another kind of thing now: who changes a container while it is saved
/// does not know which state is saved.
pub fn found<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
        other => other.map(Some),
    }
}

/// A system call on the layer has failed.
pub fn failed(call: &str, error: Errno) -> Error {
    Error::sys("read the container's writable layer", call, error)
}
