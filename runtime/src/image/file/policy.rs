//! `[images]` of the site's settings: whose image files the kernel may mount, and what happens to the others.
#![forbid(unsafe_code)]

use super::trust;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// `[images]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// What happens to image files that somebody untrusted could change.
    pub user_images: UserImages,
    /// Who reads images that nobody untrusted can change, those of registries among them.
    pub read_by: ReadBy,
    /// User ids, beside root's, whose files the kernel may mount.
    pub trusted_owners: Vec<u32>,
    /// Network file systems whose word on owners is taken: nfs, lustre, gpfs, ceph, beegfs, afs.
    pub trusted_file_systems: Vec<String>,
    /// The program that reads image files for users: squashfuse_ll.
    pub reader: PathBuf,
    /// Where docker and podman are looked for, for images that they have: directories with a colon between them.
    pub client_path: String,
    /// Image files run only when somebody has signed them whose key is in a key ring, and nobody can change them.
    pub require_signature: bool,
    /// Files with the OpenPGP keys of those who may sign.
    pub keyrings: Vec<PathBuf>,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        ImagesConfig {
            user_images: UserImages::Auto,
            read_by: ReadBy::Auto,
            trusted_owners: Vec::new(),
            trusted_file_systems: Vec::new(),
            reader: PathBuf::from("/usr/bin/squashfuse_ll"),
            client_path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            require_signature: false,
            keyrings: Vec::new(),
        }
    }
}

/// What happens to image files that somebody untrusted could change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum UserImages {
    /// The best way that this machine has and that does not show them to the kernel.
    #[default]
    Auto,
    /// The kernel mounts them all the same.
    Kernel,
    /// A process of the user reads them.
    Fuse,
    /// They are unpacked to a directory.
    Unpack,
    /// They are refused.
    Deny,
}

/// Who reads an image: a rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ReadBy {
    /// The best that this machine has.
    #[default]
    Auto,
    /// The kernel.
    Kernel,
    /// A process of the user for each layer.
    Fuse,
    /// Nobody while it runs: it is unpacked to a directory before.
    Unpack,
}

impl ReadBy {
    /// Its name in the settings.
    pub fn name(self) -> &'static str {
        match self {
            ReadBy::Auto => "auto",
            ReadBy::Kernel => "kernel",
            ReadBy::Fuse => "fuse",
            ReadBy::Unpack => "unpack",
        }
    }

    /// Who it is, for messages.
    pub fn reader(self) -> &'static str {
        match self {
            ReadBy::Auto | ReadBy::Kernel => "kernel",
            ReadBy::Fuse => "squashfuse_ll",
            ReadBy::Unpack => "unpacked",
        }
    }
}

impl ImagesConfig {
    /// What types do not say.
    pub fn check(&self) -> Result<()> {
        if self.require_signature && self.keyrings.is_empty() {
            return Err(Error::Host(
                "images.require_signature = true needs images.keyrings: no signature could be good".to_owned(),
            ));
        }
        match self
            .trusted_file_systems
            .iter()
            .find(|name| !trust::is_remote_name(name))
        {
            Some(name) => Err(Error::Host(format!(
                "images.trusted_file_systems = {name:?} is none of nfs, lustre, gpfs, ceph, beegfs, afs"
            ))),
            None => Ok(()),
        }
    }
}
