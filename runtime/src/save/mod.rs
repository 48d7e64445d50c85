//! Saves a container: what its image's layers and its writable layer are together becomes one squashfs file. What has
//! not changed is copied as it is in the layers, compressed.
//!
//! ```text
//! upper directory -> tree + blocks -\
//! layers (packs)  -> what it hides, what it does not hide -> copied or recompressed blocks -> one file
//! ```
//!
//! The layers are read as files, not through a mount: see docs/adr/0011. A process of its own does it, in three steps
//! with ever fewer rights: overlayfs' marks are read as root, the upper directory as the user, whatever its modes, and
//! the first byte of a layer's tables when the process can do no more than any of the user's.
#![forbid(unsafe_code)]

mod config;
mod container;
mod copy;
mod lower;
mod marks;
mod merge;
mod process;
mod target;
mod upper;

pub use container::{Destination, of_container};
pub(crate) use merge::{LowerFile, Merged, merge};
pub(crate) use process::raise_file_limit;
pub use process::{Progress, Saver};
pub(crate) use upper::Upper;

use crate::error::{Error, Result};
use crate::image::ImageConfig;
use crate::image::file::sif::write as sif;
use crate::pack::squashfs::format::{SUPERBLOCK_SIZE, Superblock, flag};
use crate::pack::squashfs::reader::ReadAt;
use crate::pack::squashfs::{Compression, Writer, Written};
use crate::plan::Identity;
use crate::privilege::surrender_thread;
use crate::sys::cgroup::Groups;
use crate::sys::mount::FsContext;
use marks::Marks;
use rustix::fd::OwnedFd;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is saved, and where.
#[derive(Debug)]
pub struct Save {
    /// Whose container it is, and who will own the file.
    pub identity: Identity,
    /// The file, with an absolute path.
    pub target: PathBuf,
    /// The file's permission bits.
    pub mode: u32,
    /// The image's layers, bottom first.
    pub layers: Vec<LayerFile>,
    /// The upper directory of the overlay.
    pub upper: OwnedFd,
    /// The overlay keeps its marks in `user.overlay.*`, as it does when it is mounted with `userxattr`.
    pub user_marks: bool,
    /// The image's configuration, where the layers do not hold it themselves in files.
    pub config: Option<ImageConfig>,
    /// What the file becomes.
    pub form: Form,
    /// The control groups in which it is done: the job's, whose limits and whose end are meant for it.
    pub groups: Groups,
    /// The mount namespace that the path is meant in, when it is not the caller's.
    pub mounts: Option<OwnedFd>,
    /// How data is compressed that does not come compressed from a layer.
    pub compression: Compression,
    /// Threads that compress.
    pub threads: usize,
}

/// A kind of image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A squashfs file system, which describes itself as enroot's do.
    Squashfs,
    /// One in a SIF file, which describes itself as Singularity's do.
    Sif {
        /// The machine that it is for, as Go calls it.
        machine: String,
        /// A number that no other file has.
        id: [u8; 16],
    },
}

impl Form {
    /// Where the file system begins in the file.
    fn origin(&self) -> u64 {
        match self {
            Form::Squashfs => 0,
            Form::Sif { .. } => sif::DATA,
        }
    }

    /// What is before it.
    fn head(&self, size: u64) -> Result<Vec<u8>> {
        let Form::Sif { machine, id } = self else {
            return Ok(Vec::new());
        };
        let made = SystemTime::now().duration_since(UNIX_EPOCH);
        sif::head(&sif::Facts {
            size,
            machine,
            made: made.map_or(0, |time| time.as_secs()),
            id: *id,
            name: "squashfs",
        })
    }
}

/// A squashfs file system: an open file, or a part of one.
#[derive(Debug)]
pub struct LayerFile {
    /// The file.
    pub file: File,
    /// Where the file system begins in it, and its bytes; the whole file without it.
    pub part: Option<(u64, u64)>,
}

impl ReadAt for LayerFile {
    fn size(&self) -> std::io::Result<u64> {
        let whole = ReadAt::size(&self.file)?;
        Ok(self
            .part
            .map_or(whole, |(offset, size)| size.min(whole.saturating_sub(offset))))
    }

