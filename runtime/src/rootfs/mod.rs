//! Builds the container's root file system in a private mount namespace: layers, generated files, mounts. Everything
//! is decided in the plan; everything is done on descriptors.
#![forbid(unsafe_code)]

mod ahead;
mod copy_compat;
mod data;
mod dev;
mod devices;
mod files;
mod fuse;
mod libraries;
mod loader;
mod lower;
mod lowers;
mod mounts;
mod overlay;
mod overlay_compat;
mod own_files;
pub mod reader;
mod scratch;
mod small_file;
mod sources;
mod stand_ins;
mod switch;
mod tmpfs;
pub(crate) mod tree;
pub(crate) mod trial;

pub use data::{Data, DataFile};
pub use lower::Refused;
pub use lowers::{Lower, Lowers, Rung};

use crate::environment::Edit;
use crate::error::{Error, Result};
use crate::hooks::{self, Outcome};
use crate::image::own_files::OwnFiles;
use crate::mount::MountOptions;
use crate::plan::{Origin, Plan, PlannedMount};
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use crate::timings::Stopwatch;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::MountAttrFlags;
pub(crate) use scratch::chown;
pub(crate) use sources::set_propagation;
use std::collections::BTreeMap;
pub(crate) use switch::switch_root;

pub use overlay::is_in_use as overlay_is_in_use;

/// What a root file system is made of.
#[derive(Debug)]
pub enum Base<'a> {
    /// Layers, bottom first, and a place for what is written.
    Layers {
        /// The layers.
        lowers: &'a Lowers,
        /// The place.
        writable: Writable,
    },
    /// A directory of the user's with all of it.
    Directory {
        /// It, as a mount of its own that is attached nowhere.
        mount: OwnedFd,
        /// As [`Lowers::own_files`].
        own_files: Option<BTreeMap<String, String>>,
    },
    /// The root file system of a running container, without anything mounted on it.
    Running {
        /// It, as [`Built::bare`].
        root: BorrowedFd<'a>,
        /// The directory that takes what is written to it.
        upper: BorrowedFd<'a>,
    },
}

/// Where what is written to a root file system goes.
#[derive(Debug)]
pub enum Writable {
    /// To memory; it goes away with the container.
    Scratch,
    /// To a directory of the user's that stays, with an `upper` and a `work` directory.
    Kept {
        /// The directory, as a mount of its own that is attached nowhere.
        mount: OwnedFd,
        /// Nothing has been written to it yet.
        fresh: bool,
    },
}

impl Base<'_> {
    /// The descriptors in it.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Base::Layers { lowers, writable } => {
                let kept = match writable {
                    Writable::Scratch => None,
                    Writable::Kept { mount, .. } => Some(mount),
                };
                lowers.fds().chain(kept.map(AsFd::as_fd)).collect()
            }
            Base::Directory { mount, .. } => vec![mount.as_fd()],
            Base::Running { root, upper } => vec![*root, *upper],
        }
    }

    /// The layers that processes of the user read.
    pub fn read_by_user(&self) -> Vec<(&reader::Reader, &Lower)> {
        match self {
            Base::Layers { lowers, .. } => lowers.read_by_user(),
            Base::Directory { .. } | Base::Running { .. } => Vec::new(),
        }
    }

    /// The job's variables, when the image describes itself in files of its own.
    fn own_files(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Base::Layers { lowers, .. } => lowers.own_files.as_ref(),
            Base::Directory { own_files, .. } => own_files.as_ref(),
            Base::Running { .. } => None,
        }
    }
}

/// A root file system.
#[derive(Debug)]
pub struct Built {
    /// Its root directory, ready to become the root of the calling process.
    pub root: OwnedFd,
    /// The same without anything mounted on it, writable also when the root is not: a mount that is attached nowhere, before
    /// Linux 6.15 a mount namespace that has no other.
    pub bare: OwnedFd,
    /// The directory that takes what is written.
    pub upper: OwnedFd,
    /// The user namespace that it belongs to, when that is the user's.
    pub owner: Option<OwnedFd>,
    /// What the image says of itself, if it does so in files.
    pub own_files: Option<OwnFiles>,
    /// Variables that devices and hooks have set.
    pub edits: Vec<Edit>,
}

