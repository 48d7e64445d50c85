//! Whether somebody whose key is known has signed what a SIF file runs. Runs in a worker, which has nothing but the
//! descriptors: the file, the key rings. OpenPGP itself comes from the program that has the worker in it, so that nothing
//! of it is in the library.
#![forbid(unsafe_code)]

use super::sif::integrity::{Algorithm, Hasher, Metadata};
use super::sif::{Kind, Object, Sif};
use super::{Part, read, read_sif};
use crate::error::{Error, Result};
use crate::image::Platform;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// More signatures than anybody looks at.
const MAX_SIGNATURES: usize = 64;
/// The largest signature that is read, in bytes.
const MAX_SIGNATURE: u64 = 1 << 20;
/// How much is hashed at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Checks messages with signatures against key rings; an error of its own means that the key rings cannot be used.
pub type OpenPgp = fn(keyrings: &[Vec<u8>], messages: &[Vec<u8>]) -> Result<Vec<Result<Message>>>;

/// A message whose signature is good and by a key of the key rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What was signed.
    pub text: Vec<u8>,
    /// The signer.
    pub signer: Signer,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// The fingerprint of his key, in capital hexadecimal digits.
    pub fingerprint: String,
    /// What the key says who he is.
    pub name: String,
}

/// What was found out about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The object that is run.
    pub run: u32,
    /// The good signatures, which all cover it. At least one.
    pub good: Vec<Good>,
    /// The other signatures, and what is wrong with them.
    pub bad: Vec<(u32, String)>,
}

/// A good signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// The object that it is.
    pub signature: u32,
    /// Whose it is.
    pub signer: Signer,
    /// The objects that he signed and that have not changed.
    pub signed: Vec<u32>,
}

/// Verifies that what is run was signed. `part` is where it is, if that was found out before.
pub fn verify(file: &OwnedFd, part: Option<Part>, keyrings: &[Vec<u8>], open_pgp: OpenPgp) -> Result<Verified> {
    let sif = read_sif(file)?.ok_or_else(|| Error::Image("only SIF files can be signed".to_owned()))?;
    let run = sif.primary(&Platform::host().architecture)?;
    if part.is_some_and(|part| part != run.part) {
        return Err(Error::Image("the file was changed meanwhile".to_owned()));
    }
    let signatures: Vec<&Object> = sif.signatures_of(run).take(MAX_SIGNATURES).collect();
    if signatures.is_empty() {
        return Err(Error::Image("it is not signed".to_owned()));
    }
    let texts = signatures.iter().map(|signature| read_signature(file, signature));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let mut hashes = Hashes {
        file,
        known: BTreeMap::new(),
    };
    let mut verified = Verified {
        run: run.id,
        good: Vec::new(),
        bad: Vec::new(),
    };
    for (signature, message) in signatures.iter().zip(open_pgp(keyrings, &texts)?) {
        match message.and_then(|message| check(&sif, run, signature, message, &mut hashes)) {
            Ok(good) => verified.good.push(good),
            Err(error @ Error::Image(_)) => verified.bad.push((signature.id, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    match (verified.good.is_empty(), verified.bad.first()) {
        (true, Some((id, why))) => Err(Error::Image(format!("signature {id}: {why}"))),
        _ => Ok(verified),
    }
}

fn check(sif: &Sif, run: &Object, signature: &Object, message: Message, hashes: &mut Hashes<'_>) -> Result<Good> {
    let Message { text, signer } = message;
    let named = match signature.kind {
        Kind::Signature { fingerprint } => hex(&fingerprint),
        _ => String::new(),
    };
    if !signer.fingerprint.starts_with(&named) {
        return Err(Error::Image(format!(
            "it says that it is by {named}, and is by {}",
            signer.fingerprint
        )));
    }
    let signed = Metadata::parse(&text)?.check(sif, run, &mut |part, algorithm| hashes.of(part, algorithm))?;
    Ok(Good {
        signature: signature.id,
        signer,
        signed,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn read_signature(file: &OwnedFd, signature: &Object) -> Result<Vec<u8>> {
    if signature.part.size > MAX_SIGNATURE {
        let size = signature.part.size;
        return Err(Error::Image(format!("signature {} has {size} bytes", signature.id)));
    }
    read(file, signature.part)
}

/// The hashes of pieces of a file, each made once.
struct Hashes<'a> {
    file: &'a OwnedFd,
    known: BTreeMap<(u64, u64, Algorithm), Vec<u8>>,
}

impl Hashes<'_> {
    fn of(&mut self, part: Part, algorithm: Algorithm) -> Result<Vec<u8>> {
        let key = (part.offset, part.size, algorithm);
        if let Some(hash) = self.known.get(&key) {
            return Ok(hash.clone());
        }
        let hash = hash(self.file, part, algorithm)?;
        self.known.insert(key, hash.clone());
        Ok(hash)
    }
}

fn hash(file: &OwnedFd, part: Part, algorithm: Algorithm) -> Result<Vec<u8>> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < part.size {
        let wanted = usize::try_from(part.size - done).unwrap_or(CHUNK).min(CHUNK);
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        match rustix::io::pread(file.as_fd(), room, part.offset + done) {
            Ok(0) => return Err(Error::Image("the file has become shorter meanwhile".to_owned())),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                done += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::sys("verify the image", "pread", error)),
        }
    }
    Ok(hasher.finish())
}
