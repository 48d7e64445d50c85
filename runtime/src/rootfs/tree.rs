//! Paths inside the container while it is built. An image is hostile: any of its directories may be a symbolic link to
//! anywhere. Each path is walked component by component on descriptors, links are followed inside the root only, and
//! what comes out is a descriptor, so that nothing is looked up twice.
#![forbid(unsafe_code)]

use crate::error::{Error, Result, words};
use crate::plan::{Identity, Origin};
use crate::privilege::{call_as_user, errno, owned_by_user};
use crate::sys::mount::mount_of;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

/// As many links as the kernel follows in one lookup.
const MAX_LINKS: usize = 40;

/// The container's root directory.
#[derive(Debug)]
pub struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The mount of the root itself: there we may create as root and give to the user. Elsewhere (what was mounted from
    /// the host) the user's own rights count. The file system may be one that the host has mounted too.
    mount: u64,
    identity: &'a Identity,
}

/// What to make of a path's last component when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: an error.
    Fail,
    /// A directory.
    Directory,
    /// An empty regular file.
    File,
}

/// One component of a path that is being walked.
struct Step {
    name: OsString,
    /// As the user wrote it, not from a link of the image.
    literal: bool,
}

impl<'a> Tree<'a> {
    /// The tree below `root`.
    pub fn new(root: BorrowedFd<'a>, identity: &'a Identity) -> Result<Self> {
        let mount = mount_of(root)?.id;
        Ok(Tree { root, mount, identity })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    /// Opens (`O_PATH`) what `path` names, links followed inside the root. Missing directories on the way are made when
    /// the last component would be.
    ///
    /// # Errors
    /// A `..` of the path itself that would leave the root is an error (EXDEV); one in a link of the image stays at the
    /// root, as in a chroot.
    pub fn resolve(&self, path: &Path, missing: Missing, origin: Origin) -> Result<OwnedFd> {
        self.look_up(path, missing, origin)
            .map_err(|error| self.failed(path, error))
    }

    /// The same, for whom errors are to be told apart.
    pub fn look_up(&self, path: &Path, missing: Missing, origin: Origin) -> rustix::io::Result<OwnedFd> {
        let mut walk = Walk::new(self, path, origin);
        while let Some(step) = walk.pending.pop_front() {
            let last = walk.pending.is_empty();
            walk.step(step, missing, last)?;
        }
        match walk.stack.pop() {
            Some(fd) => Ok(fd),
            None => rustix::io::fcntl_dupfd_cloexec(self.root, 0),
        }
    }

    /// The directory is on the container's own mount, and not on one that is mounted in it.
    pub fn is_own(&self, directory: impl AsFd) -> Result<bool> {
        Ok(mount_of(directory)?.id == self.mount)
    }

    /// Opens the directory of `path` (made if missing), and gives the last component's name.
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Request(format!("{} does not name a file", path.display())))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let fd = self.resolve(directory, Missing::Directory, Origin::System)?;
        Ok((fd, name.to_owned()))
    }

    fn failed(&self, path: &Path, error: Errno) -> Error {
        let text = words(error);
        Error::Request(match error {
            // The kernel's words for this one are relied upon by scripts, in this spelling.
            Errno::XDEV => format!(
                "{}: Invalid cross-device link: the path climbs out of the container",
                path.display()
            ),
            Errno::ACCESS | Errno::PERM => format!(
                "{}: {text}: uid {} may not go or create there",
                path.display(),
                self.identity.uid
            ),
            _ => format!("{}: {text}", path.display()),
        })
    }
}

struct Walk<'t, 'a> {
    tree: &'t Tree<'a>,
    origin: Origin,
    /// Directories from the root down; the last one may be the file that was looked for.
    stack: Vec<OwnedFd>,
    pending: VecDeque<Step>,
    links: usize,
}

impl<'t, 'a> Walk<'t, 'a> {
    fn new(tree: &'t Tree<'a>, path: &Path, origin: Origin) -> Self {
        let mut walk = Walk {
            tree,
            origin,
            stack: Vec::new(),
            pending: VecDeque::new(),
            links: 0,
        };
        walk.prepend(path, true);
        walk
    }

    fn prepend(&mut self, path: &Path, literal: bool) {
        for component in path.components().rev() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            let name = name.to_owned();
            self.pending.push_front(Step { name, literal });
        }
    }

    fn top(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.tree.root, AsFd::as_fd)
    }

    fn step(&mut self, step: Step, missing: Missing, last: bool) -> rustix::io::Result<()> {
        if step.name == ".." {
            return match self.stack.pop() {
                None if step.literal => Err(Errno::XDEV),
                _ => Ok(()),
            };
        }
        let fd = match self.open(&step.name) {
            Err(Errno::NOENT) if missing != Missing::Fail => {
                let kind = if last { missing } else { Missing::Directory };
                self.create(&step.name, kind)?
            }
            other => other?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return self.follow(&fd);
        }
        if !last && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        self.stack.push(fd);
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        let target = OsString::from_vec(target.into_bytes());
        if target.as_bytes().first() == Some(&b'/') {
            self.stack.clear();
        }
        self.prepend(Path::new(&target), false);
        Ok(())
    }

    /// Opens one component, never following a link (but crossing onto what is mounted there).
    fn open(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |top: BorrowedFd<'_>| rustix::fs::openat(top, name, flags, Mode::empty());
        if self.origin == Origin::System || self.ours()? {
            return open(self.top());
        }
        self.as_user(open)
    }

    /// Makes one component. Root does so on the container's own mount only, whoever wants it: a link of the image
    /// may have led a mount of the runtime's to the host's `/dev`.
    fn create(&self, name: &OsStr, kind: Missing) -> rustix::io::Result<OwnedFd> {
        let make = |top: BorrowedFd<'_>| match kind {
            Missing::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(top, name, flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            Missing::Directory | Missing::Fail => rustix::fs::mkdirat(top, name, Mode::from_raw_mode(0o755)),
        };
        if !self.ours()? {
            self.as_user(make)?;
            return self.open(name);
        }
        owned_by_user(self.tree.identity, || make(self.top())).map_err(|error| errno(&error))??;
        self.open(name)
    }

    /// The directory on top of the stack is on the container's own mount.
    fn ours(&self) -> rustix::io::Result<bool> {
        self.tree.is_own(self.top()).map_err(|error| errno(&error))
    }

    /// Does something in the directory on top of the stack with the user's rights.
    fn as_user<T>(&self, action: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        call_as_user(self.tree.identity, || action(self.top()))
    }
}

/// fstat(2), with the runtime's error.
pub fn stat(fd: impl AsFd) -> Result<rustix::fs::Stat> {
    rustix::fs::fstat(fd).map_err(|error| Error::sys("look at a file", "fstat", error))
}

/// The kind of an open file.
pub fn kind(fd: impl AsFd) -> Result<FileType> {
    Ok(FileType::from_raw_mode(stat(fd)?.st_mode))
}
