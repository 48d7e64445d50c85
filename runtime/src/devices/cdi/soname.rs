//! The name that programs ask the loader for when they want a shared library: what its file says itself (elf(5), `DT_SONAME`).
//! A file may be anything: what does not fit is no library.
#![forbid(unsafe_code)]

/// A 64-bit file of this machine's byte order.
const IDENT: [u8; 6] = [
    0x7f,
    b'E',
    b'L',
    b'F',
    2,
    if cfg!(target_endian = "little") { 1 } else { 2 },
];
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
/// Program headers and bytes of the dynamic section of the largest library are far below.
const MOST_HEADERS: usize = 256;
const MAX_DYNAMIC: usize = 64 << 10;
const MAX_NAME: usize = 255;

/// A part of the file that is loaded somewhere.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// The library's name, if it has one that can be a file's. `read` gives as many bytes from an offset, or fewer at the end.
pub(super) fn soname(read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<String> {
    let header = read(0, HEADER)?;
    if !header.starts_with(&IDENT) || usize::from(half(&header, 54)?) != PROGRAM_HEADER {
        return None;
    }
    let count = usize::from(half(&header, 56)?).min(MOST_HEADERS);
    let table = read(word(&header, 32)?, count * PROGRAM_HEADER)?;
    let segments: Vec<Segment> = table.chunks_exact(PROGRAM_HEADER).filter_map(segment).collect();
    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
    let dynamic = read(dynamic.offset, usize::try_from(dynamic.size).ok()?.min(MAX_DYNAMIC))?;
    let value = |tag: u64| {
        let mut entries = dynamic.chunks_exact(16);
        entries
            .find(|entry| word(entry, 0) == Some(tag))
            .and_then(|entry| word(entry, 8))
    };
    let address = value(DT_STRTAB)?.checked_add(value(DT_SONAME)?)?;
    let within = |segment: &&Segment| {
        let from = address.checked_sub(segment.address);
        segment.kind == PT_LOAD && from.is_some_and(|from| from < segment.size)
    };
    let segment = segments.iter().find(within)?;
    let offset = segment.offset.checked_add(address.checked_sub(segment.address)?)?;
    let bytes = read(offset, MAX_NAME + 1)?;
    let name = bytes
        .split(|byte| *byte == 0)
        .next()
        .filter(|name| name.len() <= MAX_NAME)?;
    let name = std::str::from_utf8(name).ok()?;
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    plain.then(|| name.to_owned())
}

fn segment(header: &[u8]) -> Option<Segment> {
    let kind = header.get(..4)?.try_into().ok().map(u32::from_ne_bytes)?;
    Some(Segment {
        kind: kind.into(),
        offset: word(header, 8)?,
        address: word(header, 16)?,
        size: word(header, 32)?,
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// A library that the compiler makes.
    fn library(soname: Option<&str>) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("library");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"])
            .arg(&file);
        cc.args(soname.map(|soname| format!("-Wl,-soname,{soname}")));
        assert!(cc.status().unwrap().success());
        std::fs::read(file).unwrap()
    }

    fn of(bytes: &[u8]) -> Option<String> {
        soname(|at, length| {
            let rest = bytes.get(usize::try_from(at).ok()?..)?;
            Some(rest[..length.min(rest.len())].to_vec())
        })
    }

    #[test]
    fn what_the_linker_wrote() {
        assert_eq!(of(&library(Some("libthing.so.1"))).as_deref(), Some("libthing.so.1"));
        assert_eq!(of(&library(None)), None);
        assert_eq!(of(&library(Some("../thing"))), None);
        assert_eq!(of(b""), None);
        assert_eq!(of(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn damaged_files_are_none_or_have_a_name() {
        let good = library(Some("libthing.so.1"));
        for length in 0..good.len().min(2000) {
            let _ = of(&good[..length]);
        }
        proptest!(|(at in 0..4096_usize, byte in any::<u8>())| {
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Some(name) = of(&bytes) {
                prop_assert!(!name.contains('/'));
            }
        });
    }
}
