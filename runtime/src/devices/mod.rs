//! Devices and their drivers in a container, as data: finders look at the host and say what a container needs ([`Edits`]);
//! `rootfs` does it. Nothing of the host, of the image or of a vendor is executed for it.
#![forbid(unsafe_code)]

pub mod cdi;
mod host;
mod infiniband;
pub mod ldcache;
mod nvidia;
mod rocm;
mod wish;

use crate::environment::Edit;
use crate::error::Result;
use crate::mount::MountSpec;
pub use host::HostFiles;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
pub use wish::{DevicesConfig, Wish};

/// Looks for everything that `wish` asks for; `own` are variables of an image that has them in files.
pub fn find(wish: &Wish, own: &[String], host: &HostFiles) -> Result<Edits> {
    let variables = wish.variables(own);
    let mut edits = wish.also.clone();
    edits.add(nvidia::find(wish, &variables, host)?);
    edits.add(rocm::find(wish, host)?);
    edits.add(infiniband::find(&variables, host)?);
    Ok(edits)
}

/// What a container gets for its devices. Finders yield one each; [`Edits::add`] puts them together.
///
/// Sources are paths of the host, opened by root before anything of the container is there, so a finder takes them from
/// root's files alone. Targets are paths of the container, resolved inside its root file system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Edits {
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Binds: programs, firmware, sockets (not read-only), files of configuration. The options' `nofail` and `silent` count.
    pub mounts: Vec<MountSpec>,
    /// The same, where a user may have a hand in the source: opened with the rights of the container's user.
    pub user_mounts: Vec<MountSpec>,
    /// Shared libraries, which go where the image's loader looks, and into its cache.
    pub libraries: Vec<Library>,
    /// Symbolic links, made in the container's private layer.
    pub links: Vec<Link>,
    /// Small files that are mounted over what is there, read-only: settings of a driver below `/proc`, for instance.
    pub files: Vec<CoverFile>,
    /// Directories that have nothing but this: the devices of a class below `/sys`, for instance.
    pub directories: Vec<CoverDirectory>,
    /// Files and directories of the host that the container must not see: covered by something empty that nobody can
    /// open. A missing one is hidden already.
    pub hidden: Vec<PathBuf>,
    /// Variables, over those of job and image.
    pub env: Vec<Edit>,
    /// Directories of the container that the loader searches beside its own, through its cache.
    pub loader_directories: Vec<LoaderDirectory>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// A device node. It is the host's own (bound, never made), so its owner and mode are the host's, and the job's control
/// group decides about access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node on the host.
    pub source: PathBuf,
    /// Where it is in the container.
    pub target: PathBuf,
    /// What the node must be; checked on the opened node.
    pub expected: Expected,
}

/// What a device node must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Character or block device.
    pub kind: NodeKind,
    /// Major number, when it is known.
    pub major: Option<u32>,
    /// Minor number, when it is known.
    pub minor: Option<u32>,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NodeKind {
    Character,
    Block,
}

/// A shared library of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The file on the host. It keeps its name.
    pub source: PathBuf,
    /// The name that programs ask the loader for.
    pub soname: String,
    /// More names beside it (`libcuda.so`), links to the soname.
    pub links: Vec<String>,
    /// 32-bit libraries have directories of their own.
    pub bits: Bits,
    /// One of the image with this soname stays.
    pub unless_there: bool,
}

/// Word size of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Bits {
    B32,
    B64,
}

/// A symbolic link in the container. Nothing is done when something has this name already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// A small file with this content, mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverFile {
    /// Where it is; if nothing is there, nothing is done.
    pub path: PathBuf,
    /// The content.
    pub bytes: Vec<u8>,
}

/// A directory with this content alone, mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverDirectory {
    /// Where it is; if nothing is there, nothing is done.
    pub path: PathBuf,
    /// Symbolic links: their names, and what they say.
    pub links: Vec<(String, PathBuf)>,
    /// Files: their names, and their content.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A directory of the container whose libraries the loader finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderDirectory {
    /// The directory; a missing one is none.
    pub path: PathBuf,
    /// Only if it has a file `NAME.so.VERSION` of a newer version than this: (`libcuda`, the driver's).
    pub newer_than: Option<(String, Vec<u32>)>,
    /// The names of libraries that will be mounted there, as programs ask for them.
    pub mounted: Vec<String>,
}

impl Library {
    /// One more name: the one with a version is what programs ask for.
    fn add_name(&mut self, name: &str) {
        let is_plain = self.soname.ends_with(".so");
        if self.soname == name || self.links.iter().any(|known| known == name) {
            return;
        }
        let other = match is_plain {
            true => std::mem::replace(&mut self.soname, name.to_owned()),
            false => name.to_owned(),
        };
        self.links.push(other);
    }
}

impl Edits {
    /// Adds what another finder has found.
    pub fn add(&mut self, other: Edits) {
        let Edits {
            nodes,
            mounts,
            user_mounts,
            libraries,
            links,
            files,
            directories,
            hidden,
            env,
            loader_directories,
            warnings,
        } = other;
        self.nodes.extend(nodes);
        self.mounts.extend(mounts);
        self.user_mounts.extend(user_mounts);
        self.libraries.extend(libraries);
        self.links.extend(links);
        self.files.extend(files);
        self.directories.extend(directories);
        self.hidden.extend(hidden);
        self.env.extend(env);
        self.loader_directories.extend(loader_directories);
        self.warnings.extend(warnings);
    }
}
