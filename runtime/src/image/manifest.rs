//! Manifests and indexes (OCI image specification; Docker's schema 2 is the same shape): which blobs make an image, and
//! which image of an index fits a machine. Pure: bytes that were verified in, values out.
#![forbid(unsafe_code)]

use super::config::ImageConfig;
use super::platform::Platform;
use super::printable;
use crate::digest::Digest;
use crate::error::{Error, Result};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

/// What a registry is asked to answer with.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// More layers than any builder makes (Docker stops at 127); overlayfs takes no more (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
/// Docker's mark on an index entry that holds provenance data and no image.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// A blob: its digest and how many bytes it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobDescriptor {
    /// The digest of the bytes that the registry serves.
    pub digest: Digest,
    /// How many bytes those are.
    pub size: u64,
    /// What the manifest calls it. The compression of layers is told by their content.
    pub media_type: String,
}

/// A layer: a blob that is a tar stream, compressed or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDescriptor {
    /// The digest of the bytes that the registry serves.
    pub digest: Digest,
    /// How many bytes those are.
    pub size: u64,
    /// What the manifest calls it. The compression is told by the content.
    pub media_type: String,
    /// The digest of the uncompressed tar stream.
    pub diff_id: Digest,
}

impl LayerDescriptor {
    /// The layer as the registry serves it.
    pub fn blob(&self) -> BlobDescriptor {
        BlobDescriptor {
            digest: self.digest,
            size: self.size,
            media_type: self.media_type.clone(),
        }
    }
}

/// A manifest: the configuration and the layers of one image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The digest of the image's manifest.
    pub digest: Digest,
    /// The image's configuration.
    pub config: BlobDescriptor,
    layers: Vec<ManifestLayer>,
}

/// A layer as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ManifestLayer {
    blob: BlobDescriptor,
    /// It has to be fetched from elsewhere than the registry ("foreign"), which is not done.
    foreign: bool,
}

/// Everything about an image but its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The digest of the image's manifest.
    pub manifest_digest: Digest,
    /// The digest of the configuration.
    pub config_digest: Digest,
    /// The configuration as the registry serves it.
    pub config_bytes: Vec<u8>,
    /// The configuration, read.
    pub config: ImageConfig,
    /// The layers, bottom first. Foreign layers are left out.
    pub layers: Vec<LayerDescriptor>,
}

/// What a registry answers when it is asked for a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, of which the entry with this digest and size fits.
    Index { digest: Digest, size: u64 },
}

/// Only what tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a verified document and chooses the entry for `platform` when it is an index. `image` is its name for errors.
    pub(crate) fn parse(bytes: &[u8], image: &str, platform: &Platform) -> Result<Self> {
        let unreadable = |error| Error::Image(format!("the manifest of {image} cannot be read: {error}"));
        let shape: Shape = serde_json::from_slice(bytes).map_err(unreadable)?;
        let is_image = shape.config.is_some() || shape.layers.is_some();
        if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
            return Err(Error::Image(format!(
                "{image} has an old schema 1 manifest, which is not supported: push the image again with a current docker"
            )));
        }
        if is_image && shape.manifests.is_some() {
            return Err(Error::Image(format!(
                "the manifest of {image} claims to be an index and an image at once"
            )));
        }
        if shape.manifests.is_some() {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(unreadable)?;
            return choose(index.manifests().iter(), image, platform);
        }
        if !is_image {
            let kind = printable(shape.media_type.as_deref().unwrap_or("no media type"));
            return Err(Error::Image(format!("{image} is not a container image ({kind})")));
        }
        let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        read_manifest(&manifest, Digest::of(bytes), image).map(Document::Manifest)
    }
}

/// The best entry of an index for a platform.
pub(crate) fn choose<'a>(
    entries: impl Iterator<Item = &'a Descriptor>,
    image: &str,
    platform: &Platform,
) -> Result<Document> {
    let mut offered: Vec<String> = Vec::new();
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in entries.filter(|entry| !is_attestation(entry)) {
        let Some(found) = entry.platform() else {
            // Without a platform there is nothing to choose by: the image's configuration is checked later.
            best = best.or(Some((0, entry)));
            continue;
        };
        let found = Platform::new(
            &found.os().to_string(),
            &found.architecture().to_string(),
            found.variant().as_deref(),
        );
        offered.push(printable(&found.to_string()));
        // The first of equals wins, as with every other client.
        if let Some(fit) = platform.fit(&found)
            && best.is_none_or(|(best, _)| fit > best)
        {
            best = Some((fit, entry));
        }
    }
    let Some((_, entry)) = best else {
        offered.dedup();
        let offered = if offered.is_empty() {
            "nothing".to_owned()
        } else {
            offered.join(", ")
        };
        return Err(Error::Request(format!(
            "{image} has no {platform} variant, only: {offered}"
        )));
    };
    Ok(Document::Index {
        digest: entry.digest().to_string().parse()?,
        size: entry.size(),
    })
}

