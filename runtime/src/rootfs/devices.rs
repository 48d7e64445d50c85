//! Puts devices and their drivers into the container: the finders' [`Edits`], done on descriptors.
#![forbid(unsafe_code)]

use super::data;
use super::mounts::Mounter;
use super::small_file;
use super::sources::{self, Prepared, tolerate};
use super::tree::{Missing, Tree, kind, stat};
use crate::devices::{self as finders, CoverDirectory, CoverFile, Edits, Expected, HostFiles, Link, Node, NodeKind};
use crate::directory;
use crate::environment::Edit;
use crate::error::{Error, Result};
use crate::image::own_files::OwnFiles;
use crate::mount::{MountSource, MountSpec};
use crate::plan::{Origin, Plan, PlannedMount};
use crate::privilege::owned_by_user;
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use rustix::fd::OwnedFd;
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::ffi::OsString;
use std::path::Path;

/// Where device nodes are.
const DEV: &str = "/dev";

/// What was found, and where.
#[derive(Debug)]
pub struct Found {
    /// What.
    pub edits: Edits,
    /// Below which directory.
    pub host: HostFiles,
}

/// The host's files, if devices may be wanted. Opened before the container's root covers the host's.
pub fn host(plan: &Plan) -> Result<Option<HostFiles>> {
    let wish = plan.devices.as_ref();
    wish.map(|wish| HostFiles::open(&wish.site.root, &plan.identity))
        .transpose()
}

/// Asks the finders. `own` is what an image says of itself in files.
pub fn find(
    plan: &Plan,
    host: Option<HostFiles>,
    own: Option<&OwnFiles>,
    report: &mut dyn FnMut(String),
) -> Result<Option<Found>> {
    let (Some(wish), Some(host)) = (&plan.devices, host) else {
        return Ok(None);
    };
    let own = own.map(|own| own.config(&wish.job)).transpose()?;
    let own = own.map(|config| config.env).unwrap_or_default();
    let mut edits = finders::find(wish, &own, &host)?;
    std::mem::take(&mut edits.warnings).into_iter().for_each(report);
    Ok(Some(Found { edits, host }))
}

/// Puts everything in its place. Gives the variables.
pub fn apply(
    mounter: &mut Mounter<'_, '_>,
    tree: &Tree<'_>,
    plan: &Plan,
    found: Option<Found>,
    report: &mut dyn FnMut(String),
) -> Result<Vec<Edit>> {
    let Some(Found { edits, host }) = found else {
        return Ok(Vec::new());
    };
    for node in &edits.nodes {
        place_node(mounter, tree, &host, node)
            .map_err(|error| error.context(&format!("give {} to the container", node.source.display())))?;
    }
    mount_all(mounter, plan, &host, edits.mounts, report)?;
    let of_user = user_mounts(plan, edits.user_mounts);
    // None of these is a squashfs file.
    let prepared = sources::prepare(plan, &of_user, &mut data::Mounts::new(), report)?;
    mounter.apply(prepared, report)?;
    for link in &edits.links {
        make_link(tree, plan, link)
            .map_err(|error| error.context(&format!("make the link {}", link.path.display())))?;
    }
    for file in &edits.files {
        cover(mounter, tree, file)?;
    }
    for directory in &edits.directories {
        cover_directory(mounter, tree, directory)
            .map_err(|error| error.context(&format!("cover {}", directory.path.display())))?;
    }
    for path in &edits.hidden {
        hide(mounter, tree, path).map_err(|error| error.context(&format!("hide {}", path.display())))?;
    }
    Ok(edits.env)
}

