//! The container's root: an overlay of read-only layers and the writable layer.
#![forbid(unsafe_code)]

use super::overlay_compat;
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::sys::mount::{FsContext, move_mount};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;

/// Flags of the root mount.
pub(super) fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV
}

/// Where an overlay keeps its marks on files (whiteouts of directories and the like), which depends on who mounts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Root of the machine, in `trusted.overlay.*`.
    Root,
    /// Root of a user namespace, in `user.overlay.*` (Linux 5.11; on tmpfs Linux 6.6). Root of the machine can mount
    /// such a one too.
    User,
}

/// Mounts layers (bottom first), and the scratch's upper directory, as one file system that is attached nowhere.
///
/// The layers are attached in the scratch, named by their number: kernels before 6.15 refuse unattached ones.
pub fn stack(layers: &[OwnedFd], scratch: &Scratch, flavour: Flavour) -> Result<OwnedFd> {
    if layers.is_empty() {
        return Err(Error::Image("the image has no layer".into()));
    }
    for (number, layer) in layers.iter().enumerate() {
        let place = scratch.directory(&number.to_string(), 0o755)?;
        move_mount(layer, &place)?;
    }
    copy_root_mode(layers, scratch)?;
    let mounted = match by_descriptor(layers, scratch, flavour) {
        Err(error) if takes_no_descriptors(&error) => overlay_compat::by_name(layers.len(), scratch, flavour),
        other => other,
    };
    mounted.map_err(|error| match error.errno() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) if scratch.is_kept() => Error::Host(format!(
            "the file system of container.data_path cannot take what a container writes: use a directory on a local \
             ext4, xfs, btrfs or tmpfs ({error})"
        )),
        _ => error,
    })
}

/// Linux before 6.13 does not take descriptors here, and sees none in those that were opened with O_PATH.
pub fn takes_no_descriptors(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EINVAL | libc::EBADF))
}

pub(super) fn by_descriptor(layers: &[OwnedFd], scratch: &Scratch, flavour: Flavour) -> Result<OwnedFd> {
    let context = FsContext::open("overlay")?;
    for layer in layers.iter().rev() {
        context.set_fd("lowerdir+", layer)?;
    }
    context.set_fd("upperdir", &scratch.upper)?;
    context.set_fd("workdir", &scratch.work)?;
    finish(context, flavour)
}

/// The options that do not depend on how layers are named, and the mount.
pub(super) fn finish(context: FsContext, flavour: Flavour) -> Result<OwnedFd> {
    match flavour {
        // A directory of the image can be renamed; without it programs see EXDEV and copy.
        Flavour::Root => context.set_string("redirect_dir", "on")?,
        // The kernel does not take both: a user could write such a redirection himself.
        Flavour::User => context.set_flag("userxattr")?,
    }
    context.set_string("index", "off")?;
    context.set_string("metacopy", "off")?;
    context.set_string("xino", "auto")?;
    context.mount(attributes())
}

/// The root directory is the upper's; it takes the mode that the top layer gives it. The user can always enter it.
fn copy_root_mode(layers: &[OwnedFd], scratch: &Scratch) -> Result<()> {
    let failed = |call: &str, error: rustix::io::Errno| Error::sys("prepare the writable layer", call, error);
    let (Some(top), true) = (layers.last(), scratch.fresh) else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(top).map_err(|error| failed("fstat", error))?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o1777 | 0o500);
    rustix::fs::fchmod(&scratch.upper, mode).map_err(|error| failed("fchmod", error))
}

/// Whether a mount has `directory/upper` for its upper directory, in any mount namespace.
///
/// Only the kernel knows that, and does not tell: with `index=off` it takes the directory a second time, with a warning
/// to its log. With `index=on` it answers EBUSY; and if the directory is free, the second mistake in this mount (the work
/// directory is the upper directory) keeps it from going on.
pub fn is_in_use(directory: BorrowedFd<'_>, upper: &str) -> Result<bool> {
    // The user may have put a link in its place, which the kernel would follow with our rights.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let Ok(found) = rustix::fs::openat2(directory, upper, flags, Mode::empty(), resolve) else {
        return Ok(false);
    };
    match mount_impossible(&format!("/proc/self/fd/{}", found.as_raw_fd())) {
        Ok(_) => Err(Error::Host("this kernel mounts an overlay that makes no sense".into())),
        Err(error) => Ok(error.errno() == Some(libc::EBUSY)),
    }
}

fn mount_impossible(upper: &str) -> Result<OwnedFd> {
    let context = FsContext::open("overlay")?;
    context.set_string("lowerdir", "/")?;
    context.set_string("upperdir", upper)?;
    context.set_string("workdir", upper)?;
    context.set_string("index", "on")?;
    context.mount(attributes())
}
