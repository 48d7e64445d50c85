//! A tmpfs of our own: the writable layer of the container, the overlay's work directory, places for the layers, and
//! device nodes when `/dev` lacks them. Nobody sees it but the builder; the overlay keeps it alive.
#![forbid(unsafe_code)]

use super::Writable;
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::sys::mount::{FsContext, move_mount, umount_detach};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;

/// The name of the writable layer's directory.
const UPPER: &str = "upper";
/// The name of the overlay's work directory.
const WORK: &str = "work";
/// Where a directory is attached that takes what is written in place of the tmpfs.
const KEPT: &str = "kept";

/// The tmpfs, attached on top of `/` of a private mount namespace.
///
/// `/` is the one directory that every host has. Lookups still start below the new mount, as the process's root
/// directory does not change; so sources must be opened before this (a path like `/..` would cross into the mount).
#[derive(Debug)]
pub struct Scratch {
    fd: OwnedFd,
    /// The directory that takes what is written. It and the next are opened once: a user can exchange directories of
    /// his own at any time.
    pub upper: OwnedFd,
    /// The overlay's work directory.
    pub work: OwnedFd,
    kept: bool,
    /// Nothing has been written to the upper directory yet.
    pub fresh: bool,
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Scratch {
    /// Mounts it. The upper directory belongs to the user: a new one here, or one that he has.
    pub fn new(identity: &Identity, writable: &Writable) -> Result<Self> {
        let context = FsContext::open("tmpfs")?;
        context.set_string("mode", "0700")?;
        let fd = context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        attach_on_root(&fd)?;
        let (upper, work, kept, fresh) = match writable {
            Writable::Scratch => {
                let upper = make(&fd, UPPER, 0o755)?;
                chown(&upper, identity.uid, identity.gid)?;
                (upper, make(&fd, WORK, 0o700)?, false, true)
            }
            Writable::Kept { mount, fresh } => {
                move_mount(mount, make(&fd, KEPT, 0o700)?)?;
                let kept = open(&fd, KEPT)?;
                let of_user = |name| open_of_user(&kept, name, identity.uid);
                (of_user(UPPER)?, of_user(WORK)?, true, *fresh)
            }
        };
        Ok(Scratch {
            fd,
            upper,
            work,
            kept,
            fresh,
        })
    }

    /// What is written stays, on a file system of the administrator's choice.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// Makes a directory and opens it.
    pub fn directory(&self, name: &str, mode: u32) -> Result<OwnedFd> {
        make(&self.fd, name, mode)
    }

    /// Takes it off `/` again, with the layers; the overlay has its own hold on all of them. Gives the upper directory.
    pub fn detach(self) -> Result<OwnedFd> {
        umount_detach(&self.fd)?;
        Ok(self.upper)
    }
}

fn make(scratch: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd> {
    rustix::fs::mkdirat(scratch, name, Mode::from_raw_mode(mode))
        .map_err(|error| Error::sys("prepare the writable layer", format!("mkdirat({name})"), error))?;
    open(scratch, name)
}

fn open(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    crate::directory::open(directory, name).map_err(|error| cannot_open(name, error))
}

/// Opens a directory of the user's. He may have put another one, a link, or a mount of his own in its place.
fn open_of_user(directory: &OwnedFd, name: &str, uid: u32) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let found = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
        .map_err(|error| cannot_open(name, error))?;
    let stat = rustix::fs::fstat(&found)
        .map_err(|error| Error::sys("prepare the writable layer", format!("fstat({name})"), error))?;
    if stat.st_uid == uid {
        return Ok(found);
    }
    Err(Error::Request(format!(
        "the directory {name} of the container belongs to uid {}, not to uid {uid}",
        stat.st_uid
    )))
}

fn cannot_open(name: &str, error: rustix::io::Errno) -> Error {
    Error::sys("prepare the writable layer", format!("openat({name})"), error)
}

/// Gives a file to the user.
pub fn chown(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    let (owner, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(fd, "", Some(owner), Some(group), AtFlags::EMPTY_PATH)
        .map_err(|error| Error::sys("give a file to the user", format!("fchownat({uid}, {gid})"), error))
}

/// Puts a mount on top of `/` of the calling process's mount namespace.
pub fn attach_on_root(mount: impl AsFd) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())
        .map_err(|error| Error::sys("attach the root file system", "open(/)", error))?;
    move_mount(mount, &root)
}
