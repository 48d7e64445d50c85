//! From a running container to what is saved of it.
#![forbid(unsafe_code)]

use super::{Form, LayerFile, Save, threads};
use crate::config::Config;
use crate::containers::{Description, Held, Kind, Layer};
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::store::Store;
use crate::sys::cgroup::Groups;
use rustix::fd::OwnedFd;
use std::fs::File;
use std::path::PathBuf;

/// Where a container is saved.
#[derive(Debug)]
pub struct Destination {
    /// The file, with an absolute path.
    pub target: PathBuf,
    /// The file's permission bits.
    pub mode: u32,
    /// The mount namespace that the path is meant in, when it is not the caller's.
    pub mounts: Option<OwnedFd>,
    /// The job's control groups.
    pub groups: Groups,
}

/// All that is needed to save a container of `identity`.
pub fn of_container(
    held: &Held,
    description: &Description,
    identity: &Identity,
    destination: Destination,
    config: &Config,
) -> Result<Save> {
    let upper = held
        .get(Kind::Upper)
        .ok_or_else(|| Error::Host("the container came without its writable layer".into()))?;
    let upper = upper
        .try_clone_to_owned()
        .map_err(|error| Error::sys("save the container", "dup", error))?;
    Ok(Save {
        identity: identity.clone(),
        target: destination.target,
        mode: destination.mode,
        layers: layers(held, description, config)?,
        upper,
        user_marks: description.record.user_marks,
        config: Some(description.record.config.clone()),
        form: Form::Squashfs,
        groups: destination.groups,
        mounts: destination.mounts,
        compression: config.store.compression()?,
        threads: threads(),
    })
}

/// Opens the layers, bottom first.
fn layers(held: &Held, description: &Description, config: &Config) -> Result<Vec<LayerFile>> {
    let store = Store::open(&config.store.path)?;
    let image = &description.record.image;
    let open = |layer: &Layer| match layer {
        Layer::Pack(digest) => match store.pack(digest)? {
            Some(pack) => Ok(LayerFile {
                file: File::from(pack),
                part: None,
            }),
            None => Err(Error::Host(format!(
                "the pack of layer {digest} is not in the store any more: import {image} again"
            ))),
        },
        // The one that is in use, whatever its path leads to now.
        Layer::File(_) => held_file(held, description),
    };
    description.record.layers.iter().map(open).collect()
}

fn held_file(held: &Held, description: &Description) -> Result<LayerFile> {
    let file = held.get(Kind::Layer);
    let file = file.ok_or_else(|| Error::Host("the container came without the file that it is made of".into()))?;
    let file = file
        .try_clone_to_owned()
        .map_err(|error| Error::sys("save the container", "dup", error))?;
    Ok(LayerFile {
        file: File::from(file),
        part: description.part.map(|part| (part.offset, part.size)),
    })
}
