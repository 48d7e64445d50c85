//! Pieces of what builds a root file system, each done alone, so that it can be told which of them a machine lacks. The
//! caller is a process with mounts of its own that is about to end.
#![forbid(unsafe_code)]

use super::overlay;
pub use super::overlay::{Flavour, takes_no_descriptors};
use super::scratch::Scratch;
use super::{Writable, fuse, reader};
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::sys::mount::{FsContext, move_mount};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// Who makes the files of a trial.
const ROOT: Identity = Identity {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// Stacks a layer and what `writable` is, and writes a file.
pub fn overlay(flavour: Flavour, writable: &Writable) -> Result<()> {
    let scratch = Scratch::new(&ROOT, writable)?;
    let root = overlay::stack(&[layer()?], &scratch, flavour)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&root, "file", flags, Mode::RUSR)
        .map(drop)
        .map_err(|error| Error::sys("write to an overlay", "openat(O_CREAT)", error))
}

/// Stacks a layer that is named by a descriptor.
pub fn overlay_by_descriptor(flavour: Flavour) -> Result<()> {
    let scratch = Scratch::new(&ROOT, &Writable::Scratch)?;
    let layer = layer()?;
    move_mount(&layer, scratch.directory("0", 0o755)?)?;
    overlay::by_descriptor(&[layer], &scratch, flavour).map(drop)
}

fn layer() -> Result<OwnedFd> {
    FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)
}

/// Gives a directory on a tmpfs an attribute of the kind that an overlay of a user's keeps its marks in.
pub fn user_attributes() -> Result<()> {
    let failed = |call: &str, error| Error::sys("set an attribute", call, error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::openat(layer()?, ".", flags, Mode::empty()).map_err(|error| failed("openat(tmpfs)", error))?;
    rustix::fs::fsetxattr(directory, "user.pyxis", b"1", XattrFlags::empty())
        .map_err(|error| failed("fsetxattr(tmpfs, user.*)", error))
}

/// A node of the FUSE device, as the second rung makes it.
pub fn fuse_node() -> Result<OwnedFd> {
    fuse::device()
}

/// Connects to FUSE and mounts it. Nobody answers, which nobody needs to.
pub fn fuse_mount(node: impl AsFd) -> Result<()> {
    let connection = fuse::open_device(node.as_fd())?;
    fuse::file_system(&connection).map(drop)
}

/// Opens the program that reads image files for users.
pub fn reader_program(path: &Path) -> Result<OwnedFd> {
    reader::program(path)
}
