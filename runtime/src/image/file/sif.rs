//! The Singularity image format: a header, a table of descriptors, and the objects that they describe, one of them the
//! file system that is meant to be run. Pure: bytes in, values out. The layout is that of the reference implementation
//! (sylabs/sif, pkg/sif: `header` and `rawDescriptor`), packed and little-endian.
//!
//! A file is refused as a whole when its table contradicts itself: who checks one object of it must be able to rely on
//! the others.
#![forbid(unsafe_code)]

pub mod integrity;
mod object;
pub mod write;

use super::Part;
use crate::error::{Error, Result};
pub use object::{FileSystem, Kind, Link, Object, Partition, Role};

/// Bytes of the header.
pub const HEADER: usize = 128;
/// Where the magic stands, behind the interpreter line.
const MAGIC_AT: usize = 32;
const MAGIC: &[u8; 10] = b"SIF_MAGIC\0";
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 585;
/// More descriptors than any tool writes.
const MAX_DESCRIPTORS: u64 = 4096;

/// The file begins like a SIF file.
pub fn is_sif(head: &[u8]) -> bool {
    head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where the descriptors are.
    pub table: Part,
    /// The bytes of it that signatures cover.
    signed: Vec<u8>,
}

impl Header {
    /// Reads the header of a file of `size` bytes from its first [`HEADER`] bytes.
    pub fn parse(head: &[u8], size: u64) -> Result<Self> {
        let head = head.get(..HEADER).ok_or_else(|| bad("it is shorter than its header"))?;
        if !is_sif(head) {
            return Err(bad("it does not begin as one"));
        }
        let fields = Fields(head);
        if fields.bytes(42, 3) != b"01\0" {
            return Err(bad("its version is not 01"));
        }
        let total = fields.u64(88);
        if total == 0 || total > MAX_DESCRIPTORS {
            return Err(bad(&format!("it claims to have {total} descriptors")));
        }
        let table = Part {
            offset: fields.u64(96),
            size: total * DESCRIPTOR as u64,
        };
        within(table, size, "the table of descriptors")?;
        if table.offset < HEADER as u64 {
            return Err(bad("its table of descriptors overlaps its header"));
        }
        Ok(Header {
            table,
            signed: integrity::of_header(&fields),
        })
    }
}

/// A SIF file whose parts are all within it, and none in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sif {
    /// The objects, in the order of the table.
    pub objects: Vec<Object>,
    header: Header,
}

impl Sif {
    /// Reads the descriptors of a file of `size` bytes; `table` is what the header's [`Header::table`] points to.
    pub fn parse(header: Header, table: &[u8], size: u64) -> Result<Self> {
        if table.len() as u64 != header.table.size {
            return Err(bad("its table of descriptors is cut off; is it truncated?"));
        }
        let used = table
            .chunks_exact(DESCRIPTOR)
            .map(Fields)
            .filter(|fields| fields.bytes(4, 1) != [0]);
        let objects = used
            .map(|fields| Object::parse(&fields, size))
            .collect::<Result<Vec<_>>>()?;
        check_ids(&objects)?;
        check_overlap(&objects, header.table)?;
        Ok(Sif { objects, header })
    }

    /// The object to run: the primary partition for `machine`, which must be a squashfs file system.
    pub fn primary(&self, machine: &str) -> Result<&Object> {
        let primaries = self.objects.iter().filter_map(|object| match object.kind {
            Kind::Partition(partition) if partition.role == Role::Primary => Some((object, partition)),
            _ => None,
        });
        let (ours, others): (Vec<_>, Vec<_>) = primaries.partition(|(_, partition)| partition.machine == machine);
        match (ours.as_slice(), others.first()) {
            ([(object, partition)], _) => {
                check_file_system(partition.file_system)?;
                Ok(object)
            }
            ([], Some((_, other))) => Err(bad(&format!(
                "it is for {}, and this machine is {machine}",
                other.machine
            ))),
            ([], None) if self.has(|kind| matches!(kind, Kind::OciRootIndex | Kind::OciBlob)) => Err(bad(
                "it has an OCI image in it instead of a file system: build it without --oci",
            )),
            ([], None) => Err(bad("it has no primary partition")),
            (_, _) => Err(bad("it has more than one primary partition")),
        }
    }

