//! The last step of a root file system: it becomes the root directory.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::mount::mount_of;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Makes `root`, which is mounted on top of `/`, the root directory, and takes the host's tree out of the namespace.
pub(crate) fn switch_root(root: &OwnedFd) -> Result<()> {
    let failed = |call: &str, error: Errno| Error::sys("enter the root file system", call, error);
    rustix::process::fchdir(root).map_err(|error| failed("fchdir", error))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|error| failed("umount2", error))?,
        // The host runs from its initramfs, which cannot be put aside; as root of the whole namespace we cover it, and
        // once the mounts are locked nobody can uncover it.
        Err(Errno::INVAL) => rustix::process::chroot(".").map_err(|error| failed("chroot", error))?,
        Err(error) => return Err(failed("pivot_root", error)),
    }
    rustix::process::chdir("/").map_err(|error| failed("chdir(/)", error))?;
    // A `..` at the root moves up to whatever is mounted on top of it: nothing may be.
    let inside = mount_of(root)?;
    for path in ["/", "/.."] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open(/)", error))?;
        if mount_of(&found)? != inside {
            return Err(Error::Host(
                "the host's root directory is still there after the container's was put in its place".into(),
            ));
        }
    }
    Ok(())
}
