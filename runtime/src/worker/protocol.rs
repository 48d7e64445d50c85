//! What a worker process is told and what it answers: one JSON request on its standard input, JSON lines on its
//! standard output, the last of them the result. Files travel as inherited file descriptors with fixed numbers.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::file::Part;
use crate::image::local::Ask;
use crate::image::{BlobDescriptor, CredentialQuery, Credentials, Manifest, Platform, RegistryConfig};
use crate::pack::{Options, Summary};
use crate::reference::{Form, Reference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};

/// File descriptor of the output file of a `layer` worker.
pub const LAYER_OUTPUT: i32 = 3;
/// The first file descriptor of the output files of a `download` worker.
pub const FIRST_OUTPUT: i32 = 3;
/// The first file descriptor of what an `inspect` worker looks at.
pub const FIRST_INPUT: i32 = 3;
/// File descriptor of the image of a `verify` worker.
pub const VERIFY_IMAGE: i32 = 3;
/// The first file descriptor of its key rings.
pub const FIRST_KEYRING: i32 = 4;
/// Largest request a worker reads, in bytes.
const MAX_REQUEST: u64 = 16 << 20;
/// Largest line of an answer, in bytes. Who reads it is root, and who writes it may be in the hands of a registry, or of
/// the user.
const MAX_LINE: u64 = 16 << 20;

/// The roles of the worker program; the role is its only argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks the name service who the user is.
    Lookup,
    /// Reads the user's registry credentials, as the user.
    Credentials,
    /// Asks the registry for a manifest.
    Resolve,
    /// Downloads blobs, or reads them from files; starts a `layer` worker for each layer.
    Download,
    /// Finds an image in a directory or archive.
    Inspect,
    /// Makes of a stream a plain file.
    Spool,
    /// Turns one layer's blob into a pack.
    Layer,
    /// Checks the signatures of an image file.
    Verify,
}

impl Role {
    const ALL: [(Role, &'static str); 8] = [
        (Role::Lookup, "lookup"),
        (Role::Credentials, "credentials"),
        (Role::Resolve, "resolve"),
        (Role::Download, "download"),
        (Role::Inspect, "inspect"),
        (Role::Spool, "spool"),
        (Role::Layer, "layer"),
        (Role::Verify, "verify"),
    ];

    /// The role's name on the command line.
    pub fn name(self) -> &'static str {
        Role::ALL
            .iter()
            .find(|(role, _)| *role == self)
            .map_or("", |(_, name)| name)
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Role::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(role, _)| *role)
    }
}

/// Whom to look up.
#[derive(Debug, Serialize, Deserialize)]
pub struct LookupRequest {
    /// The user.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
}

/// What the name service knows; lines in the form of passwd(5) and group(5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// The user's entry, if there is one.
    pub user: Option<Account>,
    /// Name of the user's primary group, if it has one.
    pub group: Option<String>,
}

/// An entry of passwd(5), as far as a container needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Account {
    pub name: String,
    pub gecos: String,
    pub home: String,
    pub shell: String,
}

/// Whose password for which registry.
#[derive(Debug, Serialize, Deserialize)]
pub struct CredentialsRequest {
    /// What is asked.
    pub query: CredentialQuery,
    /// The job's environment: where the user keeps credentials, and the variables that `.credentials` may name.
    pub env: BTreeMap<String, String>,
}

/// What is known about the user's credentials so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum KnownCredentials {
    /// Nobody has asked yet.
    NotAsked,
    /// The user has these, or none.
    Asked(Option<Credentials>),
}

/// Which manifest to get.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResolveRequest {
    /// The image.
    pub reference: Reference,
    /// The wanted platform.
    pub platform: Platform,
    /// How to reach registries.
    pub registry: RegistryConfig,
    /// The user's credentials.
    pub credentials: KnownCredentials,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Resolved {
    /// The manifest.
    Manifest(Manifest),
    /// The registry wants credentials: ask the user's files this and come again.
    NeedCredentials(CredentialQuery),
}

/// What to look for, in the files from [`FIRST_INPUT`] on: the archive, or the layout's own two files and then the documents.
#[derive(Debug, Serialize, Deserialize)]
pub struct InspectRequest {
    /// The image.
    pub ask: Ask,
    /// What it is in.
    pub form: Form,
    /// The digests of the documents that were given.
    pub documents: Vec<Digest>,
}

/// Where blobs come from.
#[derive(Debug, Serialize, Deserialize)]
pub enum Supply {
    /// A registry.
    Registry {
        /// The image.
        reference: Reference,
        /// How to reach registries.
        registry: Box<RegistryConfig>,
        /// The user's credentials.
        credentials: KnownCredentials,
    },
    /// Files, whose descriptors follow those of the output files; each blob begins at this place.
    Files(Vec<u64>),
}

