//! What the entries of a layer mean, as an in-memory tree: the result is what unpacking the archive into an empty root
//! would give, with the rules of container layers on top.
//!
//! - Later entries win. A directory over a directory changes its attributes and keeps what is in it; any other pair
//!   replaces, with all that was below. Missing parents are made with mode 0755.
//! - Owner and group are 0. Set-id bits go; the sticky bit stays on directories. Of the extended attributes `user.*` of
//!   files and directories stay, without those that overlay file systems read: an image must not speak to them.
//! - Devices are left out and counted. Whiteouts become character devices 0:0, opaque directories get overlayfs'
//!   attribute in both spellings (for mounts by root, and for `userxattr` mounts).
//! - A whiteout is about lower layers only: an entry of the same name in the same layer stays. When that is a directory
//!   it becomes opaque, so that what the whiteout hides stays hidden.
//! - A path that leads through a symbolic link of the layer is followed inside the tree: at most 40 links, `..` of a link
//!   stops at the root, missing parts of its target are made. The last part is never followed.
//! - A hard link needs its target in the same layer.
#![forbid(unsafe_code)]

use super::Limits;
use super::names::{self, DEPTH_MAX, Name, quoted, refused};
use super::squashfs::format::NAME_MAX;
use super::squashfs::{Attributes, Body, FileRef, NodeId, Tree, is_storable};
use super::tar::{Entry, Kind};
use crate::error::{Error, Result};
use std::collections::{BTreeSet, VecDeque};

/// Symbolic links followed for one path, as in Linux (MAXSYMLINKS).
const LINKS_MAX: usize = 40;
/// The longest target of a symbolic link (PATH_MAX without its NUL).
const TARGET_MAX: usize = 4095;

/// What was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Devices.
    pub devices: u64,
    /// Files and directories that lost a set-id bit.
    pub set_id: u64,
    /// Extended attributes.
    pub xattrs: u64,
}

/// The tree of a layer while its entries come in.
#[derive(Default)]
pub struct Layer {
    tree: Tree,
    opaque: BTreeSet<NodeId>,
    /// What was left out.
    pub dropped: Dropped,
}

/// Where an entry goes: the directory and the name in it, or the root.
enum Place<'p> {
    Root,
    In(NodeId, &'p [u8]),
}

impl Layer {
    /// Takes an entry. `content` is called for regular files only and writes their content.
    pub fn add(&mut self, entry: &Entry, content: impl FnOnce() -> Result<Option<FileRef>>) -> Result<()> {
        let place = match names::parse(&entry.path)? {
            Name::Ignored => return Ok(()),
            Name::Root => Place::Root,
            Name::Opaque(parents) => {
                let directory = self.directory(&parents, entry)?;
                self.opaque.insert(directory);
                return Ok(());
            }
            Name::Whiteout(parents, name) => {
                let directory = self.directory(&parents, entry)?;
                return self.whiteout(directory, name);
            }
            Name::Entry(parents, name) => Place::In(self.directory(&parents, entry)?, name),
        };
        match place {
            Place::In(directory, name) => self.entry(directory, name, entry, content),
            Place::Root if entry.kind == Kind::Directory => {
                let attributes = self.attributes(entry)?;
                self.set_attributes(NodeId::ROOT, attributes);
                Ok(())
            }
            Place::Root => Err(refused(&entry.path, "is the root and not a directory")),
        }
    }

