//! Running containers, found through sockets in directories that only root can enter.
//!
//! A socket whose process is gone refuses connections. It is removed by whoever holds the container's lock, by the
//! step's own end, and by the end of the job. A socket gets its name when it listens already, so one that refuses is
//! never one that is about to answer.
#![forbid(unsafe_code)]

use super::{Description, Held, Kind, Place};
use crate::digest::Digest;
use crate::directory::{self, unlink};
use crate::error::{Error, Result};
use crate::lock::LockFile;
use crate::sys::channel;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What can be asked through a container's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// For all that is needed to join: the answer is the kinds of the descriptors that come along, and the
    /// [`Description`].
    Join,
    /// The step's last task on this node has ended. The answers are those of the step's own socket.
    Ended(Ending),
}

/// How a step's tasks on a node have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// One of them was killed: the step is to end now.
    pub killed: bool,
}

/// A running container.
#[derive(Debug)]
pub struct Found {
    /// Its descriptors.
    pub held: Held,
    /// What it is.
    pub description: Description,
}

/// How many may wait to be answered; more are told to come again, and do.
const BACKLOG: i32 = 4096;

/// The running containers of one user.
#[derive(Debug)]
pub struct Running {
    directory: OwnedFd,
    path: PathBuf,
}

impl Running {
    /// Opens the user's directory, making it when it is missing.
    pub fn open(runtime_path: &Path, uid: u32) -> Result<Self> {
        let path = runtime_path.join(uid.to_string());
        let failed = |call: &str, error| explain(&path, call, error);
        let top = match directory::open(rustix::fs::CWD, runtime_path) {
            Err(Errno::NOENT) => {
                directory::make(rustix::fs::CWD, runtime_path, Mode::from_raw_mode(0o755))
                    .map_err(|error| explain(runtime_path, "create", error))?;
                directory::open(rustix::fs::CWD, runtime_path)
            }
            other => other,
        }
        .map_err(|error| explain(runtime_path, "open", error))?;
        must_be_ours(&top, 0o022, runtime_path)?;
        directory::make(&top, uid.to_string(), Mode::RWXU).map_err(|error| failed("create", error))?;
        let directory = directory::open(&top, uid.to_string()).map_err(|error| failed("open", error))?;
        must_be_ours(&directory, 0o077, &path)?;
        Ok(Running { directory, path })
    }

    /// Opens the user's directory, if there is one.
    pub fn existing(runtime_path: &Path, uid: u32) -> Result<Option<Self>> {
        match rustix::fs::lstat(runtime_path.join(uid.to_string())) {
            Ok(_) => Running::open(runtime_path, uid).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The locks of the user's containers, and the key of one.
    pub fn locks(&self) -> LockFile<'_> {
        LockFile {
            directory: self.directory.as_fd(),
            path: &self.path,
        }
    }

    /// What is locked for a container.
    pub fn key(id: &str) -> Digest {
        Digest::of(id.as_bytes())
    }

    /// Asks the members of a container, one after the other, and gives what the first one says that answers.
    pub fn find(&self, id: &str) -> Result<Option<Found>> {
        let Some(directory) = self.directory_of(id)? else {
            return Ok(None);
        };
        let members = names(&directory).map_err(|error| explain(&self.path.join(id), "read", error))?;
        for member in members.into_iter().filter(|member| !member.starts_with('.')) {
            let Some(socket) = connect(&directory, &member)? else {
                continue;
            };
            // One that ends while we ask is not the container's end: others may have it.
            let asked = channel::send(&socket, &Question::Join, &[]);
            if let Ok(Some(answer)) = asked.and_then(|()| channel::recv::<(Vec<Kind>, Description)>(&socket)) {
                let (kinds, description) = answer.message;
                let held = Held::received(kinds, answer.fds)?;
                return Ok(Some(Found { held, description }));
            }
        }
        Ok(None)
    }

    /// Connects to one member's socket.
    pub fn connect(&self, place: &Place) -> Result<Option<OwnedFd>> {
        match self.directory_of(&place.id)? {
            Some(directory) => connect(&directory, &place.member),
            None => Ok(None),
        }
    }

    /// Makes the socket of a member: whoever connects from now on waits until it is served.
    pub fn listen(&self, place: &Place) -> Result<OwnedFd> {
        let path = self.path.join(&place.id).join(&place.member);
        loop {
            let failed = |call: &str, error| explain(&path, call, error);
            directory::make(&self.directory, &*place.id, Mode::RWXU).map_err(|error| failed("create", error))?;
            // The directory may be removed, as an empty one, until there is something in it.
            let directory = match directory::open(&self.directory, &*place.id) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|error| failed("open", error))?,
            };
            match listen_in(&directory, &place.member) {
                Err(Errno::NOENT) => {}
                other => return other.map_err(|error| failed("listen at", error)),
            }
        }
    }

    /// Removes the sockets of processes that are gone, of those members that `which` names (with a dot in front: of one
    /// that has not got so far as to listen); and the container's directory, if it is empty then.
    pub fn clear(&self, id: &str, which: impl Fn(&str) -> bool) -> Result<()> {
        let failed = |error| explain(&self.path.join(id), "clear", error);
        let Some(directory) = self.directory_of(id)? else {
            return Ok(());
        };
        let members = names(&directory).map_err(failed)?;
        for member in members.iter().filter(|member| which(member)) {
            if connect(&directory, member)?.is_none() {
                unlink(&directory, member).map_err(failed)?;
            }
        }
        self.remove_if_empty(id)
    }

    /// The ids of containers that have, or had, members.
    pub fn ids(&self) -> Result<Vec<String>> {
        names(&self.directory).map_err(|error| explain(&self.path, "read", error))
    }

    fn directory_of(&self, id: &str) -> Result<Option<OwnedFd>> {
        match directory::open(&self.directory, id) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(explain(&self.path.join(id), "open", error)),
        }
    }

    fn remove_if_empty(&self, id: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.directory, id, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(explain(&self.path.join(id), "remove", error)),
        }
    }
}