fn is_attestation(entry: &Descriptor) -> bool {
    let marked = entry
        .annotations()
        .as_ref()
        .is_some_and(|marks| marks.contains_key(ATTESTATION));
    let unknown = |platform: &oci_spec::image::Platform| {
        platform.os().to_string() == "unknown" && platform.architecture().to_string() == "unknown"
    };
    marked || entry.platform().as_ref().is_some_and(unknown)
}

fn read_manifest(manifest: &ImageManifest, digest: Digest, image: &str) -> Result<Manifest> {
    let config = read_blob(manifest.config())?;
    if !is_config_type(&config.media_type) {
        let kind = printable(&config.media_type);
        return Err(Error::Image(format!(
            "{image} is not a container image (its configuration is {kind})"
        )));
    }
    check_count(manifest.layers().len(), image)?;
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| read_layer(layer, image))
        .collect::<Result<_>>()?;
    Ok(Manifest { digest, config, layers })
}

fn check_count(layers: usize, image: &str) -> Result<()> {
    match layers <= MAX_LAYERS {
        true => Ok(()),
        false => Err(Error::Image(format!(
            "{image} has {layers} layers; at most {MAX_LAYERS} are supported"
        ))),
    }
}

fn read_blob(descriptor: &Descriptor) -> Result<BlobDescriptor> {
    Ok(BlobDescriptor {
        digest: descriptor.digest().to_string().parse()?,
        size: descriptor.size(),
        media_type: descriptor.media_type().to_string(),
    })
}

fn read_layer(descriptor: &Descriptor, image: &str) -> Result<ManifestLayer> {
    let blob = read_blob(descriptor)?;
    let kind = blob.media_type.as_str();
    if kind.contains("encrypted") {
        return Err(Error::Image(format!(
            "layer {} of {image} is encrypted, which is not supported",
            blob.digest
        )));
    }
    let known = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
    ];
    if !known.iter().any(|known| kind.starts_with(known)) {
        let kind = printable(kind);
        return Err(Error::Image(format!(
            "{image} is not a container image (layer {} is {kind})",
            blob.digest
        )));
    }
    // Registries do serve the layers that are merely "non-distributable"; with urls they are kept elsewhere.
    let not_here = kind.contains(".foreign.") || kind.contains(".nondistributable.");
    let foreign = not_here && descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty());
    Ok(ManifestLayer { blob, foreign })
}

fn is_config_type(media_type: &str) -> bool {
    // Docker before 1.10 pushed configurations as octet-stream.
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            | "application/octet-stream"
    )
}

impl Manifest {
    /// What stands for the manifest of an image that has none; the configuration's digest is its digest.
    pub(crate) fn of_archive(config: BlobDescriptor, layers: Vec<BlobDescriptor>, image: &str) -> Result<Self> {
        check_count(layers.len(), image)?;
        let here = |blob| ManifestLayer { blob, foreign: false };
        Ok(Manifest {
            digest: config.digest,
            config,
            layers: layers.into_iter().map(here).collect(),
        })
    }

