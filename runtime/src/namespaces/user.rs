//! User namespaces of other processes: their maps, and the errors that administrators meet.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::process::{self, Child, Exit};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// `/proc/PID` of a child. As long as the child is not reaped, the number is its own.
pub(crate) struct ProcessDirectory {
    fd: OwnedFd,
    pid: i32,
}

impl ProcessDirectory {
    /// Opens it.
    pub(crate) fn open(child: &Child) -> Result<Self> {
        let pid = child.pid();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|error| Error::sys("look at the builder", format!("open(/proc/{pid})"), error))?;
        Ok(ProcessDirectory { fd, pid })
    }

    /// Writes to one of its files.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let failed = |call: &str, error: Errno| {
            let call = format!("{call}(/proc/{}/{name}, {:?})", self.pid, text.trim_end());
            Error::sys("map the user", call, error)
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
            .map_err(|error| failed("open", error))?;
        match rustix::io::write(&file, text.as_bytes()) {
            Ok(count) if count == text.len() => Ok(()),
            Ok(_) => Err(failed("short write", Errno::IO)),
            Err(error) => Err(failed("write", error)),
        }
    }

    /// Opens one of its namespaces.
    pub(crate) fn namespace(&self, name: &str) -> Result<OwnedFd> {
        let path = format!("ns/{name}");
        rustix::fs::openat(&self.fd, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::sys("open a namespace", format!("open(/proc/{}/{path})", self.pid), error))
    }
}

impl ProcessDirectory {
    /// Writes the maps of the child's user namespace, one id each. One that is not a child of the caller's own takes
    /// them only from somebody within `parent`, the namespace above it.
    pub(crate) fn map(&self, parent: Option<&OwnedFd>, uids: (u32, u32), gids: (u32, u32)) -> Result<()> {
        self.write("setgroups", "deny")?;
        let maps = [
            ("uid_map", format!("{} {} 1\n", uids.0, uids.1)),
            ("gid_map", format!("{} {} 1\n", gids.0, gids.1)),
        ];
        match parent {
            None => maps.iter().try_for_each(|(name, text)| self.write(name, text)),
            Some(parent) => maps
                .iter()
                .try_for_each(|(name, text)| self.write_within(parent, name, text)),
        }
    }

    /// Writes to a file as root of the user namespace `parent`. The file is found before, as it is closed to the others.
    fn write_within(&self, parent: &OwnedFd, name: &str, text: &str) -> Result<()> {
        let failed = |call: &str, error: Errno| {
            let call = format!("{call}(/proc/{}/{name}, {:?})", self.pid, text.trim_end());
            Error::sys("map the user", call, error)
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let found = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|error| failed("open", error))?;
        let child = process::fork(&[found.as_fd(), parent.as_fd()], || {
            let written =
                setns(parent, CloneFlags::CLONE_NEWUSER).map_err(|error| Errno::from_raw_os_error(error as i32));
            let written = written.and_then(|()| {
                let path = format!("/proc/self/fd/{}", found.as_raw_fd());
                let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                rustix::io::write(&file, text.as_bytes())
            });
            match written {
                Ok(_) => 0,
                Err(error) => u8::try_from(error.raw_os_error()).unwrap_or(process::PANICKED),
            }
        })?;
        match child.wait()? {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) => Err(failed("write", Errno::from_raw_os_error(code))),
            Exit::Signal(_) => Err(failed("write", Errno::INTR)),
        }
    }
}

/// Nobody can make user namespaces on this machine, root included. A task finds that out for itself, before there is
/// anybody to ask, so what is looked at must be the same for it and for the one that builds.
pub fn switched_off() -> bool {
    std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|text| text.trim() == "0")
}

/// unshare(2), with what an administrator can do when it is refused.
pub(crate) fn unshare_or_explain(flags: CloneFlags) -> Result<()> {
    unshare(flags).map_err(|error| match error {
        nix::Error::ENOSPC => Error::Host(
            "no more namespaces can be made: raise /proc/sys/user/max_user_namespaces (and max_mnt_namespaces and so on)"
                .into(),
        ),
        nix::Error::EPERM | nix::Error::EACCES => not_permitted(),
        error => Error::sys("make namespaces", format!("unshare({flags:?})"), error),
    })
}

/// Of who may make no user namespace, or get no right in it.
pub(crate) fn not_permitted() -> Error {
    Error::Host(
        "user namespaces are not permitted here: allow them (kernel.unprivileged_userns_clone, a profile for AppArmor \
         or another security module, or the profile of this pod)"
            .into(),
    )
}
