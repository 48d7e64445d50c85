//! What the kernel makes of squashfs files: through a loop device, with each compressor, and with owners that are mapped.
//! The files are tiny, of our own making, and have no name.
#![forbid(unsafe_code)]

use super::{Finding, Node, ROOTS, Subject, probe};
use crate::config::CompressionName;
use crate::error::{Error, Result};
use crate::pack::Compression;
use crate::pack::squashfs::{Attributes, Body, NodeId, Tree, Writer};
use crate::rootfs::{Lower, Rung};
use crate::sys::loopdev::LoopDevice;
use crate::sys::mount::FsContext;
use crate::sys::nodes::Nodes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;

const LOOP: Subject = Subject::new("squashfs.loop", "loop devices");
const IDMAP: Subject = Subject::new("squashfs.idmap", "squashfs with mapped owners");

/// Where the superblock names the compressor.
const COMPRESSOR: u64 = 20;
/// The file in the file system, and its content: it can be compressed well.
const NAME: &str = "file";
const CONTENT: [u8; 8192] = [b'a'; 8192];

/// How a file system is made whose compressor is wanted.
#[derive(Debug, Clone, Copy)]
struct Kind {
    subject: Subject,
    name: &'static str,
    compression: Compression,
    /// The compressor that the superblock names in place of what was used: one that we do not write. All blocks of such a
    /// file system are stored as they are.
    named: Option<u16>,
    /// Packs of the store are of this kind.
    of_packs: Option<CompressionName>,
}

const fn kind(id: &'static str, name: &'static str, compression: Compression) -> Kind {
    Kind {
        subject: Subject::new(id, name),
        name,
        compression,
        named: None,
        of_packs: None,
    }
}

const KINDS: [Kind; 6] = [
    Kind {
        of_packs: Some(CompressionName::Zstd),
        ..kind("squashfs.zstd", "squashfs with zstd", Compression::Zstd { level: 1 })
    },
    Kind {
        of_packs: Some(CompressionName::Lz4),
        ..kind("squashfs.lz4", "squashfs with lz4", Compression::Lz4)
    },
    Kind {
        of_packs: Some(CompressionName::Gzip),
        ..kind("squashfs.gzip", "squashfs with gzip", Compression::Gzip { level: 1 })
    },
    Kind {
        of_packs: Some(CompressionName::None),
        ..kind("squashfs.none", "squashfs uncompressed", Compression::None)
    },
    Kind {
        named: Some(4),
        ..kind("squashfs.xz", "squashfs with xz", Compression::None)
    },
    Kind {
        named: Some(3),
        ..kind("squashfs.lzo", "squashfs with lzo", Compression::None)
    },
];

pub fn look(node: &Node<'_>) -> Vec<Finding> {
    if !node.is_root() {
        return [LOOP.skip(ROOTS)].into_iter().chain(rest(ROOTS)).collect();
    }
    match loop_device() {
        Ok(found) => [found]
            .into_iter()
            .chain(KINDS.iter().map(|kind| judge(kind, node, mount_and_read(kind))))
            .chain([idmap(node)])
            .collect(),
        // All would say the same.
        Err(missing) => [missing].into_iter().chain(rest("there is no loop device")).collect(),
    }
}

/// What depends on loop devices.
fn rest(why: &str) -> impl Iterator<Item = Finding> {
    let subjects = KINDS.iter().map(|kind| kind.subject).chain([IDMAP]);
    subjects.map(move |subject| subject.skip(why))
}

fn loop_device() -> std::result::Result<Finding, Finding> {
    let attached = file(Compression::None, None).and_then(|file| {
        probe::attempt(&[file.as_fd()], || {
            probe::own_mounts()?;
            LoopDevice::attach(&file, None, &Nodes::default()).map(drop)
        })
    });
    let most = std::fs::read_to_string("/sys/module/loop/parameters/max_loop").ok();
    let most = most.as_deref().map(str::trim).filter(|most| *most != "0");
    match attached {
        Ok(()) => Ok(LOOP.ok(match most {
            Some(most) => format!("can be made and configured; the kernel began with {most} (max_loop)"),
            None => "can be made and configured".to_owned(),
        })),
        Err(error) => Err(LOOP.warn(
            error.to_string(),
            "load the module loop (Linux 5.8 or newer), and allow loop devices to this service or pod",
        )),
    }
}

