//! Where the blobs of one image come from, and what follows from that: who may use what is in the store already, for whom what
//! comes is, and who waits for whom.
#![forbid(unsafe_code)]

use super::local::Place;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::{BlobDescriptor, RegistryConfig};
use crate::reference::Reference;
use crate::store::Grantee;
use crate::sys::exec::MAX_TARGET;
use crate::worker::protocol::{FIRST_OUTPUT, Item, KnownCredentials, Supply};
use std::os::fd::OwnedFd;

/// Where blobs come from.
pub(super) enum Source<'a> {
    /// A registry.
    Registry {
        reference: &'a Reference,
        registry: &'a RegistryConfig,
        credentials: KnownCredentials,
    },
    /// A directory or an archive.
    Local(Place<'a>),
}

impl Source<'_> {
    /// Who asks.
    pub fn grantee(&self) -> Grantee<'_> {
        match self {
            Source::Registry { reference, .. } => Grantee::Repository(reference),
            Source::Local(place) => Grantee::User(place.uid),
        }
    }

    /// For whom is what comes.
    pub fn gives(&self) -> Grantee<'_> {
        match self {
            Source::Registry {
                credentials: KnownCredentials::NotAsked | KnownCredentials::Asked(None),
                ..
            } => Grantee::Everybody,
            other => other.grantee(),
        }
    }

    /// What is locked to import a layer: the layer as this repository serves it, or this user has it. A registry may list a
    /// layer of somebody else's image and then serve it for ever, and must not make the others wait; nor may a user.
    pub fn lock_of(&self, layer: &Digest) -> Digest {
        let whose = match self {
            Source::Registry { reference, .. } => format!("{}/{}", reference.registry(), reference.repository()),
            Source::Local(place) => format!("/uid/{}", place.uid),
        };
        Digest::of(format!("{whose}@{layer}").as_bytes())
    }

    /// How many blobs one worker can get: each is a descriptor that it inherits, and a file is one more.
    pub fn most(&self) -> usize {
        let room = usize::try_from(MAX_TARGET - FIRST_OUTPUT).unwrap_or(0);
        match self {
            Source::Registry { .. } => room.saturating_sub(1),
            Source::Local(_) => room / 2,
        }
    }

    /// How many are read at a time; `threads` work on each.
    pub fn connections(&self, threads: usize) -> usize {
        match self {
            Source::Registry { registry, .. } => registry.max_connections,
            Source::Local(_) => threads,
        }
    }

    /// What the worker is told, and the files that it gets.
    pub fn supply(&self, items: &[Item]) -> Result<(Supply, Vec<OwnedFd>)> {
        match self {
            Source::Registry {
                reference,
                registry,
                credentials,
            } => {
                let supply = Supply::Registry {
                    reference: (*reference).clone(),
                    registry: Box::new((*registry).clone()),
                    credentials: credentials.clone(),
                };
                Ok((supply, Vec::new()))
            }
            Source::Local(place) => {
                let opened = items.iter().map(|item| place.open_blob(&item.descriptor));
                let (files, offsets) = opened.collect::<Result<Vec<_>>>()?.into_iter().unzip();
                Ok((Supply::Files(offsets), files))
            }
        }
    }

    /// Whose it is, if not everybody's who may ask the registry.
    pub fn owner(&self) -> Option<u32> {
        match self {
            Source::Registry { .. } => None,
            Source::Local(place) => Some(place.uid),
        }
    }
}

/// A layer of ours to import, with its lock, unless somebody holds it who gets nowhere.
pub(super) struct Claim<'l> {
    pub layer: &'l BlobDescriptor,
    pub lock: Option<crate::lock::Lock>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ImageSource;

    #[test]
    fn nobody_waits_for_another_repository() {
        let layer = Digest::of(b"layer");
        let registry = RegistryConfig::default();
        let lock = |image: &str| match image.parse().unwrap() {
            ImageSource::Registry(reference) => Source::Registry {
                reference: &reference,
                registry: &registry,
                credentials: KnownCredentials::NotAsked,
            }
            .lock_of(&layer),
            other => panic!("{other}"),
        };
        assert_eq!(lock("debian:12"), lock("registry-1.docker.io#library/debian:13"));
        assert_ne!(lock("debian:12"), lock("evil.example#library/debian:12"));
        assert_ne!(lock("debian:12"), lock("mallory/debian:12"));
    }
}
