//! One object of a SIF file, as its descriptor says.
#![forbid(unsafe_code)]

use super::{DESCRIPTOR, Fields, Part, bad, integrity, within};
use crate::error::Result;
use crate::image::printable;

/// Where the fields that depend on the kind begin.
const EXTRA: usize = 201;
/// The bit pattern that says that a number is a group's.
const GROUP: u32 = 0xf000_0000;

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its number.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// The group that it belongs to.
    pub group: Option<u32>,
    /// What it is about.
    pub link: Link,
    /// Its bytes.
    pub part: Part,
    /// Its name, fit for a message.
    pub name: String,
    /// The bytes of its descriptor that signatures cover, but for its number.
    pub(super) signed: integrity::Descriptor,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The definition file that the image was built from.
    Definition,
    /// Variables.
    Environment,
    /// Labels, in JSON.
    Labels,
    /// A file system.
    Partition(Partition),
    /// A signature.
    Signature {
        /// The first 20 bytes of the fingerprint of the key, as the signer says; zero when he does not.
        fingerprint: [u8; 20],
    },
    /// JSON of any kind.
    Json,
    /// Anything.
    Generic,
    /// An encrypted key, or another message.
    Message,
    /// A bill of materials.
    Sbom,
    /// The index of an OCI image.
    OciRootIndex,
    /// A blob of an OCI image.
    OciBlob,
    /// Something that is newer than this program.
    Other(u32),
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// How it is stored.
    pub file_system: FileSystem,
    /// What it is for.
    pub role: Role,
    /// The machine that its programs run on, as the kernel and Go call it.
    pub machine: &'static str,
}

/// How a partition is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileSystem {
    Squashfs,
    Ext3,
    EncryptedSquashfs,
    Gocryptfs,
    Other(u32),
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root file system to run.
    Primary,
    /// Takes what is written.
    Overlay,
    /// Another system, or data.
    Other(u32),
}

/// What an object is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Nothing.
    None,
    /// Another object.
    Object(u32),
    /// All objects of a group.
    Group(u32),
}

impl Object {
    /// Reads a descriptor of a file of `size` bytes.
    pub(super) fn parse(fields: &Fields<'_>, size: u64) -> Result<Self> {
        let id = fields.u32(5);
        let part = Part {
            offset: fields.u64(17),
            size: fields.u64(25),
        };
        within(part, size, &format!("object {id}"))?;
        let kind = Kind::parse(fields);
        if part.size == 0 && matches!(kind, Kind::Partition(_) | Kind::Signature { .. }) {
            return Err(bad(&format!("object {id}, a partition or a signature, is empty")));
        }
        let name = fields.bytes(73, 128);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Object {
            id,
            kind,
            group: group(fields.u32(9)),
            link: link(fields.u32(13)),
            part,
            name: printable(&String::from_utf8_lossy(name)),
            signed: integrity::of_descriptor(fields),
        })
    }
}

impl Kind {
    /// The numbers of the reference implementation's `DataType`.
    fn parse(fields: &Fields<'_>) -> Self {
        match fields.u32(0) {
            0x4001 => Kind::Definition,
            0x4002 => Kind::Environment,
            0x4003 => Kind::Labels,
            0x4004 => Kind::Partition(Partition {
                file_system: file_system(fields.u32(EXTRA)),
                role: role(fields.u32(EXTRA + 4)),
                machine: machine(fields.bytes(EXTRA + 8, 2)),
            }),
            0x4005 => Kind::Signature {
                fingerprint: fields.bytes(EXTRA + 4, 20).try_into().unwrap_or_default(),
            },
            0x4006 => Kind::Json,
            0x4007 => Kind::Generic,
            0x4008 => Kind::Message,
            0x4009 => Kind::Sbom,
            0x400a => Kind::OciRootIndex,
            0x400b => Kind::OciBlob,
            other => Kind::Other(other),
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Definition => "definition file",
            Kind::Environment => "environment",
            Kind::Labels => "labels",
            Kind::Partition(_) => "partition",
            Kind::Signature { .. } => "signature",
            Kind::Json => "JSON",
            Kind::Generic => "data",
            Kind::Message => "message",
            Kind::Sbom => "bill of materials",
            Kind::OciRootIndex => "OCI index",
            Kind::OciBlob => "OCI blob",
            Kind::Other(_) => "unknown",
        }
    }
}

fn group(number: u32) -> Option<u32> {
    Some(number & !GROUP).filter(|group| *group != 0)
}

fn link(number: u32) -> Link {
    match (number & !GROUP, number & GROUP == GROUP) {
        (0, _) => Link::None,
        (group, true) => Link::Group(group),
        (id, false) => Link::Object(id),
    }
}

fn file_system(number: u32) -> FileSystem {
    match number {
        1 => FileSystem::Squashfs,
        2 => FileSystem::Ext3,
        5 => FileSystem::EncryptedSquashfs,
        6 => FileSystem::Gocryptfs,
        other => FileSystem::Other(other),
    }
}

fn role(number: u32) -> Role {
    match number {
        2 => Role::Primary,
        4 => Role::Overlay,
        other => Role::Other(other),
    }
}

/// Machines by their codes.
const MACHINES: [(&[u8], &str); 12] = [
    (b"01", "386"),
    (b"02", "amd64"),
    (b"03", "arm"),
    (b"04", "arm64"),
    (b"05", "ppc64"),
    (b"06", "ppc64le"),
    (b"07", "mips"),
    (b"08", "mipsle"),
    (b"09", "mips64"),
    (b"10", "mips64le"),
    (b"11", "s390x"),
    (b"12", "riscv64"),
];

fn machine(code: &[u8]) -> &'static str {
    let found = MACHINES.iter().find(|(known, _)| *known == code);
    found.map_or("an unknown machine", |(_, name)| name)
}

/// The code of a machine.
pub(super) fn code(machine: &str) -> Option<&'static [u8]> {
    let found = MACHINES.iter().find(|(_, name)| *name == machine);
    found.map(|(code, _)| *code)
}

// The name and the extra bytes end the descriptor.
const _: () = assert!(EXTRA + 384 == DESCRIPTOR);