    /// It has a file system that is meant to take what is written.
    pub fn has_overlay(&self) -> bool {
        self.has(|kind| matches!(kind, Kind::Partition(partition) if partition.role == Role::Overlay))
    }

    /// The signatures that may cover `object`: those of its group, and its own.
    pub fn signatures_of<'a>(&'a self, object: &'a Object) -> impl Iterator<Item = &'a Object> {
        self.objects.iter().filter(|other| {
            let linked = match other.link {
                Link::Group(group) => object.group == Some(group),
                Link::Object(id) => object.id == id,
                Link::None => false,
            };
            linked && matches!(other.kind, Kind::Signature { .. })
        })
    }

    fn has(&self, wanted: impl Fn(&Kind) -> bool) -> bool {
        self.objects.iter().any(|object| wanted(&object.kind))
    }
}

fn check_file_system(file_system: FileSystem) -> Result<()> {
    match file_system {
        FileSystem::Squashfs => Ok(()),
        FileSystem::Ext3 => Err(bad(
            "its root file system is ext3, which is not mounted for users; rebuild it",
        )),
        FileSystem::EncryptedSquashfs | FileSystem::Gocryptfs => Err(bad(
            "its root file system is encrypted, and nothing here asks for keys; rebuild it without encryption",
        )),
        FileSystem::Other(number) => Err(bad(&format!("the kind {number} of its root file system is unknown"))),
    }
}

fn check_ids(objects: &[Object]) -> Result<()> {
    let mut ids: Vec<u32> = objects.iter().map(|object| object.id).collect();
    ids.sort_unstable();
    if ids.first() == Some(&0) {
        return Err(bad("one of its objects has the id 0"));
    }
    let twice = ids.iter().zip(ids.iter().skip(1)).find(|(id, next)| id == next);
    match twice {
        Some((id, _)) => Err(bad(&format!("two of its objects have the id {id}"))),
        None => Ok(()),
    }
}

/// No byte belongs to two things. What is empty is nowhere.
fn check_overlap(objects: &[Object], table: Part) -> Result<()> {
    let mut places: Vec<(Part, String)> = objects
        .iter()
        .map(|object| (object.part, format!("object {}", object.id)))
        .collect();
    places.push((table, "its table of descriptors".to_owned()));
    places.push((
        Part {
            offset: 0,
            size: HEADER as u64,
        },
        "its header".to_owned(),
    ));
    places.retain(|(part, _)| part.size > 0);
    places.sort_by_key(|(part, _)| part.offset);
    let overlap = places
        .iter()
        .zip(places.iter().skip(1))
        // All ends were found to be within the file.
        .find(|((part, _), (next, _))| part.offset.saturating_add(part.size) > next.offset);
    match overlap {
        Some(((_, one), (_, other))) => Err(bad(&format!("{one} and {other} overlap"))),
        None => Ok(()),
    }
}

fn within(part: Part, size: u64, what: &str) -> Result<()> {
    match part.offset.checked_add(part.size) {
        Some(end) if end <= size => Ok(()),
        _ => Err(bad(&format!(
            "{what} ({} bytes at {}) is not within its {size} bytes; is it truncated?",
            part.size, part.offset
        ))),
    }
}

fn bad(why: &str) -> Error {
    Error::Image(format!("not a good SIF file: {why}"))
}

/// Little-endian numbers at their places; what lies outside is zero, and no place that is looked at does.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&self, at: usize, length: usize) -> &'a [u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn number(&self, at: usize, length: usize) -> u64 {
        let bytes = self.bytes(at, length).iter().rev();
        bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::try_from(self.number(at, 4)).unwrap_or(0)
    }

    fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }
}

#[cfg(test)]
mod tests;
