//! What a file is linked with, and how others link with it. A file may be anything: what does not fit is not there.
#![forbid(unsafe_code)]

use super::{ORDER, half};

/// A 64-bit file of this machine's byte order.
const IDENT: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, ORDER];
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
/// Program headers and bytes of the dynamic section of the largest library are far below.
const MOST_HEADERS: usize = 256;
const MAX_DYNAMIC: usize = 64 << 10;
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4095;
const MOST_NEEDED: usize = 256;

/// A part of the file that is loaded somewhere.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// What a program or library says of itself. Names are those of files, without directories.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Linking {
    /// The program that loads it (`PT_INTERP`): an absolute path.
    pub interpreter: Option<String>,
    /// Under which name programs ask the loader for it (`DT_SONAME`).
    pub soname: Option<String>,
    /// The libraries that it asks the loader for (`DT_NEEDED`).
    pub needed: Vec<String>,
}

/// Reads it; `None` when it is no file of this format. `read` gives as many bytes from an offset, or fewer at the end.
pub fn linking(read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<Linking> {
    let header = read(0, HEADER)?;
    if !header.starts_with(&IDENT) || usize::from(half(&header, 54)?) != PROGRAM_HEADER {
        return None;
    }
    let count = usize::from(half(&header, 56)?).min(MOST_HEADERS);
    let table = read(word(&header, 32)?, count * PROGRAM_HEADER)?;
    let segments: Vec<Segment> = table.chunks_exact(PROGRAM_HEADER).filter_map(segment).collect();
    let text = |offset: u64, most: usize| {
        let bytes = read(offset, most + 1)?;
        let text = bytes
            .split(|byte| *byte == 0)
            .next()
            .filter(|text| text.len() <= most)?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    };
    let of_kind = |kind: u64| segments.iter().find(|segment| segment.kind == kind);
    let interpreter = of_kind(PT_INTERP).and_then(|segment| text(segment.offset, MAX_PATH));
    let found = Linking {
        interpreter: interpreter.filter(|path| path.starts_with('/')),
        ..Linking::default()
    };
    let Some(dynamic) = of_kind(PT_DYNAMIC) else {
        return Some(found);
    };
    let dynamic = read(dynamic.offset, usize::try_from(dynamic.size).ok()?.min(MAX_DYNAMIC))?;
    let values = |tag: u64| {
        let entries = dynamic.chunks_exact(16);
        let tagged = entries.filter(move |entry| word(entry, 0) == Some(tag));
        tagged.filter_map(|entry| word(entry, 8))
    };
    let name = |at: u64| {
        let address = values(DT_STRTAB).next()?.checked_add(at)?;
        text(offset_of(&segments, address)?, MAX_NAME).filter(|name| is_file_name(name))
    };
    Some(Linking {
        soname: values(DT_SONAME).next().and_then(name),
        needed: values(DT_NEEDED).take(MOST_NEEDED).filter_map(name).collect(),
        ..found
    })
}

/// Where in the file is what will have this address.
fn offset_of(segments: &[Segment], address: u64) -> Option<u64> {
    let within = |segment: &&Segment| {
        let from = address.checked_sub(segment.address);
        segment.kind == PT_LOAD && from.is_some_and(|from| from < segment.size)
    };
    let segment = segments.iter().find(within)?;
    segment.offset.checked_add(address.checked_sub(segment.address)?)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
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

    fn of(bytes: &[u8]) -> Option<Linking> {
        linking(|at, length| {
            let rest = bytes.get(usize::try_from(at).ok()?..)?;
            Some(rest[..length.min(rest.len())].to_vec())
        })
    }

    fn soname_of(bytes: &[u8]) -> Option<String> {
        of(bytes)?.soname
    }

    #[test]
    fn what_the_linker_wrote() {
        let named = library(Some("libthing.so.1"));
        assert_eq!(soname_of(&named).as_deref(), Some("libthing.so.1"));
        assert_eq!(soname_of(&library(None)), None);
        assert_eq!(soname_of(&library(Some("../thing"))), None);
        assert_eq!(of(b""), None);
        assert_eq!(of(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let found = of(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(found.interpreter.is_some_and(|path| std::fs::exists(path).unwrap()));
        assert!(
            found.needed.iter().any(|name| name == "libc.so.6"),
            "{:?}",
            found.needed
        );
        assert_eq!(found.soname, None);
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("empty.c"), directory.path().join("empty"));
        std::fs::write(&source, "void _start(void) {}\n").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-static", "-nostdlib", "-o"]).arg(&program).arg(&source);
        assert!(cc.status().unwrap().success());
        assert_eq!(of(&std::fs::read(program).unwrap()), Some(Linking::default()));
    }

    #[test]
    fn damaged_files_are_none_or_have_names() {
        let good = library(Some("libthing.so.1"));
        for length in 0..good.len().min(2000) {
            let _ = of(&good[..length]);
        }
        proptest!(|(at in 0..4096_usize, byte in any::<u8>())| {
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Some(found) = of(&bytes) {
                prop_assert!(found.soname.iter().chain(&found.needed).all(|name| is_file_name(name)));
            }
        });
    }
}
