//! Image reference to packs on this node: ask the registry with the user's credentials, or look into the user's file; import
//! what the store lacks.
//!
//! This runs in a single-threaded process that may hold root. It starts workers for everything that meets a network or
//! untrusted bytes, keeps the store's locks, checks what comes back and publishes it.
#![forbid(unsafe_code)]

mod client;
mod local;
mod source;
mod users;
mod workers;

use source::{Claim, Source};
pub(crate) use users::service_user;
use workers::News;
pub use workers::{Lookup, Requester, Resolving, Workers};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{BlobDescriptor, ImageConfig, MAX_CONFIG, Manifest, Platform, RegistryConfig, Resolved};
use crate::lock::{Lock, Patience, Waited};
use crate::pack::{Options, Summary};
use crate::reference::Reference;
use crate::report::{PATIENCE, Report, Trace};
use crate::store::{ImageRecord, PackFacts, Store};
use crate::worker::protocol::{DownloadRequest, Item, ItemKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

/// An import that gets less than this in the time of [`STALLS`] is not waited for by others.
const ADVANCE: u64 = 16 << 20;
/// So many times [`PATIENCE`]: half a minute and some.
const STALLS: u32 = 4;

/// An image that is on this node.
#[derive(Debug)]
pub struct Imported {
    /// Its configuration.
    pub config: ImageConfig,
    /// Its packs, bottom first, open for reading.
    pub packs: Vec<OwnedFd>,
    /// The packs' layers, in the same order.
    pub layers: Vec<Digest>,
    /// Layers that had to be downloaded.
    pub downloaded: usize,
    /// Digest of its manifest.
    pub manifest: Digest,
}

/// An import: who wants an image, and where it goes.
pub struct Import<'a> {
    /// The store it goes to.
    pub store: &'a Store,
    /// The site's settings.
    pub config: &'a Config,
    /// The worker program and its users.
    pub workers: &'a Workers,
    /// Whose credentials are used.
    pub requester: &'a Requester,
    /// What the image is to run on.
    pub platform: &'a Platform,
}

/// An image of a registry.
#[derive(Clone, Copy)]
pub struct Remote<'a> {
    /// The image.
    pub reference: &'a Reference,
    /// How registries are reached: the site's settings, and those of a caller who may have some.
    pub registry: &'a RegistryConfig,
}

