//! The data path: what was written to containers that have a name, and what they are made of. Everything below a user's
//! directory is his; it is made, opened and removed with his rights, on descriptors, and no link is followed.
#![forbid(unsafe_code)]

use super::{Key, Record, remove, seal};
use crate::digest::Digest;
use crate::directory::{self, names, open_unmounted as open, unlink};
use crate::error::{Error, Result, words};
use crate::plan::Identity;
use crate::privilege::{call_as_user, only_root_can_write};
use crate::report::PATIENCE;
use crate::rootfs::overlay_is_in_use;
use crate::sys::mount::open_tree_clone;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was written.
pub(super) const UPPER: &str = "upper";
/// The overlay's work directory. It is a new one at each start: a machine that went down may have left the old one as
/// the kernel does not take it.
const WORK: &str = "work";
/// What the container is made of. A container without it is one that was not finished.
const RECORD: &str = "container.json";
/// The same, not yet finished.
const UNFINISHED: &str = "container.json.part";
/// No image's configuration is larger.
const MAX_RECORD: u64 = 16 << 20;
/// How long the kernel may take to write a container's last changes to the disk.
const LET_GO: Duration = Duration::from_secs(120);

/// A group that owns nothing (user_namespaces(7), "overflow" ids).
const NO_GROUP: u32 = 65534;

/// How long removing one container may take.
const REMOVAL: Duration = Duration::from_secs(600);

/// The containers of one user.
#[derive(Debug)]
pub struct Data {
    pub(super) directory: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
}

/// The place of one container, whether it exists or not.
#[derive(Debug)]
pub struct Kept<'d> {
    pub(super) data: &'d Data,
    pub(super) id: String,
    pub(super) path: PathBuf,
}

impl Data {
    /// Opens the user's directory, making it when it is missing.
    pub fn open(data_path: &Path, identity: &Identity) -> Result<Self> {
        let top = match open_top(data_path) {
            Err(Errno::NOENT) => {
                make_all(data_path, 0o755).map_err(|error| explain(data_path, "create", error))?;
                open_top(data_path)
            }
            other => other,
        };
        let top = top.map_err(|error| explain(data_path, "open", error))?;
        Data::below(&top, data_path, identity, make_user_directory)
    }

    /// As [`Data::open`], for a path that the site gave this user alone. It may lead through directories of his, so
    /// everything is done with his rights.
    pub fn open_own(data_path: &Path, identity: &Identity) -> Result<Self> {
        call_as_user(identity, || make_all(data_path, 0o700)).map_err(|error| explain(data_path, "create", error))?;
        let top = call_as_user(identity, || open_top(data_path)).map_err(|error| explain(data_path, "open", error))?;
        Data::below(&top, data_path, identity, |top, name, identity| {
            call_as_user(identity, || rustix::fs::mkdirat(top, name, Mode::RWXU))
        })
    }

    /// Opens the user's directory in the open `top`.
    fn below(
        top: &OwnedFd,
        data_path: &Path,
        identity: &Identity,
        make: impl FnOnce(&OwnedFd, &str, &Identity) -> rustix::io::Result<()>,
    ) -> Result<Self> {
        let name = identity.uid.to_string();
        let path = data_path.join(&name);
        let failed = |what: &str, error| explain(&path, what, error);
        let directory = match call_as_user(identity, || open(top, &*name)) {
            Err(Errno::NOENT) => {
                make(top, &name, identity).map_err(|error| failed("create", error))?;
                call_as_user(identity, || open(top, &*name))
            }
            other => other,
        };
        let directory = directory.map_err(|error| failed("open", error))?;
        let stat = rustix::fs::fstat(&directory).map_err(|error| failed("look at", error))?;
        if stat.st_uid != identity.uid || stat.st_mode & 0o077 != 0 {
            return Err(Error::Host(format!(
                "{} belongs to uid {} with mode {:04o}: it must belong to uid {} with mode 0700",
                path.display(),
                stat.st_uid,
                stat.st_mode & 0o7777,
                identity.uid
            )));
        }
        let identity = identity.clone();
        Ok(Data {
            directory,
            path,
            identity,
        })
    }

