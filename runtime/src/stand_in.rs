//! A program that stands in for others. What starts them inside a container finds something to start in any image, also
//! in one without a shell or a C library: it is a file of a few system calls (`sys::stand_in` says which).
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::sys::{process, stand_in};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Where it is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Lengths of an ELF header and of its one program header (elf(5)).
const HEADERS: u64 = 64 + 56;

/// The executable, if this processor's instructions are known here.
pub(crate) fn program() -> Option<Vec<u8>> {
    let (machine, code) = stand_in::code()?;
    let length = HEADERS + code.len() as u64;
    let mut bytes = Vec::new();
    // 64 bits, little endian, version 1, System V.
    bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // Type: executable; machine; version.
    bytes.extend([2_u16, machine].map(u16::to_le_bytes).concat());
    bytes.extend(1_u32.to_le_bytes());
    // Entry, program headers right behind this header, no sections; flags.
    bytes.extend([ADDRESS + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    bytes.extend(0_u32.to_le_bytes());
    // Sizes and counts: this header, one program header, no section header.
    bytes.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // The program header: load, readable and executable; the whole file, aligned to a page.
    bytes.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    bytes.extend(
        [0, ADDRESS, ADDRESS, length, length, 0x1_0000]
            .map(u64::to_le_bytes)
            .concat(),
    );
    bytes.extend_from_slice(code);
    Some(bytes)
}

/// Puts the program in the place of each descriptor by which this process could execute itself again: in a container it
/// would not find its libraries.
pub fn replace_own_program() -> Result<()> {
    let held = descriptors_of_own_program()
        .map_err(|error| Error::sys(PURPOSE, "look at the descriptors in /proc/self/fd", error))?;
    let Some(program) = program().filter(|_| !held.is_empty()) else {
        return Ok(());
    };
    let launcher = in_memory(&program)?;
    held.into_iter()
        .try_for_each(|fd| process::replace_descriptor(fd, launcher.as_fd()))
}

/// What for, in errors.
const PURPOSE: &str = "keep a launcher for the container";

fn descriptors_of_own_program() -> std::io::Result<Vec<RawFd>> {
    let identity = |file: &Metadata| (file.dev(), file.ino());
    let own = identity(&std::fs::metadata("/proc/self/exe")?);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // One that has no metadata is the directory's own, closed by now.
        let is_own = std::fs::metadata(entry.path()).is_ok_and(|file| identity(&file) == own);
        let fd = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        found.extend(fd.filter(|_| is_own));
    }
    Ok(found)
}

/// A file in memory that can be executed, opened for nothing else.
fn in_memory(program: &[u8]) -> Result<OwnedFd> {
    let failed = |call: &str, error: std::io::Error| Error::sys(PURPOSE, call, error);
    let create = |flags| rustix::fs::memfd_create("pyxis-launcher", flags | MemfdFlags::CLOEXEC);
    let file = match create(MemfdFlags::EXEC) {
        // Before Linux 6.3 all of them can be.
        Err(Errno::INVAL) => create(MemfdFlags::empty()),
        made => made,
    };
    let mut file = File::from(file.map_err(|error| failed("memfd_create", error.into()))?);
    file.write_all(program).map_err(|error| failed("write(memfd)", error))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open(memfd)", error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stand-in");
        std::fs::write(&path, program().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    #[test]
    fn by_itself_it_ends_at_once_and_well() {
        let (_directory, path) = file();
        for words in [&[][..], &["a"], &["a", "b"]] {
            let done = Command::new(&path).args(words).output().unwrap();
            assert_eq!((done.status.code(), done.stdout.len()), (Some(0), 0));
        }
    }

    #[test]
    fn with_a_program_it_is_a_launcher() {
        let (_directory, path) = file();
        let words = ["mode", "/bin/sh", "name", "-c"];
        let says = |script: &str| {
            let mut launcher = Command::new("/bin/sh");
            launcher.args(["-c", "exec 9</dev/null \"$@\"", "sh"]).arg(&path);
            let done = launcher.args(words).arg(script).env("SAID", "yes").output().unwrap();
            String::from_utf8(done.stdout).unwrap()
        };
        assert_eq!(
            says("echo $SAID; test -e /proc/self/fd/9 || echo closed"),
            "yes\nclosed\n"
        );
        assert_eq!(
            says("set -- $(cat /proc/$$/stat); [ $1 = $5 ] && echo leads"),
            "leads\n"
        );
        let done = Command::new(&path).args(["mode", "/no/such", "x"]).status().unwrap();
        assert_eq!(done.code(), Some(127));
    }

    /// This process is left as it is, as the other tests' too.
    #[test]
    fn it_takes_the_place_of_this_program() {
        let child = process::fork(&[], || {
            let own = File::open("/proc/self/exe").unwrap();
            let other = File::open("/proc/self/maps").unwrap();
            replace_own_program().unwrap();
            let size = |file: &File| file.metadata().unwrap().len();
            let replaced = size(&own) == program().unwrap().len() as u64 && size(&other) == 0;
            let done = Command::new(format!("/proc/self/fd/{}", own.as_raw_fd())).status();
            u8::from(!replaced || !done.unwrap().success())
        });
        assert_eq!(child.unwrap().wait().unwrap(), process::Exit::Code(0));
    }
}
