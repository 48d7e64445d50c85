//! Devices of any vendor, as their specifications describe them (Container Device Interface): files of the administrator
//! in `/etc/cdi` and `/var/run/cdi`. What a specification says is data here too: its hooks are not run.
//!
//! Device nodes are opened by root, which gives no right to use them. Everything else that is mounted is opened with the
//! user's rights: what he cannot read on the node he cannot read in a container.
#![forbid(unsafe_code)]

mod catalog;
mod hooks;
pub mod name;
mod spec;
mod yaml;

use super::{DevicesConfig, Edits, Expected, Link, LoaderDirectory, Node, NodeKind};
use crate::bounded;
use crate::config::enroot::Owner;
use crate::config::files::{Place, TextFile};
use crate::elf::linking;
use crate::error::{Error, Result, words};
use crate::mount::{MountOptions, MountSource, MountSpec};
use crate::plan::Identity;
use crate::privilege::as_user;
use crate::request::mount_syntax::{bind_flag, data_flag, mount_flag};
use catalog::{Catalog, Chosen};
use hooks::Effect;
use name::DeviceName;
use rustix::fs::{AtFlags, FileType};
use spec::{ContainerEdits, DeviceNode, Mount};
use std::path::{Path, PathBuf};

/// Where specifications lie; what a later one says wins.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Options of a mount that change nothing here, or are the default.
const WITHOUT_EFFECT: [&str; 9] = [
    "async",
    "defaults",
    "dev",
    "exec",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "suid",
];

/// What a container needs for described devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// All but the mounts.
    pub edits: Edits,
    /// Mounts whose sources are the user's to open.
    pub mounts: Vec<MountSpec>,
}

/// What a container needs for these devices.
pub fn find(names: &[DeviceName], site: &DevicesConfig, identity: &Identity) -> Result<Described> {
    let mut described = Described::default();
    if names.is_empty() {
        return Ok(described);
    }
    allow(names, site)?;
    let catalog = read(&site.root, identity);
    for Chosen { path, edits: wanted } in catalog.choose(names)? {
        let found = translate(wanted, site, identity).map_err(|error| error.context(path))?;
        described.edits.add(found.edits);
        described.mounts.extend(found.mounts);
    }
    let ignored = catalog.unusable.iter().map(|reason| format!("{reason}, ignoring"));
    described.edits.warnings.extend(ignored);
    Ok(described)
}

fn allow(names: &[DeviceName], site: &DevicesConfig) -> Result<()> {
    let Some(allowed) = &site.cdi else { return Ok(()) };
    match names.iter().find(|name| !allowed.contains(&name.class)) {
        None => Ok(()),
        Some(name) => {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let allowed = if allowed.is_empty() {
                "none".to_owned()
            } else {
                allowed.join(", ")
            };
            Err(Error::Denied(format!(
                "device {name}: this site allows {allowed} (devices.cdi of {})",
                crate::config::POLICY_FILE
            )))
        }
    }
}

/// Reads all specifications. A bad one does not keep a job from the devices of the others.
fn read(root: &Path, identity: &Identity) -> Catalog {
    let mut catalog = Catalog::default();
    for (priority, directory) in DIRECTORIES.iter().enumerate() {
        let path = below(root, Path::new(directory));
        let place = Place {
            path: &path,
            owner: Owner::Site,
            identity,
        };
        match place.each(&[".json", ".yaml"]) {
            Err(error) => catalog.unusable.push(error.to_string()),
            Ok(files) => files.into_iter().for_each(|file| match file {
                Err(error) => catalog.unusable.push(error.to_string()),
                Ok(TextFile { path, text }) => {
                    let spec = spec::parse(&text, path.ends_with(".json"));
                    catalog.add(&path, priority, spec);
                }
            }),
        }
    }
    catalog
}

fn translate(wanted: &ContainerEdits, site: &DevicesConfig, identity: &Identity) -> Result<Described> {
    if !wanted.net_devices.is_empty() {
        return Err(Error::Host(
            "it moves a network interface into the container (netDevices), which cannot be done here".into(),
        ));
    }
    let mut edits = Edits {
        env: wanted.env.iter().filter_map(|entry| variable(entry)).collect(),
        warnings: warnings(wanted, identity),
        ..Edits::default()
    };
    for node in &wanted.device_nodes {
        edits.nodes.push(device_node(node, &site.root)?);
    }
    let mounts = wanted.mounts.iter().map(|mount| bind(mount, &site.root));
    let mounts = mounts.collect::<Result<_>>()?;
    let mut folders: Vec<LoaderDirectory> = Vec::new();
    for hook in &wanted.hooks {
        match hook.effect() {
            Some(Effect::Links(links)) => {
                let links = links.into_iter().map(|(path, target)| Link { path, target });
                edits.links.extend(links);
            }
            Some(Effect::Folders(more)) => folders.extend(more.into_iter().map(folder)),
            Some(Effect::Nothing) => {}
            None if site.unneeded_hooks.contains(&hook.path) => {}
            None => return Err(unknown_hook(hook)),
        }
    }
    for mount in &wanted.mounts {
        edits
            .links
            .extend(add_library(mount, &mut folders, &site.root, identity)?);
    }
    edits.loader_directories.extend(folders);
    Ok(Described { edits, mounts })
}

