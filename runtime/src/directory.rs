//! Directories that somebody else may be changing meanwhile: opened, made, listed and emptied by descriptor, without ever
//! following a link.
#![forbid(unsafe_code)]

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;
use std::ffi::CString;

/// Opens a directory that is no link.
pub fn open(directory: impl AsFd, name: impl Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Opens a directory that is no link, and on which nothing is mounted: users can mount file systems on what is theirs,
/// with a program of their own behind them, which need not answer.
pub fn open_unmounted(directory: impl AsFd, name: impl Arg) -> Result<OwnedFd> {
    open_unmounted_with(directory, name, OFlags::RDONLY)
}

/// The same, opened in another way than to be read.
pub fn open_unmounted_with(directory: impl AsFd, name: impl Arg, how: OFlags) -> Result<OwnedFd> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

/// Opens or makes a file that is no link, and on which nothing is mounted either: a single file can be mounted on, too.
pub fn open_file_unmounted(directory: impl AsFd, name: impl Arg, how: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(directory, name, flags, mode, resolve)
}

/// Makes a directory; one that is there is fine.
pub fn make(directory: impl AsFd, name: impl Arg, mode: Mode) -> Result<()> {
    match rustix::fs::mkdirat(directory, name, mode) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Removes a name that is not a directory's; a missing one is fine.
pub fn unlink(directory: impl AsFd, name: impl Arg) -> Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The names in a directory.
pub fn names(directory: impl AsFd) -> Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            found.push(name);
        }
    }
    Ok(found)
}