    /// Opens the directory of a user, if there is one, to remove containers from it.
    pub fn existing(data_path: &Path, uid: u32) -> Result<Option<Self>> {
        // Not by its path: that may lead to what the user has mounted there.
        let found = open_top(data_path).and_then(|top| open(&top, uid.to_string()));
        let directory = match found {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| explain(&data_path.join(uid.to_string()), "open", error))?,
        };
        let stat = rustix::fs::fstat(&directory).map_err(|error| explain(data_path, "look at", error))?;
        let identity = Identity {
            uid,
            gid: stat.st_gid,
            groups: vec![stat.st_gid],
        };
        Data::open(data_path, &identity).map(Some)
    }

    /// As [`Data::existing`], for a path that the site gave this user alone.
    pub fn existing_own(data_path: &Path, uid: u32) -> Result<Option<Self>> {
        // The directory is closed to everybody but its owner, so no group is needed; and none is taken from what lies
        // where the user may have put something else.
        let identity = Identity {
            uid,
            gid: NO_GROUP,
            groups: Vec::new(),
        };
        let directory = data_path.join(uid.to_string());
        match call_as_user(&identity, || rustix::fs::lstat(&directory)) {
            Ok(_) => Data::open_own(data_path, &identity).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The place of the container `id`.
    pub fn container(&self, id: &str) -> Kept<'_> {
        Kept {
            data: self,
            id: id.to_owned(),
            path: self.path.join(id),
        }
    }

    /// The ids of all that there is.
    pub fn ids(&self) -> Result<Vec<String>> {
        let found = names(&self.directory).map_err(|error| explain(&self.path, "read", error))?;
        Ok(found.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    pub(super) fn as_user<T>(&self, action: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        call_as_user(&self.identity, action)
    }
}

impl Kept<'_> {
    /// The container's directory, for messages.
    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// There is such a container, and it was finished.
    pub fn exists(&self) -> bool {
        let found = self.data.as_user(|| {
            let directory = open(&self.data.directory, &*self.id)?;
            rustix::fs::statat(&directory, RECORD, AtFlags::SYMLINK_NOFOLLOW)
        });
        found.is_ok()
    }

    /// What the container is made of; `None` when there is no such container.
    pub fn record(&self, key: &Key) -> Result<Option<Record>> {
        let failed = |error| explain(&self.path.join(RECORD), "read", error);
        let file = self.data.as_user(|| {
            let directory = match open(&self.data.directory, &*self.id) {
                Err(Errno::NOENT) => return Ok(None),
                other => other?,
            };
            // Not to be kept waiting by a pipe of this name, nor by what the user has mounted on it.
            match directory::open_file_unmounted(&directory, RECORD, OFlags::RDONLY, Mode::empty()) {
                Err(Errno::NOENT) => Ok(None),
                other => other.map(Some),
            }
        });
        let Some(file) = file.map_err(failed)? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let mut bytes = Vec::new();
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let mut file = File::from(file).take(MAX_RECORD);
            file.read_to_end(&mut bytes).map_err(|error| failed(errno(&error)))?;
        }
        let record = seal::open(key, self.data.identity.uid, &self.id, &bytes);
        record.map(Some).ok_or_else(|| {
            Error::Request(format!(
                "{}/{RECORD} was not written by this node, or was changed since: remove {0}",
                self.path.display()
            ))
        })
    }

    /// Makes the container's directories, in place of those of one that was not finished.
    pub fn renew(&self) -> Result<()> {
        self.discard()?;
        let made = self.data.as_user(|| {
            rustix::fs::mkdirat(&self.data.directory, &*self.id, Mode::RWXU)?;
            let directory = open(&self.data.directory, &*self.id)?;
            rustix::fs::mkdirat(&directory, UPPER, Mode::from_raw_mode(0o755))
        });
        made.map_err(|error| explain(&self.path, "create", error))
    }

    /// The container's directory as a mount of its own, attached nowhere, with a new work directory in it. What was
    /// written must not be in use by another mount: that is waited for, and told.
    pub fn mount(&self, mut tell: impl FnMut()) -> Result<OwnedFd> {
        let failed = |what: &str, error| explain(&self.path, what, error);
        let directory = self.data.as_user(|| open(&self.data.directory, &*self.id));
        let directory = directory.map_err(|error| failed("open", error))?;
        self.wait_until_let_go(&directory, &mut tell)?;
        self.remove_work(&directory, Instant::now() + REMOVAL)
            .map_err(|error| failed("clear", error))?;
        self.data
            .as_user(|| rustix::fs::mkdirat(&directory, WORK, Mode::RWXU))
            .map_err(|error| failed("create", error))?;
        open_tree_clone(&directory, false)
    }

    /// Says what the container is made of: from now on it exists.
    pub fn keep(&self, key: &Key, record: &Record) -> Result<()> {
        let bytes = seal::seal(key, self.data.identity.uid, &self.id, record)?;
        let written = self.data.as_user(|| {
            let directory = open(&self.data.directory, &*self.id)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(rustix::fs::openat(&directory, UNFINISHED, flags, mode)?);
            file.write_all(&bytes).map_err(|error| errno(&error))?;
            rustix::fs::fdatasync(&file)?;
            rustix::fs::renameat(&directory, UNFINISHED, &directory, RECORD)
        });
        written.map_err(|error| explain(&self.path.join(RECORD), "write", error))
    }

    /// Removes a container that was not finished. What does not look like one is left alone.
    pub fn discard(&self) -> Result<()> {
        let known = [UPPER, WORK, UNFINISHED];
        let foreign = self.data.as_user(|| {
            let found = names(open(&self.data.directory, &*self.id)?)?;
            let mut found = found.iter().filter_map(|name| name.to_str().ok());
            Ok(found.any(|name| !known.contains(&name)))
        });
        match foreign {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(explain(&self.path, "open", error)),
            Ok(true) => Err(Error::Request(format!(
                "{} holds something else than a container: remove it, or take another name",
                self.path.display()
            ))),
            Ok(false) => self.remove(),
        }
    }

    /// Removes the container, with the rights of its user.
    pub fn remove(&self) -> Result<()> {
        self.remove_until(Instant::now() + REMOVAL)
    }

    /// The same, but gives up at `until`: processes of the user may fill the container again all the time.
    pub fn remove_until(&self, until: Instant) -> Result<()> {
        let removed = self
            .data
            .as_user(|| open(&self.data.directory, &*self.id))
            .and_then(|directory| {
                // Without its record it is one that is not finished, whatever happens next.
                self.data.as_user(|| unlink(&directory, RECORD))?;
                match self.remove_work(&directory, until) {
                    Err(Errno::ACCESS | Errno::PERM) if !rustix::process::geteuid().is_root() => return self.leave(),
                    removed => removed?,
                }
                self.data.as_user(|| {
                    remove::everything_in(&directory, until)?;
                    rustix::fs::unlinkat(&self.data.directory, &*self.id, AtFlags::REMOVEDIR)
                })
            });
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(explain(&self.path, "remove", error)),
        }
    }

    /// What the kernel has left in the work directory is root's. The container goes where root removes it when a step of the
    /// user's ends (see [`Data::sweep`]).
    fn leave(&self) -> rustix::io::Result<()> {
        let (id, me) = (Digest::of(self.id.as_bytes()), std::process::id());
        let name = format!("{}{}.{me}", super::unpacked::PREFIX, id.short());
        let directory = &self.data.directory;
        self.data
            .as_user(|| rustix::fs::renameat(directory, &*self.id, directory, &*name))
    }

    /// Removes the work directory. The kernel keeps things in a directory in it that is root's and closed to everybody:
    /// only such a directory is emptied as root, as nobody else can have put anything into it.
    fn remove_work(&self, container: &OwnedFd, until: Instant) -> rustix::io::Result<()> {
        let work = match self.data.as_user(|| open(container, WORK)) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if let Ok(inner) = open(&work, WORK) {
            let stat = rustix::fs::fstat(&inner)?;
            if (stat.st_uid, stat.st_mode & 0o7777) == (0, 0) {
                remove::everything_in(&inner, until)?;
            }
        }
        self.data.as_user(|| {
            remove::everything_in(&work, until)?;
            rustix::fs::unlinkat(container, WORK, AtFlags::REMOVEDIR)
        })
    }

    /// Two overlays over one directory would spoil it. The last step's may still be writing to the disk, or processes
    /// of a step that has lost its supervisor may still run.
    fn wait_until_let_go(&self, directory: &OwnedFd, tell: &mut dyn FnMut()) -> Result<()> {
        let started = Instant::now();
        let mut told = started;
        let mut pause = Duration::from_micros(500);
        while overlay_is_in_use(directory.as_fd(), UPPER)? {
            if started.elapsed() > LET_GO {
                return Err(Error::Request(format!(
                    "{} is in use: processes of a step that has lost its supervisor still run in this container",
                    self.path.display()
                )));
            }
            if told.elapsed() > Duration::from_secs(PATIENCE.tv_sec.unsigned_abs()) {
                told = Instant::now();
                tell();
            }
            // The kernel has no event for the end of a mount.
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(200));
        }
        Ok(())
    }
}