    fn read_exact_at(&self, buffer: &mut [u8], place: u64) -> std::io::Result<()> {
        let offset = self.part.map_or(0, |(offset, _)| offset);
        ReadAt::read_exact_at(&self.file, buffer, offset.saturating_add(place))
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Size of the file.
    pub size: u64,
    /// Files, directories and so on in it.
    pub inodes: u32,
    /// Bytes that were copied from layers as they are.
    pub copied: u64,
}

/// A directory without anything in it, attached nowhere: what is written over an image of which nothing has changed.
pub fn nothing() -> Result<OwnedFd> {
    FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Threads that compress, at most: what has changed in a container is rarely much.
const THREADS_MAX: usize = 8;

/// Threads that compress on this machine.
pub fn threads() -> usize {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, std::num::NonZero::get).min(THREADS_MAX)
}

/// Memory that names and block lists may take.
const MEMORY_MAX: usize = 2 << 30;

/// Refuses a tree that takes too much memory.
fn check_memory(bytes: usize) -> Result<()> {
    if bytes <= MEMORY_MAX {
        return Ok(());
    }
    Err(Error::Image(format!(
        "the container has more files than fit into {} MiB of memory",
        MEMORY_MAX >> 20
    )))
}

/// The step that needs rights, then the others. No thread has any beyond the user's when the first layer is parsed.
fn write(save: &Save, marks: &Marks, output: &File) -> Result<Saved> {
    let shape = Shape::choose(&save.layers, save.compression)?;
    let mut writer = Writer::with_thread_start(
        (output, save.form.origin()),
        shape.compression,
        shape.block_size,
        save.threads,
        surrender_thread,
    )?;
    let upper = upper::read(&save.upper, &save.identity, marks, &mut writer)?;
    surrender_thread()?;
    let mut merged = merge::merge(upper, &save.layers, writer.memory())?;
    if let Some(image) = &save.config {
        match save.form {
            Form::Squashfs => config::keep(image, &mut merged, &mut writer)?,
            Form::Sif { .. } => config::keep_as_singularity_does(image, &mut merged, &mut writer)?,
        }
    }
    let copied = copy::contents(&mut merged, &shape, &mut writer)?;
    let Written { size, inodes } = writer.finish(&merged.tree)?;
    let head = save.form.head(size)?;
    output
        .write_all_at(&head, 0)
        .map_err(|error| Error::sys("write the head of the file", "pwrite", error))?;
    Ok(Saved {
        size: size + head.len() as u64,
        inodes,
        copied,
    })
}

/// How the saved file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    compression: Compression,
    block_size: u32,
}

impl Shape {
    /// As the layers that are most of the image are, so that their blocks can be copied; where our writer lacks their
    /// compressor, with `otherwise`, whose blocks may still have the right size.
    fn choose(layers: &[LayerFile], otherwise: Compression) -> Result<Shape> {
        let mut shapes: Vec<(Shape, u64)> = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let superblock = superblock(layer)
                .map_err(|error| error.context(&format!("layer {} of {}", number + 1, layers.len())))?;
            let shape = Shape {
                compression: compression(&superblock, otherwise),
                block_size: superblock.block_size,
            };
            match shapes.iter_mut().find(|(known, _)| *known == shape) {
                Some((_, size)) => *size = size.saturating_add(superblock.bytes_used),
                None => shapes.push((shape, superblock.bytes_used)),
            }
        }
        let largest = shapes.into_iter().max_by_key(|(_, size)| *size);
        Ok(largest.map_or(
            Shape {
                compression: otherwise,
                block_size: 131_072,
            },
            |(shape, _)| shape,
        ))
    }
}

/// Only fixed fields are looked at.
fn superblock(layer: &LayerFile) -> Result<Superblock> {
    let failed = |call: &str, error: std::io::Error| Error::sys("read a layer", call, error);
    let size = layer.size().map_err(|error| failed("fstat", error))?;
    let mut bytes = [0; SUPERBLOCK_SIZE as usize];
    if size >= SUPERBLOCK_SIZE {
        layer
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| failed("pread", error))?;
    }
    Superblock::decode(&bytes, size).map_err(|text| Error::Image(format!("the squashfs image cannot be read: {text}")))
}

/// The compressor of an image, with the site's level where that is the site's compressor, else the fastest.
fn compression(superblock: &Superblock, otherwise: Compression) -> Compression {
    let own = match superblock.compressor {
        1 if superblock.flags & flag::STORED_DATA != 0 => Compression::None,
        1 => Compression::Gzip { level: 6 },
        5 => Compression::Lz4,
        6 => Compression::Zstd { level: 1 },
        _ => otherwise,
    };
    if own.id() == otherwise.id() && own != Compression::None && otherwise != Compression::None {
        return otherwise;
    }
    own
}
