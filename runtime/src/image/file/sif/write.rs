//! A SIF file of one thing, the file system that is meant to be run: what goes before it. Pure.
#![forbid(unsafe_code)]

use super::object::code;
use super::{DESCRIPTOR, HEADER, MAGIC, bad};
use crate::error::Result;

/// Where the file system begins: behind header and descriptor, at a page.
pub const DATA: u64 = 4096;
/// What makes it a program that others run.
const LAUNCH: &[u8] = b"#!/usr/bin/env run-singularity\n";
const VERSION: &[u8] = b"01\0";
const PARTITION: u32 = 0x4004;
/// The first of all groups.
const GROUP: u32 = 0xf000_0001;
const SQUASHFS: u32 = 1;
const PRIMARY: u32 = 2;

/// What is said of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Bytes of the file system.
    pub size: u64,
    /// The machine that it is for, as Go calls it.
    pub machine: &'a str,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// A number that no other file has.
    pub id: [u8; 16],
    /// What the object is called.
    pub name: &'a str,
}

/// The first [`DATA`] bytes of the file.
pub fn head(facts: &Facts<'_>) -> Result<Vec<u8>> {
    let machine = code(facts.machine)
        .ok_or_else(|| bad(&format!("the format has no number for the machine {}", facts.machine)))?;
    let mut head = Vec::with_capacity(DATA as usize);
    put(&mut head, LAUNCH, 32);
    put(&mut head, MAGIC, 10);
    put(&mut head, VERSION, 3);
    put(&mut head, machine, 3);
    put(&mut head, &facts.id, 16);
    let (one, table) = (1, HEADER as u64);
    for number in [
        facts.made,
        facts.made,
        0,
        one,
        table,
        DESCRIPTOR as u64,
        DATA,
        facts.size,
    ] {
        put(&mut head, &number.to_le_bytes(), 8);
    }
    put(&mut head, &PARTITION.to_le_bytes(), 4);
    put(&mut head, &[1], 1);
    for number in [1, GROUP, 0] {
        put(&mut head, &u32::to_le_bytes(number), 4);
    }
    for number in [DATA, facts.size, facts.size, facts.made, facts.made, 0, 0] {
        put(&mut head, &number.to_le_bytes(), 8);
    }
    let name = facts.name.as_bytes();
    put(&mut head, name.get(..name.len().min(127)).unwrap_or_default(), 128);
    put(&mut head, &SQUASHFS.to_le_bytes(), 4);
    put(&mut head, &PRIMARY.to_le_bytes(), 4);
    put(&mut head, machine, 3);
    head.resize(DATA as usize, 0);
    Ok(head)
}

/// Adds bytes, and zeros until they are `length`.
fn put(head: &mut Vec<u8>, bytes: &[u8], length: usize) {
    let end = head.len() + length;
    head.extend_from_slice(bytes);
    head.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::super::{Header, Kind, Sif};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let facts = Facts {
            size: 12345,
            machine: "arm64",
            made: 1_700_000_000,
            id: [7; 16],
            name: &"x".repeat(200),
        };
        let head = head(&facts).unwrap();
        let size = DATA + facts.size;
        let header = Header::parse(&head, size).unwrap();
        let table = &head[header.table.offset as usize..][..header.table.size as usize];
        let sif = Sif::parse(header.clone(), table, size).unwrap();
        let object = sif.primary("arm64").unwrap();
        assert_eq!((object.id, object.part.offset, object.part.size), (1, DATA, 12345));
        assert!(matches!(object.kind, Kind::Partition(_)) && object.name.len() == 127);
        let error = super::head(&Facts {
            machine: "vax",
            ..facts
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("vax"), "{error}");
    }
}
