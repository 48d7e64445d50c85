//! Byte-range locks on one file, a range for each thing that is locked (a layer, a container).
//!
//! Open-file-description locks (fcntl(2), `F_OFD_SETLK`) belong to the open file: they are gone when their owner is,
//! however it died, and thousands of them need one file that is never removed, so there is no race about its removal.
//!
//! The owner of a lock may be alive and yet get nowhere: what works for him is in the control groups of a job, which may be
//! frozen, or have next to no processor time. So he can show that he advances, by the length of what he has locked, and
//! who waits for him need not wait for one who does not.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::report::{is_readable, wait_readable};
use crate::sys::process::{Child, Exit, fork};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::Timespec;
use rustix::fs::{Mode, OFlags};
use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Bytes of the file for one key. The first one is the lock; how many are locked besides says how far its owner is.
const RANGE: i64 = 1 << 16;

/// A held lock; dropping it lets it go.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
    start: i64,
    advanced: Cell<i64>,
}

impl Lock {
    /// Shows those who wait that the work advances.
    pub fn advance(&self) -> Result<()> {
        let next = (self.advanced.get() + 1) % (RANGE - 1);
        let (kind, first, length) = match next {
            // From the start again: all but the lock itself is let go.
            0 => (libc::F_UNLCK, 1, RANGE - 1),
            _ => (libc::F_WRLCK, next, 1),
        };
        fcntl(
            &self.file,
            FcntlArg::F_OFD_SETLK(&range(kind, self.start + first, length)),
        )
        .map_err(|error| Error::sys("keep a lock", "fcntl(F_OFD_SETLK)", error))?;
        self.advanced.set(next);
        Ok(())
    }
}

/// How waiting for a lock ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Nobody has the lock any more.
    Free,
    /// Its owner has it, and has not advanced for too long.
    Stalled,
}

/// How long to wait for a lock whose owner should advance.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After this time the user is told, and told again.
    pub tell: Timespec,
    /// So often in a row the owner may not have advanced when the user is told.
    pub stalls: u32,
}

/// The file `lock` of a directory.
#[derive(Debug, Clone, Copy)]
pub struct LockFile<'a> {
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// Its path, for messages.
    pub path: &'a Path,
}

impl LockFile<'_> {
    /// Takes the lock of `key` if nobody has it.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<Lock>> {
        let (file, start) = (self.open()?, start_of(key));
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, start, 1))) {
            Ok(_) => Ok(Some(held(file, start))),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(None),
            Err(error) => Err(Error::sys("take a lock", "fcntl(F_OFD_SETLK)", error)),
        }
    }

    /// Takes the lock of `key`, however long that takes, and calls `silent` each time that `patience` is over.
    pub fn lock(&self, key: &Digest, patience: Timespec, silent: impl FnMut()) -> Result<Lock> {
        if let Some(lock) = self.try_lock(key)? {
            return Ok(lock);
        }
        let (file, child) = self.start_waiting(key)?;
        wait_readable(child.pidfd(), patience, silent).map_err(cannot_wait)?;
        finish_waiting(child)?;
        Ok(held(file, start_of(key)))
    }

    /// Waits until nobody has the lock of `key`, or its owner has stalled; calls `silent` when that takes long.
    pub fn wait(&self, key: &Digest, patience: Patience, mut silent: impl FnMut()) -> Result<Waited> {
        let (_file, child) = self.start_waiting(key)?;
        let (mut seen, mut stalls) = (self.locked(key)?, 0);
        while !is_readable(child.pidfd(), patience.tell).map_err(cannot_wait)? {
            silent();
            let now = self.locked(key)?;
            stalls = if now.is_some() && now == seen { stalls + 1 } else { 0 };
            seen = now;
            if stalls >= patience.stalls {
                return Ok(Waited::Stalled);
            }
        }
        finish_waiting(child).map(|()| Waited::Free)
    }

    /// A child does the waiting, as fcntl(2) knows no time limit. It waits on the open file that it shares with this
    /// process, so what it gets is this process's.
    fn start_waiting(&self, key: &Digest) -> Result<(OwnedFd, Child)> {
        let (file, start) = (self.open()?, start_of(key));
        let child = fork(&[file.as_fd()], || {
            // An errno value is a small number, and no success.
            wait(&file, start).map_or_else(|error| u8::try_from(error as i32).unwrap_or(u8::MAX), |()| 0)
        })?;
        Ok((file, child))
    }

    /// How much of a key's range is locked, and from where, if any of it is.
    fn locked(&self, key: &Digest) -> Result<Option<(i64, i64)>> {
        let mut found = range(libc::F_WRLCK, start_of(key), RANGE);
        fcntl(self.open()?, FcntlArg::F_OFD_GETLK(&mut found))
            .map_err(|error| Error::sys("wait for a lock", "fcntl(F_OFD_GETLK)", error))?;
        Ok((i32::from(found.l_type) != libc::F_UNLCK).then_some((found.l_start, found.l_len)))
    }

    fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, "lock", flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| Error::sys("take a lock", format!("open({}/lock)", self.path.display()), error))
    }
}

