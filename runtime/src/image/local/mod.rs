//! Images outside of a registry: a directory or a tar file in OCI layout, or a tar file as `docker save` writes it. What is
//! in them is a stranger's; this code runs in a worker that can do nothing else.
#![forbid(unsafe_code)]

pub mod docker;
pub mod layout;
pub mod members;

use super::manifest::{BlobDescriptor, Manifest};
use super::platform::Platform;
use super::printable;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::file::Part;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The largest document but the configuration, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Which image of those in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The only one.
    Only,
    /// The one with this tag, or this name and tag.
    Named(String),
    /// The only one, or of several the one with this tag.
    Rather(String),
}

/// What is asked of a place with images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The place, for messages.
    pub image: String,
    /// The machine.
    pub platform: Platform,
    /// Which image.
    pub wanted: Wanted,
}

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its manifest. An archive of Docker's has none, and its configuration's digest stands for it.
    pub manifest: Manifest,
    /// Its configuration.
    pub config: String,
    /// Where its layers are in an archive.
    pub places: Vec<(Digest, Part)>,
}

/// How far the search has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inspected {
    /// This document is needed.
    Needs(BlobDescriptor),
    /// All is known.
    Found(Box<Found>),
}

/// An image by the names that it has.
struct Candidate<'a, T> {
    names: Vec<&'a str>,
    /// What tells different images apart.
    id: String,
    entry: T,
}

impl Ask {
    /// The images that are meant: one, or variants of one for several machines, which have one name.
    fn choose<T>(&self, candidates: Vec<Candidate<'_, T>>) -> Result<Vec<T>> {
        let image = &self.image;
        if candidates.is_empty() {
            return Err(Error::Image(format!("{image} holds no image")));
        }
        let there = names(&candidates);
        let one = is_one(&candidates);
        let chosen = match &self.wanted {
            Wanted::Only | Wanted::Rather(_) if one => candidates,
            Wanted::Only => {
                return Err(Error::Request(format!(
                    "{image} holds several images: say which by a colon and one of {there}"
                )));
            }
            Wanted::Named(tag) | Wanted::Rather(tag) => named(tag, candidates),
        };
        match (chosen.is_empty(), is_one(&chosen)) {
            (true, _) => Err(Error::Request(format!("{image} has no such image, only {there}"))),
            (false, false) => Err(Error::Request(format!(
                "{image} holds several such images: say which of {there}"
            ))),
            (false, true) => Ok(chosen.into_iter().map(|candidate| candidate.entry).collect()),
        }
    }

    /// A document as it must be; `doing` names it.
    fn verified(&self, doing: &str, bytes: Vec<u8>, digest: &Digest) -> Result<Vec<u8>> {
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Error::Image(format!(
                "the {doing} of {} does not match its digest {digest}",
                self.image
            ))),
        }
    }
}

/// Those of this name; else those whose name ends in it.
fn named<'a, T>(wanted: &str, candidates: Vec<Candidate<'a, T>>) -> Vec<Candidate<'a, T>> {
    let exactly = |name: &str| name == wanted;
    let at_its_end = |name: &str| {
        name.strip_suffix(wanted)
            .is_some_and(|before| before.ends_with([':', '/']))
    };
    let has = |candidate: &Candidate<'a, T>, test: &dyn Fn(&str) -> bool| candidate.names.iter().any(|name| test(name));
    let exact = candidates.iter().any(|candidate| has(candidate, &exactly));
    let mut chosen = candidates;
    chosen.retain(|candidate| match exact {
        true => has(candidate, &exactly),
        false => has(candidate, &at_its_end),
    });
    chosen
}

/// They are the same image, or have the same name.
fn is_one<T>(candidates: &[Candidate<'_, T>]) -> bool {
    let ids: BTreeSet<_> = candidates.iter().map(|candidate| &candidate.id).collect();
    let names: BTreeSet<_> = candidates.iter().map(|candidate| &candidate.names).collect();
    ids.len() <= 1 || names.len() <= 1
}

fn names<T>(candidates: &[Candidate<'_, T>]) -> String {
    let mut names: Vec<_> = candidates
        .iter()
        .flat_map(|candidate| &candidate.names)
        .copied()
        .collect();
    names.sort_unstable();
    names.dedup();
    match names.is_empty() {
        true => "images without a name".to_owned(),
        false => printable(&names.join(", ")),
    }
}

/// JSON that an image was described with.
fn text(bytes: Vec<u8>, image: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::Image(format!("the configuration of {image} is not UTF-8 text")))
}
