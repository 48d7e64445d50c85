//! One layer of the image while it is merged.
#![forbid(unsafe_code)]

use super::LayerFile;
use crate::error::{Error, Result};
use crate::pack::squashfs::NodeId;
use crate::pack::squashfs::reader::{Content, Entry, Inode, InodeRef, Listing, Reader};
use std::collections::{HashMap, HashSet};

/// What a name in a layer means to the layers below it.
pub enum Found {
    /// A directory, and whether it hides what is below.
    Directory(Inode, Listing, bool),
    /// Something else, which hides everything below.
    Other(Inode),
    /// Nothing is to be seen under this name.
    Whiteout,
}

/// A layer.
pub struct Layer<'l> {
    /// Its reader.
    pub reader: Reader<&'l LayerFile>,
    /// Files with several names that have been met.
    pub links: HashMap<InodeRef, NodeId>,
    entered: HashSet<InodeRef>,
}

impl<'l> Layer<'l> {
    /// Opens one.
    pub fn open(layer: &'l LayerFile) -> Result<Self> {
        Ok(Layer {
            reader: Reader::open(layer)?,
            links: HashMap::new(),
            entered: HashSet::new(),
        })
    }

    /// Looks at an inode as overlayfs does.
    pub fn look(&self, reference: InodeRef) -> Result<Found> {
        let inode = self.reader.inode(reference)?;
        Ok(match inode.content {
            Content::CharDevice(0) => Found::Whiteout,
            Content::Directory(listing) => {
                let opaque = self.is_opaque(&inode)?;
                Found::Directory(inode, listing, opaque)
            }
            _ => Found::Other(inode),
        })
    }

    fn is_opaque(&self, inode: &Inode) -> Result<bool> {
        let xattrs = self.reader.xattrs(inode)?;
        Ok(xattrs
            .iter()
            .any(|(name, value)| name == b"trusted.overlay.opaque" && value == b"y"))
    }

    /// The names of a directory. A directory is entered once, whatever the image says: one with two names, or one that
    /// contains itself, would never come to an end.
    pub fn enter(&mut self, reference: InodeRef, listing: &Listing) -> Result<impl Iterator<Item = Result<Entry>>> {
        if !self.entered.insert(reference) {
            return Err(Error::Image(
                "a layer of the image has a directory with two names".into(),
            ));
        }
        self.reader.entries(listing)
    }

    /// The inode of a name in a directory.
    pub fn child(&self, listing: &Listing, name: &[u8]) -> Result<Option<InodeRef>> {
        for entry in self.reader.entries(listing)? {
            let entry = entry?;
            if *entry.name == *name {
                return Ok(Some(entry.inode));
            }
        }
        Ok(None)
    }
}
