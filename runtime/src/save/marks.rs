//! overlayfs' marks on the directories of an upper layer (Documentation/filesystems/overlayfs.rst), which only root can
//! read: opaque directories, and directories that were renamed. The walk yields nothing but these: no content is read, no
//! link is followed, and whatever a user does to the directories meanwhile only changes what of his own is found.
#![forbid(unsafe_code)]

use super::check_memory;
use super::upper::{failed, found, list, open_directory};
use crate::error::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::HashMap;
use std::rc::Rc;

/// What a directory of the upper layer is marked with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// It hides the directory of the same name below.
    pub opaque: bool,
    /// What is below it has this name: a path from the root when it begins with a slash, else a name beside it.
    pub redirect: Option<Box<[u8]>>,
}

/// The marked directories, by device and inode.
pub type Marks = HashMap<(u64, u64), Mark>;

/// A redirect is as long as a path at most (the kernel's default for redirects is 256 bytes).
const REDIRECT_MAX: usize = 4096;

/// Reads the marks below `upper`, those of root (which needs CAP_SYS_ADMIN), or those of a `userxattr` mount.
pub fn read(upper: &OwnedFd, users: bool) -> Result<Marks> {
    let prefix = if users { "user.overlay." } else { "trusted.overlay." };
    let mut marks = Marks::new();
    let mut pending: Vec<(Rc<OwnedFd>, Box<[u8]>)> = Vec::new();
    let mut next = Some(open_directory(upper, b".")?);
    loop {
        if let Some(directory) = next.take() {
            mark(&directory, prefix, &mut marks)?;
            let names = list(&directory)?;
            let directory = Rc::new(directory);
            let below = names.into_iter().filter(|(_, kind)| may_be_directory(*kind));
            pending.extend(below.map(|(name, _)| (Rc::clone(&directory), name)));
            check_memory(pending.len().saturating_add(marks.len()).saturating_mul(128))?;
        }
        let Some((parent, name)) = pending.pop() else {
            return Ok(marks);
        };
        next = found(open_directory(&*parent, &name))?;
    }
}

fn may_be_directory(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::Unknown)
}

fn mark(directory: &OwnedFd, prefix: &str, marks: &mut Marks) -> Result<()> {
    let mut buffer = vec![0; REDIRECT_MAX];
    let opaque = attribute(directory, &format!("{prefix}opaque"), &mut buffer)? == Some(b"y");
    let redirect = attribute(directory, &format!("{prefix}redirect"), &mut buffer)?.map(Box::from);
    if opaque || redirect.is_some() {
        let stat = rustix::fs::fstat(directory).map_err(|error| failed("fstat", error))?;
        marks.insert((stat.st_dev, stat.st_ino), Mark { opaque, redirect });
    }
    Ok(())
}

fn attribute<'b>(fd: impl AsFd, name: &str, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>> {
    match rustix::fs::fgetxattr(fd, name, &mut *buffer) {
        Ok(size) => Ok(buffer.get(..size)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(failed(&format!("fgetxattr({name})"), error)),
    }
}
