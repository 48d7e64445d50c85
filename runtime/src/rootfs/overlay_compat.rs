//! Overlays for Linux before 6.13, which take the names of directories instead of descriptors. Goes away when no
//! supported kernel is older.
#![forbid(unsafe_code)]

use super::overlay::{self, Flavour};
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::sys::mount::FsContext;
use rustix::fd::{AsRawFd, OwnedFd};

/// The longest value of one option (fsconfig(2)).
const LONGEST: usize = 255;

/// Mounts `count` layers that are attached in the scratch under their numbers. The layers' names are relative, so the builder's
/// working directory becomes the scratch: it is about to become the container's root anyway.
pub fn by_name(count: usize, scratch: &Scratch, flavour: Flavour) -> Result<OwnedFd> {
    rustix::process::fchdir(scratch).map_err(|error| Error::sys("mount the root file system", "fchdir", error))?;
    let context = FsContext::open("overlay")?;
    let names: Vec<String> = (0..count).rev().map(|number| number.to_string()).collect();
    let joined = names.join(":");
    if joined.len() <= LONGEST {
        context.set_string("lowerdir", &joined)?;
    } else {
        // Linux 6.7.
        for name in &names {
            context
                .set_string("lowerdir+", name)
                .map_err(|error| too_many(error, count))?;
        }
    }
    // The kernel follows links in these, and a user's may have come in their place: not so in the links of descriptors.
    context.set_string("upperdir", &format!("/proc/self/fd/{}", scratch.upper.as_raw_fd()))?;
    context.set_string("workdir", &format!("/proc/self/fd/{}", scratch.work.as_raw_fd()))?;
    overlay::finish(context, flavour)
}

fn too_many(error: Error, count: usize) -> Error {
    match error.errno() {
        Some(libc::EINVAL) => Error::Host(format!(
            "an image of {count} layers needs Linux 6.7: merge its layers or use a newer kernel"
        )),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Identity;
    use crate::rootfs::Writable;
    use crate::sys::mount::open_tree_clone;
    use crate::sys::process::{self, Exit};
    use nix::sched::{CloneFlags, unshare};
    use rustix::fs::{Mode, OFlags};
    use rustix::mount::MountPropagationFlags;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const ROOT: Identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    /// Puts links in the place of both directories when they have been looked at, and writes a file to the overlay.
    fn exchange_and_write(kept: &Path, outside: &Path, overlay: impl Fn(&Scratch) -> Result<OwnedFd>) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let mount = open_tree_clone(std::fs::File::open(kept).unwrap(), false)?;
        let scratch = Scratch::new(&ROOT, &Writable::Kept { mount, fresh: true })?;
        scratch.directory("0", 0o755)?;
        for name in ["upper", "work"] {
            std::fs::rename(kept.join(name), kept.join(format!("{name}.moved"))).unwrap();
            symlink(outside.join(name), kept.join(name)).unwrap();
        }
        let root = overlay(&scratch)?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&root, "file", flags, Mode::RUSR).unwrap();
        Ok(())
    }

    #[test]
    fn links_that_a_user_puts_there_meanwhile_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, outside) = (directory.path().join("kept"), directory.path().join("outside"));
        for top in [&kept, &outside] {
            for name in ["upper", "work"] {
                std::fs::create_dir_all(top.join(name)).unwrap();
            }
        }
        let child = process::fork(&[], || {
            let written = exchange_and_write(&kept, &outside, |scratch| by_name(1, scratch, Flavour::Root));
            u8::from(written.is_err())
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
        assert!(kept.join("upper.moved/file").exists());
        for name in ["upper", "work"] {
            assert_eq!(std::fs::read_dir(outside.join(name)).unwrap().count(), 0);
        }
    }
}