fn folder(path: PathBuf) -> LoaderDirectory {
    LoaderDirectory {
        path,
        newer_than: None,
        mounted: Vec::new(),
    }
}

/// A library that is mounted in a directory for which the loader's cache is to be written is one of that cache, by the name
/// that programs ask for; if its file has another one, it gets a link with that name, as ldconfig makes it.
fn add_library(
    mount: &Mount,
    folders: &mut [LoaderDirectory],
    root: &Path,
    identity: &Identity,
) -> Result<Option<Link>> {
    let path = &mount.container_path;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let is_library = name.to_str().is_some_and(|name| name.contains(".so"));
    let Some(folder) = folders.iter_mut().find(|folder| is_library && folder.path == directory) else {
        return Ok(None);
    };
    // What a user's link leads to is for him to open and read: opening a device can do something.
    let Some(said) = as_user(identity, || Ok(said_name(&below(root, &mount.host_path))))? else {
        return Ok(None);
    };
    folder.mounted.push(said.clone());
    Ok((name != said.as_str()).then(|| Link {
        path: directory.join(said),
        target: PathBuf::from(name),
    }))
}

/// What the file itself says that its name is. One that cannot be read says nothing.
fn said_name(path: &Path) -> Option<String> {
    linking(bounded::at(&bounded::open(path)?))?.soname
}

fn unknown_hook(hook: &hooks::Hook) -> Error {
    let words = hook
        .args
        .iter()
        .flatten()
        .skip(1)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    let path = hook.path.display();
    Error::Host(format!(
        "it has a hook that is not known, and no program is run for a device: {path} {words}; if containers do \
         without it, put {path} into devices.unneeded_hooks of {}",
        crate::config::POLICY_FILE
    ))
}

fn warnings(wanted: &ContainerEdits, identity: &Identity) -> Vec<String> {
    let has = |gid: u32| gid == 0 || gid == identity.gid || identity.groups.contains(&gid);
    let foreign = wanted.additional_gids.iter().filter(|gid| !has(gid.0));
    foreign
        .map(|gid| {
            format!(
                "the device is made for members of group {}, of which the job is not one, ignoring",
                gid.0
            )
        })
        .collect()
}

fn variable(entry: &str) -> Option<crate::environment::Edit> {
    let (name, value) = entry.split_once('=')?;
    Some((name.to_owned(), Some(value.to_owned())))
}

/// The node as it is on the host, which must be what the specification says.
fn device_node(node: &DeviceNode, root: &Path) -> Result<Node> {
    let source = node.host_path.as_ref().unwrap_or(&node.path);
    let wrong = |reason: &str| Error::Host(format!("device node {}: {reason}", source.display()));
    let stat = rustix::fs::statat(rustix::fs::CWD, below(root, source), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| wrong(&words(error)))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => NodeKind::Character,
        FileType::BlockDevice => NodeKind::Block,
        _ => return Err(wrong("it is not a device")),
    };
    let is = Expected {
        kind,
        major: Some(rustix::fs::major(stat.st_rdev)),
        minor: Some(rustix::fs::minor(stat.st_rdev)),
    };
    let fits = match node.kind.as_deref() {
        Some("b") => kind == NodeKind::Block,
        Some("c" | "u") => kind == NodeKind::Character,
        _ => true,
    };
    // A major number of 0 is none.
    let said = node.major.filter(|major| major.0 != 0);
    let same =
        said.is_none_or(|major| is.major == Some(major.0) && is.minor == Some(node.minor.map_or(0, |minor| minor.0)));
    if !fits || !same {
        return Err(wrong("it is another device than the one that is described"));
    }
    Ok(Node {
        source: source.clone(),
        target: node.path.clone(),
        expected: is,
    })
}

fn bind(mount: &Mount, root: &Path) -> Result<MountSpec> {
    let mut options = MountOptions::default();
    let tmpfs = mount.is_tmpfs();
    for word in &mount.options {
        let known = mount_flag(&mut options, word)
            || if tmpfs {
                data_flag(&mut options, word)
            } else {
                bind_flag(&mut options, word)
            }
            || WITHOUT_EFFECT.contains(&word.as_str());
        if !known || options.move_mount {
            let target = mount.container_path.display();
            return Err(Error::Host(format!("mount of {target}: unknown option {word:?}")));
        }
    }
    Ok(MountSpec {
        source: match tmpfs {
            true => MountSource::Tmpfs,
            false => MountSource::Path(below(root, &mount.host_path)),
        },
        target: mount.container_path.clone(),
        options,
    })
}

/// A path of the host that is looked for below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
