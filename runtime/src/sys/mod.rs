//! The only unsafe code of the runtime: what rustix and nix do not wrap, one system call per function, and the small
//! primitives that the rest builds on (a child process, a message channel, a loop device). Functions keep the name of
//! the call, take file descriptors as `impl AsFd`, give them as `OwnedFd` with close-on-exec set, and their errors name
//! the call, its arguments and the kernel's own words.

pub mod cgroup;
pub mod channel;
pub mod command;
pub mod credentials;
pub mod daemon;
pub mod exec;
pub mod lease;
pub mod loopdev;
pub mod mount;
pub mod net;
pub mod nodes;
pub mod process;
pub mod seccomp;
pub mod stand_in;

/// The result of a libc call that says -1 for "see errno".
fn check(result: libc::c_long) -> std::io::Result<libc::c_long> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