impl Built {
    fn new(root: OwnedFd, bare: OwnedFd, upper: OwnedFd) -> Self {
        Built {
            root,
            bare,
            upper,
            owner: None,
            own_files: None,
            edits: Vec::new(),
        }
    }
}

/// Builds the root file system of `plan`.
///
/// The caller is root in a mount namespace of its own, whose mounts are slaves of the host's or private. The root is
/// attached on top of `/` there, which is why the sources of the plan's mounts are opened first: see [`scratch::Scratch`].
/// Connections that want a reader go to `link`.
pub fn build(
    plan: &Plan,
    base: &Base<'_>,
    data: &Data,
    link: &OwnedFd,
    report: &mut dyn FnMut(String),
    watch: &mut Stopwatch,
) -> Result<Built> {
    let mounted = of_the_user(plan, base, data, link)?;
    let (theirs, files, owner) = match mounted {
        Some(fuse::Mounted { root, data, owner }) => (root, data, Some(owner)),
        None => (None, Vec::new(), None),
    };
    let mut files = data.mounts(files)?;
    let mut of_system = sources::prepare(plan, &plan.mounts, &mut files, report)?;
    let first = of_system.iter().position(|mount| mount.planned.origin == Origin::User);
    let of_user = of_system.split_off(first.unwrap_or(of_system.len()));
    let nodes = plan.restrict_dev.then(dev::prepare).transpose()?;
    let host = devices::host(plan)?;
    watch.mark("sources");
    let mut built = match (base, theirs) {
        (_, Some((root, upper))) => {
            let bare = attach(&root)?;
            Built::new(root, bare, upper)
        }
        (Base::Layers { lowers, writable }, None) => stack(plan, lowers, writable)?,
        (Base::Directory { mount, .. }, None) => directory(mount)?,
        (Base::Running { root, upper }, None) => copy(*root, *upper)?,
    };
    built.owner = owner;
    if matches!(base, Base::Layers { .. }) {
        ahead::start(&built.root, plan);
    }
    built.own_files = own_files(&built.root, base, plan)?;
    let root = &built.root;
    watch.mark("layers");
    let more = image_mounts(&built, base)?;
    let of_image = sources::prepare(plan, &more, &mut files, report)?;
    let tree = tree::Tree::new(root.as_fd(), &plan.identity)?;
    for file in &plan.files {
        files::write(&tree, file, &plan.identity)?;
    }
    watch.mark("files");
    let found = devices::find(plan, host, built.own_files.as_ref(), report)?;
    let libraries = libraries::place(&tree, plan, found.as_ref())?;
    watch.mark("devices");
    let hooked = match &plan.hooks {
        Some(hooks) => hooks::run(hooks, plan, root, report)?,
        None => Outcome::default(),
    };
    watch.mark("hooks");
    let mut mounter = mounts::Mounter::new(&tree);
    libraries.attach(&mut mounter)?;
    if let Some(nodes) = nodes {
        dev::mount(&mut mounter, &tree, &plan.identity, &nodes)?;
    }
    mounter.apply(of_system, report)?;
    let driver = devices::apply(&mut mounter, &tree, plan, found, report)?;
    watch.mark("drivers");
    mounter.apply(sources::prepare(plan, &hooked.mounts, &mut files, report)?, report)?;
    mounter.apply(of_image, report)?;
    mounter.apply(of_user, report)?;
    stand_ins::cover(&mut mounter, &tree, plan, report);
    if !plan.writable {
        mount_setattr(root, Change::Add(MountAttrFlags::MOUNT_ATTR_RDONLY), false)?;
    }
    watch.mark("mounts");
    Ok(Built {
        edits: driver.into_iter().chain(libraries.env).chain(hooked.edits).collect(),
        ..built
    })
}

