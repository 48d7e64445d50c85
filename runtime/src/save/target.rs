//! The saved file on its way: without a name until it is complete, then put in the place of the target at once. All of
//! it is done as the user.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The place of a file that is being written.
pub struct Target {
    /// The directory.
    pub directory: OwnedFd,
    name: OsString,
    /// What the file is called for a moment, or all the time where files without a name cannot be made.
    pub temporary: OsString,
    file: File,
    named: bool,
}

impl Target {
    /// Opens the directory of `path` and makes the file. `unique` is a word that no other process uses now.
    pub fn create(path: &Path, mode: u32, unique: &str) -> Result<Self> {
        let wrong = |what: &str| Error::Request(what.to_owned());
        let name = path.file_name().ok_or_else(|| wrong("it is no name of a file"))?;
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(wrong("it is no name of a file"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| explain(parent, error))?;
        check_existing(&directory, name)?;
        let temporary = temporary_name(name, unique);
        let mode = Mode::from_raw_mode(mode & 0o777);
        let (file, named) = create(&directory, &temporary, mode).map_err(|error| explain(parent, error))?;
        Ok(Target {
            directory,
            name: name.to_owned(),
            temporary,
            file: File::from(file),
            named,
        })
    }

    /// The file, to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes what was written last, and puts it in the place of the target.
    pub fn publish(self) -> Result<()> {
        let failed = |call: &str, error: Errno| Error::sys("finish the file", call, error);
        rustix::fs::fsync(&self.file).map_err(|error| failed("fsync", error))?;
        if !self.named {
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |name: &OsStr| rustix::fs::linkat(CWD, &own, &self.directory, name, AtFlags::SYMLINK_FOLLOW);
            match link(&self.name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => link(&self.temporary).map_err(|error| failed("linkat", error))?,
                Err(error) => return Err(failed("linkat", error)),
            }
        }
        let renamed = rustix::fs::renameat(&self.directory, &self.temporary, &self.directory, &self.name);
        renamed.map_err(|error| {
            remove(&self.directory, &self.temporary);
            failed("renameat", error)
        })
    }
}

/// Removes a temporary name, if it is there.
pub fn remove(directory: impl AsFd, temporary: &OsStr) {
    let _ = rustix::fs::unlinkat(directory, temporary, AtFlags::empty());
}

/// A hidden name beside the target, of a length that file systems can take.
fn temporary_name(name: &OsStr, unique: &str) -> OsString {
    let kept = name.as_bytes().get(..200).unwrap_or(name.as_bytes());
    let mut temporary = OsString::from(".");
    temporary.push(OsStr::from_bytes(kept));
    temporary.push(format!(".pyxis-{unique}"));
    temporary
}

/// What has the target's name must be something that a file may take the place of.
fn check_existing(directory: &OwnedFd, name: &OsStr) -> Result<()> {
    let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(Error::sys("look at what is there", "fstatat", error)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        FileType::Directory => Err(Error::Request("it is a directory".into())),
        _ => Err(Error::Request("there is something that is no regular file".into())),
    }
}

/// A file without a name, or, where the file system has none (NFS), with the temporary one; and which of them it is.
fn create(directory: &OwnedFd, temporary: &OsStr, mode: Mode) -> std::result::Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
        Ok(file) => (file, false),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            (rustix::fs::openat(directory, temporary, flags, mode)?, true)
        }
        Err(error) => return Err(error),
    };
    // Whatever the umask of this process is, the mode was decided with the user's.
    rustix::fs::fchmod(&file.0, mode)?;
    Ok(file)
}

fn explain(parent: &Path, error: Errno) -> Error {
    let parent = parent.display();
    match error {
        Errno::NOENT => Error::Request(format!("the directory {parent} does not exist")),
        Errno::NOTDIR => Error::Request(format!("{parent} is not a directory")),
        Errno::ACCESS | Errno::PERM => Error::Request(format!("no permission to write to {parent}")),
        Errno::ROFS => Error::Request(format!("{parent} is read-only")),
        error => Error::sys("create the file", format!("openat({parent})"), error),
    }
}
