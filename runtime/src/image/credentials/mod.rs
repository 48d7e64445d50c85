//! Where a user's registry credentials are: enroot's `.credentials`, then Docker's `config.json`, then the files of podman
//! and skopeo. The parsers are pure; the reading runs in a process that is already the job's user, so that files are
//! opened with exactly the user's rights.
#![forbid(unsafe_code)]

mod docker;
mod helper;
mod netrc;

use super::secret::Secret;
use crate::bounded;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest credentials file that is read.
const MAX_FILE: u64 = 1 << 20;
/// The names under which people note down credentials for Docker Hub.
const HUB_NAMES: [&str; 4] = ["registry-1.docker.io", "docker.io", "index.docker.io", "auth.docker.io"];

/// Whose credentials are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialQuery {
    /// The registry: `host` or `host:port`.
    pub registry: String,
    /// The image's name on it: podman's files may have credentials for a part of a registry.
    pub repository: String,
    /// The host of the registry's token service, if it has one: enroot's users may have noted that one down.
    pub token_host: Option<String>,
    /// The login that the image reference names (`USER@`).
    pub login: Option<String>,
}

/// Credentials for one registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The login; may be empty with an identity token.
    pub login: String,
    /// What proves it.
    pub proof: Proof,
}

/// What proves a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// A password (or what a registry takes for one).
    Password(Secret),
    /// An OAuth2 refresh token (Docker's `identitytoken`).
    IdentityToken(Secret),
}

/// Who knows credentials. Asked at most once per image, and only when a registry wants some.
pub trait CredentialSource: Sync {
    /// The credentials that fit, if there are some.
    fn credentials(&self, query: &CredentialQuery) -> Result<Option<Credentials>>;
}

/// Knows none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredentials;

impl CredentialSource for NoCredentials {
    fn credentials(&self, _: &CredentialQuery) -> Result<Option<Credentials>> {
        Ok(None)
    }
}

/// The user's own files, found through these environment variables, read by this process with the rights that it has.
#[derive(Debug, Clone, Default)]
pub struct UserFiles {
    /// The user's environment: `HOME`, `ENROOT_CONFIG_PATH`, `DOCKER_CONFIG`, `REGISTRY_AUTH_FILE`, `XDG_*`, `PATH`, and
    /// whatever passwords in enroot's file refer to.
    pub variables: BTreeMap<String, String>,
}

impl CredentialSource for UserFiles {
    fn credentials(&self, query: &CredentialQuery) -> Result<Option<Credentials>> {
        lookup(query, &self.variables)
    }
}

/// Finds credentials in the user's files. A file that cannot be used is an error only when no other one has an answer.
pub fn lookup(query: &CredentialQuery, variables: &BTreeMap<String, String>) -> Result<Option<Credentials>> {
    let mut first_error = None;
    for place in places(variables) {
        match look_in(&place, query, variables) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// A file that may have credentials.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// enroot's.
    Netrc(PathBuf),
    /// Docker's and its kin.
    Docker(PathBuf),
}

/// The files in the order in which they count. Pure.
fn places(variables: &BTreeMap<String, String>) -> Vec<Place> {
    let get = |name: &str| variables.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = get("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let config = get("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let enroot = get("ENROOT_CONFIG_PATH").or_else(|| config.map(|config| config.join("enroot")));
    let docker = get("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    [
        enroot.map(|directory| Place::Netrc(directory.join(".credentials"))),
        docker.map(|directory| Place::Docker(directory.join("config.json"))),
        get("REGISTRY_AUTH_FILE").map(Place::Docker),
        get("XDG_RUNTIME_DIR").map(|directory| Place::Docker(directory.join("containers/auth.json"))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn look_in(
    place: &Place,
    query: &CredentialQuery,
    variables: &BTreeMap<String, String>,
) -> Result<Option<Credentials>> {
    match place {
        Place::Netrc(path) => {
            let Some(text) = read(path)? else { return Ok(None) };
            let name = path.display().to_string();
            netrc::find(&netrc::parse(&text, &name)?, query, &name, variables)
        }
        Place::Docker(path) => {
            let Some(text) = read(path)? else { return Ok(None) };
            let name = path.display().to_string();
            let file = docker::File::parse(&text, &name)?;
            match file
                .helper(query)
                .map(|helper| helper::ask(helper, &docker::server(query), &name, variables))
            {
                Some(Ok(Some(found))) if fits(&found, query) => Ok(Some(found)),
                Some(Err(error)) => file.find(query, &name)?.map_or(Err(error), |found| Ok(Some(found))),
                _ => file.find(query, &name),
            }
        }
    }
}

/// True if these are the wanted login's.
fn fits(found: &Credentials, query: &CredentialQuery) -> bool {
    let nameless = found.login.is_empty() && matches!(found.proof, Proof::IdentityToken(_));
    nameless || query.login.as_ref().is_none_or(|login| *login == found.login)
}

/// A file's text, if there is such a file.
fn read(path: &Path) -> Result<Option<String>> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::Request(format!("the credentials file {} cannot be read: {why}", path.display()))
    };
    match std::fs::metadata(path) {
        // Only regular files: opening a FIFO would wait for ever.
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(&error)),
    }
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    let bytes = bounded::read(file, MAX_FILE)
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| unreadable(&"it is larger than 1 MiB"))?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| unreadable(&"it is not text"))
}

/// The host of a `host:port`.
fn without_port(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    }
}

#[cfg(test)]
mod tests;