/// Reads the files by which the image describes itself, if it does.
fn own_files(root: &OwnedFd, base: &Base<'_>, plan: &Plan) -> Result<Option<OwnFiles>> {
    match base.own_files() {
        Some(_) => own_files::read(root, &plan.identity).map(Some),
        None => Ok(None),
    }
}

/// Mounts that the image asks for. The user has chosen the image: they are made with his rights.
fn image_mounts(built: &Built, base: &Base<'_>) -> Result<Vec<PlannedMount>> {
    let (Some(own), Some(env)) = (&built.own_files, base.own_files()) else {
        return Ok(Vec::new());
    };
    let mounts = own.mounts(env)?.into_iter();
    let planned = mounts.map(|spec| PlannedMount {
        spec,
        origin: Origin::User,
        judged: true,
    });
    Ok(planned.collect())
}

/// A root file system of layers that the kernel has mounted.
fn stack(plan: &Plan, lowers: &Lowers, writable: &Writable) -> Result<Built> {
    let flavour = match lowers.user_marks {
        true => overlay::Flavour::User,
        false => overlay::Flavour::Root,
    };
    let scratch = scratch::Scratch::new(&plan.identity, writable)?;
    let root = overlay::stack(lowers.mounts(), &scratch, flavour)?;
    let upper = scratch.detach()?;
    let bare = attach(&root)?;
    Ok(Built::new(root, bare, upper))
}

/// What processes of the user read, if they read anything.
fn of_the_user(plan: &Plan, base: &Base<'_>, data: &Data, link: &OwnedFd) -> Result<Option<fuse::Mounted>> {
    let (layers, files) = (base.read_by_user(), data.read_by_user());
    let Some((reader, _)) = layers.iter().chain(&files).next() else {
        return Ok(None);
    };
    let root = match base {
        Base::Layers { writable, .. } if !layers.is_empty() => Some((layers.len(), writable)),
        _ => None,
    };
    let wanted = fuse::Wanted {
        root,
        data: files.len(),
        device: reader.device(),
    };
    fuse::mount(&wanted, &plan.identity, link).map(Some)
}

/// Attaches the root and gives a bare copy of it.
fn attach(root: &OwnedFd) -> Result<OwnedFd> {
    // A copy of what has never been attached can be copied again from any mount namespace. Linux before 6.15 copies only
    // what is attached.
    let bare = open_tree_clone(root, false);
    scratch::attach_on_root(root)?;
    bare.or_else(|_| copy_compat::keep(&open_tree_clone(root, false)?))
}

/// A root file system that is a directory, which is mounted again by its path.
fn directory(mount: &OwnedFd) -> Result<Built> {
    let root = mount
        .try_clone()
        .map_err(|error| Error::sys("mount the root file system", "fcntl(F_DUPFD_CLOEXEC)", error))?;
    scratch::attach_on_root(&root)?;
    let bare = open_tree_clone(&root, false)?;
    let upper = crate::directory::open(&root, ".")
        .map_err(|error| Error::sys("mount the root file system", "openat(.)", error))?;
    Ok(Built::new(root, bare, upper))
}

/// Another mount of a running container's root file system. It is the same file system, so both may write.
fn copy(root: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> Result<Built> {
    let again = match copy_compat::is_kept(root)? {
        true => copy_compat::copy(root)?,
        false => open_tree_clone(root, false)?,
    };
    scratch::attach_on_root(&again)?;
    let held = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .map_err(|error| Error::sys("mount the root file system", "fcntl(F_DUPFD_CLOEXEC)", error))
    };
    Ok(Built::new(again, held(root)?, held(upper)?))
}

/// The mount attributes that were asked for.
fn attributes(options: &MountOptions) -> MountAttrFlags {
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.readonly);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, options.nosuid);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, options.nodev);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.noexec);
    flags
}
