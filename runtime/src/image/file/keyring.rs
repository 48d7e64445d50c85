//! The files with the keys of those who may sign images. Who can write to one decides what runs.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::privilege::only_root_can_write;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use std::path::Path;

/// Opens a key ring, with the caller's rights.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        Error::Host(format!(
            "the key ring {} cannot be opened: {}",
            path.display(),
            std::io::Error::from(error).kind()
        ))
    })
}

/// The same for a key ring of the site, which must be root's alone.
pub fn open_trusted(path: &Path) -> Result<OwnedFd> {
    let file = open(path)?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Error::sys("open a key ring", "fstat", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !only_root_can_write(&stat) {
        return Err(Error::Host(format!(
            "the key ring {} must be a regular file that belongs to root and that nobody else can write",
            path.display()
        )));
    }
    Ok(file)
}