/// A file on a tmpfs that is attached nowhere, as packs are files of a file system: Landlock knows no memfd. The reader's user
/// may read it.
fn unnamed_file() -> Result<File> {
    let directory = FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = rustix::fs::openat(&directory, ".", flags, mode)
        .and_then(|file| rustix::fs::fchmod(&file, mode).map(|()| file))
        .map_err(|error| Error::sys("make a file", "openat(O_TMPFILE)", error))?;
    Ok(File::from(file))
}

/// A file system with one file in it.
pub(super) fn file(compression: Compression, named: Option<u16>) -> Result<File> {
    let file = unnamed_file()?;
    let mut writer = Writer::new(&file, compression, 4096, 1)?;
    writer.begin_file();
    writer.write(&CONTENT)?;
    let content = writer.end_file()?;
    let mut tree = Tree::default();
    let added = tree.add(Attributes::with_mode(0o644), Body::File(Some(content)))?;
    tree.link(NodeId::ROOT, NAME.as_bytes(), added);
    writer.finish(&tree)?;
    if let Some(number) = named {
        file.write_all_at(&number.to_le_bytes(), COMPRESSOR)
            .map_err(|error| Error::sys("make a file", "pwrite", error))?;
    }
    Ok(file)
}

fn mount_and_read(kind: &Kind) -> Result<()> {
    let file = file(kind.compression, kind.named)?;
    probe::attempt(&[file.as_fd()], || {
        probe::own_mounts()?;
        let device = LoopDevice::attach(&file, None, &Nodes::default())?;
        let context = FsContext::open("squashfs")?;
        context.set_string("source", device.path())?;
        context.set_flag("ro")?;
        read(&context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)?)
    })
}

fn read(mount: &OwnedFd) -> Result<()> {
    let failed = |call: &str, error: std::io::Error| Error::sys("read a squashfs file system", call, error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(mount, NAME, flags, Mode::empty()).map_err(|error| failed("openat", error.into()))?;
    let mut bytes = [0; CONTENT.len()];
    File::from(file)
        .read_exact_at(&mut bytes, 0)
        .map_err(|error| failed("read", error))?;
    match bytes == CONTENT {
        true => Ok(()),
        false => Err(Error::Host("the kernel reads something else than was written".into())),
    }
}

fn judge(kind: &Kind, node: &Node<'_>, mounted: Result<()>) -> Finding {
    match mounted {
        Ok(()) => kind.subject.ok("the kernel reads it"),
        Err(error) => {
            let advice = match kind.of_packs == Some(node.config.store.compression) {
                true => format!(
                    "set store.compression in pyxis.toml to another one than {}, or use a kernel with it",
                    kind.name
                ),
                false => "use a kernel with it, or make image files with another compressor".to_owned(),
            };
            kind.subject.warn(error.to_string(), advice)
        }
    }
}

fn idmap(node: &Node<'_>) -> Finding {
    let user = node.somebody();
    let tried = file(Compression::None, None).and_then(|file| {
        let layer = Lower::pack(file.into())?;
        probe::attempt(&[layer.file.as_fd()], || {
            Rung::kernel(std::slice::from_ref(&layer), &user)?;
            Ok(())
        })
    });
    match tried {
        Ok(()) => IDMAP.ok("files of an image belong to the job's user"),
        Err(error) => IDMAP.warn(error.to_string(), "use Linux 6.2 or newer, where images start fastest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel is shown can be read by others, but for the compressor that it merely names.
    #[test]
    fn a_named_compressor_stands_in_the_superblock() {
        for (named, wanted) in [(None, 1), (Some(4), 4), (Some(3), 3)] {
            let file = file(Compression::None, named).unwrap();
            let mut bytes = [0; 2];
            file.read_exact_at(&mut bytes, COMPRESSOR).unwrap();
            assert_eq!(u16::from_le_bytes(bytes), wanted);
        }
    }
}
