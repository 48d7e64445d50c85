//! The descriptors that keep a container alive, each with its meaning.
#![forbid(unsafe_code)]

use crate::enter::Join;
use crate::error::{Error, Result};
use crate::report::is_readable;
use rustix::event::Timespec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The user namespace.
    User,
    /// The mount namespace.
    Mount,
    /// The network namespace.
    Net,
    /// The IPC namespace.
    Ipc,
    /// The UTS namespace.
    Uts,
    /// The root file system without anything mounted on it, in a form that can be mounted again.
    Root,
    /// The directory that takes what is written to the root file system.
    Upper,
    /// What the image's entrypoint left running ends when this is closed.
    Lifeline,
    /// A handle of a process that reads a layer.
    Reader,
    /// A handle of a process that reads a file with data.
    DataReader,
    /// The lock on the directory that is the root file system, where that goes away with the container.
    Unpacked,
    /// The file that the root file system is made of, where it is made of one.
    Layer,
}

impl Kind {
    /// A task needs it to enter. The others are for root alone.
    fn is_namespace(self) -> bool {
        matches!(self, Kind::User | Kind::Mount | Kind::Net | Kind::Ipc | Kind::Uts)
    }
}

/// Descriptors of one container.
#[derive(Debug, Default)]
pub struct Held(Vec<(Kind, OwnedFd)>);

impl Held {
    /// Descriptors as they were received: the kinds, and the descriptors in their order.
    pub fn received(kinds: Vec<Kind>, fds: Vec<OwnedFd>) -> Result<Self> {
        if kinds.len() != fds.len() {
            return Err(Error::Host(format!(
                "received {} descriptors of a container, and not {}",
                fds.len(),
                kinds.len()
            )));
        }
        Ok(Held(kinds.into_iter().zip(fds).collect()))
    }

    /// Adds one.
    pub fn push(&mut self, kind: Kind, fd: OwnedFd) {
        self.0.push((kind, fd));
    }

    /// The first of a kind.
    pub fn get(&self, wanted: Kind) -> Option<BorrowedFd<'_>> {
        let mut entries = self.0.iter();
        entries.find_map(|(kind, fd)| (*kind == wanted).then(|| fd.as_fd()))
    }

    /// All of them, to be sent.
    pub fn all(&self) -> (Vec<Kind>, Vec<BorrowedFd<'_>>) {
        self.0.iter().map(|(kind, fd)| (*kind, fd.as_fd())).unzip()
    }

    /// Which of the processes of a kind have ended.
    pub fn lost(&self, wanted: Kind) -> impl Iterator<Item = usize> {
        let processes = self.0.iter().filter(move |(kind, _)| *kind == wanted);
        let ended = |handle| is_readable(handle, Timespec::default()).unwrap_or(false);
        let lost = processes.enumerate().filter(move |(_, (_, handle))| ended(handle));
        lost.map(|(number, _)| number)
    }

    /// Those that a task may have.
    pub fn for_tasks(&self) -> (Vec<Kind>, Vec<BorrowedFd<'_>>) {
        let entries = self.0.iter().filter(|(kind, _)| kind.is_namespace());
        entries.map(|(kind, fd)| (*kind, fd.as_fd())).unzip()
    }

    /// Those that another step may have: what an entrypoint left running ends with the step that ran it.
    pub fn for_steps(&self) -> (Vec<Kind>, Vec<BorrowedFd<'_>>) {
        let entries = self.0.iter().filter(|(kind, _)| *kind != Kind::Lifeline);
        entries.map(|(kind, fd)| (*kind, fd.as_fd())).unzip()
    }

    /// The namespaces to enter.
    pub fn join(&self) -> Result<Join<'_>> {
        let need = |kind: Kind| {
            let missing = || Error::Host(format!("the container came without its {kind:?} namespace"));
            self.get(kind).ok_or_else(missing)
        };
        Ok(Join {
            user: self.get(Kind::User),
            mount: need(Kind::Mount)?,
            net: self.get(Kind::Net),
            ipc: self.get(Kind::Ipc),
            uts: self.get(Kind::Uts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> OwnedFd {
        std::fs::File::open(format!("/proc/self/ns/{name}")).unwrap().into()
    }

    #[test]
    fn descriptors_keep_their_meaning_and_tasks_get_namespaces_only() {
        let kinds = vec![
            Kind::Root,
            Kind::User,
            Kind::Mount,
            Kind::Ipc,
            Kind::Upper,
            Kind::Lifeline,
        ];
        let fds = ["net", "user", "mnt", "ipc", "net", "net"].map(open).into();
        let held = Held::received(kinds, fds).unwrap();
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let expected = rustix::fs::stat("/proc/self/ns/ipc").unwrap().st_ino;
        assert_eq!(held.join().unwrap().ipc.map(inode), Some(expected));
        assert!(held.join().unwrap().net.is_none());
        assert_eq!(held.for_tasks().0, [Kind::User, Kind::Mount, Kind::Ipc]);
        assert_eq!((held.all().0.len(), held.for_steps().0.len()), (6, 5));
        assert!(Held::received(vec![Kind::User], Vec::new()).is_err());
        assert!(Held::default().join().is_err());
    }
}