/// Binds a device node. With the host's `/dev` it is often there already.
fn place_node(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, host: &HostFiles, node: &Node) -> Result<()> {
    let source = open(host, &node.source)?;
    let id = check(&source, node.expected)?;
    if let Ok(there) = tree.look_up(&node.target, Missing::Fail, Origin::System)
        && identity(&there)? == Some(id)
    {
        return Ok(());
    }
    let target = tree
        .look_up(&node.target, Missing::File, Origin::System)
        .map_err(|error| {
            let target = node.target.display();
            match error {
                Errno::ACCESS | Errno::PERM | Errno::ROFS => Error::Host(format!(
                    "the host's /dev, which the container has, has no {target}: set container.restrict_dev = true"
                )),
                error => Error::sys(format!("make {target} in the container"), "openat", error),
            }
        })?;
    let mount = open_tree_clone(&source, false)?;
    let restrictions = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_setattr(&mount, Change::Add(restrictions), false)?;
    mounter.attach(&mount, &target)
}

/// Opens a file of the host that must be there.
pub fn open(host: &HostFiles, path: &Path) -> Result<OwnedFd> {
    host.find(path)?
        .ok_or_else(|| Error::Host(format!("{} does not exist on this node", path.display())))
}

/// What a device node is: kind, major and minor number. Other files are none.
fn identity(file: &OwnedFd) -> Result<Option<(NodeKind, u32, u32)>> {
    let stat = stat(file)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => NodeKind::Character,
        FileType::BlockDevice => NodeKind::Block,
        _ => return Ok(None),
    };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(Some((kind, major, minor)))
}

/// The opened node is what it should be: what has its name may be another one by now.
fn check(file: &OwnedFd, expected: Expected) -> Result<(NodeKind, u32, u32)> {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let wanted = format!(
        "it should be the {} device {}:{}",
        word(expected.kind),
        number(expected.major),
        number(expected.minor)
    );
    let Some((kind, major, minor)) = identity(file)? else {
        return Err(Error::Host(format!("it is no device; {wanted}")));
    };
    let agrees = kind == expected.kind
        && expected.major.is_none_or(|number| number == major)
        && expected.minor.is_none_or(|number| number == minor);
    match agrees {
        true => Ok((kind, major, minor)),
        false => Err(Error::Host(format!(
            "it is the {} device {major}:{minor}; {wanted}",
            word(kind)
        ))),
    }
}

fn word(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Character => "character",
        NodeKind::Block => "block",
    }
}

/// Makes the mounts. Their sources are root's choice, so they are opened as root.
fn mount_all(
    mounter: &mut Mounter<'_, '_>,
    plan: &Plan,
    host: &HostFiles,
    mounts: Vec<MountSpec>,
    report: &mut dyn FnMut(String),
) -> Result<()> {
    let origin = Origin::System;
    for spec in mounts {
        let judged = false;
        let planned = PlannedMount { spec, origin, judged };
        let action = match &planned.spec.source {
            MountSource::Path(path) => {
                open(host, path).and_then(|file| sources::bind(&file, &planned.spec.options, origin))
            }
            MountSource::Tmpfs | MountSource::Umount | MountSource::Squashfs(_) => {
                sources::action(plan, &planned, &mut data::Mounts::new())
            }
        };
        match action {
            Ok(action) => mounter.apply(
                vec![Prepared {
                    planned: &planned,
                    action,
                }],
                report,
            )?,
            Err(error) => tolerate(&planned.spec.options, error, report)?,
        }
    }
    Ok(())
}

/// Mounts whose sources a user may have made. They lie below the finders' root too.
fn user_mounts(plan: &Plan, mounts: Vec<MountSpec>) -> Vec<PlannedMount> {
    let root = plan.devices.as_ref().map_or(Path::new("/"), |wish| &wish.site.root);
    let below = |mut spec: MountSpec| {
        if let MountSource::Path(path) = &mut spec.source {
            *path = root.join(path.strip_prefix("/").unwrap_or(path));
        }
        PlannedMount {
            spec,
            origin: Origin::User,
            judged: true,
        }
    };
    mounts.into_iter().map(below).collect()
}

