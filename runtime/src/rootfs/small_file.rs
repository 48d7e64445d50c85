//! A file with content of the runtime's own that is mounted and never written to the container: one that is kept or saved
//! does not have it, and nobody inside can change it.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::mount::{Change, FsContext, mount_setattr, open_tree_clone};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Its name on its own file system.
const NAME: &str = "file";

/// A file of root's on a small read-only file system of its own, attached nowhere.
pub fn mount(content: &[u8], mode: u32) -> Result<OwnedFd> {
    let failed = |call: &str, error| Error::sys("make a file that is mounted", call, error);
    let context = FsContext::open("tmpfs")?;
    context.set_string("mode", "0755")?;
    let directory = context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, NAME, flags, Mode::from_raw_mode(mode))
        .map_err(|error| failed("openat", error))?;
    // Nobody can execute a file that is open for writing: it is closed here.
    let written = File::from(file).write_all(content);
    written.map_err(|error| Error::sys("make a file that is mounted", "write", error))?;
    mount_setattr(&directory, Change::Add(MountAttrFlags::MOUNT_ATTR_RDONLY), false)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, NAME, flags, Mode::empty()).map_err(|error| failed("openat", error))?;
    open_tree_clone(&file, false)
}

/// A directory of root's with these links and files, read-only, attached nowhere.
pub fn mount_directory(links: &[(String, PathBuf)], files: &[(String, Vec<u8>)]) -> Result<OwnedFd> {
    let failed = |call: &str, error: std::io::Error| Error::sys("make a directory that is mounted", call, error);
    let context = FsContext::open("tmpfs")?;
    context.set_string("mode", "0755")?;
    let directory = context.mount(
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    for (name, target) in links {
        rustix::fs::symlinkat(target, &directory, name).map_err(|error| failed("symlinkat", error.into()))?;
    }
    for (name, content) in files {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o444))
            .map_err(|error| failed("openat", error.into()))?;
        File::from(file)
            .write_all(content)
            .map_err(|error| failed("write", error))?;
    }
    mount_setattr(&directory, Change::Add(MountAttrFlags::MOUNT_ATTR_RDONLY), false)?;
    Ok(directory)
}

/// An empty directory that nobody can write, attached nowhere.
pub fn mount_empty_directory() -> Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("mode", "0555")?;
    context.mount(
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}
