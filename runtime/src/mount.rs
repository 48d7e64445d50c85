//! What a mount is, as data: the shape shared by `--container-mounts`, the system mounts of a plan and fstab files.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One mount, as asked for: nothing is resolved yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// Where, as a path of the container; resolved inside the root file system, never outside of it.
    pub target: PathBuf,
    /// How.
    pub options: MountOptions,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, opened as the user; relative paths start at the job's working directory.
    Path(PathBuf),
    /// A new tmpfs.
    Tmpfs,
    /// The squashfs file system in a file of the host, opened as the user; paths as above.
    Squashfs(PathBuf),
    /// Nothing: what is mounted on the target goes away.
    Umount,
}

/// The options of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MountOptions {
    /// Read-only. A mount that the host has read-only stays so without it.
    pub readonly: bool,
    /// Set-id bits and file capabilities are ignored.
    pub nosuid: bool,
    /// Device nodes do not work.
    pub nodev: bool,
    /// No program can be executed from it.
    pub noexec: bool,
    /// The mounts below the source come along (`rbind`; else `bind`).
    pub recursive: bool,
    /// Propagation to set, if any.
    pub propagation: Option<Propagation>,
    /// What to create when the target is missing.
    pub create: Create,
    /// `x-detach`: a lazy detach of what is mounted on the target before.
    pub detach: bool,
    /// `x-move`: the source (a path of the container) is moved to the target.
    pub move_mount: bool,
    /// A failure is not an error.
    pub nofail: bool,
    /// A failure with `nofail` is not even told.
    pub silent: bool,
    /// File-system data (`size=1G`, `huge=within_size`), for tmpfs.
    pub data: Vec<String>,
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// Private, slave, shared or unbindable.
    pub kind: PropagationKind,
    /// Of the whole tree (`rprivate` and so on).
    pub recursive: bool,
}

/// Kinds of mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PropagationKind {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// What to create when a mount's target is missing (`x-create=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Create {
    /// Nothing: a missing target is an error.
    No,
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// Whatever the source is.
    #[default]
    Auto,
}
