//! An OCI image layout (image-layout.md of the OCI image specification): from `index.json` to a manifest and a
//! configuration. Pure: who calls brings the documents.
#![forbid(unsafe_code)]

use super::{Ask, Candidate, MAX_DOCUMENT, text};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::manifest::{BlobDescriptor, Document, Manifest, choose};
use crate::image::{MAX_CONFIG, printable};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

/// Indexes that may stand between `index.json` and a manifest.
const MAX_INDEXES: usize = 2;
/// Where a layout's images have their names: the specification's, and containerd's with the repository.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// The name of a blob in a layout.
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// How far one got.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This document is needed.
    Needs(BlobDescriptor),
    /// A manifest and its configuration.
    Found(Manifest, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

/// Checks the file `oci-layout`.
pub fn check_mark(bytes: &[u8], image: &str) -> Result<()> {
    let mark: Mark = serde_json::from_slice(bytes)
        .map_err(|error| Error::Image(format!("oci-layout of {image} cannot be read: {error}")))?;
    match mark.image_layout_version.starts_with("1.") {
        true => Ok(()),
        false => Err(Error::Image(format!(
            "{image} has the layout version {}, and 1.0.0 is known",
            printable(&mark.image_layout_version)
        ))),
    }
}

/// Follows the layout from its `index.json` as far as `document` has the blobs.
pub fn resolve(index: &[u8], ask: &Ask, document: impl Fn(&BlobDescriptor) -> Result<Option<Vec<u8>>>) -> Result<Step> {
    let image = &ask.image;
    let index: ImageIndex = serde_json::from_slice(index)
        .map_err(|error| Error::Image(format!("index.json of {image} cannot be read: {error}")))?;
    let candidates = index.manifests().iter().map(candidate).collect();
    let chosen = ask.choose(candidates)?;
    let mut next = choose(chosen.into_iter(), image, &ask.platform)?;
    for _ in 0..=MAX_INDEXES {
        let (digest, size) = match next {
            Document::Manifest(manifest) => return configuration(manifest, ask, document),
            Document::Index { digest, size } => (digest, size),
        };
        let blob = BlobDescriptor {
            digest,
            size,
            media_type: String::new(),
        };
        limit(&blob, "manifest", MAX_DOCUMENT, image)?;
        let Some(bytes) = document(&blob)? else {
            return Ok(Step::Needs(blob));
        };
        next = Document::parse(&ask.verified("manifest", bytes, &digest)?, image, &ask.platform)?;
    }
    match next {
        Document::Manifest(manifest) => configuration(manifest, ask, document),
        Document::Index { .. } => Err(Error::Image(format!(
            "{image} is an index of indexes, more than {MAX_INDEXES} deep"
        ))),
    }
}

fn configuration(
    manifest: Manifest,
    ask: &Ask,
    document: impl Fn(&BlobDescriptor) -> Result<Option<Vec<u8>>>,
) -> Result<Step> {
    limit(&manifest.config, "configuration", MAX_CONFIG, &ask.image)?;
    let Some(bytes) = document(&manifest.config)? else {
        return Ok(Step::Needs(manifest.config));
    };
    let bytes = ask.verified("configuration", bytes, &manifest.config.digest)?;
    Ok(Step::Found(manifest, text(bytes, &ask.image)?))
}

fn limit(blob: &BlobDescriptor, what: &str, most: u64, image: &str) -> Result<()> {
    match blob.size <= most {
        true => Ok(()),
        false => Err(Error::Image(format!(
            "the {what} of {image} is {} bytes; at most {most} are supported",
            blob.size
        ))),
    }
}

fn candidate(entry: &Descriptor) -> Candidate<'_, &Descriptor> {
    let marks = entry.annotations().as_ref();
    let names = NAMES.iter().filter_map(|name| marks?.get(*name)).map(String::as_str);
    Candidate {
        names: names.collect(),
        id: entry.digest().to_string(),
        entry,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Wanted;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Blobs(BTreeMap<Digest, Vec<u8>>);

    impl Blobs {
        fn add(&mut self, text: &str) -> (Digest, usize) {
            let digest = Digest::of(text.as_bytes());
            self.0.insert(digest, text.as_bytes().to_vec());
            (digest, text.len())
        }

        /// An image whose configuration says `mark`.
        fn image(&mut self, mark: &str) -> (Digest, usize) {
            let config = format!(r#"{{"os":"linux","config":{{"WorkingDir":"{mark}"}},"rootfs":{{"diff_ids":[]}}}}"#);
            let (digest, size) = self.add(&config);
            self.add(&format!(
                r#"{{"schemaVersion":2,"layers":[],"config":{{"digest":"{digest}","size":{size},
                "mediaType":"application/vnd.oci.image.config.v1+json"}}}}"#
            ))
        }

        fn resolve(&self, index: &str, wanted: Wanted) -> Result<Step> {
            let ask = Ask {
                image: "oci:x".into(),
                platform: "linux/amd64".parse().unwrap(),
                wanted,
            };
            resolve(index.as_bytes(), &ask, |blob| Ok(self.0.get(&blob.digest).cloned()))
        }

        /// The mark of the image that is found.
        fn found(&self, index: &str, wanted: Wanted) -> String {
            match self.resolve(index, wanted) {
                Ok(Step::Found(_, config)) => config.split('"').nth(9).unwrap().to_owned(),
                other => format!("{other:?}"),
            }
        }
    }

    fn name(name: &str) -> String {
        format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#)
    }

    fn named(name: &str) -> Wanted {
        Wanted::Named(name.into())
    }

    #[test]
    fn an_image_is_chosen_by_its_name() {
        let mut blobs = Blobs::default();
        let (a, b) = (blobs.image("/a"), blobs.image("/b"));
        let list = index(&[(a, &name("one")), (b, &name("localhost/b:two")), (b, &name("last"))]);
        assert_eq!(blobs.found(&list, named("one")), "/a");
        for wanted in ["two", "localhost/b:two", "b:two", "last"] {
            assert_eq!(blobs.found(&list, named(wanted)), "/b", "{wanted}");
        }
        assert_eq!(blobs.found(&list, Wanted::Rather("last".into())), "/b");
        for (wanted, why) in [
            (
                Wanted::Only,
                "several images: say which by a colon and one of last, localhost/b:two, one",
            ),
            (named("wo"), "no such image, only last,"),
        ] {
            let text = blobs.resolve(&list, wanted).unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
        }
        let list = index(&[(a, &name("one")), (a, &name("two"))]);
        assert_eq!(blobs.found(&list, Wanted::Only), "/a");
        let list = index(&[(a, "")]);
        assert_eq!(blobs.found(&list, Wanted::Only), "/a");
        assert!(blobs.resolve(&list, named("x")).is_err());
        let text = blobs.resolve(&index(&[]), Wanted::Only).unwrap_err().to_string();
        assert!(text.contains("holds no image"), "{text}");
    }

    fn index(entries: &[((Digest, usize), &str)]) -> String {
        let line = |((digest, size), more): &((Digest, usize), &str)| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size}{more}}}"#
            )
        };
        let entries: Vec<_> = entries.iter().map(line).collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
    }

    #[test]
    fn a_machine_is_chosen_in_the_layouts_index_and_below() {
        let mut blobs = Blobs::default();
        let (a, b) = (blobs.image("/a"), blobs.image("/b"));
        let platform = |name: &str| format!(r#","platform":{{"os":"linux","architecture":"{name}"}}"#);
        let variants = index(&[(a, &platform("arm64")), (b, &platform("amd64"))]);
        assert_eq!(blobs.found(&variants, Wanted::Only), "/b");
        let below = blobs.add(&variants);
        assert_eq!(blobs.found(&index(&[(below, &name("x"))]), named("x")), "/b");
        let other = index(&[(a, &platform("arm64"))]);
        let text = blobs.resolve(&other, Wanted::Only).unwrap_err().to_string();
        assert!(text.contains("has no linux/amd64 variant, only: linux/arm64"), "{text}");
    }

    #[test]
    fn indexes_of_indexes_end() {
        let mut blobs = Blobs::default();
        let mut entry = blobs.image("/a");
        for depth in 0..100 {
            let text = index(&[(entry, "")]);
            match depth {
                0..=2 => assert_eq!(blobs.found(&text, Wanted::Only), "/a", "{depth}"),
                _ => {
                    let error = blobs.resolve(&text, Wanted::Only).unwrap_err().to_string();
                    assert!(error.contains("more than 2 deep"), "{error}");
                }
            }
            entry = blobs.add(&text);
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_and_what_is_wrong_refused() {
        let mut blobs = Blobs::default();
        let manifest = blobs.image("/a");
        let text = index(&[(manifest, "")]);
        let empty = Blobs::default();
        let Step::Needs(first) = empty.resolve(&text, Wanted::Only).unwrap() else {
            panic!()
        };
        assert_eq!((first.digest, first.size), (manifest.0, manifest.1 as u64));
        let mut some = Blobs::default();
        some.0.insert(manifest.0, blobs.0[&manifest.0].clone());
        let Step::Needs(second) = some.resolve(&text, Wanted::Only).unwrap() else {
            panic!()
        };
        assert!(blobs.0.contains_key(&second.digest) && second.digest != manifest.0);
        some.0.insert(second.digest, b"{}".to_vec());
        let error = some.resolve(&text, Wanted::Only).unwrap_err().to_string();
        assert!(error.contains("the configuration of oci:x does not match"), "{error}");
        some.0.insert(manifest.0, b"{}".to_vec());
        let error = some.resolve(&text, Wanted::Only).unwrap_err().to_string();
        assert!(error.contains("the manifest of oci:x does not match"), "{error}");
        let huge = index(&[((manifest.0, 5 << 20), "")]);
        let error = empty.resolve(&huge, Wanted::Only).unwrap_err().to_string();
        assert!(error.contains("is 5242880 bytes; at most"), "{error}");
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x"}]}"#,
        ] {
            assert!(
                matches!(empty.resolve(text, Wanted::Only), Err(Error::Image(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_mark_of_a_layout() {
        check_mark(br#"{"imageLayoutVersion":"1.0.0"}"#, "x").unwrap();
        for text in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
            assert!(check_mark(text.as_bytes(), "x").is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let ask = Ask { image: "x".into(), platform: "linux/amd64".parse().unwrap(), wanted: Wanted::Only };
            let _ = (resolve(&bytes, &ask, |_| Ok(Some(bytes.clone()))), check_mark(&bytes, "x"));
        }
    }
}
