//! Reading configuration files. The site's are believed only if nobody else can write them; the user's are opened with
//! the user's rights.
#![forbid(unsafe_code)]

use super::enroot::Owner;
use crate::bounded;
use crate::error::{Error, Result, words};
use crate::plan::Identity;
use crate::privilege::as_user;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// No configuration is larger.
const MAX_SIZE: u64 = 1 << 20;
/// No directory of configuration has more files.
const MAX_FILES: usize = 1000;
/// A user could have us read what `/proc` shows of this very process.
const PROC: rustix::fs::FsWord = 0x9fa0;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Its path, for messages.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// A directory of configuration: `/etc/enroot`, or the user's.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where.
    pub path: &'a Path,
    /// Whose.
    pub owner: Owner,
    /// The user, with whose rights his own files are opened.
    pub identity: &'a Identity,
}

impl Place<'_> {
    /// One file; `None` if it is not there.
    pub fn file(&self, name: &str) -> Result<Option<TextFile>> {
        self.with_rights(|| match self.open_directory(self.path)? {
            None => Ok(None),
            Some(directory) => self.read(&directory, &self.path.join(name), OsStr::new(name)),
        })
    }

    /// The files of a directory below whose names end with `suffix`, in the order of their names. Hidden files are left
    /// out.
    pub fn files(&self, directory: &str, suffix: &str) -> Result<Vec<TextFile>> {
        let place = Place {
            path: &self.path.join(directory),
            ..*self
        };
        place.each(&[suffix])?.into_iter().collect()
    }

    /// The same of the directory itself, for several suffixes. One file that cannot be read says nothing about the others.
    pub fn each(&self, suffixes: &[&str]) -> Result<Vec<Result<TextFile>>> {
        self.with_rights(|| {
            let Some(fd) = self.open_directory(self.path)? else {
                return Ok(Vec::new());
            };
            let names = self.names(&fd, self.path, suffixes)?.into_iter();
            let files = names.map(|name| self.read(&fd, &self.path.join(&name), name.as_os_str()));
            Ok(files.filter_map(Result::transpose).collect())
        })
    }

    /// The programs of a directory below, in the order of their names. Nothing is opened for more than a look.
    pub fn executables(&self, directory: &str) -> Result<Vec<PathBuf>> {
        let path = self.path.join(directory);
        self.with_rights(|| {
            let Some(fd) = self.open_directory(&path)? else {
                return Ok(Vec::new());
            };
            let mut programs = Vec::new();
            for name in self.names(&fd, &path, &[""])? {
                let program = path.join(&name);
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let opened = rustix::fs::openat2(&fd, &name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
                let stat = stat(&opened.map_err(|error| self.wrong(&program, &words(error)))?, &program)?;
                let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                if regular && stat.st_mode & 0o111 != 0 {
                    self.check_owner(&program, &stat)?;
                    programs.push(program);
                }
            }
            Ok(programs)
        })
    }

    fn with_rights<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.owner {
            Owner::Site => action(),
            Owner::User => as_user(self.identity, action),
        }
    }

    fn names(&self, directory: &OwnedFd, path: &Path, suffixes: &[&str]) -> Result<Vec<PathBuf>> {
        let failed = |error| self.wrong(path, &words(error));
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            let wanted = suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()));
            if wanted && !name.starts_with(b".") {
                names.push(PathBuf::from(OsStr::from_bytes(&name)));
            }
            if names.len() > MAX_FILES {
                return Err(self.wrong(path, &format!("more than {MAX_FILES} files")));
            }
        }
        names.sort();
        Ok(names)
    }

    /// A user's directory that he may not enter is as good as none.
    fn open_directory(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Ok(fd) => {
                self.check_owner(path, &stat(&fd, path)?)?;
                Ok(Some(fd))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::ACCESS) if self.owner == Owner::User => Ok(None),
            Err(error) => Err(self.wrong(path, &words(error))),
        }
    }

    fn read(&self, directory: &OwnedFd, path: &Path, name: &OsStr) -> Result<Option<TextFile>> {
        // Whatever it is, opening it waits for nobody.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let fd = match opened {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| self.wrong(path, &words(error)))?,
        };
        let stat = stat(&fd, path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.wrong(path, "not a regular file"));
        }
        self.check_owner(path, &stat)?;
        let system = rustix::fs::fstatfs(&fd).map_err(|error| self.wrong(path, &words(error)))?;
        if system.f_type == PROC {
            return Err(self.wrong(path, "a file of /proc is no configuration"));
        }
        let bytes = bounded::read(File::from(fd), MAX_SIZE)
            .map_err(|error| self.wrong(path, &error.kind().to_string()))?
            .ok_or_else(|| self.wrong(path, &format!("larger than {MAX_SIZE} bytes")))?;
        let text = String::from_utf8(bytes).map_err(|_| self.wrong(path, "not UTF-8 text"))?;
        Ok(Some(TextFile {
            path: path.display().to_string(),
            text,
        }))
    }

    /// The site's files and the directories they are in are root's alone.
    fn check_owner(&self, path: &Path, stat: &Stat) -> Result<()> {
        let by_group = stat.st_mode & 0o020 != 0 && stat.st_gid != 0;
        let by_others = stat.st_mode & 0o002 != 0;
        if self.owner == Owner::Site && (stat.st_uid != 0 || by_group || by_others) {
            return Err(self.wrong(
                path,
                "others than root can write it: it must belong to root, and nobody else may write it",
            ));
        }
        Ok(())
    }

    fn wrong(&self, path: &Path, reason: &str) -> Error {
        self.owner.error(format!("configuration {}: {reason}", path.display()))
    }
}

fn stat(fd: &OwnedFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(fd).map_err(|error| Error::sys("read configuration", format!("fstat({})", path.display()), error))
}