impl Import<'_> {
    /// Asks the registry. Something else can be done while it answers.
    pub fn ask(&self, image: Remote<'_>) -> Result<Resolving> {
        self.workers
            .start_resolve(image.reference, self.platform, image.registry)
    }

    /// Makes the image available and opens its packs.
    pub fn run(
        &self,
        image: Remote<'_>,
        asked: Resolving,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        self.provide(image, asked, trace, report)
            .map_err(|error| self.store.explain(error))
    }

    fn provide(
        &self,
        image: Remote<'_>,
        asked: Resolving,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let (manifest, credentials) = trace.phase("resolve", || self.workers.resolve(asked, self.requester, report))?;
        let source = Source::Registry {
            reference: image.reference,
            registry: image.registry,
            credentials,
        };
        self.complete(&manifest, None, &source, &image.reference.to_string(), trace, report)
    }

    /// Imports what the store lacks of an image called `name`, whose configuration may be at hand.
    fn complete(
        &self,
        manifest: &Manifest,
        config: Option<Vec<u8>>,
        source: &Source<'_>,
        name: &str,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let layers = without_repetition(manifest.blobs());
        let at_hand = config.is_some();
        let (config, download) = trace.phase("import", || self.obtain((manifest, config), &layers, source, report))?;
        trace.count("downloaded_bytes", download.bytes);
        trace.count("downloaded_layers", download.layers as u64);
        trace.count("cached_layers", (layers.len() - download.layers) as u64);
        let image = manifest.resolve(config, name, self.platform)?;
        if download.config || at_hand {
            self.check_diff_ids(&image)?;
            self.store.publish_config(&image.config_digest, &image.config_bytes)?;
            self.store.grant(&image.config_digest, source.gives())?;
        }
        let (visible, packs) = self.visible_packs(&layers)?.into_iter().unzip();
        // A name may have come to mean another image without anything to download. The record is not worth a start.
        if let Err(error) = self.store.record_image(&record(name, source, &image, &layers)) {
            report(Report::Message(format!("{error}, ignoring")));
        }
        Ok(Imported {
            config: image.config,
            packs,
            layers: visible,
            downloaded: download.layers,
            manifest: manifest.digest,
        })
    }

    /// The packs, bottom first. Those below a layer that hides everything are left out: the kernel does not honour an
    /// opaque root directory.
    fn visible_packs(&self, layers: &[BlobDescriptor]) -> Result<Vec<(Digest, OwnedFd)>> {
        let mut packs = Vec::new();
        for layer in layers.iter().rev() {
            packs.push((layer.digest, self.pack(&layer.digest)?));
            if self
                .store
                .pack_facts(&layer.digest)?
                .is_some_and(|facts| facts.opaque_root)
            {
                break;
            }
        }
        packs.reverse();
        Ok(packs)
    }

    /// The store has the pack, and for this image.
    fn has(&self, layer: &Digest, source: &Source<'_>) -> Result<bool> {
        Ok(self.store.pack(layer)?.is_some() && self.store.is_granted(layer, source.grantee())?)
    }

    fn pack(&self, digest: &Digest) -> Result<OwnedFd> {
        self.store.pack(digest)?.ok_or_else(|| {
            let store = self.store.path().display();
            Error::Host(format!("{digest} was removed from {store} during the start: try again"))
        })
    }

    /// Compares what the layers were found to be with what the configuration says they are. It is done before the
    /// configuration goes to the store, so an image whose configuration is there has passed.
    fn check_diff_ids(&self, image: &Resolved) -> Result<()> {
        for layer in &image.layers {
            if self
                .store
                .pack_facts(&layer.digest)?
                .is_some_and(|facts| facts.diff_id != layer.diff_id)
            {
                let (digest, diff_id) = (layer.digest, layer.diff_id);
                return Err(Error::Image(format!(
                    "layer {digest} does not match the diff id {diff_id} of its image"
                )));
            }
        }
        Ok(())
    }

    /// Downloads until nothing is missing. A layer that somebody else imports is waited for while no lock is held, so
    /// two imports can never wait for each other.
    fn obtain(
        &self,
        (manifest, config): (&Manifest, Option<Vec<u8>>),
        layers: &[BlobDescriptor],
        source: &Source<'_>,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Vec<u8>, Downloaded)> {
        let mut done = Downloaded::default();
        let mut config = match config {
            None if self.store.is_granted(&manifest.config.digest, source.grantee())? => {
                self.store.config(&manifest.config.digest)?
            }
            given => given,
        };
        let mut stalled = BTreeSet::new();
        loop {
            let (ours, theirs) = self.claim(layers, source, &stalled)?;
            if !ours.is_empty() || config.is_none() {
                let wanted = config.is_none().then_some(&manifest.config);
                done.layers += ours.len();
                let round = Round {
                    layers: ours,
                    config: wanted,
                    source,
                };
                let round = self.download(round, report)?;
                done.bytes += round.bytes;
                done.config |= round.config.is_some();
                config = config.or(round.config);
            } else if let Some(layer) = theirs.first() {
                if self.wait_for_other(source, &layer.digest, report)? == Waited::Stalled {
                    stalled.insert(layer.digest);
                }
            } else if let Some(config) = config {
                return Ok((config, done));
            }
        }
    }

    /// Waits until somebody else has imported a layer, or given up, or gets nowhere.
    fn wait_for_other(&self, source: &Source<'_>, layer: &Digest, report: &mut dyn FnMut(Report)) -> Result<Waited> {
        let name = layer.short();
        let mut tell = || report(Report::Progress(format!("waiting for another import of layer {name}")));
        tell();
        let patience = Patience {
            tell: PATIENCE,
            stalls: STALLS,
        };
        let lock = source.lock_of(layer);
        let waited = self.store.locks().wait(&lock, patience, tell)?;
        if waited == Waited::Stalled {
            let text = format!("the other import of layer {name} does not advance: importing it too");
            report(Report::Progress(text));
        }
        Ok(waited)
    }

    /// Takes the locks of missing layers that nobody imports, as many as one download can have, and layers whose import
    /// by somebody else has `stalled`; the second list is those that somebody else does.
    fn claim<'l>(
        &self,
        layers: &'l [BlobDescriptor],
        source: &Source<'_>,
        stalled: &BTreeSet<Digest>,
    ) -> Result<(Vec<Claim<'l>>, Vec<&'l BlobDescriptor>)> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for layer in layers {
            if ours.len() == source.most() || self.has(&layer.digest, source)? {
                continue;
            }
            match self.store.locks().try_lock(&source.lock_of(&layer.digest))? {
                // It may have been published since.
                Some(lock) if !self.has(&layer.digest, source)? => ours.push(Claim {
                    layer,
                    lock: Some(lock),
                }),
                Some(_) => {}
                // Who publishes second finds the same there.
                None if stalled.contains(&layer.digest) => ours.push(Claim { layer, lock: None }),
                None => theirs.push(layer),
            }
        }
        Ok((ours, theirs))
    }

    /// One download. The lock of a layer is let go as soon as it is published: who waits for it need not wait for the rest.
    fn download(&self, round: Round<'_>, report: &mut dyn FnMut(Report)) -> Result<Fetched> {
        let item = |kind, descriptor: &BlobDescriptor| Item {
            kind,
            descriptor: descriptor.clone(),
        };
        let config = round.config.map(|config| (item(ItemKind::Config, config), None));
        let layers = round
            .layers
            .into_iter()
            .map(|claim| (item(ItemKind::Layer, claim.layer), claim.lock));
        let (items, locks): (Vec<_>, Vec<_>) = config.into_iter().chain(layers).unzip();
        let mut unfinished: BTreeMap<usize, Option<Lock>> = locks.into_iter().enumerate().collect();
        let sizes = items.iter().map(|item| item.descriptor.size);
        let bytes = sizes.fold(0, u64::saturating_add);
        self.store.check_space(bytes.saturating_add(bytes / 4))?;
        let files = items.iter().map(|_| self.store.unnamed_file());
        let files = files.collect::<Result<Vec<_>>>()?;
        let (supply, inputs) = round.source.supply(&items)?;
        let pack = self.pack_options()?;
        let request = DownloadRequest {
            supply,
            items,
            connections: round.source.connections(pack.threads),
            pack,
        };
        let (mut config, mut shown) = (None, 0);
        let mut news = |news| match news {
            News::Finished(index, summary) => {
                let lock = unfinished.remove(&index);
                match (&lock, request.items.get(index), files.get(index)) {
                    (Some(_), Some(item), Some(file)) => {
                        config = config.take().or(self.keep(item, file, summary, round.source)?);
                        Ok(())
                    }
                    _ => Err(Error::Host(format!(
                        "the download worker finished item {index}, which it was not asked for"
                    ))),
                }
            }
            News::Received(bytes) if bytes / ADVANCE > shown => {
                shown = bytes / ADVANCE;
                unfinished.values().flatten().try_for_each(Lock::advance)
            }
            News::Received(_) => Ok(()),
        };
        self.workers
            .download(&request, (&files, &inputs), self.requester, report, &mut news)?;
        match unfinished.keys().next() {
            Some(index) => Err(Error::Host(format!("the download worker left item {index} out"))),
            None => Ok(Fetched { bytes, config }),
        }
    }

    /// Publishes a finished layer; a configuration is handed back, as it is published when all layers have passed.
    fn keep(&self, item: &Item, file: &File, summary: Option<Summary>, source: &Source<'_>) -> Result<Option<Vec<u8>>> {
        let Item { kind, descriptor } = item;
        match (kind, summary) {
            (ItemKind::Layer, Some(summary)) => {
                let facts = PackFacts {
                    diff_id: summary.diff_id,
                    opaque_root: summary.opaque_root,
                };
                self.store.publish_pack(&descriptor.digest, &facts, file)?;
                self.store.grant(&descriptor.digest, source.gives())?;
                Ok(None)
            }
            (ItemKind::Config, None) => read_config(file, descriptor).map(Some),
            _ => Err(Error::Host(format!(
                "the download worker's answer about {} is not one about a {kind:?}",
                descriptor.digest
            ))),
        }
    }

    fn pack_options(&self) -> Result<Options> {
        let mut options = Options {
            compression: self.config.store.compression()?,
            ..Options::default()
        };
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        options.threads = self.config.store.threads.map_or_else(processors, usize::from);
        options.block_size = self.config.store.block_size;
        options.limits.max_bytes = self.config.store.max_layer_size;
        Ok(options)
    }
}

