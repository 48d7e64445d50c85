//! Images that are files: opened with the user's rights, told apart by content and never by name. Each thing that the
//! path goes through is opened and looked at once, on a descriptor, so that what was judged is what is mounted.
#![forbid(unsafe_code)]

pub mod keyring;
pub mod policy;
pub mod sif;
pub mod signature;
pub mod squashfs;
pub mod trust;
mod walk;

use crate::error::{Error, Result, words};
use crate::image::Platform;
use crate::plan::Identity;
use crate::privilege::as_user;
use crate::sys::lease;
pub use policy::{ImagesConfig, ReadBy, UserImages};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sif::Sif;
use std::path::{Path, PathBuf};
pub use trust::{Fact, Trust, Writers};

/// What tells a SIF file from others.
const HEADER: Part = Part {
    offset: 0,
    size: sif::HEADER as u64,
};

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// An open image file with a squashfs file system in it that can be believed.
#[derive(Debug)]
pub struct ImageFile {
    /// The file, opened with the user's rights.
    pub file: OwnedFd,
    /// Where the file system is.
    pub part: Part,
    /// What the path went through.
    pub facts: Vec<Fact>,
    /// Whether somebody has it open for writing.
    pub writers: Writers,
    /// For messages.
    pub path: PathBuf,
    /// It has a file system for what is written, which is not used.
    pub has_overlay: bool,
}

/// Opens the image file `path` as `identity`, whose working directory is `cwd`, and looks what it is.
pub fn open(path: &Path, cwd: &Path, identity: &Identity) -> Result<ImageFile> {
    let (file, facts) = as_user(identity, || open_here(path, cwd, identity))?;
    let doing = |error: Error| error.context(&path.display().to_string());
    let Found { part, has_overlay } = look(&file).map_err(doing)?;
    let writers = lease::writers(&file)?;
    Ok(ImageFile {
        file,
        part,
        facts,
        writers,
        path: path.to_owned(),
        has_overlay,
    })
}

/// Opens the directory `path` as `identity`; none if it is something else.
pub fn open_directory(path: &Path, identity: &Identity) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match as_user(identity, || Ok(rustix::fs::open(path, flags, Mode::empty())))? {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOTDIR) => Ok(None),
        Err(error) => Err(cannot_open(path, error, identity)),
    }
}

/// Opens a file with the caller's own rights, whatever is in it.
pub fn open_as_caller(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let shown = path.display();
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::Request(format!("{shown}: {}", words(error))))
}

/// The same with the caller's own rights.
fn open_here(path: &Path, cwd: &Path, identity: &Identity) -> Result<(OwnedFd, Vec<Fact>)> {
    let cannot = |error: Errno| cannot_open(path, error, identity);
    let (found, facts) = walk::walk(&cwd.join(path)).map_err(cannot)?;
    Ok((open_regular(&found, path, identity)?, facts))
}

/// Opens for reading what was found (`O_PATH`) at `path`, with the caller's own rights. Nothing but a regular file is opened.
pub(crate) fn open_regular(found: &OwnedFd, path: &Path, identity: &Identity) -> Result<OwnedFd> {
    let cannot = |error: Errno| cannot_open(path, error, identity);
    let stat = rustix::fs::fstat(found).map_err(cannot)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(Error::Request(format!(
            "{} is {}, and an image is a regular file",
            path.display(),
            name_of(kind)
        )));
    }
    // What is opened is a regular file, whatever has taken its name meanwhile.
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(again, flags, Mode::empty()).map_err(cannot)
}

/// Opens (`O_PATH`) what `path` leads to, with the caller's own rights.
pub(crate) fn find(path: &Path, cwd: &Path, identity: &Identity) -> Result<OwnedFd> {
    let found = walk::walk(&cwd.join(path)).map_err(|error| cannot_open(path, error, identity))?;
    Ok(found.0)
}

pub(crate) fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

pub(crate) fn cannot_open(path: &Path, error: Errno, identity: &Identity) -> Error {
    let path = path.display();
    match error {
        Errno::NOENT => Error::Request(format!("{path}: No such file or directory")),
        Errno::ACCESS | Errno::PERM => Error::Request(format!(
            "{path}: Permission denied: uid {} may not read it",
            identity.uid
        )),
        Errno::LOOP => Error::Request(format!("{path}: too many symbolic links, or a link of /proc")),
        error => Error::Request(format!("{path}: {}", words(error))),
    }
}

/// What is in a file.
struct Found {
    part: Part,
    has_overlay: bool,
}

/// Finds the squashfs file system in the file.
fn look(file: &OwnedFd) -> Result<Found> {
    let size = size(file)?;
    let head = read(file, HEADER)?;
    let (part, has_overlay) = if let Some(sif) = as_sif(file, &head, size)? {
        (sif.primary(&Platform::host().architecture)?.part, sif.has_overlay())
    } else if head.starts_with(squashfs::MAGIC) {
        (Part { offset: 0, size }, false)
    } else {
        return Err(Error::Image(foreign(&head).to_owned()));
    };
    let head = read(
        file,
        Part {
            offset: part.offset,
            size: (squashfs::HEAD as u64).min(part.size),
        },
    )?;
    squashfs::check(&head, part.size)?;
    Ok(Found { part, has_overlay })
}

/// Reads what a SIF file says of itself; `None` if it is none.
pub(crate) fn read_sif(file: &OwnedFd) -> Result<Option<Sif>> {
    as_sif(file, &read(file, HEADER)?, size(file)?)
}

fn as_sif(file: &OwnedFd, head: &[u8], size: u64) -> Result<Option<Sif>> {
    if !sif::is_sif(head) {
        return Ok(None);
    }
    let header = sif::Header::parse(head, size)?;
    let table = read(file, header.table)?;
    Sif::parse(header, &table, size).map(Some)
}

fn size(file: &OwnedFd) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(|error| Error::sys("look at the image", "fstat", error))?;
    Ok(stat.st_size.unsigned_abs())
}

/// What a file is that is no image, as far as people are helped by knowing.
fn foreign(head: &[u8]) -> &'static str {
    match head {
        [] => "it is empty, and no squashfs or SIF file",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is a compressed file, and no squashfs or SIF file",
        [b's', b'q', b's', b'h', ..] => "it is a squashfs file of the other byte order or of an old version",
        [b'#', b'!', ..] => "it is a script, and no squashfs or SIF file",
        _ => "it is neither a squashfs nor a SIF file",
    }
}

/// Reads a piece that is known to be small. It is shorter when the file is.
pub(crate) fn read(file: &OwnedFd, part: Part) -> Result<Vec<u8>> {
    let size = usize::try_from(part.size).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = part.offset + done as u64;
        match rustix::io::pread(file.as_fd(), rest, at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::sys("look at the image", "pread", error)),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
