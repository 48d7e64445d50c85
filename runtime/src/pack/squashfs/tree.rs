//! The tree of an image in memory: names, kinds, modes. It knows squashfs' limits but not where a tree comes from; file
//! contents are elsewhere ([`super::data`]). One entry takes 100 to 200 bytes.
#![forbid(unsafe_code)]

use super::data::FileRef;
use super::format::NO_XATTRS;
use super::xattr::XattrSets;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// A node of a tree. Several names may lead to the same node: hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The root directory of every tree.
    pub const ROOT: NodeId = NodeId(0);

    /// Its index among the nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A directory, its entries in the order of their bytes.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file; nothing when it is empty.
    File(Option<FileRef>),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device, as the kernel encodes major and minor.
    CharDevice(u32),
    /// A block device, likewise.
    BlockDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A name that is known and left out of the image.
    Absent,
}

impl Body {
    /// An empty directory.
    pub fn directory() -> Body {
        Body::Directory(BTreeMap::new())
    }
}

/// What every node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, 12 of them.
    pub mode: u16,
    /// Index of the owner in [`Tree::ids`].
    pub user: u16,
    /// Index of the group in [`Tree::ids`].
    pub group: u16,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Number of the set of extended attributes.
    pub xattrs: u32,
}

impl Attributes {
    /// Owned by the first id, dated 1970.
    pub fn with_mode(mode: u16) -> Self {
        Attributes {
            mode,
            user: 0,
            group: 0,
            mtime: 0,
            xattrs: NO_XATTRS,
        }
    }
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// What every node has.
    pub attributes: Attributes,
    /// What this one is.
    pub body: Body,
}

/// A tree.
pub struct Tree {
    nodes: Vec<Node>,
    names: usize,
    /// Owners and groups.
    pub ids: Vec<u32>,
    /// The sets of extended attributes.
    pub xattrs: XattrSets,
}

impl Default for Tree {
    /// A tree with an empty root of mode 0755, whose first id is 0.
    fn default() -> Self {
        let root = Node {
            attributes: Attributes::with_mode(0o755),
            body: Body::directory(),
        };
        Tree {
            nodes: vec![root],
            names: 0,
            ids: vec![0],
            xattrs: XattrSets::default(),
        }
    }
}

impl Tree {
    /// Adds a node that has no name yet.
    pub fn add(&mut self, attributes: Attributes, body: Body) -> Result<NodeId> {
        let number = u32::try_from(self.nodes.len()).ok().filter(|number| *number < u32::MAX);
        let id = NodeId(number.ok_or_else(|| Error::Image("the layer has too many entries".into()))?);
        if let Body::Symlink(target) = &body {
            self.names = self.names.saturating_add(target.len()).saturating_add(ALLOCATION);
        }
        self.nodes.push(Node { attributes, body });
        Ok(id)
    }

    /// The node.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }

    /// The node, to change it.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())
    }

    /// Number of nodes, those without a name included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node of that name in a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.get(directory)?.body {
            Body::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Gives `node` a name in `directory`; what had that name before loses it.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) {
        if let Some(Node {
            body: Body::Directory(entries),
            ..
        }) = self.nodes.get_mut(directory.index())
            && entries.insert(name.into(), node).is_none()
        {
            self.names = self.names.saturating_add(name.len()).saturating_add(ALLOCATION);
        }
    }

    /// Memory that the tree takes, about.
    pub fn memory(&self) -> usize {
        self.nodes
            .len()
            .saturating_mul(size_of::<Node>())
            .saturating_add(self.names)
            .saturating_add(self.xattrs.memory())
    }
}

/// What a name in a directory takes beside its bytes: the map's slot and the allocator's share.
const ALLOCATION: usize = 56;
