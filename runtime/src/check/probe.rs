//! How something is tried: in a child with namespaces of its own, which cannot leave anything behind and cannot keep anybody
//! waiting.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::namespaces::user::unshare_or_explain;
use crate::plan::Identity;
use crate::report::is_readable;
use crate::sys::{channel, process};
use nix::sched::CloneFlags;
use rustix::event::Timespec;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::mount::MountPropagationFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long one thing may take.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// A user who owns nothing.
pub fn nobody() -> Identity {
    Identity {
        uid: 65534,
        gid: 65534,
        groups: Vec::new(),
    }
}

/// Runs `attempt` in a child that has the descriptors of `keep`, and gives what it gave.
pub fn attempt<T: Serialize + DeserializeOwned>(
    keep: &[BorrowedFd<'_>],
    attempt: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (ours, theirs) = channel::pair()?;
    let mut keep = keep.to_vec();
    keep.push(theirs.as_fd());
    let child = process::fork(&keep, || {
        let told = channel::send(&theirs, &attempt(), &[]);
        u8::from(told.is_err())
    })?;
    drop(theirs);
    let late = || Error::Host(format!("it did not end within {} s", PATIENCE.tv_sec));
    // Dropped, the child is killed.
    if !is_readable(&ours, PATIENCE).map_err(|error| Error::sys("wait for a child", "poll", error))? {
        return Err(late());
    }
    let received = channel::recv::<Result<T>>(&ours)?;
    child.wait()?;
    let received = received.ok_or_else(|| Error::Host("the process that tries it was killed".into()))?;
    received.message
}

/// The calling process gets mounts of its own. It is root.
pub fn own_mounts() -> Result<()> {
    unshare_or_explain(CloneFlags::CLONE_NEWNS)?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)
        .map_err(|error| Error::sys("separate the mounts", "mount(/, MS_PRIVATE)", error))
}

/// The calling process gets mounts of its own in a user namespace where it is root.
pub fn users_mounts() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare_or_explain(CloneFlags::CLONE_NEWUSER)?;
    let write = |file: &str, text: &str| {
        std::fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| Error::sys("make a user namespace", format!("write({file})"), error))
    };
    write("setgroups", "deny")?;
    write("uid_map", &format!("0 {} 1\n", uid.as_raw()))?;
    write("gid_map", &format!("0 {} 1\n", gid.as_raw()))?;
    own_mounts()
}

/// Mounts of its own by the way that the caller has.
pub fn mounts_of(root: bool) -> Result<()> {
    match root {
        true => own_mounts(),
        false => users_mounts(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_errors_come_back_and_the_dead_are_noticed() {
        assert_eq!(attempt(&[], || Ok(7)), Ok(7));
        let error = Error::Image("bad".into());
        assert_eq!(attempt::<u8>(&[], || Err(error.clone())), Err(error));
        let killed = attempt::<u8>(&[], || {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            Ok(1)
        });
        assert!(killed.unwrap_err().to_string().contains("killed"));
    }
}