    fn entry(
        &mut self,
        directory: NodeId,
        name: &[u8],
        entry: &Entry,
        content: impl FnOnce() -> Result<Option<FileRef>>,
    ) -> Result<()> {
        let body = match entry.kind {
            Kind::HardLink => return self.hard_link(directory, name, entry),
            Kind::Directory => Body::directory(),
            Kind::File => Body::File(content()?),
            Kind::Symlink => Body::Symlink(symlink_target(entry)?),
            Kind::Fifo => Body::Fifo,
            Kind::Device => {
                self.dropped.devices += 1;
                Body::Absent
            }
        };
        let attributes = self.attributes(entry)?;
        let existing = self.tree.child(directory, name);
        match existing.and_then(|id| Some((id, &self.tree.get(id)?.body))) {
            Some((id, Body::Directory(_))) if entry.kind == Kind::Directory => {
                self.set_attributes(id, attributes);
                return Ok(());
            }
            Some((_, Body::CharDevice(_))) if entry.kind == Kind::Directory => {
                let node = self.tree.add(attributes, body)?;
                self.opaque.insert(node);
                self.tree.link(directory, name, node);
                return Ok(());
            }
            _ => {}
        }
        let node = self.tree.add(attributes, body)?;
        self.tree.link(directory, name, node);
        Ok(())
    }

