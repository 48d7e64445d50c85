//! Device nodes where `/dev` lacks them, as a container's does: on a small tmpfs that is attached nowhere, so nothing but a
//! descriptor leads to it, and it goes away with that.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::mount::FsContext;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::cell::OnceCell;

/// The directory, made when it is wanted for the first time.
#[derive(Debug, Default)]
pub struct Nodes(OnceCell<OwnedFd>);

impl Nodes {
    /// The directory.
    pub fn directory(&self) -> Result<BorrowedFd<'_>> {
        if let Some(there) = self.0.get() {
            return Ok(there.as_fd());
        }
        let context = FsContext::open("tmpfs")?;
        context.set_string("mode", "0711")?;
        let made = context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        Ok(self.0.get_or_init(|| made).as_fd())
    }

    /// Makes a node of a device, unless it is there.
    pub fn make(&self, name: &str, kind: FileType, device: (u32, u32), mode: u32) -> Result<()> {
        let (major, minor) = device;
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(mode);
        let directory = self.directory()?;
        let made = match rustix::fs::mknodat(directory, name, kind, mode, number) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            // Whatever the caller's umask is.
            made => made.and_then(|()| rustix::fs::chmodat(directory, name, mode, AtFlags::empty())),
        };
        made.map_err(|error| Error::sys("make a device node", format!("mknod({name}, {major}:{minor})"), error))
    }

    /// Opens a node without looking at the device behind it.
    pub fn path(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory()?, name, flags, Mode::empty())
            .map_err(|error| Error::sys("make a device node", format!("openat({name})"), error))
    }
}