    /// The layers' blobs that will be fetched, bottom first.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobDescriptor> {
        self.layers
            .iter()
            .filter(|layer| !layer.foreign)
            .map(|layer| &layer.blob)
    }

    /// The foreign layers that are left out: kept elsewhere than on the registry.
    pub fn foreign(&self) -> impl Iterator<Item = &BlobDescriptor> {
        self.layers
            .iter()
            .filter(|layer| layer.foreign)
            .map(|layer| &layer.blob)
    }

    /// Joins the manifest with its configuration, fetched or kept from an earlier start; `image` is the name for errors.
    pub fn resolve(&self, config_bytes: Vec<u8>, image: &str, platform: &Platform) -> Result<Resolved> {
        if Digest::of(&config_bytes) != self.config.digest {
            return Err(Error::Image(format!(
                "the configuration of {image} does not match {}",
                self.config.digest
            )));
        }
        let config = ImageConfig::parse(&config_bytes)?;
        if let Some(found) = &config.platform
            && platform.fit(found).is_none()
        {
            return Err(Error::Request(format!(
                "{image} is for {}, not for {platform}",
                printable(&found.to_string())
            )));
        }
        if config.diff_ids.len() != self.layers.len() {
            return Err(Error::Image(format!(
                "the configuration of {image} lists {} layers, its manifest {}",
                config.diff_ids.len(),
                self.layers.len()
            )));
        }
        let layers = self
            .layers
            .iter()
            .zip(&config.diff_ids)
            .filter(|(layer, _)| !layer.foreign)
            .map(|(layer, diff_id)| LayerDescriptor {
                digest: layer.blob.digest,
                size: layer.blob.size,
                media_type: layer.blob.media_type.clone(),
                diff_id: *diff_id,
            })
            .collect();
        let (manifest_digest, config_digest) = (self.digest, self.config.digest);
        Ok(Resolved {
            manifest_digest,
            config_digest,
            config_bytes,
            config,
            layers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}"#;

    fn amd64() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Document> {
        Document::parse(text.as_bytes(), "a/b:1", &amd64())
    }

    fn index(entries: &[(&str, &str, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(size, (platform, variant, more))| {
                let (os, architecture) = platform.split_once('/').unwrap();
                let variant = if variant.is_empty() {
                    String::new()
                } else {
                    format!(r#","variant":"{variant}""#)
                };
                format!(
                    r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{EMPTY}","size":{size},
                    "platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}{more}}}"#
                )
            })
            .collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
    }

    fn image(config_type: &str, layers: &[(&str, &str)]) -> String {
        let digest = Digest::of(CONFIG.as_bytes());
        let layers: Vec<String> = layers
            .iter()
            .map(|(kind, more)| format!(r#"{{"mediaType":"{kind}","digest":"{EMPTY}","size":3{more}}}"#))
            .collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
            "config":{{"mediaType":"{config_type}","digest":"{digest}","size":7}},"layers":[{}]}}"#,
            layers.join(",")
        )
    }

    const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    #[test]
    fn an_index_is_searched_for_the_machine() {
        let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let text = index(&[
            ("linux/amd64", "", attestation),
            ("unknown/unknown", "", ""),
            ("linux/arm64", "v8", ""),
            ("windows/amd64", "", ""),
            ("linux/amd64", "", ""),
            ("linux/amd64", "", ""),
        ]);
        assert_eq!(
            parse(&text).unwrap(),
            Document::Index {
                digest: EMPTY.parse().unwrap(),
                size: 4
            }
        );
        let arm = Document::parse(text.as_bytes(), "x", &"linux/arm64".parse().unwrap()).unwrap();
        assert_eq!(
            arm,
            Document::Index {
                digest: EMPTY.parse().unwrap(),
                size: 2
            }
        );
    }

    #[test]
    fn an_index_without_the_machine_says_what_there_is() {
        let text = index(&[
            ("linux/arm64", "v8", ""),
            ("linux/arm", "v6", ""),
            ("unknown/unknown", "", ""),
        ]);
        let error = parse(&text).unwrap_err();
        assert_eq!(
            error,
            Error::Request("a/b:1 has no linux/amd64 variant, only: linux/arm64, linux/arm/v6".into())
        );
        let error = parse(r#"{"schemaVersion":2,"manifests":[]}"#).unwrap_err();
        assert_eq!(error.to_string(), "a/b:1 has no linux/amd64 variant, only: nothing");
    }

    #[test]
    fn an_entry_without_platform_is_taken_when_no_other_fits() {
        let entry = format!(r#"{{"mediaType":"m","digest":"{EMPTY}","size":9}}"#);
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
        assert_eq!(
            parse(&text).unwrap(),
            Document::Index {
                digest: EMPTY.parse().unwrap(),
                size: 9
            }
        );
    }

    #[test]
    fn a_manifest_lists_its_layers() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let text = image(
            DOCKER_CONFIG,
            &[
                (LAYER, ""),
                (foreign, r#","urls":["https://x.org/y"]"#),
                ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", ""),
                ("application/vnd.oci.image.layer.v1.tar", ""),
            ],
        );
        let Document::Manifest(manifest) = parse(&text).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!(manifest.digest, Digest::of(text.as_bytes()));
        assert_eq!(manifest.config.size, 7);
        assert_eq!(manifest.blobs().count(), 3);
        assert_eq!(
            manifest
                .foreign()
                .map(|layer| layer.media_type.as_str())
                .collect::<Vec<_>>(),
            [foreign]
        );
    }

    #[test]
    fn wrong_documents_say_why() {
        let many = vec![(LAYER, ""); 501];
        let conflict = image(DOCKER_CONFIG, &[]).replacen('{', r#"{"manifests":[],"#, 1);
        for (text, why) in [
            ("", "the manifest of a/b:1 cannot be read: "),
            ("<html>", "the manifest of a/b:1 cannot be read: "),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                "a/b:1 has an old schema 1 manifest, which is not supported",
            ),
            ("{}", "a/b:1 is not a container image (no media type)"),
            (
                r#"{"mediaType":"application/x"}"#,
                "a/b:1 is not a container image (application/x)",
            ),
            (
                &conflict,
                "the manifest of a/b:1 claims to be an index and an image at once",
            ),
            (
                &image("application/vnd.cncf.helm.config.v1+json", &[]),
                "a/b:1 is not a container image (its configuration is application/vnd.cncf.helm.config.v1+json)",
            ),
            (
                &image(DOCKER_CONFIG, &many),
                "a/b:1 has 501 layers; at most 500 are supported",
            ),
            (
                &image(DOCKER_CONFIG, &[("application/vnd.sylabs.sif.layer.v1.sif", "")]),
                &format!("a/b:1 is not a container image (layer {EMPTY} is application/vnd.sylabs.sif.layer.v1.sif)"),
            ),
            (
                &image(
                    DOCKER_CONFIG,
                    &[("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "")],
                ),
                &format!("layer {EMPTY} of a/b:1 is encrypted, which is not supported"),
            ),
            (
                &image(DOCKER_CONFIG, &[(LAYER, "")]).replace("\"size\":3", "\"size\":-3"),
                "cannot be read",
            ),
            (
                &image(DOCKER_CONFIG, &[(LAYER, "")]).replace("sha256:e3", "sha256:zz"),
                "cannot be read",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, Error::Image(_)), "{error:?}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    fn resolve(layers: &[(&str, &str)], config: &str, platform: &str) -> Result<Resolved> {
        let text = image(DOCKER_CONFIG, layers).replace(
            &Digest::of(CONFIG.as_bytes()).hex(),
            &Digest::of(config.as_bytes()).hex(),
        );
        let Document::Manifest(manifest) = parse(&text).unwrap() else {
            panic!("not a manifest")
        };
        manifest.resolve(config.as_bytes().to_vec(), "a/b:1", &platform.parse().unwrap())
    }

    #[test]
    fn layers_get_their_diff_ids() {
        let diff_ids = [Digest::of(b"0"), Digest::of(b"1")];
        let config = CONFIG.replace("[]", &format!(r#"["{}","{}"]"#, diff_ids[0], diff_ids[1]));
        let foreign = (LAYER.replace("rootfs.diff", "rootfs.foreign.diff"), r#","urls":["u"]"#);
        let resolved = resolve(&[(&foreign.0, foreign.1), (LAYER, "")], &config, "amd64").unwrap();
        assert_eq!(resolved.layers.len(), 1);
        assert_eq!(resolved.layers[0].diff_id, diff_ids[1]);
        assert_eq!(resolved.config_digest, Digest::of(&resolved.config_bytes));
        let error = resolve(&[(LAYER, "")], &config, "amd64").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the configuration of a/b:1 lists 2 layers, its manifest 1"
        );
    }

    #[test]
    fn the_configuration_must_be_for_the_machine() {
        let error = resolve(&[], CONFIG, "arm64").unwrap_err();
        assert_eq!(
            error,
            Error::Request("a/b:1 is for linux/amd64, not for linux/arm64".into())
        );
        let windows = CONFIG.replace("linux", "windows");
        assert!(
            resolve(&[], &windows, "amd64")
                .unwrap_err()
                .to_string()
                .contains("is for windows/amd64")
        );
        assert!(resolve(&[], r#"{"rootfs":{"diff_ids":[]}}"#, "arm64").is_ok());
        assert!(resolve(&[], CONFIG, "linux/amd64/v3").is_ok());
    }

    #[test]
    fn another_configuration_is_refused() {
        let Document::Manifest(manifest) = parse(&image(DOCKER_CONFIG, &[])).unwrap() else {
            panic!("not a manifest")
        };
        let error = manifest.resolve(b"{}".to_vec(), "a/b:1", &amd64()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the configuration of a/b:1 does not match sha256:"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&bytes, "x", &amd64());
        }

        #[test]
        fn a_cut_or_changed_document_is_read_or_refused(at in 0usize..900, byte: u8) {
            let mut bytes = index(&[("linux/amd64", "v2", ""), ("linux/arm64", "", "")]).into_bytes();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Document::parse(&bytes, "x", &amd64());
            bytes.truncate(at);
            let _ = Document::parse(&bytes, "x", &amd64());
        }
    }
}
