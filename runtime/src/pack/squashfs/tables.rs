//! From a tree to the inode, directory and export tables. Numbers are given first, so that the entries of a directory
//! have neighbouring ones; inodes are written in the reverse order of directories, so that a listing finds every inode
//! that it names already in its place.
#![forbid(unsafe_code)]

use super::compress::Compressor;
use super::data::{DataWriter, FileData};
use super::directory::{self, DirectoryEntry};
use super::format::{Append, Position, kind};
use super::inode::{self, Head};
use super::metadata::Metadata;
use super::output::Output;
use super::tree::{Body, Node, NodeId, Tree};
use crate::error::{Error, Result};

/// Numbers and link counts of the nodes that have names.
struct Numbering {
    numbers: Vec<u32>,
    links: Vec<u32>,
    directories: Vec<(NodeId, u32)>,
    count: u32,
}

/// Inodes and listings, ready to be written.
pub struct Tables {
    inodes: Metadata,
    listings: Metadata,
    positions: Vec<Option<Position>>,
    /// Number of inodes.
    pub count: u32,
    /// Where the root inode is.
    pub root: Position,
}

impl Tables {
    /// Encodes the whole tree.
    pub fn build(tree: &Tree, data: &DataWriter, compressor: &mut Compressor) -> Result<Tables> {
        let numbering = number(tree);
        let mut builder = Builder {
            tree,
            data,
            compressor,
            inodes: Metadata::default(),
            listings: Metadata::default(),
            positions: vec![None; numbering.count as usize],
            numbering: &numbering,
        };
        for (directory, parent) in numbering.directories.iter().rev() {
            builder.directory(*directory, *parent)?;
        }
        let root = builder.position(NodeId::ROOT).ok_or_else(lost)?;
        let Builder {
            inodes,
            listings,
            positions,
            ..
        } = builder;
        Ok(Tables {
            inodes,
            listings,
            positions,
            count: numbering.count,
            root,
        })
    }

    /// Writes the inode and the directory table; gives their places.
    pub fn write(&mut self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<(u64, u64)> {
        let inodes = std::mem::take(&mut self.inodes).write(compressor, output)?;
        let listings = std::mem::take(&mut self.listings).write(compressor, output)?;
        Ok((inodes, listings))
    }

    /// Writes the export table (inode number to inode reference); gives its place.
    pub fn write_export(&self, compressor: &mut Compressor, output: &mut Output<'_>) -> Result<u64> {
        let mut table = Metadata::default();
        for position in &self.positions {
            let mut entry = Vec::with_capacity(8);
            entry.u64(position.ok_or_else(lost)?.reference());
            table.append(&entry, compressor)?;
        }
        table.write_indexed(|_| Vec::new(), compressor, output)
    }
}

fn lost() -> Error {
    Error::Image("the tree of the layer has a node that is not in its place".into())
}

fn number(tree: &Tree) -> Numbering {
    let mut numbering = Numbering {
        numbers: vec![0; tree.node_count()],
        links: vec![0; tree.node_count()],
        directories: Vec::new(),
        count: 0,
    };
    numbering.give(NodeId::ROOT);
    let mut stack = vec![(NodeId::ROOT, 0)];
    while let Some((directory, parent)) = stack.pop() {
        numbering.directories.push((directory, parent));
        let own = numbering.number(directory);
        let Some(Body::Directory(entries)) = tree.get(directory).map(|node| &node.body) else {
            continue;
        };
        let first = stack.len();
        for child in entries.values() {
            match tree.get(*child).map(|node| &node.body) {
                None | Some(Body::Absent) => continue,
                Some(Body::Directory(_)) => stack.push((*child, own)),
                Some(_) => {}
            }
            numbering.give(*child);
        }
        if let Some(new) = stack.get_mut(first..) {
            new.reverse();
        }
    }
    // By custom the root's parent is one more than the last number.
    if let Some((_, parent)) = numbering.directories.first_mut() {
        *parent = numbering.count.saturating_add(1);
    }
    numbering
}

impl Numbering {
    fn give(&mut self, node: NodeId) {
        if let Some(links) = self.links.get_mut(node.index()) {
            *links += 1;
        }
        if let Some(number) = self.numbers.get_mut(node.index())
            && *number == 0
        {
            self.count += 1;
            *number = self.count;
        }
    }

