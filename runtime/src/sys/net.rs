//! The loopback interface of a fresh network namespace, which starts down.

use super::check;
use crate::error::{Error, Result};
use rustix::fd::AsRawFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Brings the loopback interface of the calling thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    let failed = |call: &str, error: std::io::Error| Error::sys("start the loopback interface", call, error);
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| failed("socket(AF_INET)", error.into()))?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    request.ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags };
    // SAFETY: `request` is a whole struct ifreq with a terminated name, and outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    check(libc::c_long::from(answer))
        .map(|_| ())
        .map_err(|error| failed("ioctl(lo, SIOCSIFFLAGS)", error))
}
