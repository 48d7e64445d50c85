//! What the signer of a SIF file has signed: digests of its header, of descriptors and of objects, as JSON in the text of
//! his signature (sylabs/sif, pkg/integrity: `imageMetadata`). Pure: the bytes of objects are hashed by who calls. Nothing
//! here looks at the signature itself.
#![forbid(unsafe_code)]

use super::{Fields, Object, Part, Sif, bad};
use crate::error::{Error, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512, Sha512_256};
use std::collections::BTreeMap;

/// The text of a signature of Singularity before 3.6 begins so.
const LEGACY: &[u8] = b"SIFHASH:";

/// The fields of the header that are signed: those that no tool changes later.
pub(super) fn of_header(fields: &Fields<'_>) -> Vec<u8> {
    // Interpreter line, magic and version; the identifier of the image.
    [fields.bytes(0, 45), fields.bytes(48, 16)].concat()
}

/// The fields of a descriptor that are signed, around the number that stands in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    before: Vec<u8>,
    after: Vec<u8>,
}

pub(super) fn of_descriptor(fields: &Fields<'_>) -> Descriptor {
    Descriptor {
        // The kind, and that the descriptor is in use.
        before: [fields.bytes(0, 4), &[1]].concat(),
        // The link; the size; when it was made; user and group; name and extra bytes. Not where it is.
        after: [
            fields.bytes(13, 4),
            fields.bytes(25, 8),
            fields.bytes(41, 8),
            fields.bytes(57, 528),
        ]
        .concat(),
    }
}

impl Descriptor {
    fn numbered(&self, relative: u32) -> Vec<u8> {
        [self.before.as_slice(), &relative.to_le_bytes(), &self.after].concat()
    }
}

/// Hash functions that are good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
    Sha512Of256,
}

/// A hash function at work.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
    /// SHA-512/256.
    Sha512Of256(Sha512_256),
}

impl Hasher {
    /// One that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
            Algorithm::Sha512Of256 => Hasher::Sha512Of256(Sha512_256::new()),
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha384(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
            Hasher::Sha512Of256(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all of them.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha384(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha512(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha512Of256(hasher) => hasher.finalize().to_vec(),
        }
    }
}

/// A digest as `sha256:` and hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Digest {
    algorithm: Algorithm,
    value: Vec<u8>,
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, digits) = text.split_once(':').ok_or("a digest without a hash function")?;
        let (algorithm, size) = match name {
            "sha256" => (Algorithm::Sha256, 32),
            "sha384" => (Algorithm::Sha384, 48),
            "sha512" => (Algorithm::Sha512, 64),
            "sha512_256" => (Algorithm::Sha512Of256, 32),
            _ => {
                return Err(format!(
                    "the hash function {name:?} is too weak, or unknown: sign with SHA-256"
                ));
            }
        };
        let value = unhex(digits).filter(|value| value.len() == size);
        Ok(Digest {
            algorithm,
            value: value.ok_or("a digest of the wrong length")?,
        })
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| pairs.map(byte).collect())
        .flatten()
}

impl Digest {
    fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == self.value
    }
}

/// The text of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    version: u32,
    header: SignedHeader,
    objects: Vec<SignedObject>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SignedHeader {
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedObject {
    relative_id: u32,
    descriptor_digest: Digest,
    object_digest: Digest,
}

/// Hashes a piece of the file.
pub type Hash<'a> = &'a mut dyn FnMut(Part, Algorithm) -> Result<Vec<u8>>;

impl Metadata {
    /// Reads the text of a signature.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.starts_with(LEGACY) {
            return Err(Error::Image(
                "the signature was made by Singularity before 3.6 and does not cover what the image says of itself: sign it \
                 again"
                    .to_owned(),
            ));
        }
        let metadata: Metadata = serde_json::from_slice(text)
            .map_err(|error| Error::Image(format!("the text of the signature cannot be read: {error}")))?;
        match metadata.version {
            1 => Ok(metadata),
            other => Err(Error::Image(format!(
                "the text of the signature has the version {other}, and only 1 is known"
            ))),
        }
    }

    /// Compares with `sif`, whose objects `hash` hashes, and gives the numbers of the objects that were signed, all of which
    /// are as they were then. One of them is `wanted`.
    pub fn check(&self, sif: &Sif, wanted: &Object, hash: Hash<'_>) -> Result<Vec<u32>> {
        if !self.header.digest.matches(&sif.header.signed) {
            return Err(changed("its header"));
        }
        let signed = self.absolute(sif, wanted)?;
        if !signed.contains_key(&wanted.id) {
            return Err(Error::Image(format!(
                "the signature does not cover object {}, which is to be run",
                wanted.id
            )));
        }
        for (id, digests) in &signed {
            let object = sif.objects.iter().find(|object| object.id == *id);
            let object = object.ok_or_else(|| Error::Image(format!("object {id}, which was signed, is missing")))?;
            let descriptor = object.signed.numbered(digests.relative_id);
            if !digests.descriptor_digest.matches(&descriptor) {
                return Err(changed(&format!("the descriptor of object {id}")));
            }
            if hash(object.part, digests.object_digest.algorithm)? != digests.object_digest.value {
                return Err(changed(&format!("object {id} ({})", object.kind.name())));
            }
        }
        Ok(signed.into_keys().collect())
    }

    /// The signed objects by their numbers in the file. Those in the signature count from the smallest of the group.
    fn absolute(&self, sif: &Sif, wanted: &Object) -> Result<BTreeMap<u32, &SignedObject>> {
        let group = sif
            .objects
            .iter()
            .filter(|object| object.group.is_some() && object.group == wanted.group);
        let first = group
            .map(|object| object.id)
            .min()
            .ok_or_else(|| bad("what is to be run belongs to no group, so nobody can have signed it"))?;
        let mut signed = BTreeMap::new();
        for object in &self.objects {
            let id = first.checked_add(object.relative_id);
            let id = id.ok_or_else(|| Error::Image("the signature names an object that cannot be".to_owned()))?;
            if signed.insert(id, object).is_some() {
                return Err(Error::Image(format!("the signature names object {id} twice")));
            }
        }
        Ok(signed)
    }
}

fn changed(what: &str) -> Error {
    Error::Image(format!("{what} is not what was signed: the file was changed"))
}
