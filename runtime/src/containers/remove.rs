//! Removes trees that somebody else may be changing at the same time, on descriptors, without ever following a link and
//! whatever their depth.
#![forbid(unsafe_code)]

use crate::directory::{names, open_unmounted, open_unmounted_with};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::time::Instant;

/// Removes everything in `directory`. A directory in it that is not empty has its directories moved up here first: so
/// no tree is too deep, and no more than two descriptors are open.
///
/// # Errors
/// ETIMEDOUT at `until`: whoever makes files as fast as they are removed must not keep us here.
pub fn everything_in(directory: &OwnedFd, until: Instant) -> rustix::io::Result<()> {
    let mut number = 0_u64;
    loop {
        let names = names(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            in_time(until)?;
            if unlink(directory, &name)? == Removed::No {
                hollow(directory, &name, &mut number, until)?;
                rmdir(directory, &name)?;
            }
        }
    }
}

fn in_time(until: Instant) -> rustix::io::Result<()> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(Errno::TIMEDOUT),
    }
}

#[derive(PartialEq, Eq)]
enum Removed {
    Yes,
    No,
}

/// Removes a file, or an empty directory.
fn unlink(directory: &OwnedFd, name: &CString) -> rustix::io::Result<Removed> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Removed::Yes),
        // What unlink(2) says about a directory depends on the file system.
        Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(Removed::Yes),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Removed::No),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn rmdir(directory: &OwnedFd, name: &CString) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        // Somebody puts files there meanwhile: the next round will see.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the files of a directory and moves its directories to `top`.
fn hollow(top: &OwnedFd, name: &CString, number: &mut u64, until: Instant) -> rustix::io::Result<()> {
    let directory = match open_for_removal(top, name) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    for inner in names(&directory)? {
        in_time(until)?;
        if unlink(&directory, &inner)? == Removed::Yes {
            continue;
        }
        // To be moved a directory must be writable, as its ".." changes.
        drop(open_for_removal(&directory, &inner)?);
        loop {
            *number += 1;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&directory, &inner, top, format!("removed.{number}"), flags) {
                Err(Errno::EXIST) => {}
                Ok(()) | Err(Errno::NOENT) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Opens a directory, with all rights of its owner, which it gets on its descriptor: a link that comes in between leads
/// nowhere.
fn open_for_removal(directory: &OwnedFd, name: &CString) -> rustix::io::Result<OwnedFd> {
    let found = open_unmounted_with(directory, name, OFlags::PATH)?;
    if rustix::fs::fstat(&found)?.st_mode & 0o700 != 0o700 {
        rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
    }
    open_unmounted(&found, ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(600);

    fn open_path(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn deep_trees_closed_directories_and_links_that_lead_out() {
        let directory = tempfile::tempdir().unwrap();
        let (top, outside) = (directory.path().join("top"), directory.path().join("outside"));
        std::fs::create_dir_all(top.join("a/b/c")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "stays").unwrap();
        std::fs::write(top.join("a/b/file"), "").unwrap();
        std::fs::write(top.join("removed.1"), "").unwrap();
        for (target, name) in [
            ("/", "root"),
            ("../../outside", "a/b/link"),
            ("../outside/file", "file"),
        ] {
            symlink(target, top.join(name)).unwrap();
        }
        std::fs::set_permissions(top.join("a/b/c"), PermissionsExt::from_mode(0o000)).unwrap();
        std::fs::set_permissions(top.join("a/b"), PermissionsExt::from_mode(0o555)).unwrap();
        // Deeper than a path can be long.
        let mut deep = open_path(&top);
        for _ in 0..3000 {
            rustix::fs::mkdirat(&deep, "deep", Mode::RWXU).unwrap();
            deep = open_unmounted(&deep, "deep").unwrap();
        }
        drop(deep);
        everything_in(&open_path(&top), Instant::now() + LONG).unwrap();
        assert_eq!(std::fs::read_dir(&top).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "stays");
    }

    #[test]
    fn what_is_filled_again_all_the_time_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().to_owned();
        let until = Instant::now() + Duration::from_millis(200);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0_u64;
                while Instant::now() < until + Duration::from_millis(200) {
                    number += 1;
                    std::fs::write(top.join(number.to_string()), "").unwrap();
                }
            });
            // One that finds it empty for a moment is done, which is as good.
            let removed = everything_in(&open_path(&top), until);
            assert!(matches!(removed, Ok(()) | Err(Errno::TIMEDOUT)), "{removed:?}");
        });
        std::fs::write(top.join("file"), "").unwrap();
        let removed = everything_in(&open_path(&top), Instant::now());
        assert_eq!(removed, Err(Errno::TIMEDOUT));
    }
}
