//! Walks a path as the kernel would, but keeps what it saw: each directory and link on the way is opened without
//! following anything, and its owner, mode and file system are noted. Runs with the user's rights.
#![forbid(unsafe_code)]

use super::trust::Fact;
use crate::privilege::owner;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one lookup.
const MAX_LINKS: usize = 40;
/// Links of procfs lead to what the walking process has open (linux/magic.h).
const PROC: u64 = 0x9FA0;

/// Opens (`O_PATH`) what the absolute `path` leads to.
pub(super) fn walk(path: &Path) -> Result<(OwnedFd, Vec<Fact>)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let mut walk = Walk {
        facts: vec![fact(&root, Path::new("/"))?],
        stack: vec![(PathBuf::from("/"), root)],
        pending: VecDeque::new(),
        links: 0,
    };
    walk.prepend(path);
    if path.as_os_str().as_bytes().ends_with(b"/") {
        walk.pending.push_back(OsString::from("."));
    }
    while let Some(name) = walk.pending.pop_front() {
        walk.step(&name)?;
    }
    let (_, last) = walk.stack.pop().ok_or(Errno::NOENT)?;
    Ok((last, walk.facts))
}

struct Walk {
    /// What we are in, the root first; never empty.
    stack: Vec<(PathBuf, OwnedFd)>,
    pending: VecDeque<OsString>,
    facts: Vec<Fact>,
    links: usize,
}

impl Walk {
    fn prepend(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.pending.push_front(name.to_owned()),
                Component::ParentDir => self.pending.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    fn step(&mut self, name: &OsStr) -> Result<()> {
        if name == ".." {
            if self.stack.len() > 1 {
                self.stack.pop();
            }
            return Ok(());
        }
        let (path, directory) = self.stack.last().ok_or(Errno::NOENT)?;
        let path = path.join(name);
        let found = open(directory, name)?;
        let fact = fact(&found, &path)?;
        let link = fact.link;
        let magic = fact.file_system == PROC;
        self.facts.push(fact);
        if !link {
            self.stack.push((path, found));
            return Ok(());
        }
        self.links += 1;
        if self.links > MAX_LINKS || magic {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            self.stack.truncate(1);
        }
        self.prepend(&target);
        Ok(())
    }
}

/// Opens one component. As a directory first, which makes an automounter mount it.
fn open(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, name, flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) if name != "." => rustix::fs::openat(&directory, name, flags, Mode::empty()),
        other => other,
    }
}

fn fact(file: &OwnedFd, path: &Path) -> Result<Fact> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Fact {
        path: path.to_owned(),
        uid: owner(&stat),
        mode: stat.st_mode & 0o7777,
        link: FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
        file_system: u64::try_from(rustix::fs::fstatfs(file)?.f_type).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn links_and_dots_are_followed_and_noted() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("a")).unwrap();
        std::fs::write(base.join("a/file"), "x").unwrap();
        symlink("a/../a/file", base.join("relative")).unwrap();
        symlink(base.join("relative"), base.join("absolute")).unwrap();
        let (found, facts) = walk(&base.join("./a/../absolute")).unwrap();
        let inode = std::fs::metadata(base.join("a/file")).unwrap().ino();
        assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, inode);
        let has = |name: &str, link: bool| {
            facts
                .iter()
                .any(|fact| fact.path == base.join(name) && fact.link == link)
        };
        assert!(has("a", false) && has("absolute", true) && has("relative", true) && has("a/file", false));
        assert_eq!(facts[0].path, Path::new("/"));
    }

    #[test]
    fn what_cannot_be_walked() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        symlink("loop", base.join("loop")).unwrap();
        std::fs::write(base.join("file"), "x").unwrap();
        for (path, error) in [
            (base.join("loop"), Errno::LOOP),
            (base.join("missing"), Errno::NOENT),
            (base.join("file/below"), Errno::NOTDIR),
            (PathBuf::from(format!("{}/file/", base.display())), Errno::NOTDIR),
            (PathBuf::from("/proc/self/exe"), Errno::LOOP),
        ] {
            assert_eq!(walk(&path).unwrap_err(), error, "{}", path.display());
        }
    }
}
