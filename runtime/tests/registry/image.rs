//! Images for tests, as a registry has them.
#![forbid(unsafe_code)]

use super::fake::{Fake, Reply};
use super::settings;
use pyxis_runtime::image::{Client, CredentialSource, NoCredentials, Platform, RegistryConfig, Resolved};
use pyxis_runtime::reference::Reference;
use pyxis_runtime::{Digest, Result};
use std::io::Read;

pub use super::server::OCI_MANIFEST;
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image: its documents and blobs.
#[derive(Clone)]
pub struct Image {
    pub manifest: String,
    pub config: String,
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image for this machine.
    pub fn new(layers: &[&[u8]]) -> Self {
        Image::with_config(layers, &host().architecture)
    }

    pub fn with_config(layers: &[&[u8]], architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| format!("\"{}\"", Digest::of(layer)))
            .collect();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Env":["A=b"],"WorkingDir":"/w"}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let descriptor = |kind: &str, bytes: &[u8]| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
                Digest::of(bytes),
                bytes.len()
            )
        };
        let list: Vec<String> = layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor("config.v1+json", config.as_bytes()),
            list.join(",")
        );
        Image {
            manifest,
            config,
            layers: layers.iter().map(|layer| layer.to_vec()).collect(),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// The page of a blob.
    pub fn blob(digest: impl std::fmt::Display) -> String {
        format!("/v2/a/b/blobs/{digest}")
    }

    pub fn layer_page(&self, number: usize) -> String {
        Image::blob(Digest::of(&self.layers[number]))
    }

    pub fn config_page(&self) -> String {
        Image::blob(Digest::of(self.config.as_bytes()))
    }

    /// Puts the image on a registry as `a/b:1`.
    pub fn push(&self, fake: &Fake) -> &Self {
        self.push_manifest(fake, "1")
            .push_manifest(fake, &self.digest().to_string());
        fake.fixed(&self.config_page(), Reply::ok(self.config.clone()));
        for (number, layer) in self.layers.iter().enumerate() {
            let layer = layer.clone();
            fake.page(&self.layer_page(number), move |seen| {
                serve(&layer, seen.header("range"))
            });
        }
        self
    }

    pub fn push_manifest(&self, fake: &Fake, name: &str) -> &Self {
        let reply = Reply::ok(self.manifest.clone())
            .header("content-type", OCI_MANIFEST)
            .header("docker-content-digest", self.digest().to_string());
        fake.fixed(&format!("/v2/a/b/manifests/{name}"), reply);
        self
    }
}

/// An index of images, as (platform, image).
pub fn index(entries: &[(&str, &Image)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(platform, image)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                image.digest(),
                image.manifest.len()
            )
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    )
}

/// Serves bytes, from the middle when asked to.
pub fn serve(bytes: &[u8], range: Option<&str>) -> Reply {
    let Some(range) = range else { return Reply::ok(bytes) };
    let start: usize = range
        .strip_prefix("bytes=")
        .unwrap()
        .strip_suffix('-')
        .unwrap()
        .parse()
        .unwrap();
    let content_range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    Reply::status(206, &bytes[start..]).header("content-range", content_range)
}

/// What the machine that the tests run on is called in an index, without a variant.
pub fn host() -> Platform {
    Platform {
        variant: None,
        ..Platform::host()
    }
}

pub fn reference(fake: &Fake) -> Reference {
    format!("{}#a/b:1", fake.address).parse().unwrap()
}

/// A whole pull: the image's documents and all layers' bytes.
pub fn pull(
    reference: &Reference,
    config: RegistryConfig,
    credentials: &dyn CredentialSource,
) -> Result<(Resolved, Vec<Vec<u8>>)> {
    let client = Client::new(config);
    let repository = client.repository(reference, credentials);
    let resolved = repository.resolve(&host())?;
    let read = |layer| {
        let mut bytes = Vec::new();
        let mut reader = repository.open_layer(layer)?;
        reader
            .read_to_end(&mut bytes)
            .map_err(pyxis_runtime::image::BlobReader::error)?;
        Ok(bytes)
    };
    let layers = resolved.layers.iter().map(read).collect::<Result<_>>()?;
    Ok((resolved, layers))
}

/// The error of a pull that must fail, in words.
pub fn refusal(fake: &Fake) -> String {
    match pull(&reference(fake), settings(), &NoCredentials) {
        Ok(_) => panic!("the pull did not fail"),
        Err(error) => one_line(&error.to_string()),
    }
}

/// A message, which must be one line, with the changing port left out.
pub fn one_line(text: &str) -> String {
    assert!(!text.contains(['\n', '\r', '\x1b']), "{text:?}");
    let mut words = text.to_owned();
    while let Some(start) = words.find("127.0.0.1:") {
        let end = words[start + 10..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(words.len(), |end| start + 10 + end);
        words.replace_range(start..end, "HOST");
    }
    words
}
