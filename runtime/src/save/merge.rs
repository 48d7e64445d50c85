//! The upper layer and the image's layers as one tree, as overlayfs shows them (fs/overlayfs/namei.c, readdir.c).
//! Contents of the layers are listed, not read.
#![forbid(unsafe_code)]

use super::lower::{Found, Layer};
use super::marks::Mark;
use super::upper::Upper;
use super::{LayerFile, check_memory};
use crate::error::{Error, Result};
use crate::pack::is_kept;
use crate::pack::names::DEPTH_MAX;
use crate::pack::squashfs::reader::{Content, FileContent, Inode, InodeRef, Listing};
use crate::pack::squashfs::{Attributes, Body, NodeId, Tree};
use std::collections::{BTreeMap, HashMap};

/// A directory in one of the layers.
#[derive(Clone, Copy)]
struct Part {
    layer: usize,
    inode: InodeRef,
    listing: Listing,
}

/// Names and, of each, the inodes in the layers, the top layer's first.
type Names = BTreeMap<Box<[u8]>, Vec<(usize, InodeRef)>>;

/// A directory of the merged tree whose layers are still to be read, the top one first.
struct Pending {
    node: NodeId,
    parts: Vec<Part>,
    depth: usize,
}

/// A file of a layer that is in the merged tree.
pub struct LowerFile {
    /// Its node.
    pub node: NodeId,
    /// Its layer.
    pub layer: usize,
    /// Where its content is.
    pub file: FileContent,
    /// The first of its words in [`Merged::words`]; there are as many as it has blocks.
    pub first_word: usize,
}

/// The merged tree.
pub struct Merged<'l> {
    /// The tree; files of layers have no content yet.
    pub tree: Tree,
    /// The layers, bottom first.
    pub layers: Vec<Layer<'l>>,
    /// The files that need content.
    pub files: Vec<LowerFile>,
    /// Size words of their blocks.
    pub words: Vec<u32>,
    /// Content of the upper layer's `/etc/environment`, if it has one.
    pub environment: Option<Vec<u8>>,
    marks: HashMap<NodeId, Mark>,
    pending: Vec<Pending>,
    /// The root directories, the top one first.
    roots: Vec<Part>,
    /// Memory that others take.
    memory: usize,
}

/// Merges `upper` over `layers`, bottom first.
pub fn merge(upper: Upper, layers: &[LayerFile], memory: usize) -> Result<Merged<'_>> {
    let layers = layers.iter().map(Layer::open).collect::<Result<Vec<_>>>()?;
    let mut merged = Merged {
        tree: upper.tree,
        layers,
        files: Vec::new(),
        words: Vec::new(),
        environment: upper.environment,
        marks: upper.marks,
        pending: Vec::new(),
        roots: Vec::new(),
        memory,
    };
    for layer in (0..merged.layers.len()).rev() {
        // The root's own marks mean nothing: overlayfs stacks roots as it is told.
        let inode = merged.layer(layer)?.reader.root();
        match merged.layer(layer)?.look(inode)? {
            Found::Directory(_, listing, _) => merged.roots.push(Part { layer, inode, listing }),
            _ => return Err(Error::Image("the root of a layer is no directory".into())),
        }
    }
    merged.run()?;
    Ok(merged)
}

impl<'l> Merged<'l> {
    fn run(&mut self) -> Result<()> {
        self.pending.push(Pending {
            node: NodeId::ROOT,
            parts: self.roots.clone(),
            depth: 0,
        });
        while let Some(next) = self.pending.pop() {
            self.directory(&next)?;
        }
        Ok(())
    }