/// Makes a link in the private layer or a private `/dev`, unless something is there. What else is mounted in the container is
/// not ours to write to.
fn make_link(tree: &Tree<'_>, plan: &Plan, link: &Link) -> Result<()> {
    let there = tree.look_up(&link.path, Missing::Fail, Origin::System).is_ok();
    // The host's /dev has the links that the host has.
    if there || (link.path.starts_with(DEV) && !plan.restrict_dev) {
        return Ok(());
    }
    let (directory, name) = tree.parent(&link.path)?;
    if !tree.is_own(&directory)? && !is_private_dev(tree, plan, &directory)? {
        return Err(Error::Request(
            "its directory is not on the container's own file system".to_owned(),
        ));
    }
    let make = || rustix::fs::symlinkat(&link.target, &directory, &name);
    match owned_by_user(&plan.identity, make)? {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Error::sys("make a link", "symlinkat", error)),
    }
}

/// The directory is on the container's own `/dev`.
fn is_private_dev(tree: &Tree<'_>, plan: &Plan, directory: &OwnedFd) -> Result<bool> {
    if !plan.restrict_dev {
        return Ok(false);
    }
    let dev = tree.resolve(Path::new(DEV), Missing::Fail, Origin::System)?;
    Ok(stat(directory)?.st_dev == stat(&dev)?.st_dev)
}

/// Makes a link in the private layer, in the place of whatever file or link has its name.
pub fn link_in(tree: &Tree<'_>, plan: &Plan, path: &Path, target: &str) -> Result<()> {
    let (directory, name) = own_directory(tree, path)?;
    let there = rustix::fs::readlinkat(&directory, &name, Vec::new());
    if there.is_ok_and(|there| there.as_bytes() == target.as_bytes()) {
        return Ok(());
    }
    directory::unlink(&directory, &name).map_err(|error| Error::sys("replace a link", "unlinkat", error))?;
    owned_by_user(&plan.identity, || rustix::fs::symlinkat(target, &directory, &name))?
        .map_err(|error| Error::sys("make a link", "symlinkat", error))
}

/// The directory of a path, which must be on the container's own file system, and the path's name.
fn own_directory(tree: &Tree<'_>, path: &Path) -> Result<(OwnedFd, OsString)> {
    let (directory, name) = tree.parent(path)?;
    match tree.is_own(&directory)? {
        true => Ok((directory, name)),
        false => Err(Error::Request(
            "its directory is not on the container's own file system".to_owned(),
        )),
    }
}

/// As many names of an image's directory are looked at.
const MOST_NAMES: usize = 4096;

/// The names in a directory of the container; none when it is missing, or is no directory.
pub fn names(tree: &Tree<'_>, path: &Path) -> Vec<String> {
    let Ok(found) = tree.look_up(path, Missing::Fail, Origin::System) else {
        return Vec::new();
    };
    let listed = directory::open(&found, ".").and_then(Dir::read_from);
    let entries = listed.into_iter().flatten().flatten().take(MOST_NAMES);
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Mounts a file of ours over one that is there.
fn cover(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, file: &CoverFile) -> Result<()> {
    match tree.look_up(&file.path, Missing::Fail, Origin::System) {
        Ok(target) => mounter.attach(&small_file::mount(&file.bytes, 0o444)?, &target),
        Err(_) => Ok(()),
    }
}

/// Mounts a directory of ours over one that is there.
fn cover_directory(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, directory: &CoverDirectory) -> Result<()> {
    match tree.look_up(&directory.path, Missing::Fail, Origin::System) {
        Ok(target) => mounter.attach(
            &small_file::mount_directory(&directory.links, &directory.files)?,
            &target,
        ),
        Err(_) => Ok(()),
    }
}

/// Covers a file or directory with an empty one.
fn hide(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, path: &Path) -> Result<()> {
    let Ok(target) = tree.look_up(path, Missing::Fail, Origin::System) else {
        return Ok(());
    };
    let cover = match kind(&target)? {
        FileType::Directory => small_file::mount_empty_directory()?,
        _ => small_file::mount(b"", 0)?,
    };
    mounter.attach(&cover, &target)
}
