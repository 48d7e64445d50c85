//! Reads the files by which an image describes itself, out of a root file system that a stranger has made: by a process
//! with the user's rights and no others, on descriptors, with a bound.
#![forbid(unsafe_code)]

use crate::bounded;
use crate::error::{Error, Result};
use crate::image::own_files::OwnFiles;
use crate::image::singularity::{DIRECTORY, Script, Singularity};
use crate::plan::Identity;
use crate::privilege::irrevocably_become_user;
use crate::sys::{channel, process};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::path::Path;

/// No such file that is worth reading is larger.
const MAX_SIZE: u64 = 1 << 20;
/// More scripts than this, or larger ones, are run instead of read.
const MAX_SCRIPTS: usize = 32;
const MAX_SCRIPT: usize = 32 << 10;
/// Links are followed inside the root only.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Reads them below `root`.
pub fn read(root: &OwnedFd, identity: &Identity) -> Result<OwnFiles> {
    let (ours, theirs) = channel::pair()?;
    let parent = rustix::process::getpid();
    let child = process::fork(&[root.as_fd(), theirs.as_fd()], || {
        let found = irrevocably_become_user(identity, 0)
            .and_then(|()| process::die_with_parent(parent))
            .and_then(|()| find(root));
        u8::from(channel::send(&theirs, &found, &[]).is_err())
    })?;
    drop(theirs);
    let received = channel::recv::<Result<OwnFiles>>(&ours)?;
    child.wait()?;
    match received {
        Some(received) => received.message,
        None => Err(Error::Host(
            "the process that reads the image's own files was killed; out of memory?".into(),
        )),
    }
}

fn find(root: &OwnedFd) -> Result<OwnFiles> {
    Ok(OwnFiles {
        environment: content(root, "etc/environment")?.unwrap_or_default(),
        fstab: content(root, "etc/fstab")?.unwrap_or_default(),
        rc: content(root, "etc/rc")?.unwrap_or_default(),
        singularity: singularity(root)?,
    })
}

/// What Singularity has put into the image.
fn singularity(root: &OwnedFd) -> Result<Option<Singularity>> {
    let find = |path: &str| {
        let found = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE);
        // Whatever the reason is, it is not there for this user.
        found.ok().and_then(|found| rustix::fs::fstat(found).ok())
    };
    if find(DIRECTORY).is_none() {
        return Ok(None);
    }
    let is_program = |path: &&str| {
        let mode = find(path).map_or(0, |stat| stat.st_mode);
        FileType::from_raw_mode(mode) == FileType::RegularFile && mode & 0o111 != 0
    };
    // Apptainer's own interpreter of the scripts is nearer to bash.
    let shell = ["/bin/bash", "/bin/sh"].into_iter().find(is_program);
    Ok(Some(Singularity {
        scripts: find(&format!("{DIRECTORY}/env")).is_some(),
        read: scripts(root),
        shell: shell.map(str::to_owned),
        runscript: is_program(&".singularity.d/runscript"),
        labels: content(root, ".singularity.d/labels.json")?.unwrap_or_default(),
    }))
}

/// The scripts for the environment, if all can be read and are texts: those that `/.singularity.d/env/*.sh` means.
fn scripts(root: &OwnedFd) -> Option<Vec<Script>> {
    let path = format!("{DIRECTORY}/env");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat2(root, &path, flags, Mode::empty(), INSIDE).ok()?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory).ok()? {
        let name = entry.ok()?.file_name().to_str().ok()?.to_owned();
        if name.ends_with(".sh") && !name.starts_with('.') {
            names.push(name);
        }
        if names.len() > MAX_SCRIPTS {
            return None;
        }
    }
    names.sort();
    let script = |name: String| {
        let text = content(root, &format!("{path}/{name}")).ok()??;
        let text = (text.len() <= MAX_SCRIPT).then(|| String::from_utf8(text).ok())??;
        Some(Script { name, text })
    };
    names.into_iter().map(script).collect()
}

/// Opens a regular file below `root`. Whatever the reason is, if this fails the image has no
/// such file for this user.
pub(super) fn open(root: &OwnedFd, path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), INSIDE).ok()?;
    let mode = rustix::fs::fstat(&file).ok()?.st_mode;
    (FileType::from_raw_mode(mode) == FileType::RegularFile).then(|| File::from(file))
}

/// The content of a regular file.
fn content(root: &OwnedFd, path: &str) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(root, Path::new(path)) else {
        return Ok(None);
    };
    let failed = |error| Error::sys(format!("read the image's /{path}"), "read", error);
    match bounded::read(file, MAX_SIZE).map_err(failed)? {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::Image(format!(
            "the image's /{path} is larger than {MAX_SIZE} bytes"
        ))),
    }
}
