//! A program that does nothing, in the place of others. Whoever starts them inside finds something to start in any image,
//! also in one without a shell or a C library: it is a file of one system call. It is mounted, never written to the
//! container: one that is kept or saved does not have it.
#![forbid(unsafe_code)]

use super::mounts::Mounter;
use super::small_file;
use super::tree::{Missing, Tree};
use crate::error::{Error, Result};
use crate::plan::{Origin, Plan};
use crate::sys::mount::open_tree_clone;
use rustix::fd::OwnedFd;
use std::path::Path;

/// Where the program is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Lengths of an ELF header and of its one program header (elf(5)).
const HEADERS: u64 = 64 + 56;

/// Covers every silenced path with the program, whatever the image and the mounts have there. Where that fails, whoever
/// starts what is there will say so.
pub fn cover(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, plan: &Plan, report: &mut dyn FnMut(String)) {
    let Some(program) = program().filter(|_| !plan.silenced.is_empty()) else {
        return;
    };
    let file = small_file::mount(&program, 0o755);
    for path in &plan.silenced {
        let covered = file.as_ref().map_err(Error::clone);
        if let Err(error) = covered.and_then(|file| cover_one(mounter, tree, path, file)) {
            report(format!(
                "put nothing in the place of {}: {error}, ignoring",
                path.display()
            ));
        }
    }
}

fn cover_one(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, path: &Path, program: &OwnedFd) -> Result<()> {
    let target = tree.resolve(path, Missing::File, Origin::System)?;
    mounter.attach(&open_tree_clone(program, false)?, &target)
}

/// An executable for Linux that ends with exit code 0, if this processor's instructions are known here.
fn program() -> Option<Vec<u8>> {
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // xor edi, edi; mov eax, 231 (exit_group); syscall
        "x86_64" => (62, &[0x31, 0xff, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05]),
        // mov x0, #0; mov x8, #94 (exit_group); svc #0
        "aarch64" => (183, &[0, 0, 0x80, 0xd2, 0xc8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4]),
        _ => return None,
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_program_ends_at_once_and_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nothing");
        std::fs::write(&path, program().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let done = std::process::Command::new(&path).output().unwrap();
        assert_eq!((done.status.code(), done.stdout.len()), (Some(0), 0));
    }
}
