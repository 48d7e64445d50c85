//! Process credentials that nix does not wrap: capability sets as bit masks, the bounding set, no_new_privs, and the
//! file system ids of one thread.

use super::check;
use crate::error::{Error, Result};

/// The capability sets of the calling thread (capabilities(7)), one bit per capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;
/// More capabilities than these do not fit the kernel's own sets.
const MOST: u32 = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Reads the calling thread's sets.
pub fn capget() -> Result<CapabilitySets> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 fills exactly two `Data`; both pointers are to live values.
    let answer = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(answer).map_err(|error| Error::sys("read capabilities", "capget", error))?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

/// Sets the calling thread's sets.
pub fn capset(sets: CapabilitySets) -> Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift & 0xffff_ffff) as u32,
        permitted: (sets.permitted >> shift & 0xffff_ffff) as u32,
        inheritable: (sets.inheritable >> shift & 0xffff_ffff) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads exactly two `Data`; both pointers are to live values.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(answer)
        .map(|_| ())
        .map_err(|error| Error::sys("drop capabilities", "capset", error))
}

fn prctl(option: libc::c_int, argument: u32) -> std::io::Result<libc::c_long> {
    let argument = libc::c_ulong::from(argument);
    let none: libc::c_ulong = 0;
    // SAFETY: the options used in this file take integers only.
    let answer = unsafe { libc::prctl(option, argument, none, none, none) };
    check(libc::c_long::from(answer))
}

fn prctl_ambient(operation: libc::c_int, capability: u32) -> std::io::Result<libc::c_long> {
    let operation = libc::c_ulong::from(operation.unsigned_abs());
    let none: libc::c_ulong = 0;
    let capability = libc::c_ulong::from(capability);
    // SAFETY: PR_CAP_AMBIENT takes integers only.
    let answer = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, none, none) };
    check(libc::c_long::from(answer))
}

/// Drops everything that is not in `keep` from the bounding set; needs CAP_SETPCAP.
pub fn bounding_keep(keep: u64) -> Result<()> {
    let failed = |error| Error::sys("drop capabilities", "prctl(PR_CAPBSET_DROP)", error);
    for capability in 0..=MOST {
        match prctl(libc::PR_CAPBSET_READ, capability) {
            Ok(0) => {}
            Ok(_) if keep >> capability & 1 == 1 => {}
            Ok(_) => prctl(libc::PR_CAPBSET_DROP, capability).map(|_| ()).map_err(failed)?,
            // Past the last capability of this kernel.
            Err(_) => break,
        }
    }
    Ok(())
}

/// The bounding set.
pub fn bounding() -> u64 {
    (0..=MOST)
        .filter(|capability| prctl(libc::PR_CAPBSET_READ, *capability).is_ok_and(|answer| answer == 1))
        .fold(0, |set, capability| set | 1 << capability)
}

/// Empties the ambient set.
pub fn ambient_clear() -> Result<()> {
    prctl_ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
        .map(|_| ())
        .map_err(|error| Error::sys("drop capabilities", "prctl(PR_CAP_AMBIENT_CLEAR_ALL)", error))
}

/// The ambient set.
pub fn ambient() -> u64 {
    (0..=MOST)
        .filter(|capability| prctl_ambient(libc::PR_CAP_AMBIENT_IS_SET, *capability).is_ok_and(|answer| answer == 1))
        .fold(0, |set, capability| set | 1 << capability)
}

/// Whether the permitted set survives a change of user ids (until the next exec).
pub fn set_keepcaps(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u32::from(keep))
        .map(|_| ())
        .map_err(|error| Error::sys("change the user", "prctl(PR_SET_KEEPCAPS)", error))
}

/// From now on no exec gives more privileges; cannot be undone.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
        .map(|_| ())
        .map_err(|error| Error::sys("give up privileges", "prctl(PR_SET_NO_NEW_PRIVS)", error))
}

/// Whether no_new_privs is set.
pub fn no_new_privs() -> bool {
    prctl(libc::PR_GET_NO_NEW_PRIVS, 0).is_ok_and(|answer| answer == 1)
}

/// Sets the calling thread's ids for file access, and gives the ids that are in force afterwards (the calls themselves
/// do not tell whether they worked).
pub fn set_fs_ids(uid: u32, gid: u32) -> (u32, u32) {
    let raw = |call: libc::c_long, id: u32| {
        // SAFETY: setfsuid and setfsgid take an integer and touch this thread's credentials only.
        unsafe { libc::syscall(call, id) }
    };
    raw(libc::SYS_setfsgid, gid);
    raw(libc::SYS_setfsuid, uid);
    // An id that does not exist changes nothing; the answer is the one in force.
    let now = |call| u32::try_from(raw(call, u32::MAX)).unwrap_or(u32::MAX);
    (now(libc::SYS_setfsuid), now(libc::SYS_setfsgid))
}

/// Sets the calling thread's supplementary groups (glibc's function would change all threads).
pub fn set_thread_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the pointer and the length are those of one slice of 32-bit ids, which the kernel only reads.
    let answer = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(answer)
        .map(|_| ())
        .map_err(|error| Error::sys("change groups", format!("setgroups({} groups)", groups.len()), error))
}

/// Whether the calling thread, with its ids for file access, may read, write or execute the open file: any of them.
pub fn may_use(fd: impl rustix::fd::AsFd) -> std::io::Result<bool> {
    use rustix::fd::AsRawFd;
    let fd = fd.as_fd().as_raw_fd();
    for mode in [libc::R_OK, libc::X_OK, libc::W_OK] {
        let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
        // SAFETY: the path is a C string; the call has no other pointer.
        let answer = unsafe { libc::syscall(libc::SYS_faccessat2, fd, c"".as_ptr(), mode, flags) };
        match check(answer) {
            Ok(_) => return Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
