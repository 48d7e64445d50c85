//! Messages between processes of one container start: a JSON payload and file descriptors over a SOCK_SEQPACKET
//! socket. The other end may be a user's process, so everything that is received is bounded and checked: message size,
//! number of descriptors, truncation. A payload that does not fit a packet travels in a sealed memfd.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// File descriptors that one message can carry: a running container's namespaces, and a handle for each reader of its
/// layers. The kernel's own bound is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 240;
/// The largest payload, in bytes. A job's environment is the largest thing that is ever sent.
pub const MAX_PAYLOAD: usize = 8 << 20;
/// Payloads up to here travel in the packet itself.
const INLINE: usize = 64 << 10;
/// First byte of a packet: the payload follows.
const TAG_INLINE: u8 = b'i';
/// First byte of a packet: the payload is in a memfd, the last descriptor.
const TAG_MEMFD: u8 = b'm';

/// A message as received.
#[derive(Debug)]
pub struct Received<T> {
    /// The payload.
    pub message: T,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// The sender's process id, if [`pass_credentials`] was set on this end.
    pub sender: Option<i32>,
}

/// A pair of connected sockets, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::sys("open a channel", "socketpair(AF_UNIX, SOCK_SEQPACKET)", error))
}

/// Asks the kernel to tell the sender's process id with every message that is received on `socket`.
pub fn pass_credentials(socket: impl AsFd) -> Result<()> {
    rustix::net::sockopt::set_socket_passcred(socket, true)
        .map_err(|error| Error::sys("open a channel", "setsockopt(SO_PASSCRED)", error))
}

/// Sends a message with descriptors. Never raises SIGPIPE; waits while the other end's buffer is full.
pub fn send<T: Serialize + ?Sized>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let failed = |text: String| Error::Host(format!("send a message: {text}"));
    if fds.len() > MAX_FDS {
        return Err(failed(format!(
            "{} file descriptors, at most {MAX_FDS} can travel",
            fds.len()
        )));
    }
    let mut packet = vec![TAG_INLINE];
    serde_json::to_writer(&mut packet, message).map_err(|error| failed(error.to_string()))?;
    let length = packet.len() - 1;
    if length > MAX_PAYLOAD {
        return Err(failed(format!("{length} bytes, at most {MAX_PAYLOAD} can travel")));
    }
    if length <= INLINE {
        return send_packet(socket.as_fd(), &packet, fds);
    }
    let memory = sealed_memory(packet.get(1..).unwrap_or_default())?;
    let mut all = fds.to_vec();
    all.push(memory.as_fd());
    send_packet(socket.as_fd(), &[TAG_MEMFD], &all)
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::Host(
            "send a message: too many file descriptors for one message".into(),
        ));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let call = format!("sendmsg({} bytes, {} descriptors)", packet.len(), fds.len());
                return Err(Error::sys("send a message", call, error));
            }
        }
    }
}

/// A memfd with this content, which nobody can change any more.
fn sealed_memory(bytes: &[u8]) -> Result<OwnedFd> {
    let failed = |call: &str, error: rustix::io::Errno| Error::sys("send a message", call, error);
    let fd = rustix::fs::memfd_create("pyxis-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|error| failed("memfd_create", error))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest).map_err(|error| failed("write(memfd)", error))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(&fd, seals()).map_err(|error| failed("fcntl(F_ADD_SEALS)", error))?;
    Ok(fd)
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

/// Receives one message; `None` when the other end is closed. Waits for it, unless `socket` is non-blocking.
pub fn recv<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<Received<T>>> {
    let mut buffer = vec![0; INLINE + 1];
    let Some((length, mut fds, sender)) = recv_packet(socket.as_fd(), &mut buffer)? else {
        return Ok(None);
    };
    let bad = |text: &str| Error::Host(format!("received a message that makes no sense: {text}"));
    let (tag, payload) = buffer
        .get(..length)
        .and_then(<[u8]>::split_first)
        .ok_or_else(|| bad("it is empty"))?;
    let spilled;
    let payload = match *tag {
        TAG_INLINE => payload,
        TAG_MEMFD => {
            let memory = fds.pop().ok_or_else(|| bad("its content is missing"))?;
            spilled = read_sealed(&memory)?;
            &spilled
        }
        _ => return Err(bad("unknown kind")),
    };
    let message = serde_json::from_slice(payload).map_err(|error| bad(&error.to_string()))?;
    Ok(Some(Received { message, fds, sender }))
}

type Packet = (usize, Vec<OwnedFd>, Option<i32>);

fn recv_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let answer = loop {
        let mut slices = [IoSliceMut::new(&mut *buffer)];
        match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // A peer that died with our message unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other.map_err(|error| Error::sys("receive a message", "recvmsg", error))?,
        }
    };
    let mut fds = Vec::new();
    let mut sender = None;
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(received) => fds.extend(received),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = Some(credentials.pid.as_raw_nonzero().get());
            }
            _ => {}
        }
    }
    if answer.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::Host("received a message that is too large".into()));
    }
    // No message is empty, so this is the end of the file.
    if answer.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((answer.bytes, fds, sender)))
}

