//! The host's files as finders see them: below one directory, which is `/` but in tests. Links are followed inside of it
//! only, component by component: finders also run when the container's root is mounted on top of `/`, where the kernel's own
//! `..` would lead into the container.
#![forbid(unsafe_code)]

use super::ldcache::Cache;
use crate::bounded;
use crate::directory;
use crate::error::{Error, Result};
use crate::plan::{Identity, Origin};
use crate::rootfs::tree::{Missing, Tree};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where the loader's cache is.
pub const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// That of a machine with everything has about 300 KiB.
const MAX_LOADER_CACHE: u64 = 64 << 20;

/// The directory that finders take for the host's root.
#[derive(Debug)]
pub struct HostFiles {
    root: OwnedFd,
    /// Whom the container is for; nothing is made here, so it has no say.
    identity: Identity,
}

impl HostFiles {
    /// Opens it. The container's root must not be mounted yet.
    pub fn open(root: &Path, identity: &Identity) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| {
            let call = format!("open({})", root.display());
            Error::sys("look for devices below devices.root", call, error)
        })?;
        Ok(HostFiles {
            root: opened,
            identity: identity.clone(),
        })
    }

    /// Opens (`O_PATH`) what has this path; `None` when nothing has, or when it leads nowhere.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let tree = Tree::new(self.root.as_fd(), &self.identity)?;
        match tree.look_up(path, Missing::Fail, Origin::System) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(failed(path, "openat", error)),
        }
    }

    /// The content of a regular file; `None` when there is none. One of more than `most` bytes is an error.
    pub fn read(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(found) = self.find(path)? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&found).map_err(|error| failed(path, "fstat", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let file = open_again(&found, OFlags::RDONLY).map_err(|error| failed(path, "open", error))?;
        let bytes = bounded::read(File::from(file), most).map_err(|error| failed(path, "read", error))?;
        bytes
            .map(Some)
            .ok_or_else(|| Error::Host(format!("{} is larger than {most} bytes", path.display())))
    }

    /// The same, as text.
    pub fn read_text(&self, path: &Path, most: u64) -> Result<Option<String>> {
        let bytes = self.read(path, most)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The file that a path leads to, without links, and the first `most` bytes of it; `None` when it is no regular file.
    pub fn real(&self, path: &Path, most: u64) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let Some(found) = self.find(path)? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&found).map_err(|error| failed(path, "fstat", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let name = |fd: &OwnedFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .map_err(|error| failed(path, "readlink", error))
        };
        let (real, root) = (name(&found)?, name(&self.root)?);
        let Ok(real) = real.strip_prefix(&root) else {
            return Ok(None);
        };
        let file = open_again(&found, OFlags::RDONLY).map_err(|error| failed(path, "open", error))?;
        let mut head = Vec::new();
        let read = File::from(file).take(most).read_to_end(&mut head);
        read.map_err(|error| failed(path, "read", error))?;
        Ok(Some((Path::new("/").join(real), head)))
    }

    /// What the loader's cache knows.
    pub fn loader_cache(&self) -> Result<Cache> {
        let bytes = self.read(Path::new(LOADER_CACHE), MAX_LOADER_CACHE)?.ok_or_else(|| {
            Error::Host(format!(
                "{LOADER_CACHE} is missing on this node: run ldconfig, so that the driver's libraries can be found"
            ))
        })?;
        Cache::parse(&bytes).map_err(|reason| {
            Error::Host(format!(
                "{LOADER_CACHE} of this node cannot be used: {reason}: run ldconfig"
            ))
        })
    }

    /// The names in a directory, sorted; none when it is missing.
    pub fn names(&self, path: &Path) -> Result<Vec<String>> {
        let Some(found) = self.find(path)? else {
            return Ok(Vec::new());
        };
        let list = || directory::names(open_again(&found, OFlags::RDONLY | OFlags::DIRECTORY)?);
        let names = match list() {
            Err(Errno::NOTDIR) => Vec::new(),
            other => other.map_err(|error| failed(path, "getdents64", error))?,
        };
        let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// What a symbolic link says; `None` when nothing, or something else, has this path.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let Some(directory) = self.find(directory)? else {
            return Ok(None);
        };
        match rustix::fs::readlinkat(&directory, name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes())))),
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(failed(path, "readlinkat", error)),
        }
    }
}

/// Opens what an `O_PATH` descriptor refers to.
fn open_again(found: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn failed(path: &Path, call: &str, error: impl Into<std::io::Error>) -> Error {
    Error::sys(format!("look for devices in {}", path.display()), call, error)
}