    /// A layer.
    pub fn layer(&self, number: usize) -> Result<&Layer<'l>> {
        self.layers
            .get(number)
            .ok_or_else(|| Error::Image("a layer is missing".into()))
    }

    fn directory(&mut self, pending: &Pending) -> Result<()> {
        if pending.depth > DEPTH_MAX {
            return Err(Error::Image("the image has a directory that is too deep".into()));
        }
        let mut names = self.names(&pending.parts)?;
        for (name, node) in self.upper_directories(pending.node) {
            let below = names.remove(&name).unwrap_or_default();
            let parts = self.parts_below(&pending.parts, node, &below)?;
            self.enter(pending, &name, node, parts);
        }
        for (name, found) in names {
            // Whatever else the upper layer has hides what is below.
            if self.tree.child(pending.node, &name).is_none() {
                self.lower_entry(pending, &name, &found)?;
            }
            self.check_memory()?;
        }
        Ok(())
    }

    /// The size words of a file's blocks.
    pub fn words_of(&self, file: &LowerFile) -> &[u32] {
        let count = usize::try_from(file.file.blocks).unwrap_or(usize::MAX);
        let end = file.first_word.saturating_add(count);
        self.words.get(file.first_word..end).unwrap_or_default()
    }

    fn check_memory(&self) -> Result<()> {
        let words = self.words.len().saturating_mul(4);
        let files = self.files.len().saturating_mul(size_of::<LowerFile>());
        let all = [self.tree.memory(), words, files, self.memory];
        check_memory(all.into_iter().fold(0, usize::saturating_add))
    }

    /// The directories that the upper layer has in a directory whose layers were not read yet.
    fn upper_directories(&self, directory: NodeId) -> Vec<(Box<[u8]>, NodeId)> {
        let Some(Body::Directory(entries)) = self.tree.get(directory).map(|node| &node.body) else {
            return Vec::new();
        };
        let is_directory =
            |node: &NodeId| matches!(self.tree.get(*node).map(|node| &node.body), Some(Body::Directory(_)));
        let directories = entries.iter().filter(|(_, node)| is_directory(node));
        directories.map(|(name, node)| (name.clone(), *node)).collect()
    }

    /// What is seen below a directory of the upper layer. `same` are the inodes of the same name, `above` the parts of
    /// the directory that it is in.
    fn parts_below(&self, above: &[Part], node: NodeId, same: &[(usize, InodeRef)]) -> Result<Vec<Part>> {
        match self.marks.get(&node) {
            Some(Mark { opaque: true, .. }) => Ok(Vec::new()),
            Some(Mark { redirect: Some(to), .. }) => match to.strip_prefix(b"/") {
                Some(path) => self.at_path(path),
                None => self.named(above, to),
            },
            _ => self.chain(same),
        }
    }

    /// The directories of this name in some directories.
    fn named(&self, parts: &[Part], name: &[u8]) -> Result<Vec<Part>> {
        let mut found = Vec::new();
        for part in parts {
            let layer = self.layer(part.layer)?;
            found.extend(layer.child(&part.listing, name)?.map(|inode| (part.layer, inode)));
        }
        self.chain(&found)
    }

    /// The directories of this path from the root.
    fn at_path(&self, path: &[u8]) -> Result<Vec<Part>> {
        let mut parts = self.roots.clone();
        for name in path.split(|byte| *byte == b'/') {
            parts = self.named(&parts, name)?;
        }
        Ok(parts)
    }

    /// All names of the parts, each with its inodes, the top layer's first.
    fn names(&mut self, parts: &[Part]) -> Result<Names> {
        let mut names = Names::new();
        let mut count = 0_usize;
        for part in parts {
            let missing = || Error::Image("a layer is missing".into());
            let layer = self.layers.get_mut(part.layer).ok_or_else(missing)?;
            for entry in layer.enter(part.inode, &part.listing)? {
                let entry = entry?;
                let found = names.entry(entry.name).or_default();
                if found.last().is_some_and(|(layer, _)| *layer == part.layer) {
                    return Err(Error::Image(
                        "a directory of the image has two entries of one name".into(),
                    ));
                }
                found.push((part.layer, entry.inode));
                count += 1;
                if count.is_multiple_of(4096) {
                    check_memory(count.saturating_mul(160).saturating_add(self.memory))?;
                }
            }
        }
        Ok(names)
    }

    /// A name that only layers have.
    fn lower_entry(&mut self, pending: &Pending, name: &[u8], found: &[(usize, InodeRef)]) -> Result<()> {
        let Some((layer, reference)) = found.first().copied() else {
            return Ok(());
        };
        match self.layer(layer)?.look(reference)? {
            Found::Whiteout => Ok(()),
            Found::Other(inode) => self.leaf(pending.node, name, layer, reference, &inode),
            Found::Directory(inode, ..) => {
                let parts = self.chain(found)?;
                let attributes = self.attributes(layer, &inode)?;
                let node = self.tree.add(attributes, Body::directory())?;
                self.tree.link(pending.node, name, node);
                self.enter(pending, name, node, parts);
                Ok(())
            }
        }
    }

    /// The directories of one name in several layers that are seen as one; what hides them ends the list.
    fn chain(&self, found: &[(usize, InodeRef)]) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (layer, inode) in found.iter().copied() {
            let Found::Directory(_, listing, opaque) = self.layer(layer)?.look(inode)? else {
                break;
            };
            parts.push(Part { layer, inode, listing });
            if opaque {
                break;
            }
        }
        Ok(parts)
    }

    fn enter(&mut self, above: &Pending, name: &[u8], node: NodeId, parts: Vec<Part>) {
        if above.node != NodeId::ROOT || name != b"dev" {
            let depth = above.depth.saturating_add(1);
            self.pending.push(Pending { node, parts, depth });
        } else if let Some(dev) = self.tree.get_mut(node) {
            // What is in /dev is the host's, or made anew at each start.
            dev.body = Body::directory();
        }
    }

    fn leaf(&mut self, directory: NodeId, name: &[u8], layer: usize, reference: InodeRef, inode: &Inode) -> Result<()> {
        if let Some(known) = self.layer(layer)?.links.get(&reference) {
            self.tree.link(directory, name, *known);
            return Ok(());
        }
        let body = match &inode.content {
            Content::File(_) => Body::File(None),
            Content::Symlink(target) => Body::Symlink(target.clone()),
            Content::Fifo => Body::Fifo,
            Content::CharDevice(_) | Content::BlockDevice(_) | Content::Socket | Content::Directory(_) => return Ok(()),
        };
        let attributes = self.attributes(layer, inode)?;
        let node = self.tree.add(attributes, body)?;
        self.tree.link(directory, name, node);
        if inode.links > 1
            && let Some(layer) = self.layers.get_mut(layer)
        {
            layer.links.insert(reference, node);
        }
        match &inode.content {
            Content::File(file) if file.size > 0 => self.list_file(node, layer, file),
            _ => Ok(()),
        }
    }

    /// Notes a file, with its words: they are needed in another order than they are met in.
    fn list_file(&mut self, node: NodeId, layer: usize, file: &FileContent) -> Result<()> {
        let first_word = self.words.len();
        let missing = || Error::Image("a layer is missing".into());
        for word in self.layers.get(layer).ok_or_else(missing)?.reader.words(file) {
            self.words.push(word?);
            if self.words.len().is_multiple_of(65_536) {
                check_memory(self.words.len().saturating_mul(4).saturating_add(self.memory))?;
            }
        }
        self.files.push(LowerFile {
            node,
            layer,
            file: *file,
            first_word,
        });
        Ok(())
    }

    /// Attributes as an image of ours has them, also when the layer is somebody else's.
    fn attributes(&mut self, layer: usize, inode: &Inode) -> Result<Attributes> {
        let kept = match inode.content {
            Content::Directory(_) => 0o1777,
            _ => 0o777,
        };
        let xattrs = match inode.content {
            Content::Directory(_) | Content::File(_) => self.layer(layer)?.reader.xattrs(inode)?,
            _ => Vec::new(),
        };
        let user = xattrs.iter().filter(|(name, _)| is_kept(name));
        let user: Vec<(&[u8], &[u8])> = user.map(|(name, value)| (&name[..], &value[..])).collect();
        Ok(Attributes {
            mtime: inode.mtime,
            xattrs: self.tree.xattrs.add(&user)?,
            ..Attributes::with_mode(inode.mode & kept)
        })
    }
}
