//! Installs a seccomp filter on the calling thread.

use super::check;
use crate::error::{Error, Result};
use seccompiler::sock_filter;

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const sock_filter,
}

/// Installs `program`. The thread needs no_new_privs (or CAP_SYS_ADMIN). Where the kernel knows the flag, the filter
/// does not switch the speculative store bypass mitigation on, which Linux before 5.16 does for every filtered process
/// and which costs number crunching dearly.
pub fn set_mode_filter(program: &[sock_filter]) -> Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| Error::Host(format!("seccomp program of {} instructions is too long", program.len())))?;
    let fprog = SockFprog {
        len,
        filter: program.as_ptr(),
    };
    install(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, &fprog)
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => install(0, &fprog),
            _ => Err(error),
        })
        .map_err(|error| Error::sys("filter system calls", "seccomp(SECCOMP_SET_MODE_FILTER)", error))
}

fn install(flags: libc::c_ulong, program: &SockFprog) -> std::io::Result<()> {
    // SAFETY: `program` and the instructions it points to outlive the call, and its length is theirs.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(program),
        )
    };
    check(answer).map(|_| ())
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use crate::sys::process::{Exit, fork};
    use crate::worker::sandbox;
    use std::os::fd::{AsFd, AsRawFd};

    /// Whether the kernel has them or not.
    #[test]
    fn cages_refuse_the_numbers_of_the_x32_abi() {
        let file = tempfile::tempfile().unwrap();
        let child = fork(&[file.as_fd()], || {
            sandbox::for_reader(file.as_raw_fd()).unwrap();
            // SAFETY: socket(2) has no pointer among its arguments.
            let answer = unsafe { libc::syscall(0x4000_0000 | libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0) };
            u8::from(answer == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(1));
    }
}
