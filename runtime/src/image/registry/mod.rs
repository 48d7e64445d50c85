//! The registry client (OCI distribution specification; Docker's registry v2 is the same protocol): manifests,
//! configurations and layers of one repository, each verified against its digest before anybody uses it.
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod challenge;
mod failure;
mod hosts;
mod origin;
mod settings;
mod tls;
mod transport;

pub use blob::BlobReader;
pub use settings::{AllowHttp, Proxies, RegistryConfig};

use super::credentials::CredentialSource;
use super::manifest::{ACCEPT, BlobDescriptor, Document, LayerDescriptor, Manifest, Resolved};
use super::platform::Platform;
use super::printable;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Result;
use crate::reference::Reference;
use auth::Grant;
use failure::{Failure, Kind};
use settings::Schemes;
use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use transport::{Answer, Ask, Transport};

/// The largest manifest or index (the distribution specification asks registries to take 4 MiB).
const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// The largest answer that is read to explain an error.
const MAX_EXPLANATION: u64 = 1 << 20;
/// An index may list indexes; deeper than this is a trick.
const MAX_INDEXES: usize = 2;

/// A registry client: connections that are kept and reused. It may be used from several threads.
pub struct Client {
    transport: Transport,
    /// Whether a registry (`host:port`) speaks TLS, once that is known.
    schemes: Mutex<HashMap<String, bool>>,
}

impl Client {
    /// A client. Nothing is opened, read or looked up before the first request.
    pub fn new(config: RegistryConfig) -> Self {
        Client::with_notices(config, |_| {})
    }

    /// A client that tells why it pauses before it asks a registry again, in one line each, so that nobody wonders.
    pub fn with_notices(config: RegistryConfig, notify: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Client {
            transport: Transport::new(config, Box::new(notify)),
            schemes: Mutex::default(),
        }
    }

    /// The settings that it was made with.
    pub fn config(&self) -> &RegistryConfig {
        &self.transport.config
    }

    /// The repository of an image. `credentials` is asked at most once, and only when the registry wants some.
    pub fn repository<'a>(&'a self, reference: &'a Reference, credentials: &'a dyn CredentialSource) -> Repository<'a> {
        Repository {
            client: self,
            reference,
            credentials,
            grant: Mutex::new(Grant::default()),
        }
    }

    /// Asks a registry for a path below `/v2/`, over the scheme that it is known to speak, or finding out which.
    fn send(&self, registry: &str, path: &str, ask: &Ask<'_>) -> Result<Answer> {
        let known = self
            .schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(registry)
            .copied();
        if let Some(https) = known {
            return self
                .transport
                .send(&url(https, registry, path)?, ask)
                .map_err(|failure| failure.error);
        }
        let (host, port) = split_port(registry);
        let (https, alternative) = match self.transport.config.allow_http.schemes(host, port) {
            Schemes::HttpsOnly => (true, None),
            Schemes::HttpFirst => (false, Some(true)),
            Schemes::HttpsFirst => (true, Some(false)),
        };
        let answer = self.transport.send(&url(https, registry, path)?, ask);
        let (https, answer) = match alternative {
            Some(other) if speaks_other_scheme(&answer, https, port) => {
                let second = self.transport.send(&url(other, registry, path)?, ask);
                // When neither is spoken, what plain http got is the better clue.
                match (answer, second) {
                    (Err(first), Err(second)) if !https && second.kind == Kind::OtherScheme => (https, Err(first)),
                    (_, second) => (other, second),
                }
            }
            _ => (https, answer),
        };
        let answer = answer.map_err(|failure| failure.error)?;
        self.schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(registry.to_owned(), https);
        Ok(answer)
    }
}

/// True if a first contact failed in a way that the other scheme may mend. Servers that want TLS answer 400 to plain http.
fn speaks_other_scheme(answer: &Result<Answer, Failure>, https: bool, port: Option<u16>) -> bool {
    match answer {
        Ok(answer) => !https && answer.status == 400,
        Err(failure) => match failure.kind {
            Kind::OtherScheme | Kind::Lost => true,
            Kind::Refused => port.is_none(),
            Kind::Final | Kind::Stalled | Kind::Busy(_) => false,
        },
    }
}