/// The administrator's directory. A link to it is his.
fn open_top(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes the directory and those that lead to it, as far as they are missing.
fn make_all(path: &Path, mode: u32) -> rustix::io::Result<()> {
    let made = std::fs::DirBuilder::new().mode(mode).recursive(true).create(path);
    made.map_err(|error| errno(&error))
}

/// Makes a user's directory: root does so in a directory where nobody else can make any, the user elsewhere.
fn make_user_directory(top: &OwnedFd, name: &str, identity: &Identity) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(top)?;
    if !only_root_can_write(&stat) {
        return call_as_user(identity, || directory::make(top, name, Mode::RWXU));
    }
    directory::make(top, name, Mode::RWXU)?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(identity.uid),
        rustix::fs::Gid::from_raw(identity.gid),
    );
    rustix::fs::fchown(open(top, name)?, Some(uid), Some(gid))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

pub(super) fn explain(path: &Path, what: &str, error: Errno) -> Error {
    let (path, words) = (path.display(), words(error));
    match error {
        Errno::NOSPC => Error::Host(format!("cannot {what} {path}: the disk of container.data_path is full")),
        Errno::DQUOT => Error::Host(format!(
            "cannot {what} {path}: the user's quota on the disk of container.data_path is used up"
        )),
        Errno::LOOP | Errno::NOTDIR => {
            Error::Request(format!("cannot {what} {path}: it is not a directory: remove it"))
        }
        Errno::XDEV => Error::Request(format!("cannot {what} {path}: something is mounted there: unmount it")),
        _ => Error::Host(format!("cannot {what} {path}: {words}: see container.data_path")),
    }
}
