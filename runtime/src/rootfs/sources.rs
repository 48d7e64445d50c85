//! Mount sources: everything that comes from the host is opened here, before the container's root exists, with the
//! authority of whom asked for it, and becomes a tree of mounts that is attached nowhere. What happens to the path
//! afterwards has no effect.
#![forbid(unsafe_code)]

use super::{attributes, data, tmpfs, tree};
use crate::error::{Error, Result, words};
use crate::mount::{MountOptions, MountSource, Propagation, PropagationKind};
use crate::plan::{Identity, Origin, Plan, PlannedMount};
use crate::policy;
use crate::privilege::as_user;
use crate::sys::credentials::may_use;
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// A mount with its source in hand.
#[derive(Debug)]
pub struct Prepared<'p> {
    /// What was planned.
    pub planned: &'p PlannedMount,
    /// What will be done.
    pub action: Action,
}

/// What a planned mount does.
#[derive(Debug)]
pub enum Action {
    /// Attach this to the target.
    Attach {
        /// The mounts.
        mount: OwnedFd,
        /// The root of the mounts is a directory.
        directory: bool,
    },
    /// Move what is mounted at another place of the container.
    Move,
    /// Detach what is mounted on the target.
    Umount,
}

/// Opens the sources of `mounts`. Those that fail and may are left out, and told. Squashfs files are mounted already:
/// `files`, in the order of the mounts.
pub fn prepare<'p>(
    plan: &Plan,
    mounts: &'p [PlannedMount],
    files: &mut data::Mounts,
    report: &mut dyn FnMut(String),
) -> Result<Vec<Prepared<'p>>> {
    let mut prepared = Vec::with_capacity(mounts.len());
    for planned in mounts {
        match action(plan, planned, files) {
            Ok(action) => prepared.push(Prepared { planned, action }),
            Err(error) => tolerate(&planned.spec.options, error, report)?,
        }
    }
    Ok(prepared)
}

/// An error of a `nofail` mount is told and forgotten; `silent` ones are not even told.
pub fn tolerate(options: &MountOptions, error: Error, report: &mut dyn FnMut(String)) -> Result<()> {
    if !options.nofail {
        return Err(error);
    }
    if !options.silent {
        report(format!("{error}, ignoring"));
    }
    Ok(())
}

/// What a planned mount does, with its source opened; see [`prepare`].
pub fn action(plan: &Plan, planned: &PlannedMount, files: &mut data::Mounts) -> Result<Action> {
    let options = &planned.spec.options;
    match &planned.spec.source {
        MountSource::Umount => Ok(Action::Umount),
        MountSource::Path(_) if options.move_mount => Ok(Action::Move),
        MountSource::Tmpfs => Ok(Action::Attach {
            mount: tmpfs::mount(options, &plan.identity)?,
            directory: true,
        }),
        MountSource::Squashfs(path) => {
            let doing = |error: Error| error.context(&format!("mount {}", path.display()));
            let mount = data::next(files).map_err(doing)?;
            mount_setattr(&mount, Change::Add(attributes(options)), false).map_err(doing)?;
            Ok(Action::Attach { mount, directory: true })
        }
        MountSource::Path(path) => {
            if let Some(option) = options.data.first() {
                return Err(Error::Request(format!(
                    "mount option {option:?} of {}: unknown, or not for a bind mount",
                    path.display()
                )));
            }
            let file = open(plan, path, planned.origin)?;
            if planned.judged {
                policy::check_path("mount_sources", plan.mount_sources.as_ref(), &file)?;
            }
            bind(&file, options, planned.origin).map_err(|error| error.context(&format!("mount {}", path.display())))
        }
    }
}

/// Opens a source. A user's source is opened with the user's rights, and never through a magic link: `/proc/self/fd`
/// would lead to what this process has open.
fn open(plan: &Plan, path: &Path, origin: Origin) -> Result<OwnedFd> {
    let absolute = plan.cwd.join(path);
    match origin {
        Origin::System => open_path(&absolute).map_err(|error| cannot_open(path, error, &plan.identity)),
        Origin::User => as_user(&plan.identity, || {
            let file = open_path(&absolute).map_err(|error| cannot_open(path, error, &plan.identity))?;
            match may_use(&file) {
                Ok(true) => Ok(file),
                Ok(false) => Err(cannot_open(path, Errno::ACCESS, &plan.identity)),
                Err(error) => Err(Error::sys(format!("mount {}", path.display()), "faccessat2", error)),
            }
        }),
    }
}

fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    };
    let file = open(path)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(file);
    }
    // O_PATH does not make an automounter mount the last component; the "." behind it does.
    open(&path.join("."))
}

fn cannot_open(path: &Path, error: Errno, identity: &Identity) -> Error {
    let path = path.display();
    match error {
        Errno::NOENT => Error::Request(format!("source path does not exist: {path}")),
        Errno::ACCESS | Errno::PERM => Error::Request(format!(
            "source path {path}: Permission denied: uid {} may not use it",
            identity.uid
        )),
        Errno::LOOP => Error::Request(format!(
            "source path {path}: too many symbolic links, or a link of /proc that cannot be mounted"
        )),
        error => Error::Request(format!("source path {path}: {}", words(error))),
    }
}

/// Copies the mounts at `file` and restricts them. Restrictions of the host's mounts stay: a copy has them, and here
/// they are only added to.
pub fn bind(file: &OwnedFd, options: &MountOptions, origin: Origin) -> Result<Action> {
    let kind = tree::kind(file)?;
    let directory = kind == FileType::Directory;
    // A user's bind always takes the mounts below the source along: without them he would see what they cover, which
    // the kernel denies to users too (mount_namespaces(7), locked mounts).
    let recursive = directory && (options.recursive || origin == Origin::User);
    let mount = open_tree_clone(file, recursive)?;
    let mut flags = attributes(options);
    if origin == Origin::User {
        flags |= MountAttrFlags::MOUNT_ATTR_NOSUID;
        if !holds_devices(file, kind) {
            flags |= MountAttrFlags::MOUNT_ATTR_NODEV;
        }
    }
    if !flags.is_empty() {
        mount_setattr(&mount, Change::Add(flags), recursive)?;
    }
    if let Some(propagation) = options.propagation {
        set_propagation(&mount, propagation)?;
    }
    Ok(Action::Attach { mount, directory })
}

/// Device nodes are wanted here: the source is one, or is `/dev` or a part of it, or holds `/dev`.
fn holds_devices(file: impl AsFd, kind: FileType) -> bool {
    let below = policy::path_of(file).is_ok_and(|path| path == Path::new("/") || path.starts_with("/dev"));
    below || matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
}

/// Says how a mount propagates.
pub(crate) fn set_propagation(mount: &OwnedFd, propagation: Propagation) -> Result<()> {
    let kind = match propagation.kind {
        PropagationKind::Private => libc::MS_PRIVATE,
        PropagationKind::Slave => libc::MS_SLAVE,
        PropagationKind::Shared => libc::MS_SHARED,
        PropagationKind::Unbindable => libc::MS_UNBINDABLE,
    };
    mount_setattr(mount, Change::Propagation(kind), propagation.recursive)
}
