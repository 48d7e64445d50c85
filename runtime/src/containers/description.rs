//! What a container is, as data: for who joins it, saves it, or uses its files again.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::environment::Edit;
use crate::image::ImageConfig;
use crate::image::file::Part;
use crate::plan::Unshare;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its id.
    pub id: String,
    /// What it is made of.
    pub record: Record,
    /// The one group that its user namespace maps.
    pub gid: u32,
    /// The user is root inside.
    pub remap_root: bool,
    /// The root file system can be written.
    pub writable: bool,
    /// The user's home directory is mounted.
    pub mount_home: bool,
    /// Its namespaces beyond user, mount and cgroup.
    pub unshare: Unshare,
    /// Variables that follow from how it was started, over those of the image.
    pub env: Vec<Edit>,
    /// Variables that the image's entrypoint changed when it was started.
    pub entrypoint: Vec<Edit>,
    /// Files with data that processes of the user read.
    pub data: Vec<String>,
    /// Where the root file system is in the file, of one that is made of a file.
    pub part: Option<Part>,
}

/// What a container is made of. This much is kept of one that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The image, as the user named it.
    pub image: String,
    /// The digest of its manifest.
    pub manifest: Option<Digest>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, bottom first. One that was unpacked has none: everything is in its directory.
    pub layers: Vec<Layer>,
    /// The overlay marks what is written in `user.overlay.*`, as the one of a user's own namespace must.
    #[serde(default)]
    pub user_marks: bool,
}

impl Record {
    /// The container is a directory with everything in it.
    pub fn is_unpacked(&self) -> bool {
        self.layers.is_empty()
    }
}

/// Where a layer can be opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// A pack of the store.
    Pack(Digest),
    /// A file of the user's or of the site's, by its absolute path.
    File(PathBuf),
}