    fn number(&self, node: NodeId) -> u32 {
        self.numbers.get(node.index()).copied().unwrap_or(0)
    }
}

struct Builder<'t> {
    tree: &'t Tree,
    data: &'t DataWriter,
    compressor: &'t mut Compressor,
    numbering: &'t Numbering,
    inodes: Metadata,
    listings: Metadata,
    positions: Vec<Option<Position>>,
}

impl<'t> Builder<'t> {
    fn slot(&self, node: NodeId) -> Option<usize> {
        (self.numbering.number(node) as usize).checked_sub(1)
    }

    fn position(&self, node: NodeId) -> Option<Position> {
        self.positions.get(self.slot(node)?).copied().flatten()
    }

    /// Writes what is in a directory, then its listing, then itself.
    fn directory(&mut self, id: NodeId, parent: u32) -> Result<()> {
        let tree = self.tree;
        let node = tree.get(id).ok_or_else(lost)?;
        let Body::Directory(entries) = &node.body else {
            return Err(lost());
        };
        let mut directories = 0;
        for child in entries.values() {
            match tree.get(*child) {
                Some(Node {
                    body: Body::Directory(_),
                    ..
                }) => directories += 1,
                Some(node) if self.position(*child).is_none() => self.leaf(*child, node)?,
                _ => {}
            }
        }
        let (numbering, positions) = (self.numbering, &self.positions);
        let listed = entries.iter().filter_map(|(name, child)| {
            let number = numbering.number(*child);
            Some(DirectoryEntry {
                name,
                inode: positions.get((number as usize).checked_sub(1)?).copied().flatten()?,
                number,
                kind: basic_kind(&tree.get(*child)?.body)?,
            })
        });
        let mut listing = directory::write(listed, &mut self.listings, self.compressor)?;
        listing.directories = directories;
        let head = Head {
            links: 2 + directories,
            ..self.head(id, node)
        };
        self.put(id, &inode::directory(&head, &listing, parent))
    }

    fn leaf(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let head = self.head(id, node);
        let bytes = match &node.body {
            Body::Directory(_) | Body::Absent => return Ok(()),
            Body::File(content) => {
                let (data, blocks) =
                    content.map_or((FileData::EMPTY, [].as_slice()), |content| self.data.file(content));
                inode::file(&head, &data, blocks)
            }
            Body::Symlink(target) => inode::symlink(&head, target),
            Body::CharDevice(number) => inode::special(&head, kind::CHAR_DEVICE, Some(*number)),
            Body::BlockDevice(number) => inode::special(&head, kind::BLOCK_DEVICE, Some(*number)),
            Body::Fifo => inode::special(&head, kind::FIFO, None),
            Body::Socket => inode::special(&head, kind::SOCKET, None),
        };
        self.put(id, &bytes)
    }

    fn head(&self, id: NodeId, node: &Node) -> Head {
        Head {
            attributes: node.attributes,
            number: self.numbering.number(id),
            links: self.numbering.links.get(id.index()).copied().unwrap_or(1),
        }
    }

    fn put(&mut self, id: NodeId, bytes: &[u8]) -> Result<()> {
        let position = self.inodes.position()?;
        let slot = self.slot(id).ok_or_else(lost)?;
        *self.positions.get_mut(slot).ok_or_else(lost)? = Some(position);
        self.inodes.append(bytes, self.compressor)
    }
}

fn basic_kind(body: &Body) -> Option<u16> {
    Some(match body {
        Body::Directory(_) => kind::DIRECTORY,
        Body::File(_) => kind::FILE,
        Body::Symlink(_) => kind::SYMLINK,
        Body::CharDevice(_) => kind::CHAR_DEVICE,
        Body::BlockDevice(_) => kind::BLOCK_DEVICE,
        Body::Fifo => kind::FIFO,
        Body::Socket => kind::SOCKET,
        Body::Absent => return None,
    })
}