fn record(name: &str, source: &Source<'_>, image: &Resolved, layers: &[BlobDescriptor]) -> ImageRecord {
    ImageRecord {
        reference: name.to_owned(),
        owner: source.owner(),
        manifest: image.manifest_digest,
        config: image.config_digest,
        layers: layers.iter().map(|layer| layer.digest).collect(),
        imported: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs()),
    }
}

/// What one download gets.
struct Round<'a> {
    layers: Vec<Claim<'a>>,
    config: Option<&'a BlobDescriptor>,
    source: &'a Source<'a>,
}

/// What one download brought, beside the packs.
struct Fetched {
    bytes: u64,
    config: Option<Vec<u8>>,
}

/// What all downloads of an import brought.
#[derive(Debug, Default)]
struct Downloaded {
    layers: usize,
    bytes: u64,
    config: bool,
}

/// The downloaded configuration, verified here again since this process will trust it.
fn read_config(mut file: &File, descriptor: &BlobDescriptor) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MAX_CONFIG).read_to_end(&mut bytes))
        .map_err(|error| Error::sys("read the image's configuration", "read", error))?;
    if Digest::of(&bytes) != descriptor.digest {
        return Err(Error::Image(format!(
            "the image's configuration does not match its digest {}",
            descriptor.digest
        )));
    }
    Ok(bytes)
}

/// The layers without those that come again further up: what the upper one brings hides all of the lower one.
fn without_repetition<'a>(layers: impl Iterator<Item = &'a BlobDescriptor>) -> Vec<BlobDescriptor> {
    let mut layers: Vec<_> = layers.cloned().collect();
    layers.reverse();
    let mut seen = BTreeSet::new();
    layers.retain(|layer| seen.insert(layer.digest));
    layers.reverse();
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_layer_that_comes_again_the_uppermost_counts() {
        let layer = |name: &str| BlobDescriptor {
            digest: Digest::of(name.as_bytes()),
            size: 1,
            media_type: String::new(),
        };
        let all = [layer("empty"), layer("a"), layer("empty"), layer("b"), layer("empty")];
        assert_eq!(without_repetition(all.iter()), [layer("a"), layer("b"), layer("empty")]);
        assert!(without_repetition([].iter()).is_empty());
    }
}
