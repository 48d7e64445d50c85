//! Writes the merged tree of some layers below a directory, on descriptors: each directory is entered when it was made,
//! by its name in the one above, and no name leads through a link. Whatever the image says, nothing but regular files,
//! directories, symbolic links and named pipes are made, without set-id bits, and attributes are `user.*` only: the tree
//! has no others.
#![forbid(unsafe_code)]

use super::Amount;
use crate::error::{Error, Result};
use crate::pack::names::quoted;
use crate::pack::squashfs::reader::Piece;
use crate::pack::squashfs::{Attributes, Body, NodeId};
use crate::report::PATIENCE;
use crate::save::{LayerFile, LowerFile, Merged, Upper, merge};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::btree_map::Iter;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// File systems give room by the page.
const PAGE: u64 = 4096;

/// Writes `layers`, bottom first, below `root`.
pub fn extract(layers: &[LayerFile], root: &OwnedFd, tell: &mut dyn FnMut(Amount) -> Result<()>) -> Result<()> {
    let merged = merge(Upper::empty(), layers, 0)?;
    let all = check_room(&merged, root)?;
    let linked = merged.layers.iter().flat_map(|layer| layer.links.values().copied());
    let mut extraction = Extraction {
        merged: &merged,
        root,
        linked: linked.collect(),
        links: HashMap::new(),
        amount: Amount { done: 0, all },
        told: Instant::now(),
        tell,
    };
    extraction.run()
}

/// Bytes of all files, for which there must be room.
fn check_room(merged: &Merged<'_>, root: &OwnedFd) -> Result<u64> {
    let (mut all, mut room) = (0_u64, 0_u64);
    for file in &merged.files {
        let size = stored_bytes(merged, file)?;
        all = all.saturating_add(size);
        room = room.saturating_add(size.next_multiple_of(PAGE));
    }
    let stat = rustix::fs::fstatvfs(root).map_err(|error| failed("fstatvfs", error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if room > free {
        return Err(Error::Host(format!(
            "it takes {} MiB, and the disk of container.data_path has {} MiB",
            room.div_ceil(1 << 20),
            free >> 20
        )));
    }
    let nodes = merged.tree.node_count() as u64;
    // Some file systems have no fixed number.
    if stat.f_files > 0 && nodes > stat.f_favail {
        return Err(Error::Host(format!(
            "it has {nodes} files, and the disk of container.data_path has room for {}",
            stat.f_favail
        )));
    }
    Ok(all)
}

/// Bytes of a file without its holes.
fn stored_bytes(merged: &Merged<'_>, file: &LowerFile) -> Result<u64> {
    let block = u64::from(merged.layer(file.layer)?.reader.superblock().block_size);
    let holes = merged.words_of(file).iter().filter(|word| **word == 0).count() as u64;
    Ok(file.file.size.saturating_sub(holes.saturating_mul(block)))
}

/// A directory whose entries are being made.
struct Frame<'m> {
    fd: OwnedFd,
    name: &'m [u8],
    attributes: Attributes,
    rest: Iter<'m, Box<[u8]>, NodeId>,
}

struct Extraction<'m, 'l> {
    merged: &'m Merged<'l>,
    root: &'m OwnedFd,
    /// Nodes that have several names.
    linked: HashSet<NodeId>,
    /// Where each of them has its first one, from the root.
    links: HashMap<NodeId, Vec<u8>>,
    amount: Amount,
    told: Instant,
    tell: &'m mut dyn FnMut(Amount) -> Result<()>,
}

impl<'m> Extraction<'m, '_> {
    fn run(&mut self) -> Result<()> {
        let root = crate::directory::open(self.root, ".").map_err(|error| failed("openat(.)", error))?;
        let mut frames: Vec<Frame<'m>> = Vec::new();
        let attributes = self.root_attributes()?;
        frames.extend(self.frame(root, b"", NodeId::ROOT, attributes));
        while let Some(frame) = frames.last_mut() {
            let Some((name, node)) = frame.rest.next() else {
                finish(&frame.fd, &frame.attributes, self.merged)?;
                frames.pop();
                continue;
            };
            let path = || path_of(&frames, name);
            let Some(frame) = frames.last() else { break };
            let made = self.entry(&frame.fd, name, *node, path);
            let below = made.map_err(|error| error.context(&quoted(name)))?;
            frames.extend(below);
        }
        Ok(())
    }

    /// Those of the top layer's root; the user can always enter it.
    fn root_attributes(&self) -> Result<Attributes> {
        let Some(top) = self.merged.layers.last() else {
            return Err(Error::Image("the image has no layer".into()));
        };
        let mode = top.reader.inode(top.reader.root())?.mode;
        Ok(Attributes::with_mode(mode & 0o1777 | 0o500))
    }

    fn frame(&self, fd: OwnedFd, name: &'m [u8], node: NodeId, attributes: Attributes) -> Option<Frame<'m>> {
        match &self.merged.tree.get(node)?.body {
            Body::Directory(entries) => Some(Frame {
                fd,
                name,
                attributes,
                rest: entries.iter(),
            }),
            _ => None,
        }
    }

    /// Makes one entry; gives a directory to go on in.
    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &'m [u8],
        id: NodeId,
        path: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Frame<'m>>> {
        let Some(node) = self.merged.tree.get(id) else {
            return Ok(None);
        };
        if self.linked.contains(&id) {
            match self.links.get(&id) {
                // Where that is not possible the file is written once more.
                Some(first) if link(self.root, first, directory, name).is_ok() => return Ok(None),
                Some(_) => {}
                None => drop(self.links.insert(id, path())),
            }
        }
        match &node.body {
            Body::Directory(_) => {
                rustix::fs::mkdirat(directory, name, Mode::RWXU).map_err(|error| failed("mkdirat", error))?;
                let fd = crate::directory::open(directory, name).map_err(|error| failed("openat", error))?;
                return Ok(self.frame(fd, name, id, node.attributes));
            }
            Body::File(_) => {
                let file = create(directory, name)?;
                self.content(&file, id)?;
                finish(&file, &node.attributes, self.merged)?;
            }
            Body::Symlink(target) => {
                rustix::fs::symlinkat(&**target, directory, name).map_err(|error| failed("symlinkat", error))?;
                set_times(directory, name, &node.attributes)?;
            }
            Body::Fifo => {
                let mode = Mode::from_raw_mode(u32::from(node.attributes.mode) & 0o777);
                rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)
                    .map_err(|error| failed("mknodat", error))?;
                set_times(directory, name, &node.attributes)?;
            }
            Body::CharDevice(_) | Body::BlockDevice(_) | Body::Socket | Body::Absent => {}
        }
        Ok(None)
    }

    /// The content of a file; one that is empty has none in the list.
    fn content(&mut self, file: &OwnedFd, id: NodeId) -> Result<()> {
        let merged = self.merged;
        let Ok(number) = merged.files.binary_search_by_key(&id, |file| file.node) else {
            return Ok(());
        };
        let Some(lower) = merged.files.get(number) else {
            return Ok(());
        };
        let mut place = 0_u64;
        merged
            .layer(lower.layer)?
            .reader
            .content(&lower.file, |piece| match piece {
                Piece::Bytes(bytes) => {
                    write(file, bytes, place)?;
                    place = place.saturating_add(bytes.len() as u64);
                    self.progress(bytes.len() as u64)
                }
                Piece::Hole(size) => {
                    place = place.saturating_add(size);
                    Ok(())
                }
            })?;
        rustix::fs::ftruncate(file, lower.file.size).map_err(|error| failed("ftruncate", error))
    }

    fn progress(&mut self, bytes: u64) -> Result<()> {
        self.amount.done = self.amount.done.saturating_add(bytes);
        if self.told.elapsed() < Duration::from_secs(PATIENCE.tv_sec.unsigned_abs()) {
            return Ok(());
        }
        self.told = Instant::now();
        (self.tell)(self.amount)
    }
}

