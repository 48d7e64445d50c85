//! Copies of a root file system for Linux before 6.15, which copies only mounts of the caller's own mount namespace: there a
//! namespace that has no other mount is kept, and entered for each copy. Goes away when no supported kernel is older.
#![forbid(unsafe_code)]

use super::scratch::attach_on_root;
use super::switch::switch_root;
use crate::error::{Error, Result};
use crate::namespaces::user::unshare_or_explain;
use crate::sys::channel;
use crate::sys::mount::open_tree_clone;
use crate::sys::process;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::UnmountFlags;

/// A mount namespace that has nothing but `mount`. The caller's mounts are slaves or private, with the container's root on top of `/`.
pub(super) fn keep(mount: &OwnedFd) -> Result<OwnedFd> {
    made_by_child(mount.as_fd(), || {
        unshare_or_explain(CloneFlags::CLONE_NEWNS)?;
        let namespace = open("/proc/self/ns/mnt", OFlags::RDONLY)?;
        rustix::mount::unmount("/", UnmountFlags::DETACH).map_err(|error| failed("umount2(/)", error.into()))?;
        attach_on_root(mount)?;
        switch_root(mount)?;
        Ok(namespace)
    })
}

/// This is such a namespace, and no mount.
pub(super) fn is_kept(root: BorrowedFd<'_>) -> Result<bool> {
    let stat = rustix::fs::fstat(root).map_err(|error| failed("fstat", error.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) != FileType::Directory)
}

/// Another mount of what is in the namespace.
pub(super) fn copy(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    made_by_child(namespace, || {
        setns(namespace, CloneFlags::CLONE_NEWNS).map_err(|error| failed("setns", error.into()))?;
        open_tree_clone(open("/", OFlags::PATH | OFlags::DIRECTORY)?, false)
    })
}

/// What a child process, which has `keep`, has opened.
fn made_by_child(keep: BorrowedFd<'_>, make: impl FnOnce() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (ours, theirs) = channel::pair()?;
    let child = process::fork(&[keep, theirs.as_fd()], || {
        let told = match make() {
            Ok(made) => channel::send(&theirs, &Ok::<(), Error>(()), &[made.as_fd()]),
            Err(error) => channel::send(&theirs, &Err::<(), Error>(error), &[]),
        };
        u8::from(told.is_err())
    })?;
    drop(theirs);
    let received = channel::recv::<Result<()>>(&ours)?;
    child.wait()?;
    let mut received = received.ok_or_else(killed)?;
    received.message?;
    received.fds.pop().ok_or_else(killed)
}

fn killed() -> Error {
    Error::Host("the process that keeps the container's files at hand was killed; out of memory?".into())
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(&format!("open({path})"), error.into()))
}

fn failed(call: &str, error: std::io::Error) -> Error {
    Error::sys("copy the root file system", call, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::{FsContext, move_mount};
    use crate::sys::process::Exit;
    use rustix::mount::{MountAttrFlags, MountPropagationFlags};

    #[test]
    fn what_is_kept_is_copied_in_another_namespace() {
        let child = process::fork(&[], || {
            let tried = || -> Result<()> {
                unshare_or_explain(CloneFlags::CLONE_NEWNS)?;
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                let mount = FsContext::open("tmpfs")?.mount(MountAttrFlags::empty())?;
                let file = rustix::fs::openat(&mount, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
                drop(file.unwrap());
                attach_on_root(FsContext::open("tmpfs")?.mount(MountAttrFlags::empty())?)?;
                let kept = keep(&mount)?;
                assert!(is_kept(kept.as_fd())? && !is_kept(mount.as_fd())?);
                // It is where it was, for this process, and its directory is the host's.
                assert!(std::path::Path::new("/proc/self").exists());
                for _ in 0..2 {
                    let copied = copy(kept.as_fd())?;
                    move_mount(&copied, open("/mnt", OFlags::PATH)?)?;
                    assert!(std::fs::exists("/mnt/file").unwrap());
                }
                Ok(())
            };
            u8::from(tried().is_err())
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    }
}
