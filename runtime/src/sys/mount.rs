//! The mount calls: fsopen(2) and friends with the kernel's own log in their errors, mount_setattr(2), and the few
//! questions about mounts that have no better home.

use super::check;
use crate::error::{Error, Result};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

/// A file system that is being set up (fsopen(2)).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    name: &'static str,
}

impl FsContext {
    /// Starts a new instance of the file system `name`.
    pub fn open(name: &'static str) -> Result<Self> {
        let fd = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
            rustix::io::Errno::NODEV => Error::Host(format!(
                "this kernel has no {name} file system: load the module {name} or use a kernel with it"
            )),
            error => Error::sys("set up a file system", format!("fsopen({name})"), error),
        })?;
        Ok(FsContext { fd, name })
    }

    /// `key=value`.
    pub fn set_string(&self, key: &str, value: &str) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
            .map_err(|error| self.failed(&format!("{key}={value}"), error))
    }

    /// `key`, an option without value.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|error| self.failed(key, error))
    }

    /// `key` is the open file `value`.
    pub fn set_fd(&self, key: &str, value: impl AsFd) -> Result<()> {
        let value = value.as_fd();
        rustix::mount::fsconfig_set_fd(&self.fd, key, value)
            .map_err(|error| self.failed(&format!("{key}=fd {}", value.as_raw_fd()), error))
    }

    /// Makes the file system and a mount of it that is attached nowhere.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.fd).map_err(|error| self.failed("create", error))?;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|error| self.failed("fsmount", error))
    }

    /// The error with what the kernel logged to this context (see "Message retrieval" in fsopen(2)).
    fn failed(&self, what: &str, error: rustix::io::Errno) -> Error {
        let mut message = String::new();
        let mut buffer = [0; 512];
        while let Ok(count) = rustix::io::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
            // Each message has its severity in front ("e ").
            let line = line.trim();
            let line = line.get(2..).unwrap_or(line);
            if count == 0 || message.len() > 2048 {
                break;
            }
            message.push_str(if message.is_empty() { "" } else { "; " });
            message.push_str(line);
        }
        let failed = Error::sys("set up a file system", format!("{} {what}", self.name), error);
        match failed {
            Error::Sys {
                doing,
                call,
                message: words,
                errno,
            } if !message.is_empty() => Error::Sys {
                doing,
                call,
                message: format!("{words} ({message})"),
                errno,
            },
            failed => failed,
        }
    }
}

/// `struct mount_attr` of mount_setattr(2), version 0.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What [`mount_setattr`] changes. Attributes can only be added: nothing here ever needs to lift a restriction.
#[derive(Debug, Clone, Copy)]
pub enum Change<'fd> {
    /// `MOUNT_ATTR_RDONLY` and friends.
    Add(MountAttrFlags),
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`.
    Propagation(u64),
    /// File owners are seen through this user namespace.
    IdMap(BorrowedFd<'fd>),
}

/// Changes a mount, or with `recursive` a tree of mounts, all or nothing.
pub fn mount_setattr(mount: impl AsFd, change: Change<'_>, recursive: bool) -> Result<()> {
    let mount = mount.as_fd();
    let attr = match change {
        Change::Add(flags) => MountAttr {
            attr_set: u64::from(flags.bits()),
            ..MountAttr::default()
        },
        Change::Propagation(propagation) => MountAttr {
            propagation,
            ..MountAttr::default()
        },
        Change::IdMap(namespace) => MountAttr {
            attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits()),
            userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX),
            ..MountAttr::default()
        },
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` outlives the call and its size is given with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result)
        .map(|_| ())
        .map_err(|error| Error::sys("change a mount", format!("mount_setattr({change:?})"), error))
}

/// A copy of the mount, or with `recursive` of the tree of mounts, at `source`, attached nowhere.
pub fn open_tree_clone(source: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(source, "", flags)
        .map_err(|error| Error::sys("copy a mount", "open_tree(OPEN_TREE_CLONE)", error))
}

/// Attaches (or moves) the mount to what `target` refers to.
pub fn move_mount(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .map_err(|error| Error::sys("attach a mount", "move_mount", error))
}

/// The identity of a mount, and whether the file is its root (statx(2), `STATX_MNT_ID`, Linux 5.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountPoint {
    /// The id as in mountinfo.
    pub id: u64,
    /// The file is the root of that mount.
    pub is_root: bool,
}

/// On which mount the open file is.
pub fn mount_of(fd: impl AsFd) -> Result<MountPoint> {
    // The kernel tells this much in any case. To ask for it by its flag is to ask the file system for more, and that of a
    // user's process answers the user only.
    let answer = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .map_err(|error| Error::sys("look at a mount", "statx", error))?;
    Ok(MountPoint {
        id: answer.stx_mnt_id,
        is_root: answer.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// Takes a mount, with all that is mounted on it, out of the tree; it ends when its last user does.
pub fn umount_detach(mount: impl AsFd) -> Result<()> {
    let path = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
    rustix::mount::unmount(path.as_str(), rustix::mount::UnmountFlags::DETACH)
        .map_err(|error| Error::sys("unmount", "umount2(MNT_DETACH)", error))
}
