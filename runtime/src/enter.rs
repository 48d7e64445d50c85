//! The only step that changes the caller: a task becomes part of the container. One linear function, as the order is
//! what makes it right.
#![forbid(unsafe_code)]

mod filter;

use crate::error::{Error, Result, words};
use crate::privilege::{drop_capabilities, mask, raise_what_entering_takes};
use crate::sys::credentials;
use crate::sys::seccomp;
use caps::Capability;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, getresgid, getresuid};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The namespaces that a task joins.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Join<'fd> {
    pub user: Option<BorrowedFd<'fd>>,
    pub mount: BorrowedFd<'fd>,
    pub net: Option<BorrowedFd<'fd>>,
    pub ipc: Option<BorrowedFd<'fd>>,
    pub uts: Option<BorrowedFd<'fd>>,
}

impl<'fd> From<&'fd crate::namespaces::Namespaces> for Join<'fd> {
    fn from(namespaces: &'fd crate::namespaces::Namespaces) -> Self {
        Join {
            user: namespaces.user.as_ref().map(AsFd::as_fd),
            mount: namespaces.mount.as_fd(),
            net: namespaces.net.as_ref().map(AsFd::as_fd),
            ipc: namespaces.ipc.as_ref().map(AsFd::as_fd),
            uts: namespaces.uts.as_ref().map(AsFd::as_fd),
        }
    }
}

/// How a task enters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enter {
    /// The task is uid 0 inside.
    pub remap_root: bool,
    /// The working directory, a path of the container.
    pub workdir: PathBuf,
    /// The user asked for this directory: it must exist. Else (the image's own setting) a missing one means `/`.
    pub explicit_workdir: bool,
}

/// Capabilities of root inside: they act on the one mapped user only, and package managers need them.
pub const ROOT_INSIDE: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETFCAP,
    Capability::CAP_MKNOD,
];

/// Enters the container. The caller is the user (or root, for a root job), single-threaded, and about to exec. Where the
/// container has no user namespace, it has kept what entering takes (see [`crate::privilege`]).
///
/// After `Ok` it is inside: namespaces joined, in the working directory, with no capability (root inside: a few that
/// act on the mapped user only), no_new_privs, and the identity filter. After `Err` it may be anywhere between and
/// must not run the user's program.
pub fn enter(join: &Join<'_>, how: &Enter) -> Result<()> {
    let filter = filter::identity_filter()?;
    let outside = Ids::now()?;
    // The user namespace comes first: it gives the capabilities that the others ask for. The user may join it, as he
    // owns it.
    match join.user {
        Some(user) => join_namespace(user, CloneFlags::CLONE_NEWUSER, "user")?,
        None => raise_what_entering_takes()?,
    }
    join_namespace(join.mount, CloneFlags::CLONE_NEWNS, "mnt")?;
    for (namespace, flag, name) in [
        (join.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (join.uts, CloneFlags::CLONE_NEWUTS, "uts"),
        (join.net, CloneFlags::CLONE_NEWNET, "net"),
    ] {
        if let Some(namespace) = namespace {
            join_namespace(namespace, flag, name)?;
        }
    }
    own_cgroup_root()?;
    // Without a user namespace they would act on the node.
    let root_inside = check_ids(how, outside)? && join.user.is_some();
    drop_capabilities(if root_inside { mask(&ROOT_INSIDE) } else { 0 })?;
    change_directory(how)?;
    credentials::set_no_new_privs()?;
    if !credentials::no_new_privs() {
        return Err(Error::Host("no_new_privs did not take effect".into()));
    }
    seccomp::set_mode_filter(&filter)
}

fn join_namespace(namespace: BorrowedFd<'_>, kind: CloneFlags, name: &str) -> Result<()> {
    setns(namespace, kind).map_err(|error| Error::sys("enter the container", format!("setns({name})"), error))
}

/// The task's own cgroup is `/` for it. Kernels without cgroup namespaces are fine too.
fn own_cgroup_root() -> Result<()> {
    match unshare(CloneFlags::CLONE_NEWCGROUP) {
        Ok(()) | Err(nix::Error::EINVAL) => Ok(()),
        Err(error) => Err(Error::sys("enter the container", "unshare(CLONE_NEWCGROUP)", error)),
    }
}

/// Real, effective and saved ids of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ids {
    users: [u32; 3],
    groups: [u32; 3],
}

impl Ids {
    fn now() -> Result<Self> {
        let failed = |call: &str, error: nix::Error| Error::sys("enter the container", call, error);
        let users = getresuid().map_err(|error| failed("getresuid", error))?;
        let groups = getresgid().map_err(|error| failed("getresgid", error))?;
        Ok(Ids {
            users: [users.real, users.effective, users.saved].map(Uid::as_raw),
            groups: [groups.real, groups.effective, groups.saved].map(Gid::as_raw),
        })
    }
}

/// The ids inside are those that the namespace maps: 0, or the same as outside. An id that it does not map shows as the
/// overflow id. Tells whether the user is 0 inside.
fn check_ids(how: &Enter, outside: Ids) -> Result<bool> {
    let inside = Ids::now()?;
    let (uid, gid) = match (how.remap_root, outside.users, outside.groups) {
        (true, _, _) => (0, 0),
        (false, [_, uid, _], [_, gid, _]) => (uid, gid),
    };
    let expected = Ids {
        users: [uid; 3],
        groups: [gid; 3],
    };
    if inside != expected {
        return Err(Error::Host(format!(
            "inside the container the task's user ids are {:?} and its group ids {:?}, not {uid} and {gid}: it was not \
             started as the container's user",
            inside.users, inside.groups
        )));
    }
    Ok(uid == 0)
}

/// Inside, a path cannot lead out: the root directory is the namespace's.
fn change_directory(how: &Enter) -> Result<()> {
    let to = |path: &Path| rustix::process::chdir(path);
    match to(&Path::new("/").join(&how.workdir)) {
        Ok(()) => Ok(()),
        Err(_) if !how.explicit_workdir => {
            to(Path::new("/")).map_err(|error| Error::sys("enter the container", "chdir(/)", error))
        }
        Err(error) => Err(no_directory(&how.workdir, error)),
    }
}

fn no_directory(path: &Path, error: Errno) -> Error {
    Error::Request(format!("{}: {}", path.display(), words(error)))
}