/// Takes a member's socket away: nobody can find the container through it any more.
pub fn withdraw(place: &Place) -> Result<()> {
    let Some(running) = Running::existing(&place.runtime_path, place.uid)? else {
        return Ok(());
    };
    let Some(directory) = running.directory_of(&place.id)? else {
        return Ok(());
    };
    unlink(&directory, &place.member).map_err(|error| explain(&running.path.join(&place.id), "clear", error))?;
    running.remove_if_empty(&place.id)
}

/// A path of at most 107 bytes to a file of the directory, whatever the directory's own path is.
fn address(directory: &OwnedFd, name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Connects; `None` when nobody is there. Who listens must be root, as we are.
fn connect(directory: &OwnedFd, name: &str) -> Result<Option<OwnedFd>> {
    let failed = |call: &str, error| Error::sys("ask a running container", format!("{call}({name})"), error);
    let socket = socket().map_err(|error| failed("socket", error))?;
    let address = address(directory, name).map_err(|error| failed("connect", error))?;
    match rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)) {
        Ok(()) => {}
        // Not a socket, or no longer there.
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::PROTOTYPE) => return Ok(None),
        Err(error) => return Err(failed("connect", error)),
    }
    match peer_is_ours(&socket)? {
        true => Ok(Some(socket)),
        false => Ok(None),
    }
}

/// Takes one connection of those that wait at a member's socket. Only root may ask, and it is not waited for.
pub fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match rustix::io::retry_on_intr(|| rustix::net::accept_with(&listener, flags)) {
        Ok(socket) => socket,
        Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(None),
        Err(error) => return Err(Error::sys("serve other steps", "accept4", error)),
    };
    Ok(peer_is_ours(&socket)?.then_some(socket))
}

/// The process at the other end has (or had, when it began to listen) the same user as this one: root.
fn peer_is_ours(socket: &OwnedFd) -> Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|error| Error::sys("look at who asks", "getsockopt(SO_PEERCRED)", error))?;
    Ok(peer.uid == rustix::process::geteuid())
}

/// Listens under a name that begins with a dot, then takes the real one, over one that a dead process has left.
fn listen_in(directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let unready = format!(".{name}");
    let socket = socket()?;
    unlink(directory, &unready)?;
    rustix::net::bind(&socket, &address(directory, &unready)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    rustix::fs::renameat(directory, &unready, directory, name)?;
    Ok(socket)
}

/// Names in a directory but that of the lock file. Ours are text; others are left alone.
fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<String>> {
    let found = directory::names(directory)?.into_iter();
    let found = found.filter_map(|name| name.into_string().ok());
    Ok(found.filter(|name| name != "lock").collect())
}

/// Nobody else can have put anything there.
fn must_be_ours(directory: &OwnedFd, closed: u32, path: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(directory).map_err(|error| explain(path, "look at", error))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid == me && stat.st_mode & closed == 0 {
        return Ok(());
    }
    Err(Error::Host(format!(
        "{} belongs to uid {} with mode {:04o}: it must belong to uid {me} and only he may write to it",
        path.display(),
        stat.st_uid,
        stat.st_mode & 0o7777
    )))
}

fn explain(path: &Path, call: &str, error: Errno) -> Error {
    let words = std::io::Error::from(error).kind();
    Error::Host(format!(
        "cannot {call} {}: {words}: running containers are recorded there, see runtime_path",
        path.display()
    ))
}
