//! Libraries of the host in the container: at the place where the image's loader looks, under their names, and in its cache.
//! Files, links and the cache are made in the private layer before anything is mounted, so that no link of the image can
//! lead to what is mounted; then the libraries are bound.
#![forbid(unsafe_code)]

use super::devices::{Found, link_in, open};
use super::loader::{self, Added, Loader};
use super::mounts::Mounter;
use super::tree::{Missing, Tree};
use crate::devices::{HostFiles, Library};
use crate::environment::Edit;
use crate::error::{Error, Result};
use crate::plan::{Origin, Plan};
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use rustix::fd::OwnedFd;
use rustix::mount::MountAttrFlags;
use std::path::PathBuf;

/// Libraries whose places are ready.
#[derive(Debug, Default)]
pub struct Placed {
    /// What is mounted where.
    mounts: Vec<(OwnedFd, OwnedFd)>,
    /// Variables by which a loader finds them that looks nowhere by itself.
    pub env: Vec<Edit>,
}

impl Placed {
    /// Binds them.
    pub fn attach(&self, mounter: &mut Mounter<'_, '_>) -> Result<()> {
        self.mounts
            .iter()
            .try_for_each(|(library, target)| mounter.attach(library, target))
    }
}

/// Makes the places, links and the cache.
pub fn place(tree: &Tree<'_>, plan: &Plan, found: Option<&Found>) -> Result<Placed> {
    let Some(Found { edits, host }) = found else {
        return Ok(Placed::default());
    };
    if edits.libraries.is_empty() && edits.loader_directories.is_empty() {
        return Ok(Placed::default());
    }
    let machine = std::env::consts::ARCH;
    let loader = Loader::of(tree, machine, &plan.identity)?;
    let (mut placed, mut added) = (Placed::default(), Vec::new());
    for library in edits
        .libraries
        .iter()
        .filter(|library| is_wanted(tree, &loader, library))
    {
        let what = format!("give {} to the container", library.source.display());
        let (mounts, entries) = place_one(tree, plan, host, &loader, library).map_err(|error| error.context(&what))?;
        placed.mounts.push(mounts);
        added.extend(entries);
    }
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in &edits.loader_directories {
        let libraries = loader::libraries_in(tree, directory);
        if !libraries.is_empty() {
            directories.push(directory.path.clone());
        }
        added.retain(|known| libraries.iter().all(|library| library.name != known.name));
        added.extend(libraries);
    }
    if loader.musl {
        placed.env = search_path(&loader, directories).into_iter().collect();
    } else {
        loader::write_cache(tree, &added, machine, &plan.identity)?;
    }
    Ok(placed)
}

/// Whether it goes into the container: some give way to the image's own.
fn is_wanted(tree: &Tree<'_>, loader: &Loader, library: &Library) -> bool {
    let place = loader.directory(library.bits).join(&library.soname);
    !library.unless_there || tree.look_up(&place, Missing::Fail, Origin::System).is_err()
}

/// musl has no cache. What its loader does not search by itself goes into a variable.
fn search_path(loader: &Loader, mut directories: Vec<PathBuf>) -> Option<Edit> {
    if loader.needs_variable {
        directories.push(loader.libraries.clone());
    }
    let paths: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    (!paths.is_empty()).then(|| ("LD_LIBRARY_PATH".to_owned(), Some(paths.join(":"))))
}

/// The mount of a library, its place, and what the cache says of its names.
fn place_one(
    tree: &Tree<'_>,
    plan: &Plan,
    host: &HostFiles,
    loader: &Loader,
    library: &Library,
) -> Result<((OwnedFd, OwnedFd), Vec<Added>)> {
    let name = library
        .source
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let directory = loader.directory(library.bits);
    let target = tree.resolve(&directory.join(&name), Missing::File, Origin::System)?;
    let file = open(host, &library.source)?;
    let mount = open_tree_clone(&file, false)?;
    let restrictions =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    mount_setattr(&mount, Change::Add(restrictions), false)?;
    let mut said = name.clone();
    for link in std::iter::once(&library.soname).chain(&library.links) {
        if *link != name {
            link_in(tree, plan, &directory.join(link), &said).map_err(|error: Error| error.context(link))?;
        }
        said.clone_from(&library.soname);
    }
    let names = std::iter::once(&library.soname).chain(&library.links);
    let entries = names.map(|name| Added {
        name: name.clone(),
        path: directory.join(name),
        bits: library.bits,
    });
    Ok(((mount, target), entries.collect()))
}
