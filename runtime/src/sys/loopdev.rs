//! Loop devices: a pack file becomes a block device that the kernel can mount. The device is read-only and autoclear,
//! so it goes away with its last user, whatever kills us.

use super::check;
use super::nodes::Nodes;
use crate::error::{Error, Result};
use crate::image::file::Part;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LOOP_MAJOR: u32 = 7;
const CONTROL: (u32, u32) = (10, 237);
/// Another process may take the device between "which is free" and "this one"; each loss means that someone else won.
const ATTEMPTS: u32 = 128;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// An open loop device.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
    path: String,
}

impl LoopDevice {
    /// Attaches `file`, or a part of it, to a free device. Where `/dev` lacks the nodes of loop devices, they are made in
    /// `nodes`.
    pub fn attach(file: impl AsFd, part: Option<Part>, nodes: &Nodes) -> Result<Self> {
        let (control, _) = open_node("loop-control", CONTROL, nodes)?;
        for _ in 0..ATTEMPTS {
            let number = get_free(&control)?;
            let (fd, path) = match open_node(&format!("loop{number}"), (LOOP_MAJOR, number), nodes) {
                // Removed by someone else (LOOP_CTL_REMOVE), or not there yet.
                Err(error) if error.errno() == Some(libc::ENXIO) => continue,
                other => other?,
            };
            match configure(&fd, file.as_fd(), part) {
                Ok(()) => return Ok(LoopDevice { fd, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => {
                    let call = format!("ioctl(loop{number}, LOOP_CONFIGURE)");
                    return Err(Error::sys("attach a pack to a loop device", call, error));
                }
            }
        }
        Err(Error::Host(format!(
            "no loop device could be had in {ATTEMPTS} attempts: other programs took each of them"
        )))
    }

    /// Where the kernel finds the device's node, for `source=`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens the device: the host's node if it is the right device, else a node of our own.
fn open_node(name: &str, device: (u32, u32), nodes: &Nodes) -> Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let path = format!("/dev/{name}");
    if is_device(&path, device) {
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| refused(&path, error))?;
        return Ok((fd, path));
    }
    let kind = if device == CONTROL {
        FileType::CharacterDevice
    } else {
        FileType::BlockDevice
    };
    nodes
        .make(name, kind, device, 0o600)
        .map_err(|error| match error.errno() {
            Some(libc::EPERM | libc::EACCES) => refused(name, rustix::io::Errno::PERM),
            _ => error,
        })?;
    let directory = nodes.directory()?;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| refused(name, error))?;
    Ok((fd, format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())))
}

fn is_device(path: &str, (major, minor): (u32, u32)) -> bool {
    rustix::fs::lstat(path).is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::BlockDevice | FileType::CharacterDevice)
            && stat.st_rdev == rustix::fs::makedev(major, minor)
    })
}

/// ENXIO stays a system call's error (the caller tries again); the rest is for the administrator.
fn refused(what: &str, error: rustix::io::Errno) -> Error {
    match error {
        rustix::io::Errno::NXIO => Error::sys("open a loop device", what, error),
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => Error::Host(format!(
            "{what}: not permitted; allow loop devices (block 7:*, character 10:237) to this service or pod"
        )),
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV => {
            Error::Host(format!("{what}: this kernel has no loop devices; load the module loop"))
        }
        error => Error::sys("open a loop device", what, error),
    }
}

fn get_free(control: &OwnedFd) -> Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    check(libc::c_long::from(answer))
        .and_then(|number| u32::try_from(number).map_err(std::io::Error::other))
        .map_err(|error| Error::sys("find a free loop device", "ioctl(LOOP_CTL_GET_FREE)", error))
}

fn configure(device: &OwnedFd, file: BorrowedFd<'_>, part: Option<Part>) -> std::io::Result<()> {
    let config = LoopConfig {
        fd: u32::try_from(file.as_raw_fd()).map_err(std::io::Error::other)?,
        block_size: 0,
        info: LoopInfo64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: part.map_or(0, |part| part.offset),
            lo_sizelimit: part.map_or(0, |part| part.size),
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout of struct loop_config and outlives the call, which only reads it.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    check(libc::c_long::from(answer)).map(|_| ())
}
