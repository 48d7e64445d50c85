//! slurmstepd's end of the shared socket, which is kept from one callback to the next.
#![forbid(unsafe_code)]

use pyxis_runtime::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// The shared socket. With `SlurmdParameters=contain_spank` some callbacks run with slurmstepd's memory but another
/// table of descriptors, where the number means something else: so the socket is recognised before each use.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    identity: (u64, u64),
}

impl Control {
    /// Keeps a socket.
    pub(super) fn new(socket: OwnedFd) -> Result<Self> {
        let identity = identity(socket.as_fd())?;
        Ok(Control { socket, identity })
    }

    /// The socket, if the descriptor is still the one that was kept.
    pub(super) fn socket(&self) -> Result<BorrowedFd<'_>> {
        if identity(self.socket.as_fd())? == self.identity {
            Ok(self.socket.as_fd())
        } else {
            Err(Error::Host(
                "the supervisor's socket is not open in this process".into(),
            ))
        }
    }

    /// Another descriptor under the number that was kept, as contain_spank has it; the real one is given back.
    #[cfg(test)]
    pub(super) fn exchange(&mut self, other: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.socket, other)
    }

    /// Closes the socket, unless the descriptor is another one here.
    pub(crate) fn close(self) {
        if self.socket().is_err() {
            std::mem::forget(self.socket);
        }
    }
}

fn identity(socket: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat =
        rustix::fs::fstat(socket).map_err(|error| Error::sys("look at the supervisor's socket", "fstat", error))?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyxis_runtime::sys::channel;

    #[test]
    fn another_descriptor_under_the_same_number_is_noticed_and_left_alone() {
        let (socket, _peer) = channel::pair().unwrap();
        let mut control = Control::new(socket).unwrap();
        assert!(control.socket().is_ok());
        let (other, peer) = channel::pair().unwrap();
        rustix::io::dup2(&other, &mut control.socket).unwrap();
        drop(other);
        assert!(control.socket().is_err());
        control.close();
        channel::send(&peer, "still open", &[]).unwrap();
    }
}