fn held(file: OwnedFd, start: i64) -> Lock {
    Lock {
        file,
        start,
        advanced: Cell::new(0),
    }
}

fn cannot_wait(error: rustix::io::Errno) -> Error {
    Error::sys("wait for a lock", "poll", error)
}

fn finish_waiting(child: Child) -> Result<()> {
    match child.wait()? {
        Exit::Code(0) => Ok(()),
        Exit::Code(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            Err(Error::sys("wait for a lock", "fcntl(F_OFD_SETLKW)", error))
        }
        Exit::Signal(signal) => Err(Error::Host(format!(
            "wait for a lock: the waiting process was ended by signal {signal}"
        ))),
    }
}

fn wait(file: &OwnedFd, start: i64) -> nix::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&range(libc::F_WRLCK, start, 1))) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Where the range of a key starts: 46 bits of it. Two keys with the same ones only wait for each other.
fn start_of(key: &Digest) -> i64 {
    let bits = key
        .hex()
        .get(..16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
        >> 18;
    i64::try_from(bits).unwrap_or(0) * RANGE
}

fn range(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir, std::fs::File);

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = std::fs::File::open(directory.path()).unwrap();
            Place(directory, file)
        }

        fn locks(&self) -> LockFile<'_> {
            LockFile {
                directory: self.1.as_fd(),
                path: self.0.path(),
            }
        }
    }

    #[test]
    fn one_owner_per_key() {
        let place = Place::new();
        let locks = place.locks();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let held = locks.try_lock(&a).unwrap().unwrap();
        assert!(locks.try_lock(&a).unwrap().is_none());
        assert!(locks.try_lock(&b).unwrap().is_some());
        // It is waited for until its owner lets it go, which he does when he has been told three times.
        let (mut held, mut told) = (Some(held), 0);
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let silent = || {
            told += 1;
            if told == 3 {
                held = None;
            }
        };
        let ours = locks.lock(&a, patience, silent).unwrap();
        assert!(told >= 3);
        assert!(locks.try_lock(&a).unwrap().is_none());
        drop(ours);
        assert!(locks.try_lock(&a).unwrap().is_some());
    }

    #[test]
    fn one_who_does_not_advance_is_not_waited_for() {
        let place = Place::new();
        let locks = place.locks();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let (held, _other) = (locks.try_lock(&a).unwrap().unwrap(), locks.try_lock(&b).unwrap());
        // For a while he does: more often than the length of his range has values.
        for _ in 0..RANGE {
            held.advance().unwrap();
        }
        let mut told = 0;
        let silent = || {
            told += 1;
            if told < 20 {
                held.advance().unwrap();
            }
        };
        let tell = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let patience = Patience { tell, stalls: 3 };
        assert_eq!(locks.wait(&a, patience, silent).unwrap(), Waited::Stalled);
        assert!(told >= 22, "{told}");
        assert!(locks.try_lock(&a).unwrap().is_none());
        let gone = locks.wait(&Digest::of(b"c"), patience, || ()).unwrap();
        assert_eq!(gone, Waited::Free);
    }
}
