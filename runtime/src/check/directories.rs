//! The directories that the runtime writes to: the store, containers that have a name, running containers.
#![forbid(unsafe_code)]

use super::{Finding, Node, ROOTS, Subject, probe};
use crate::error::{Error, Result, words};
use crate::image::file::trust;
use crate::privilege::only_root_can_write;
use crate::rootfs::Writable;
use crate::rootfs::trial::{self, Flavour};
use crate::store::{existing_directory, unnamed_file_in};
use crate::sys::mount::open_tree_clone;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

const STORE: Subject = Subject::new("store.directory", "image store");
const SPACE: Subject = Subject::new("store.space", "space for images");
const DATA: Subject = Subject::new("data.directory", "containers with a name");
const RUNTIME: Subject = Subject::new("runtime.directory", "running containers");

/// What to do about a store that cannot be used.
const ELSEWHERE: &str = "mend that, or choose another directory: store.path in pyxis.toml, or --store";
/// Below this nothing can be imported.
const FULL: u64 = 64 << 20;
/// Below this a large image does not fit.
const LITTLE: u64 = 10 << 30;

pub fn look(node: &Node<'_>) -> Vec<Finding> {
    let (path, data) = (&node.config.store.path, &node.config.container);
    let mut findings = store(path);
    findings.push(match (node.is_root(), data.data_path_is_users) {
        (_, true) => DATA.skip(format!("{} is each user's own", data.data_path.display())),
        (false, _) => DATA.skip(ROOTS),
        (true, false) => containers(&data.data_path),
    });
    findings.push(running(node.runtime_path));
    findings
}

/// The store as it is; it is not made.
fn store(path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let directory = match existing_directory(path) {
        Err(error) => return vec![STORE.fail(error.to_string(), ELSEWHERE)],
        Ok(None) => {
            let found = STORE.ok(format!("{shown} does not exist yet: the first import makes it"));
            let above = path.ancestors().skip(1).find_map(|above| open_directory(above).ok());
            return [Some(found), above.map(|above| space(path, &above))]
                .into_iter()
                .flatten()
                .collect();
        }
        Ok(Some(directory)) => directory,
    };
    let found = match unnamed_file_in(&directory, path) {
        Ok(_) => {
            let (name, local) = kind_of(&directory);
            match local {
                true => STORE.ok(format!("{shown}, on {name}")),
                false => STORE.warn(
                    format!("{shown} is on {name}, not on a file system of this machine"),
                    "set store.path in pyxis.toml to a local directory: locks and mounts are slower, or fail, elsewhere",
                ),
            }
        }
        Err(error) => STORE.fail(error.to_string(), ELSEWHERE),
    };
    vec![found, space(path, &directory)]
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The name of a file system, and whether it is one of this machine.
fn kind_of(directory: &OwnedFd) -> (String, bool) {
    let Ok(found) = rustix::fs::fstatfs(directory) else {
        return ("an unknown file system".to_owned(), true);
    };
    let kind = found.f_type as u64;
    match trust::file_system(kind) {
        Some((name, local)) => (name.to_owned(), local),
        None => (format!("a file system of kind {kind:#x}"), true),
    }
}

fn space(path: &Path, directory: &OwnedFd) -> Finding {
    match rustix::fs::fstatvfs(directory) {
        Ok(found) => {
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            let no_inodes = found.f_files > 0 && found.f_favail == 0;
            judge_space(path, bytes(found.f_bavail), bytes(found.f_blocks), no_inodes)
        }
        Err(error) => SPACE.skip(format!("{}: {}", path.display(), words(error))),
    }
}

fn judge_space(path: &Path, free: u64, total: u64, no_inodes: bool) -> Finding {
    let fact = format!(
        "{} MiB of {} MiB are free for {}",
        free >> 20,
        total >> 20,
        path.display()
    );
    let room = "free some space, or set store.path in pyxis.toml";
    if no_inodes {
        return SPACE.fail(format!("{fact}, but no inode is"), room);
    }
    match free {
        ..FULL => SPACE.fail(fact, room),
        FULL..LITTLE => SPACE.warn(fact, room),
        _ => SPACE.ok(fact),
    }
}

/// Whether containers can keep what they write there: it is tried with a directory that is removed again.
fn containers(path: &Path) -> Finding {
    let shown = path.display();
    let top = match open_directory(path) {
        Err(Errno::NOENT) => return DATA.ok(format!("{shown} does not exist yet: the first one makes it")),
        Err(error) => {
            return DATA.warn(
                format!("{shown}: {}", words(error)),
                "set container.data_path in pyxis.toml to a directory",
            );
        }
        Ok(top) => top,
    };
    if !rustix::fs::fstat(&top).is_ok_and(|stat| only_root_can_write(&stat)) {
        return DATA.skip(format!("others than root can write to {shown}"));
    }
    match keeps(path) {
        Ok(()) => DATA.ok(format!("{shown}, on {}", kind_of(&top).0)),
        Err(error) => DATA.warn(
            format!("{shown}: {error}"),
            "set container.data_path in pyxis.toml to a local ext4, xfs (ftype=1), btrfs or tmpfs",
        ),
    }
}

/// Stacks an overlay whose upper directory is there.
fn keeps(path: &Path) -> Result<()> {
    let made = Made::new(path.join(format!(".pyxis-check.{}", std::process::id())))?;
    probe::attempt(&[], || {
        probe::own_mounts()?;
        let here = open_directory(&made.0).map_err(|error| Error::sys("look at a directory", "open", error))?;
        let mount = open_tree_clone(&here, false)?;
        trial::overlay(Flavour::Root, &Writable::Kept { mount, fresh: true })
    })
}

/// A directory with what a container has there; it goes away with this.
struct Made(PathBuf);

impl Made {
    fn new(path: PathBuf) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let make = |path: &Path| {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(|error| Error::sys("make a directory", format!("mkdir({})", path.display()), error))
        };
        make(&path)?;
        let made = Made(path);
        make(&made.0.join("upper"))?;
        make(&made.0.join("work"))?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // The next check says so: it cannot be made again.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn running(path: &Path) -> Finding {
    let shown = path.display();
    match open_directory(path).and_then(|directory| rustix::fs::fstat(&directory)) {
        Ok(stat) if only_root_can_write(&stat) => RUNTIME.ok(format!("{shown}")),
        Ok(stat) => RUNTIME.fail(
            format!(
                "{shown} belongs to uid {} with mode {:04o}",
                stat.st_uid,
                stat.st_mode & 0o7777
            ),
            "it must belong to root, and nobody else may write to it",
        ),
        Err(Errno::NOENT) => RUNTIME.ok(format!("{shown} does not exist yet: the first container makes it")),
        Err(error) => RUNTIME.fail(
            format!("{shown}: {}", words(error)),
            "make it a directory of root's, or set runtime_path in plugstack.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn space_is_judged() {
        let judge = |free: u64, no_inodes| judge_space(Path::new("/store"), free, 1 << 40, no_inodes);
        assert_eq!(judge(1 << 39, false).status, Status::Ok);
        assert_eq!(judge(1 << 30, false).status, Status::Warn);
        assert_eq!(judge(0, false).status, Status::Fail);
        assert_eq!(judge(1 << 39, true).status, Status::Fail);
        let fact = judge(1 << 30, false).fact;
        assert_eq!(fact, "1024 MiB of 1048576 MiB are free for /store");
    }
}