    /// In this tree a character device is always a whiteout: those of the archive are left out.
    fn whiteout(&mut self, directory: NodeId, name: &[u8]) -> Result<()> {
        let existing = self.tree.child(directory, name);
        match existing.and_then(|id| Some((id, &self.tree.get(id)?.body))) {
            Some((id, Body::Directory(_))) => {
                self.opaque.insert(id);
            }
            Some((_, Body::Absent)) | None => {
                let node = self.tree.add(Attributes::with_mode(0), Body::CharDevice(0))?;
                self.tree.link(directory, name, node);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn hard_link(&mut self, directory: NodeId, name: &[u8], entry: &Entry) -> Result<()> {
        let missing = || {
            let (path, target) = (quoted(&entry.path), quoted(&entry.link));
            Error::Image(format!(
                "the layer's entry {path} is a hard link to {target}, which is not a file of the same layer before it"
            ))
        };
        let mut parents = names::components(&entry.link)?;
        let last = parents.pop().ok_or_else(missing)?;
        let parents = parents.into_iter().map(<[u8]>::to_vec).collect();
        let found = self.walk(parents, false, &entry.path)?;
        let target = found.and_then(|parent| self.tree.child(parent, last));
        let target = target.ok_or_else(missing)?;
        match self.tree.get(target).map(|node| &node.body) {
            None | Some(Body::Directory(_) | Body::CharDevice(_)) => return Err(missing()),
            Some(Body::Absent) => self.dropped.devices += 1,
            Some(_) => {}
        }
        self.tree.link(directory, name, target);
        Ok(())
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes> {
        let (mode, kept) = match entry.kind {
            Kind::Directory => (entry.mode, 0o1777),
            Kind::Symlink => (0o777, 0o777),
            _ => (entry.mode, 0o777),
        };
        if mode & 0o6000 != 0 {
            self.dropped.set_id += 1;
        }
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            if matches!(entry.kind, Kind::File | Kind::Directory) && is_kept(name) {
                xattrs.retain(|(earlier, _)| earlier != name);
                xattrs.push((name.as_slice(), value.as_slice()));
            } else {
                self.dropped.xattrs += 1;
            }
        }
        let xattrs = self.tree.xattrs.add(&xattrs)?;
        let mode = u16::try_from(mode & kept).unwrap_or(0);
        Ok(Attributes {
            mtime: entry.mtime,
            xattrs,
            ..Attributes::with_mode(mode)
        })
    }

    fn set_attributes(&mut self, id: NodeId, attributes: Attributes) {
        if let Some(node) = self.tree.get_mut(id) {
            node.attributes = attributes;
        }
    }

    /// The directory that an entry is in.
    fn directory(&mut self, parents: &[&[u8]], entry: &Entry) -> Result<NodeId> {
        let parents = parents.iter().map(|part| part.to_vec()).collect();
        let found = self.walk(parents, true, &entry.path)?;
        found.ok_or_else(|| refused(&entry.path, "has a parent that is not a directory"))
    }

    /// Follows `rest` from the root, through symbolic links, never above the root. Nothing when a part is missing or no
    /// directory; with `create` missing parts are made.
    fn walk(&mut self, mut rest: VecDeque<Vec<u8>>, create: bool, path: &[u8]) -> Result<Option<NodeId>> {
        let mut here = vec![NodeId::ROOT];
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == b".." {
                here.truncate(here.len().saturating_sub(1).max(1));
                continue;
            }
            let directory = here.last().copied().unwrap_or(NodeId::ROOT);
            match self.step(directory, &part, create, path)? {
                Step::Into(next) => here.push(next),
                Step::Nowhere => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused(path, "leads through too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                    let parts = target.split(|byte| *byte == b'/');
                    for part in parts.filter(|part| !matches!(*part, b"" | b".")).rev() {
                        rest.push_front(part.to_vec());
                    }
                }
            }
            if here.len() > DEPTH_MAX {
                return Err(refused(path, "is too deep"));
            }
        }
        Ok(here.last().copied())
    }

    fn step(&mut self, directory: NodeId, name: &[u8], create: bool, path: &[u8]) -> Result<Step> {
        let existing = self.tree.child(directory, name);
        let hides = match existing.and_then(|id| Some((id, &self.tree.get(id)?.body))) {
            Some((id, Body::Directory(_))) => return Ok(Step::Into(id)),
            Some((_, Body::Symlink(target))) => return Ok(Step::Link(target.clone())),
            Some((_, Body::CharDevice(_))) => true,
            Some(_) if create => return Err(refused(path, "has a parent that is not a directory")),
            Some(_) => return Ok(Step::Nowhere),
            None => false,
        };
        if !create {
            return Ok(Step::Nowhere);
        }
        if name.len() > NAME_MAX {
            return Err(refused(path, "leads through a name of more than 255 bytes"));
        }
        let node = self.tree.add(Attributes::with_mode(0o755), Body::directory())?;
        if hides {
            self.opaque.insert(node);
        }
        self.tree.link(directory, name, node);
        Ok(Step::Into(node))
    }

    /// Memory that the tree takes, about.
    pub fn memory(&self) -> usize {
        self.tree.memory()
    }

    /// Refuses a tree that takes too much memory.
    pub fn check_memory(&self, more: usize, limits: &Limits) -> Result<()> {
        if self.memory().saturating_add(more) as u64 <= limits.max_tree_bytes {
            return Ok(());
        }
        Err(Error::Image(format!(
            "the layer's tree of files is larger than the limit of {} bytes",
            limits.max_tree_bytes
        )))
    }

    /// The finished tree, and whether the root hides all that is below.
    pub fn finish(mut self) -> Result<(Tree, bool)> {
        for id in &self.opaque {
            let Some(mut attributes) = self.tree.get(*id).map(|node| node.attributes) else {
                continue;
            };
            attributes.xattrs = self.tree.xattrs.extend(attributes.xattrs, &OPAQUE)?;
            if let Some(node) = self.tree.get_mut(*id) {
                node.attributes = attributes;
            }
        }
        Ok((self.tree, self.opaque.contains(&NodeId::ROOT)))
    }
}

/// What one part of a path leads to.
enum Step {
    Into(NodeId),
    Link(Box<[u8]>),
    Nowhere,
}

/// overlayfs' mark of an opaque directory (Documentation/filesystems/overlayfs.rst).
const OPAQUE: [(&[u8], &[u8]); 2] = [(b"trusted.overlay.opaque", b"y"), (b"user.overlay.opaque", b"y")];

/// Prefixes of attributes that overlayfs and fuse-overlayfs act upon.
const RESERVED: [&[u8]; 3] = [b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];

/// Whether an attribute of a file goes into an image.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") && is_storable(name) && !RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

fn symlink_target(entry: &Entry) -> Result<Box<[u8]>> {
    let target = entry.link.as_slice();
    if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
        return Err(refused(&entry.path, "is a symbolic link with a bad target"));
    }
    Ok(target.into())
}
