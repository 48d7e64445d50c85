//! Attaches the prepared mounts to the container's tree, in order.
#![forbid(unsafe_code)]

use super::sources::{Action, Prepared, tolerate};
use super::tree::{Missing, Tree, kind};
use crate::error::{Error, Result};
use crate::mount::{Create, MountSource, MountSpec};
use crate::plan::Origin;
use crate::sys::mount::{mount_of, move_mount, umount_detach};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use std::collections::HashSet;
use std::path::Path;

/// The tree with what was mounted on it.
#[derive(Debug)]
pub struct Mounter<'t, 'a> {
    tree: &'t Tree<'a>,
    /// Ids of the mounts that were attached here. Only these may be unmounted or moved: mounts that came along with a
    /// bind may cover what the user must not see.
    placed: HashSet<u64>,
}

impl<'t, 'a> Mounter<'t, 'a> {
    /// Nothing is mounted yet.
    pub fn new(tree: &'t Tree<'a>) -> Self {
        Mounter {
            tree,
            placed: HashSet::new(),
        }
    }

    /// Does what was planned, in order.
    pub fn apply(&mut self, mounts: Vec<Prepared<'_>>, report: &mut dyn FnMut(String)) -> Result<()> {
        for Prepared { planned, action } in mounts {
            let spec = &planned.spec;
            let done = match action {
                Action::Attach { mount, directory } => self.attach_spec(spec, planned.origin, &mount, directory),
                Action::Move => self.move_from(spec, planned.origin),
                Action::Umount => self.umount(&spec.target, planned.origin),
            };
            if let Err(error) = done.map_err(|error| error.context(&describe(spec))) {
                tolerate(&spec.options, error, report)?;
            }
        }
        Ok(())
    }

    /// Attaches one mount to a path of the container.
    pub fn attach(&mut self, mount: &OwnedFd, target: &OwnedFd) -> Result<()> {
        move_mount(mount, target)?;
        self.placed.insert(mount_of(mount)?.id);
        Ok(())
    }

    fn attach_spec(&mut self, spec: &MountSpec, origin: Origin, mount: &OwnedFd, directory: bool) -> Result<()> {
        let missing = match (spec.options.create, directory) {
            (Create::No, _) => Missing::Fail,
            (Create::Dir, _) | (Create::Auto, true) => Missing::Directory,
            (Create::File, _) | (Create::Auto, false) => Missing::File,
        };
        let mut target = self.target(&spec.target, missing, origin)?;
        if spec.options.detach && self.is_placed(&target)? {
            self.detach(&target)?;
            target = self.target(&spec.target, missing, origin)?;
        }
        if (kind(&target)? == FileType::Directory) != directory {
            let (is, source) = if directory { ("not a", "a") } else { ("a", "not") };
            return Err(Error::Request(format!(
                "{} is {is} directory in the container, and the source is {source} one",
                spec.target.display()
            )));
        }
        self.attach(mount, &target)
    }

    /// The target; never the root itself, which would leave the container behind its own root.
    fn target(&self, path: &Path, missing: Missing, origin: Origin) -> Result<OwnedFd> {
        let target = self.tree.resolve(path, missing, origin)?;
        let (at, root) = (mount_of(&target)?, mount_of(self.tree.root())?);
        if at == root && at.is_root {
            return Err(Error::Request(format!(
                "{} is the container's root directory: nothing can be mounted there",
                path.display()
            )));
        }
        Ok(target)
    }

    fn is_placed(&self, target: impl AsFd) -> Result<bool> {
        let at = mount_of(target)?;
        Ok(at.is_root && self.placed.contains(&at.id))
    }

    fn detach(&mut self, target: &OwnedFd) -> Result<()> {
        let id = mount_of(target)?.id;
        umount_detach(target)?;
        self.placed.remove(&id);
        Ok(())
    }

    /// Opens a place where one of our mounts is.
    fn placed_at(&self, path: &Path, origin: Origin) -> Result<OwnedFd> {
        let target = self.target(path, Missing::Fail, origin)?;
        if self.is_placed(&target)? {
            return Ok(target);
        }
        Err(Error::Request(format!(
            "{} is not one of the container's mounts: Invalid argument",
            path.display()
        )))
    }

    fn umount(&mut self, path: &Path, origin: Origin) -> Result<()> {
        let target = self.placed_at(path, origin)?;
        self.detach(&target)
    }

    fn move_from(&mut self, spec: &MountSpec, origin: Origin) -> Result<()> {
        let MountSource::Path(source) = &spec.source else {
            return Err(Error::Request("only a mount of the container can be moved".into()));
        };
        let mount = self.placed_at(source, origin)?;
        let directory = kind(&mount)? == FileType::Directory;
        self.attach_spec(spec, origin, &mount, directory)
    }
}

fn describe(spec: &MountSpec) -> String {
    let target = spec.target.display();
    match &spec.source {
        MountSource::Path(path) | MountSource::Squashfs(path) => format!("mount {} on {target}", path.display()),
        MountSource::Tmpfs => format!("mount tmpfs on {target}"),
        MountSource::Umount => format!("unmount {target}"),
    }
}
