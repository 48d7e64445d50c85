//! What the read-only layers of a root file system are, and who reads them.
#![forbid(unsafe_code)]

use super::lower::{self, Refused};
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::image::file::Part;
use crate::namespaces::user_namespace_of;
use crate::plan::Identity;
use crate::unpack::Unpacker;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use std::collections::BTreeMap;

/// Everybody who has it may read it.
const READABLE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// Layers, bottom first, and who reads them.
#[derive(Debug)]
pub struct Lowers {
    /// The layers.
    pub layers: Vec<Lower>,
    /// Who reads them.
    pub rung: Rung,
    /// The image describes itself in files of its own (see [`OwnFiles`](crate::image::own_files::OwnFiles)). These are the
    /// job's variables, which can be put into them.
    pub own_files: Option<BTreeMap<String, String>>,
    /// What is written over them is marked in `user.overlay.*`, whoever reads them: it was begun so.
    pub user_marks: bool,
}

/// One layer: a squashfs file system in a file.
#[derive(Debug)]
pub struct Lower {
    /// The file.
    pub file: OwnedFd,
    /// Where in the file, if it is not all of it.
    pub part: Option<Part>,
}

/// Who reads layers. Each rung of the ladder is slower than the one before, and asks less of the machine.
#[derive(Debug)]
pub enum Rung {
    /// The kernel: only what the runtime wrote, or what nobody untrusted can change. These are its mounts, bottom first,
    /// attached nowhere.
    Kernel(Vec<OwnedFd>),
    /// A process of the user for each layer.
    Fuse(Reader),
    /// Nobody while it runs: they are unpacked to a directory before.
    Unpack(Unpacker),
}

impl Lowers {
    /// Nothing: the root file system comes from elsewhere.
    pub fn none() -> Self {
        Lowers {
            layers: Vec::new(),
            rung: Rung::Kernel(Vec::new()),
            own_files: None,
            user_marks: false,
        }
    }

    /// What was written over them before is marked in `user.overlay.*`, or not.
    ///
    /// # Errors
    /// An overlay of a user's namespace cannot read root's marks: files that were removed would be there again.
    pub fn go_on_with(&mut self, user_marks: bool) -> Result<()> {
        if self.rung.has_user_marks() && !user_marks {
            return Err(Error::Host(
                "it was written over an image that the kernel had mounted, and a process of the user reads the image now: \
                 make it anew, or have the kernel mount images again (images.read_by)"
                    .to_owned(),
            ));
        }
        self.user_marks = user_marks;
        Ok(())
    }

    /// The descriptors that are needed to build.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rung.fds()
    }

    /// The mounts of the layers that the kernel reads.
    pub fn mounts(&self) -> &[OwnedFd] {
        match &self.rung {
            Rung::Kernel(mounts) => mounts,
            Rung::Fuse(_) | Rung::Unpack(_) => &[],
        }
    }

    /// The layers that processes of the user read.
    pub fn read_by_user(&self) -> Vec<(&Reader, &Lower)> {
        match &self.rung {
            Rung::Kernel(_) | Rung::Unpack(_) => Vec::new(),
            Rung::Fuse(reader) => self.layers.iter().map(|layer| (reader, layer)).collect(),
        }
    }
}

impl Lower {
    /// A pack of the store: a file that is a layer from its beginning to its end.
    pub fn pack(file: OwnedFd) -> Result<Self> {
        lower::check_superblock(file.as_fd())?;
        Ok(Lower { file, part: None })
    }

    /// Lets a process of the user open the pack that it gets a descriptor of. The store itself stays closed to him.
    pub fn let_users_read(&self) -> Result<()> {
        let failed = |call: &str, error| Error::sys("show a pack to its reader", call, error);
        let stat = rustix::fs::fstat(&self.file).map_err(|error| failed("fstat", error))?;
        match Mode::from_raw_mode(stat.st_mode).contains(READABLE) {
            true => Ok(()),
            false => rustix::fs::fchmod(&self.file, READABLE | Mode::WUSR).map_err(|error| failed("fchmod", error)),
        }
    }
}

impl Rung {
    /// Marks of what is written over the layers must be `user.overlay.*`.
    pub fn has_user_marks(&self) -> bool {
        matches!(self, Rung::Fuse(_))
    }

    /// The descriptors that are needed to build.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let (mounts, device) = match self {
            Rung::Kernel(mounts) => (mounts.as_slice(), None),
            Rung::Fuse(reader) => (&[][..], Some(reader.device())),
            Rung::Unpack(_) => (&[][..], None),
        };
        mounts.iter().map(AsFd::as_fd).chain(device)
    }

    /// The first rung: the kernel mounts all layers.
    pub fn kernel(layers: &[Lower], user: &Identity) -> Result<Self, Refused> {
        let idmap = user_namespace_of(user).map_err(Refused::Here)?;
        lower::mount(layers, idmap.as_fd()).map(Rung::Kernel)
    }
}
