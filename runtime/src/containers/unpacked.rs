//! Directories with unpacked images. Those of containers with a name are kept like all of them. Those of others begin
//! with a dot, and whoever holds such a container holds a lock: the lock ends with its last holder, however that ends,
//! and the directory is then anybody's to remove who finds it, with the rights of its user.
#![forbid(unsafe_code)]

use super::data::{Data, Kept, UPPER, explain};
use crate::directory::{open_file_unmounted, open_unmounted as open};
use crate::error::{Error, Result};
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::time::{Duration, Instant};

/// How the directories of containers without a name begin.
pub(super) const PREFIX: &str = ".unpacked.";
/// The file in them that is locked.
const LOCK: &str = "lock";
/// How many of one container's leftovers may be locked by somebody else.
const ATTEMPTS: u32 = 100;
/// How long one start removes what others have left.
const SWEEP: Duration = Duration::from_secs(60);

/// A new directory of a container without a name. Dropping it removes it.
#[derive(Debug)]
pub struct Unnamed<'d> {
    data: &'d Data,
    id: String,
    lock: Option<OwnedFd>,
}

impl Unnamed<'_> {
    /// The place of the container in the data path.
    pub fn kept(&self) -> Kept<'_> {
        self.data.container(&self.id)
    }

    /// From now on the directory is there as long as the lock is held.
    pub fn into_lock(mut self) -> Result<OwnedFd> {
        let missing = || Error::Host("the lock of an unpacked image is gone".into());
        self.lock.take().ok_or_else(missing)
    }
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Who comes next tries again.
            let _ = self.kept().remove();
        }
    }
}

impl Data {
    /// Makes a directory for the container `id`, which has no name, and removes what others have left.
    pub fn unnamed(&self, id: &str) -> Result<Unnamed<'_>> {
        // What cannot be removed is no obstacle.
        let _ = self.sweep(Instant::now() + SWEEP);
        for number in 0..ATTEMPTS {
            let name = format!("{PREFIX}{id}.{number}");
            let kept = self.container(&name);
            match self.as_user(|| rustix::fs::mkdirat(&self.directory, &*name, Mode::RWXU)) {
                Err(Errno::EXIST) => continue,
                made => made.map_err(|error| explain(&kept.path, "create", error))?,
            }
            // Somebody may take it for a leftover before it is locked.
            let Some(lock) = kept.lock()? else { continue };
            let made = self.as_user(|| {
                let directory = open(&self.directory, &*name)?;
                rustix::fs::mkdirat(&directory, UPPER, Mode::from_raw_mode(0o755))
            });
            let unnamed = Unnamed {
                data: self,
                id: name,
                lock: Some(lock),
            };
            return made
                .map(|()| unnamed)
                .map_err(|error| explain(&self.path, "create", error));
        }
        Err(Error::Host(format!(
            "{}: too many directories of unpacked images that cannot be removed",
            self.path.display()
        )))
    }

    /// Removes the directories of containers without a name that nobody holds any more. All are tried; the first error
    /// is told.
    pub fn sweep(&self, until: Instant) -> Result<()> {
        let left = self.ids()?.into_iter().filter(|id| id.starts_with(PREFIX));
        let remove = |id: String| {
            let kept = self.container(&id);
            // Each costs something, also one that is empty, and the user can have made any number.
            if Instant::now() >= until {
                return Err(explain(&kept.path, "remove", Errno::TIMEDOUT));
            }
            match kept.lock()? {
                Some(_lock) => kept.remove_until(until),
                None => Ok(()),
            }
        };
        left.map(remove).fold(Ok(()), Result::and)
    }
}

impl Kept<'_> {
    /// Locks the directory; nothing when somebody else has, or when it is gone.
    fn lock(&self) -> Result<Option<OwnedFd>> {
        let locked = self.data.as_user(|| {
            let directory = open(&self.data.directory, &*self.id)?;
            let how = OFlags::CREATE | OFlags::RDWR;
            let file = open_file_unmounted(&directory, LOCK, how, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // It may have been removed between the two calls.
            match rustix::fs::fstat(&file)?.st_nlink {
                0 => Err(Errno::NOENT),
                _ => Ok(file),
            }
        });
        match locked {
            Ok(file) => Ok(Some(file)),
            Err(Errno::AGAIN | Errno::NOENT) => Ok(None),
            Err(error) => Err(explain(&self.path, "lock", error)),
        }
    }

    /// The directory that is the root file system of an unpacked container.
    pub fn root(&self) -> Result<OwnedFd> {
        let failed = |what: &str, error| explain(&self.path.join(UPPER), what, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let found = self.data.as_user(|| {
            let directory = open(&self.data.directory, &*self.id)?;
            rustix::fs::openat2(&directory, UPPER, flags, Mode::empty(), resolve)
        });
        let root = found.map_err(|error| failed("open", error))?;
        let stat = rustix::fs::fstat(&root).map_err(|error| failed("look at", error))?;
        if stat.st_uid != self.data.identity.uid {
            return Err(Error::Request(format!(
                "{} belongs to uid {}, not to uid {}",
                self.path.join(UPPER).display(),
                stat.st_uid,
                self.data.identity.uid
            )));
        }
        let system = rustix::fs::fstatvfs(&root).map_err(|error| failed("look at", error))?;
        if system.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(Error::Host(
                "container.data_path is mounted noexec: no program could run in an unpacked image".into(),
            ));
        }
        Ok(root)
    }

    /// The same as a mount of its own, attached nowhere, on which nothing of the host's mounts will appear.
    pub fn root_mount(&self) -> Result<OwnedFd> {
        let mount = open_tree_clone(self.root()?, false)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        mount_setattr(&mount, Change::Add(flags), false)?;
        mount_setattr(&mount, Change::Propagation(libc::MS_PRIVATE), false)?;
        Ok(mount)
    }
}