/// The content of a sealed memfd. The seals are looked at first: only memory has them, so that reading cannot block on
/// a file of the sender's choice.
fn read_sealed(memory: &OwnedFd) -> Result<Vec<u8>> {
    let bad = || Error::Host("received a message whose content is not a sealed memfd".into());
    let found = rustix::fs::fcntl_get_seals(memory).map_err(|_| bad())?;
    if !found.contains(seals()) {
        return Err(bad());
    }
    let failed = |call: &str, error: rustix::io::Errno| Error::sys("receive a message", call, error);
    let size = rustix::fs::fstat(memory)
        .map_err(|error| failed("fstat", error))?
        .st_size;
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_PAYLOAD)
        .ok_or_else(bad)?;
    let mut bytes = vec![0; size];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(memory, rest, done as u64).map_err(|error| failed("pread(memfd)", error))? {
            0 => return Err(bad()),
            count => done += count,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    fn null() -> OwnedFd {
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn carries_text_descriptors_and_the_senders_pid() {
        let (left, right) = pair().unwrap();
        pass_credentials(&right).unwrap();
        send(&left, &("hello", 7), &[left.as_fd(), null().as_fd()]).unwrap();
        let got = recv::<(String, u32)>(&right).unwrap().unwrap();
        assert_eq!(got.message, ("hello".to_owned(), 7));
        assert_eq!(got.sender, Some(std::process::id().cast_signed()));
        assert_eq!(got.fds.len(), 2);
        for fd in &got.fds {
            assert!(
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
        drop((left, got));
        assert!(recv::<String>(&right).unwrap().is_none());
    }

    #[test]
    fn large_payloads_travel_in_memory() {
        let (left, right) = pair().unwrap();
        let text = "x".repeat(3 << 20);
        send(&left, &text, &[null().as_fd()]).unwrap();
        let got = recv::<String>(&right).unwrap().unwrap();
        assert_eq!((got.message, got.fds.len()), (text, 1));
        assert!(send(&left, &"x".repeat(MAX_PAYLOAD), &[]).is_err());
    }

    #[test]
    fn refuses_what_a_hostile_sender_may_send() {
        let (left, right) = pair().unwrap();
        let raw = |bytes: &[u8], fds: &[BorrowedFd<'_>]| send_packet(left.as_fd(), bytes, fds).unwrap();
        raw(b"i{not json", &[]);
        raw(b"?\"x\"", &[]);
        raw(b"m", &[]);
        raw(b"m", &[null().as_fd()]);
        let unsealed = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        raw(b"m", &[unsealed.as_fd()]);
        raw(&vec![b'i'; INLINE + 2], &[]);
        for _ in 0..6 {
            let error = recv::<String>(&right).unwrap_err();
            assert!(matches!(error, Error::Host(_)), "{error}");
        }
        send(&left, "still fine", &[]).unwrap();
        assert_eq!(recv::<String>(&right).unwrap().unwrap().message, "still fine");
    }

    #[test]
    fn sending_to_a_closed_end_is_an_error_and_no_signal() {
        let (left, right) = pair().unwrap();
        drop(right);
        assert_eq!(send(&left, "x", &[]).unwrap_err().errno(), Some(libc::EPIPE));
    }
}
