//! Squashfs files that are mounted as data. Like the layers of a root file system each is read by the kernel or by a
//! process of the user, whichever way the root file system itself is read.
#![forbid(unsafe_code)]

use super::reader::Reader;
use super::{Lower, Rung, fuse};
use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;

/// The squashfs files of a plan's mounts, in their order: open, or the error that kept one from being opened.
#[derive(Debug, Default)]
pub struct Data(pub Vec<Result<DataFile>>);

/// A squashfs file.
#[derive(Debug)]
pub struct DataFile {
    /// It.
    pub layer: Lower,
    /// Who reads it.
    pub rung: Rung,
}

/// Their mounts, attached nowhere, in the same order.
pub type Mounts = VecDeque<Result<OwnedFd>>;

impl Data {
    fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.0.iter().flatten()
    }

    /// The descriptors that are needed to build.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files().flat_map(|file| file.rung.fds())
    }

    /// The files that processes of the user read.
    pub fn read_by_user(&self) -> Vec<(&Reader, &Lower)> {
        let read = self.files().map(|file| match &file.rung {
            Rung::Fuse(reader) => Some((reader, &file.layer)),
            Rung::Kernel(_) | Rung::Unpack(_) => None,
        });
        read.flatten().collect()
    }

    /// All mounts: those that the kernel has made, and those `of_user`.
    pub fn mounts(&self, of_user: Vec<OwnedFd>) -> Result<Mounts> {
        let mut of_user = of_user.into_iter();
        let mut mount = |file: &DataFile| match &file.rung {
            Rung::Kernel(mounts) => match mounts.first() {
                Some(mount) => rustix::io::fcntl_dupfd_cloexec(mount.as_fd(), 0)
                    .map_err(|error| Error::sys("mount a squashfs file", "fcntl(F_DUPFD_CLOEXEC)", error)),
                None => Err(Error::Host("a squashfs file came without its mount".into())),
            },
            Rung::Unpack(_) => Err(Error::Host("a squashfs file with data is not unpacked".into())),
            Rung::Fuse(_) => of_user.next().ok_or_else(fuse::nonsense),
        };
        let mounts = self.0.iter().map(|file| match file {
            Ok(file) => mount(file).map(Ok),
            Err(error) => Ok(Err(error.clone())),
        });
        mounts.collect()
    }
}

/// The next of the mounts, for a squashfs file of the plan. What images and hooks ask for later comes too late.
pub fn next(mounts: &mut Mounts) -> Result<OwnedFd> {
    let late = || Error::Request("a squashfs file can be mounted by --container-mounts and by mounts.d only".into());
    mounts.pop_front().ok_or_else(late)?
}
