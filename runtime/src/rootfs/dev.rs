//! A private `/dev`: the standard nodes, a pseudo terminal instance and shared memory of its own, nothing else of the
//! host.
#![forbid(unsafe_code)]

use super::mounts::Mounter;
use super::tmpfs;
use super::tree::{Missing, Tree};
use crate::error::{Error, Result};
use crate::mount::MountOptions;
use crate::plan::{Identity, Origin};
use crate::sys::mount::{Change, FsContext, mount_setattr, open_tree_clone};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::path::Path;

const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The host's nodes, copied before the container's root covers the host's.
#[derive(Debug)]
pub struct Nodes(Vec<(&'static str, OwnedFd)>);

/// Copies the host's standard nodes.
pub fn prepare() -> Result<Nodes> {
    let restrictions = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut nodes = Vec::with_capacity(NODES.len());
    for name in NODES {
        let path = format!("/dev/{name}");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| Error::sys("make a private /dev", format!("open({path})"), error))?;
        let mount = open_tree_clone(&file, false)?;
        mount_setattr(&mount, Change::Add(restrictions), false)?;
        nodes.push((name, mount));
    }
    Ok(Nodes(nodes))
}

/// Mounts it on the container's `/dev`.
pub fn mount(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, identity: &Identity, nodes: &Nodes) -> Result<()> {
    let directory = |name: &str| tree.resolve(&Path::new("/dev").join(name), Missing::Directory, Origin::System);
    let dev = tmpfs::mount(&options(&["size=4m", "mode=0755"]), identity)?;
    mounter.attach(&dev, &directory("")?)?;
    for (name, node) in &nodes.0 {
        let place = tree.resolve(&Path::new("/dev").join(name), Missing::File, Origin::System)?;
        mounter.attach(node, &place)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name)
            .map_err(|error| Error::sys("make a private /dev", format!("symlinkat({name})"), error))?;
    }
    mounter.attach(&pseudo_terminals(identity)?, &directory("pts")?)?;
    let memory = tmpfs::mount(&options(&["mode=1777"]), identity)?;
    mounter.attach(&memory, &directory("shm")?)
}

fn options(data: &[&str]) -> MountOptions {
    MountOptions {
        noexec: true,
        data: data.iter().map(|option| (*option).to_owned()).collect(),
        ..MountOptions::default()
    }
}

/// A devpts instance of its own (each mount is one since Linux 4.7), whose `ptmx` the user can open.
fn pseudo_terminals(identity: &Identity) -> Result<OwnedFd> {
    let context = FsContext::open("devpts")?;
    context.set_string("ptmxmode", "0666")?;
    context.set_string("mode", "0620")?;
    context.set_string("gid", &identity.gid.to_string())?;
    context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}
