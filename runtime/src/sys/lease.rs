//! Whether anybody has a file open for writing: the question that a read lease (fcntl(2), "Leases") answers.

use super::check;
use crate::error::{Error, Result};
use crate::image::file::Writers;
use rustix::fd::{AsFd, AsRawFd};

/// Asks for a read lease, which the kernel refuses while the file is open for writing, and gives it back. The caller
/// has CAP_LEASE or owns the file.
pub fn writers(file: impl AsFd) -> Result<Writers> {
    let fd = file.as_fd().as_raw_fd();
    // Whoever opens the file for writing in between makes the kernel send a signal: one that is ignored by default.
    let signal = fcntl(fd, F_SETSIG, libc::SIGURG);
    match signal.and_then(|()| fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)) {
        Ok(()) => {
            fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK).map_err(|error| Error::sys(DOING, "fcntl(F_UNLCK)", error))?;
            Ok(Writers::None)
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Writers::Some),
            // Not on this file system, or not for this caller.
            Some(libc::EINVAL | libc::EACCES | libc::EOPNOTSUPP | libc::ENOLCK) => Ok(Writers::Unknown),
            _ => Err(Error::sys(DOING, "fcntl(F_SETLEASE, F_RDLCK)", error)),
        },
    }
}

/// `F_SETSIG` of fcntl(2).
const F_SETSIG: libc::c_int = 10;
const DOING: &str = "look who writes to the image";

fn fcntl(fd: libc::c_int, command: libc::c_int, argument: libc::c_int) -> std::io::Result<()> {
    // SAFETY: these commands take an integer, and the descriptor is open.
    let answer = unsafe { libc::fcntl(fd, command, argument) };
    check(libc::c_long::from(answer)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};

    #[test]
    fn a_writer_is_seen_while_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(writers(&file).unwrap(), Writers::None);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(writers(&file).unwrap(), Writers::Some);
        drop(writer);
        assert_eq!(writers(&file).unwrap(), Writers::None);
    }
}