/// Which blobs to get.
#[derive(Debug, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// Where from.
    pub supply: Supply,
    /// The blobs; the n-th goes to the file with descriptor `FIRST_OUTPUT + n`.
    pub items: Vec<Item>,
    /// How packs are written.
    pub pack: Options,
    /// Blobs that are read at a time.
    pub connections: usize,
}

/// One blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its digest and size.
    pub descriptor: BlobDescriptor,
}

/// What becomes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemKind {
    /// Kept as it is.
    Config,
    /// Turned into a pack.
    Layer,
}

/// What to verify.
#[derive(Debug, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// What will be mounted of the file.
    pub part: Option<Part>,
    /// How many key rings there are; the n-th has the descriptor `FIRST_KEYRING + n`.
    pub keyrings: usize,
}

/// A line of a worker's output.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line<T> {
    /// How far it is.
    Progress(Progress),
    /// An item of a download is whole and verified.
    Finished {
        /// Index of the item.
        item: usize,
        /// What was written, for a layer.
        summary: Option<Summary>,
    },
    /// The end: the result.
    Done(Result<T>),
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes received.
    pub bytes: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// Reads the request from `input`, to its end.
pub fn read_request<T: DeserializeOwned>(input: impl Read) -> Result<T> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_REQUEST).read_to_end(&mut bytes);
    read.map_err(|error| Error::sys("start the worker", "read(request)", error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Host(format!("the worker got a bad request: {error}")))
}

/// Writes one line of the answer.
pub fn write_line<T: Serialize>(output: &mut impl Write, line: &Line<T>) -> Result<()> {
    let failed = |error: std::io::Error| Error::sys("answer", "write", error);
    let mut text = serde_json::to_vec(line).map_err(|error| Error::Host(format!("answer: {error}")))?;
    text.push(b'\n');
    output.write_all(&text).and_then(|()| output.flush()).map_err(failed)
}

/// Reads lines until the result; `progress` sees those before it. `None`: the worker ended without a result.
pub fn read_answer<T: DeserializeOwned>(
    mut input: impl BufRead,
    mut progress: impl FnMut(Line<T>) -> Result<()>,
) -> Result<Option<T>> {
    while let Some(text) = read_line(&mut input)? {
        let line = serde_json::from_slice(&text)
            .map_err(|error| Error::Host(format!("the worker gave an answer that cannot be read: {error}")))?;
        match line {
            Line::Done(result) => return result.map(Some),
            other => progress(other)?,
        }
    }
    Ok(None)
}

/// The next line, if there is one.
fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let length = input
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut text)
        .map_err(|error| Error::sys("listen to the worker", "read", error))?;
    if length as u64 == MAX_LINE {
        return Err(Error::Host(format!(
            "the worker gave an answer of more than {MAX_LINE} bytes"
        )));
    }
    Ok((length > 0).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_result() {
        let mut text = Vec::new();
        write_line::<u32>(&mut text, &Line::Progress(Progress { bytes: 1, total: 2 })).unwrap();
        write_line::<u32>(&mut text, &Line::Done(Ok(7))).unwrap();
        let mut seen = 0;
        let answer = read_answer::<u32>(&text[..], |_| {
            seen += 1;
            Ok(())
        });
        assert_eq!((answer.unwrap(), seen), (Some(7), 1));
        assert_eq!(read_answer::<u32>(&b""[..], |_| Ok(())).unwrap(), None);
    }

    /// Root reads this, and the user can write it: credentials are looked up by a process of his.
    #[test]
    fn an_answer_without_an_end_is_refused() {
        let endless = std::io::BufReader::new(std::io::repeat(b'a'));
        let text = read_answer::<u32>(endless, |_| Ok(())).unwrap_err().to_string();
        assert!(text.contains("an answer of more than"), "{text}");
    }

    #[test]
    fn an_error_travels_whole() {
        let mut text = Vec::new();
        let error = Error::Image("layer is truncated".into());
        write_line::<u32>(&mut text, &Line::Done(Err(error.clone()))).unwrap();
        assert_eq!(read_answer::<u32>(&text[..], |_| Ok(())).unwrap_err(), error);
    }

    #[test]
    fn every_role_has_its_name() {
        for (role, name) in Role::ALL {
            assert_eq!((Role::from_name(name), role.name()), (Some(role), name));
        }
        assert_eq!(Role::from_name("x"), None);
    }
}