/// A path from the root, without a slash in front.
fn path_of(frames: &[Frame<'_>], name: &[u8]) -> Vec<u8> {
    let above = frames.iter().skip(1).map(|frame| frame.name);
    let names: Vec<&[u8]> = above.chain([name]).collect();
    names.join(&b'/')
}

fn create(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed("openat", error))
}

/// Gives what has the path `first` another name.
fn link(root: &OwnedFd, first: &[u8], directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let (above, own) = match first.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (first.get(..slash), first.get(slash.saturating_add(1)..)),
        None => (Some(&b"."[..]), Some(first)),
    };
    let (Some(above), Some(own)) = (above, own) else {
        return Err(Errno::INVAL);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let above = rustix::fs::openat2(root, above, flags, Mode::empty(), resolve)?;
    rustix::fs::linkat(above, own, directory, name, AtFlags::empty())
}

fn write(file: &OwnedFd, mut bytes: &[u8], mut place: u64) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, place) {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                place = place.saturating_add(count as u64);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("pwrite", error)),
        }
    }
    Ok(())
}

/// Attributes, mode and time of a file or directory that has its content.
fn finish(fd: impl AsFd, attributes: &Attributes, merged: &Merged<'_>) -> Result<()> {
    for (name, value) in merged.tree.xattrs.get(attributes.xattrs) {
        match rustix::fs::fsetxattr(&fd, &*name, value, XattrFlags::empty()) {
            // Not every file system has them, and few programs want them.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(failed("fsetxattr", error)),
        }
    }
    let mode = Mode::from_raw_mode(u32::from(attributes.mode) & 0o1777);
    rustix::fs::fchmod(&fd, mode).map_err(|error| failed("fchmod", error))?;
    rustix::fs::futimens(&fd, &times(attributes)).map_err(|error| failed("futimens", error))
}

/// The same for what is not opened.
fn set_times(directory: &OwnedFd, name: &[u8], attributes: &Attributes) -> Result<()> {
    rustix::fs::utimensat(directory, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("utimensat", error))
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::from(attributes.mtime),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn failed(call: &str, error: Errno) -> Error {
    match error {
        Errno::NOSPC => Error::Host("the disk of container.data_path is full".into()),
        Errno::DQUOT => Error::Host("the user's quota on the disk of container.data_path is used up".into()),
        error => Error::sys("write the file", call, error),
    }
}
