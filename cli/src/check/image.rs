//! Whether an image of a registry can be had from here: its manifest is asked for as a start would, with the caller's
//! credentials. Nothing is downloaded.
#![forbid(unsafe_code)]

use super::{Finding, Subject};
use crate::settings;
use pyxis_runtime::config::Config;
use pyxis_runtime::image::{Manifest, Platform};
use pyxis_runtime::import::{Requester, Workers};
use pyxis_runtime::reference::{ImageSource, Reference};
use pyxis_runtime::store::{Grantee, Store};
use pyxis_runtime::{Digest, Error, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const REGISTRY: Subject = Subject::new("image.registry", "registry");
const IMAGE: Subject = Subject::new("image.manifest", "image");

pub fn look(image: &str, config: &Config) -> Vec<Finding> {
    let asked = parse(image).and_then(|reference| {
        let (manifest, time) = ask(&reference, config)?;
        Ok((reference, manifest, time))
    });
    match asked {
        Ok((reference, manifest, time)) => vec![
            REGISTRY.ok(format!("{} answered in {} ms", reference.registry(), time.as_millis())),
            describe(&reference, &manifest, config),
        ],
        Err(error) => {
            let advice = advice(&error);
            let error = error.context(&format!("failed to import docker image: {image}"));
            vec![IMAGE.fail(error.to_string(), advice)]
        }
    }
}

fn parse(image: &str) -> Result<Reference> {
    match image.parse()? {
        ImageSource::Registry(reference) => Ok(reference),
        _ => Err(Error::Request(format!(
            "{image} is not an image of a registry (docker://...)"
        ))),
    }
}

fn ask(reference: &Reference, config: &Config) -> Result<(Manifest, Duration)> {
    let workers = Workers::of_this_program(&config.worker)?;
    let requester = Requester {
        task: None,
        env: settings::environment(),
    };
    let started = Instant::now();
    let asked = workers.start_resolve(reference, &Platform::host(), &config.registry.client())?;
    let (manifest, _) = workers.resolve(asked, &requester, &mut |_| ())?;
    Ok((manifest, started.elapsed()))
}

fn describe(reference: &Reference, manifest: &Manifest, config: &Config) -> Finding {
    let layers: BTreeMap<Digest, u64> = manifest.blobs().map(|blob| (blob.digest, blob.size)).collect();
    let sizes = layers.values().copied();
    let mebibytes = sizes.fold(0, u64::saturating_add) as f64 / f64::from(1 << 20);
    let fact = format!(
        "{reference} for {}: {}, {} layers, {mebibytes:.1} MiB to download",
        Platform::host(),
        manifest.digest,
        layers.len(),
    );
    match in_store(reference, &layers, config) {
        Ok(there) => IMAGE.ok(format!("{fact}, {there} of them are in the store")),
        Err(error) => IMAGE.ok(format!("{fact} ({error})")),
    }
}

/// How many of the layers a start would not download.
fn in_store(reference: &Reference, layers: &BTreeMap<Digest, u64>, config: &Config) -> Result<usize> {
    let Some(store) = Store::existing(&config.store.path)? else {
        return Ok(0);
    };
    let mut there = 0;
    for layer in layers.keys() {
        if store.pack(layer)?.is_some() && store.is_granted(layer, Grantee::Repository(reference))? {
            there += 1;
        }
    }
    Ok(there)
}

/// What to do about an error of the registry, by who can do it.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::Request(_) => {
            "correct the name, or the credentials in ~/.config/enroot/.credentials or ~/.docker/config.json"
        }
        Error::Denied(_) => "ask the site",
        Error::Image(_) => {
            "ask who serves the image; if nobody answers, look at the network, the proxy and [registry] in pyxis.toml"
        }
        Error::Host(_) | Error::Sys { .. } => "look at the network, the proxy and [registry] in pyxis.toml",
    }
}