fn url(https: bool, registry: &str, path: &str) -> Result<ureq::http::Uri> {
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{registry}/v2/{path}");
    url.parse().map_err(|_| Error::Request(format!("{url:?} is not a URL")))
}

fn split_port(registry: &str) -> (&str, Option<u16>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (registry, None),
    }
}

/// One image's repository on a registry, with the access that was granted to it. It may be used from several threads.
pub struct Repository<'a> {
    client: &'a Client,
    reference: &'a Reference,
    credentials: &'a dyn CredentialSource,
    grant: Mutex<Grant>,
}

impl Repository<'_> {
    /// Everything about the image but its layers.
    pub fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let manifest = self.resolve_manifest(platform)?;
        let config = self.fetch_config(&manifest)?;
        manifest.resolve(config, &self.reference.image(), platform)
    }

    /// The digest that the image's name stands for now (of its index, when it has one), if the registry tells it. It
    /// costs no transfer, and Docker Hub does not count it as a pull. Access is checked as with any other request.
    pub fn current_digest(&self) -> Result<Option<Digest>> {
        let (name, what) = (
            self.reference.manifest_name(),
            format!("the manifest of {}", self.reference.image()),
        );
        let limit = Some(self.document_limit());
        let ask = Ask {
            what: &what,
            accept: Some(ACCEPT),
            limit,
            head: true,
            ..Ask::default()
        };
        let answer = self.get(&format!("manifests/{name}"), &ask)?;
        match answer.status {
            200 => {
                let told = answer
                    .header("docker-content-digest")
                    .and_then(|text| text.parse().ok());
                Ok(self.reference.digest().or(told))
            }
            404 => Err(self.manifest_missing(&name, answer)),
            _ => Err(self.unexpected(answer, &what)),
        }
    }

    /// The manifest for a platform: one request, and one more when the image has several platforms.
    pub fn resolve_manifest(&self, platform: &Platform) -> Result<Manifest> {
        let image = self.reference.image();
        let mut name = self.reference.manifest_name();
        let mut expected = self.reference.digest().map(|digest| (digest, None));
        for _ in 0..=MAX_INDEXES {
            let bytes = self.fetch_manifest(&name, expected)?;
            match Document::parse(&bytes, &image, platform)? {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index { digest, size } => {
                    name = digest.to_string();
                    expected = Some((digest, Some(size)));
                }
            }
        }
        Err(Error::Image(format!(
            "{image} is an index of indexes, more than {MAX_INDEXES} deep"
        )))
    }

    /// The image's configuration as the registry serves it, verified. Not needed when one is kept under that digest.
    pub fn fetch_config(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let config = &manifest.config;
        if config.size > MAX_CONFIG {
            let image = self.reference.image();
            return Err(Error::Image(format!(
                "the configuration of {image} is {} bytes; at most {MAX_CONFIG} are supported",
                config.size
            )));
        }
        let mut bytes = Vec::new();
        BlobReader::open(self, "configuration", config)?
            .read_to_end(&mut bytes)
            .map_err(BlobReader::error)?;
        Ok(bytes)
    }

    /// A layer's bytes, compressed as the registry has them, verified while they are read.
    pub fn open_layer(&self, layer: &LayerDescriptor) -> Result<BlobReader<'_>> {
        BlobReader::open(self, "layer", &layer.blob())
    }

    /// A blob's bytes, verified while they are read.
    pub fn open_blob(&self, blob: &BlobDescriptor) -> Result<BlobReader<'_>> {
        BlobReader::open(self, "blob", blob)
    }

    /// A manifest's bytes by tag or digest, verified against what is known of it.
    fn fetch_manifest(&self, name: &str, expected: Option<(Digest, Option<u64>)>) -> Result<Vec<u8>> {
        let (image, registry) = (self.reference.image(), self.reference.registry());
        let what = format!("the manifest of {image}");
        let limit = self.document_limit();
        let ask = Ask {
            what: &what,
            accept: Some(ACCEPT),
            limit: Some(limit),
            ..Ask::default()
        };
        let path = format!("manifests/{name}");
        let (told, bytes) = self.get_document(&path, &ask, MAX_MANIFEST, |answer| match answer.status {
            404 => self.manifest_missing(name, answer),
            _ => self.unexpected(answer, &what),
        })?;
        let found = Digest::of(&bytes);
        match expected {
            Some((digest, _)) if digest != found => Err(Error::Image(format!(
                "{what} from {registry} does not match its digest: asked for {digest}, got {found}"
            ))),
            Some((_, Some(size))) if size != bytes.len() as u64 => Err(Error::Image(format!(
                "{what} from {registry} has {} bytes, its index says {size}",
                bytes.len()
            ))),
            None if told.is_some_and(|told| told != found) => Err(Error::Image(format!(
                "{what} from {registry} does not match its digest: the registry says {}, got {found}",
                told.unwrap_or(found)
            ))),
            _ => Ok(bytes),
        }
    }

    /// A small document and the digest that the registry says it has. A connection lost in the middle is tried again.
    fn get_document(
        &self,
        path: &str,
        ask: &Ask<'_>,
        max: u64,
        refuse: impl Fn(Answer) -> Error,
    ) -> Result<(Option<Digest>, Vec<u8>)> {
        let transport = &self.client.transport;
        let mut attempt = 0;
        loop {
            let answer = self.get(path, ask)?;
            if answer.status != 200 {
                return Err(refuse(answer));
            }
            let told = answer
                .header("docker-content-digest")
                .and_then(|text| text.parse().ok());
            let (origin, mut bytes) = (answer.origin, Vec::new());
            let Err(error) = answer.body.take(max + 1).read_to_end(&mut bytes) else {
                if bytes.len() as u64 > max {
                    return Err(Error::Image(format!(
                        "{} from {origin} is larger than {max} bytes",
                        ask.what
                    )));
                }
                return Ok((told, bytes));
            };
            let failure = transport.explain(&origin, ask.what, ureq::Error::from(error));
            if failure.kind != Kind::Lost || attempt >= transport.config.retries {
                return Err(failure.error);
            }
            transport.wait(&failure.error, transport.backoff(attempt));
            attempt += 1;
        }
    }

    /// A document is small: a registry that trickles it is stopped.
    fn document_limit(&self) -> Duration {
        self.client.transport.config.stall_timeout.saturating_mul(4)
    }

    /// Why there is no such manifest. Registries tell an unknown image from an unknown tag only in their tag list.
    fn manifest_missing(&self, name: &str, answer: Answer) -> Error {
        let (repository, registry) = (self.reference.repository(), self.reference.registry());
        let unknown_image = Error::Request(format!("registry {registry} has no image {repository}"));
        if answer.message().is_some_and(|(code, _)| code == "NAME_UNKNOWN") {
            return unknown_image;
        }
        if name.contains(':') {
            return Error::Request(format!("registry {registry} has no manifest {name} of {repository}"));
        }
        let ask = Ask {
            what: "the list of tags",
            limit: Some(self.document_limit()),
            ..Ask::default()
        };
        match self.get("tags/list", &ask) {
            Ok(answer) if answer.status == 404 => unknown_image,
            Ok(answer) if answer.status == 200 => {
                let tags = some_tags(&answer.beginning(MAX_EXPLANATION));
                Error::Request(format!(
                    "image {repository} on registry {registry} has no tag {name}{tags}"
                ))
            }
            // The question was only asked to say it better.
            _ => Error::Request(format!(
                "registry {registry} has no {repository}:{name}: unknown image or tag"
            )),
        }
    }

    /// The error for a status that should not be.
    fn unexpected(&self, answer: Answer, what: &str) -> Error {
        let (status, origin) = (answer.status, answer.origin.clone());
        let words = answer
            .message()
            .map(|(code, message)| format!(": {code} {message}"))
            .unwrap_or_default();
        Error::Image(format!("{origin} answers {status} when asked for {what}{words}"))
    }
}

/// A few of the tags that there are, for a message.
fn some_tags(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Tags {
        tags: Option<Vec<String>>,
    }
    const SHOWN: usize = 8;
    let tags = serde_json::from_slice::<Tags>(bytes)
        .ok()
        .and_then(|tags| tags.tags)
        .unwrap_or_default();
    if tags.is_empty() {
        return String::new();
    }
    let more = if tags.len() > SHOWN { ", ..." } else { "" };
    let shown: Vec<String> = tags.iter().take(SHOWN).map(|tag| printable(tag)).collect();
    format!(", only: {}{more}", shown.join(", "))
}
