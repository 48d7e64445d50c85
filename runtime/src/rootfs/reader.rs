//! The programs that read layers which the kernel shall not see: one squashfuse_ll for each, as the user, with nothing
//! but the layer and its end of a FUSE connection. It holds no namespace and no mount of the container; so it ends by
//! itself when the last mount of its file system is gone, whoever was killed before.
#![forbid(unsafe_code)]

use super::fuse;
use super::lowers::Lower;
use crate::error::{Error, Result};
use crate::image::printable;
use crate::plan::Identity;
use crate::privilege::only_root_can_write;
use crate::report::is_readable;
use crate::sys::cgroup::Groups;
use crate::sys::{channel, exec};
use crate::worker::sandbox;
use rustix::event::Timespec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;
use std::ffi::CString;
use std::path::Path;

/// What the program is called in messages.
pub const NAME: &str = "squashfuse_ll";
/// Descriptors of the program.
const IMAGE: i32 = 3;
const CONNECTION: i32 = 4;
/// It writes no file, has a handful of threads, and blocks of at most 1 MiB in its caches.
const LIMITS: [(Resource, u64); 4] = [
    (Resource::Core, 0),
    (Resource::Fsize, 0),
    (Resource::Nofile, 256),
    (Resource::Data, 1 << 30),
];
/// As many layers as Docker's images can have, and some.
const MOST: usize = 200;
/// How long a program that has failed may take to end.
const LAST_WORDS: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// How layers are read.
#[derive(Debug)]
pub struct Reader {
    program: OwnedFd,
    device: OwnedFd,
    groups: Groups,
    user: Identity,
    image: String,
}

impl Reader {
    /// The program at `path`, which must be root's; it will run as `user` in `groups` and read `image`.
    pub fn new(path: &Path, groups: Groups, user: &Identity, image: &str) -> Result<Self> {
        Ok(Reader {
            program: program(path)?,
            device: fuse::device()?,
            groups,
            user: user.clone(),
            image: image.to_owned(),
        })
    }

    /// A node of the FUSE device, which makes connections.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// What is read, for messages.
    pub fn image(&self) -> &str {
        &self.image
    }
}

/// Opens an executable that only root can change.
pub(super) fn program(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => Error::Host(format!(
            "{shown} is missing, which reads image files for users: install the package squashfuse, or set images.reader"
        )),
        error => Error::sys("open the reader of image files", format!("open({shown})"), error),
    })?;
    let stat = rustix::fs::fstat(&file)
        .map_err(|error| Error::sys("open the reader of image files", format!("fstat({shown})"), error))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || !only_root_can_write(&stat) {
        return Err(Error::Host(format!(
            "{shown} is not a program that belongs to root and that nobody else can write"
        )));
    }
    Ok(file)
}

/// Programs at work.
#[derive(Debug, Default)]
pub struct Readers(Vec<Running>);

#[derive(Debug)]
struct Running {
    pidfd: OwnedFd,
    /// What it writes to its standard error.
    words: OwnedFd,
    image: String,
}

impl Readers {
    /// Waits for the connections that the process on the other side of `link` makes, and starts a program for each.
    pub fn serve(&mut self, link: &OwnedFd, layers: &[(&Reader, &Lower)]) -> Result<()> {
        if layers.len() > MOST {
            return Err(Error::Host(format!(
                "the image has {} layers, and at most {MOST} can be read by processes of the user: merge its layers",
                layers.len()
            )));
        }
        for (reader, layer) in layers {
            let Some(received) = channel::recv::<()>(link)? else {
                // It has failed before, and tells so elsewhere.
                break;
            };
            let [connection] = <[OwnedFd; 1]>::try_from(received.fds)
                .map_err(|_| Error::Host("the user's part of the builder sent no connection".into()))?;
            self.0.push(start(reader, layer, &connection)?);
        }
        Ok(())
    }

    /// Says more about an error of the mounts when a reader has failed.
    pub fn explain(&self, error: Error) -> Error {
        let failed = matches!(error.errno(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO));
        let ended = self.0.iter().find(|running| failed && has_ended(running, LAST_WORDS));
        match ended {
            Some(running) => Error::Image(format!(
                "{NAME}, which reads {} for the user, has ended: {}",
                running.image,
                last_words(&running.words)
            )),
            None => error,
        }
    }

    /// Handles of the programs, by which their end can be seen.
    pub fn into_handles(self) -> Vec<OwnedFd> {
        self.0.into_iter().map(|running| running.pidfd).collect()
    }
}

fn has_ended(running: &Running, wait: Timespec) -> bool {
    is_readable(&running.pidfd, wait).unwrap_or(false)
}

fn last_words(from: &OwnedFd) -> String {
    let mut text = [0; 1024];
    let count = rustix::io::read(from, &mut text).unwrap_or(0);
    match String::from_utf8_lossy(text.get(..count).unwrap_or_default()).trim() {
        "" => "it was killed, or has crashed".to_owned(),
        text => printable(text),
    }
}

fn start(reader: &Reader, layer: &Lower, connection: &OwnedFd) -> Result<Running> {
    let (words, stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| Error::sys("start the reader of the image", "pipe2", error))?;
    let offset = layer.part.map_or(0, |part| part.offset);
    let texts = [
        NAME.to_owned(),
        "-f".to_owned(),
        "-o".to_owned(),
        format!("offset={offset}"),
        format!("/proc/self/fd/{IMAGE}"),
        format!("/dev/fd/{CONNECTION}"),
    ];
    let arguments: Vec<CString> = texts.into_iter().filter_map(|text| CString::new(text).ok()).collect();
    let borrowed: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
    let pidfd = exec::spawn_orphan(&exec::Program {
        file: reader.program.as_fd(),
        arguments: &borrowed,
        environment: &[],
        descriptors: &[
            (layer.file.as_fd(), IMAGE),
            (connection.as_fd(), CONNECTION),
            (stderr.as_fd(), 2),
        ],
        limits: &LIMITS,
        groups: Some(&reader.groups),
        user: Some(&reader.user),
        cage: Some(|| sandbox::for_reader(IMAGE)),
        own_group: true,
    })?;
    Ok(Running {
        pidfd,
        words,
        image: reader.image.clone(),
    })
}
