//! The archives of `docker save`: `manifest.json` lists images, each with its configuration and its layers as members of the
//! archive. There is no digest of a layer but the diff id, which is that of the plain tar file.
#![forbid(unsafe_code)]

use super::members::Members;
use super::{Ask, Candidate, Found, MAX_DOCUMENT, text};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::file::Part;
use crate::image::manifest::{BlobDescriptor, Manifest};
use crate::image::{ImageConfig, MAX_CONFIG, printable};
use serde::Deserialize;

/// How a compressed layer begins: gzip, zstd.
const COMPRESSED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// One image, in the words of `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive whose members can be read.
pub struct Archive<'a, R> {
    /// Where its members are.
    pub members: &'a Members,
    /// Reads a part of it.
    pub read: R,
    /// The digest of a part.
    pub digest: &'a dyn Fn(Part) -> Result<Digest>,
}

impl<R: Fn(Part) -> Result<Vec<u8>>> Archive<'_, R> {
    /// Finds the image that is asked for.
    pub fn find(&self, ask: &Ask) -> Result<Found> {
        let image = &ask.image;
        let list = self.document("manifest.json", MAX_DOCUMENT, image)?;
        let list: Vec<Entry> = serde_json::from_slice(&list)
            .map_err(|error| Error::Image(format!("manifest.json of {image} cannot be read: {error}")))?;
        let candidates = list.iter().map(|entry| Candidate {
            names: entry.repo_tags.iter().flatten().map(String::as_str).collect(),
            id: entry.config.clone(),
            entry,
        });
        let chosen = ask.choose(candidates.collect())?;
        match chosen.first() {
            Some(entry) if chosen.iter().all(|other| other.config == entry.config) => self.image(entry, image),
            _ => Err(Error::Image(format!("{image} holds several images of the same name"))),
        }
    }

    fn image(&self, entry: &Entry, image: &str) -> Result<Found> {
        let bytes = self.document(&entry.config, MAX_CONFIG, image)?;
        let config = ImageConfig::parse(&bytes)?;
        let (counted, listed) = (config.diff_ids.len(), entry.layers.len());
        if counted != listed {
            return Err(Error::Image(format!(
                "the configuration of {image} lists {counted} layers, its manifest.json {listed}"
            )));
        }
        let mut places = Vec::new();
        for (name, diff_id) in entry.layers.iter().zip(&config.diff_ids) {
            let part = self.members.find(name).ok_or_else(|| missing(name, image))?;
            places.push((self.blob(name, part, diff_id)?, part));
        }
        let blob = |digest: Digest, size: u64| BlobDescriptor {
            digest,
            size,
            media_type: String::new(),
        };
        let layers = places.iter().map(|(digest, part)| blob(*digest, part.size));
        let config = blob(Digest::of(&bytes), bytes.len() as u64);
        Ok(Found {
            manifest: Manifest::of_archive(config, layers.collect(), image)?,
            config: text(bytes, image)?,
            places,
        })
    }

    /// The digest of a layer as it is in the archive. It is a claim: who reads the layer compares.
    fn blob(&self, name: &str, part: Part, diff_id: &Digest) -> Result<Digest> {
        let named = name
            .strip_prefix("blobs/sha256/")
            .and_then(|hex| format!("sha256:{hex}").parse().ok());
        if let Some(digest) = named {
            return Ok(digest);
        }
        let size = part.size.min(4);
        let head = (self.read)(Part { size, ..part })?;
        match COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
            true => (self.digest)(part),
            false => Ok(*diff_id),
        }
    }

    fn document(&self, name: &str, most: u64, image: &str) -> Result<Vec<u8>> {
        let part = self.members.document(name)?.ok_or_else(|| match name {
            "manifest.json" if self.members.find("index.json").is_some() => {
                Error::Request(format!("{image} is an OCI archive: write oci-archive: in front of it"))
            }
            "manifest.json" => Error::Image(format!("{image} has no manifest.json: it was not made by docker save")),
            name => missing(name, image),
        })?;
        match part.size <= most {
            true => (self.read)(part),
            false => Err(Error::Image(format!(
                "{} of {image} is {} bytes; at most {most} are supported",
                printable(name),
                part.size
            ))),
        }
    }
}

fn missing(name: &str, image: &str) -> Error {
    Error::Image(format!("{image} has no member {}", printable(name)))
}
