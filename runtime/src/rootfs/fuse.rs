//! The second rung: layers that processes of the user read, under an overlay that belongs to a user namespace of his.
//! Nothing of it needs a privilege outside of that namespace, and the kernel parses nothing but FUSE's messages.
//!
//! A child of the builder does it: it becomes the user, makes the namespace (where he is root, as FUSE wants it), mounts,
//! and sends the finished root file system, attached nowhere, back to the builder, which goes on as on the first rung.
//! Files that are mounted as data come the same way, also where the kernel reads the root file system.
#![forbid(unsafe_code)]

use super::Writable;
use super::overlay::{self, Flavour};
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::namespaces::user;
use crate::plan::Identity;
use crate::privilege::{irrevocably_become_user, mask};
use crate::rootless;
use crate::sys::channel;
use crate::sys::mount::FsContext;
use crate::sys::nodes::Nodes;
use crate::sys::process::{self, Child};
use caps::Capability;
use nix::sched::CloneFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

/// The device of FUSE (Documentation/admin-guide/devices.txt).
const DEVICE: (u32, u32) = (10, 229);
/// A node of it on the runtime's own tmpfs: the host's may be closed to users.
const NODE: &str = "fuse";
/// The host's.
const HOST_NODE: &str = "/dev/fuse";
/// The user is root in the namespace of the mounts.
const ROOT: Identity = Identity {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// What is to be mounted for the user.
pub struct Wanted<'a> {
    /// The layers of the root file system, and where what is written to it goes.
    pub root: Option<(usize, &'a Writable)>,
    /// Files with data.
    pub data: usize,
    /// A node of the FUSE device.
    pub device: BorrowedFd<'a>,
}

/// Mounts of the user's.
pub struct Mounted {
    /// The root file system, attached nowhere, and the directory that takes what is written.
    pub root: Option<(OwnedFd, OwnedFd)>,
    /// The data.
    pub data: Vec<OwnedFd>,
    /// The user namespace that they belong to: 0 there is the user.
    pub owner: OwnedFd,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
enum Word {
    /// The namespaces are there, without maps.
    Unshared,
    /// The mount of a file with data comes along.
    Data,
    /// Everything is mounted. The root file system and the upper directory come along, if they were wanted.
    Mounted,
    /// It failed.
    Failed(Error),
}

/// Mounts for the user. The ends of the FUSE connections, those of the data first, go to the other side of `link`, where
/// somebody starts the readers.
pub fn mount(wanted: &Wanted<'_>, identity: &Identity, link: &OwnedFd) -> Result<Mounted> {
    let (ours, theirs) = channel::pair()?;
    let mut keep = vec![wanted.device, link.as_fd(), theirs.as_fd()];
    if let Some((_, Writable::Kept { mount, .. })) = wanted.root {
        keep.push(mount.as_fd());
    }
    let parent = rustix::process::getpid();
    let child = process::fork(&keep, || {
        let made = become_owner(identity, parent)
            .and_then(|()| channel::send(&theirs, &Word::Unshared, &[]))
            .and_then(|()| heard(&theirs))
            .and_then(|()| inside(wanted, &Ends { words: &theirs, link }));
        let told = match made {
            Ok(Some((root, upper))) => channel::send(&theirs, &Word::Mounted, &[root.as_fd(), upper.as_fd()]),
            Ok(None) => channel::send(&theirs, &Word::Mounted, &[]),
            Err(error) => channel::send(&theirs, &Word::Failed(error), &[]),
        };
        u8::from(told.is_err())
    })?;
    drop(theirs);
    let owner = map(&ours, &child, identity)?;
    let mut data = Vec::with_capacity(wanted.data);
    loop {
        let (word, mut fds) = hear(&ours)?;
        let second = fds.pop();
        match (word, fds.pop(), second) {
            (Word::Data, None, Some(mount)) => data.push(mount),
            (Word::Mounted, None, None) if wanted.root.is_none() => {
                break Ok(Mounted {
                    root: None,
                    data,
                    owner,
                });
            }
            (Word::Mounted, Some(root), Some(upper)) => {
                let root = Some((root, upper));
                break Ok(Mounted { root, data, owner });
            }
            _ => break Err(nonsense()),
        }
    }
}

/// The error about a message that should not be.
pub fn nonsense() -> Error {
    Error::Host("the user's part of the builder sent nonsense".into())
}

/// The calling process becomes the user, in namespaces of his.
fn become_owner(identity: &Identity, parent: rustix::process::Pid) -> Result<()> {
    // Some hosts let nobody make user namespaces who lacks this.
    irrevocably_become_user(identity, mask(&[Capability::CAP_SYS_ADMIN]))?;
    process::die_with_parent(parent)?;
    user::unshare_or_explain(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
}

/// Waits until the maps are written.
fn heard(from: &OwnedFd) -> Result<()> {
    match channel::recv::<()>(from)? {
        Some(_) => Ok(()),
        None => Err(Error::Host("the container's builder has ended".into())),
    }
}

fn hear(from: &OwnedFd) -> Result<(Word, Vec<OwnedFd>)> {
    match channel::recv::<Word>(from)?.map(|received| (received.message, received.fds)) {
        Some((Word::Failed(error), _)) => Err(error),
        Some(word) => Ok(word),
        None => Err(Error::Host(
            "the process that mounts the image for the user was killed; out of memory?".into(),
        )),
    }
}

/// Makes the user root in the child's namespace.
fn map(with: &OwnedFd, child: &Child, identity: &Identity) -> Result<OwnedFd> {
    match hear(with)? {
        (Word::Unshared, _) => {}
        _ => return Err(Error::Host("the user's part of the builder spoke too early".into())),
    }
    let process = user::ProcessDirectory::open(child)?;
    process.write("setgroups", "deny")?;
    process.write("uid_map", &format!("0 {} 1\n", identity.uid))?;
    process.write("gid_map", &format!("0 {} 1\n", identity.gid))?;
    let owner = process.namespace("user")?;
    channel::send(with, &(), &[])?;
    Ok(owner)
}

/// The ends of the child's sockets.
struct Ends<'a> {
    /// To the builder.
    words: &'a OwnedFd,
    /// To whoever starts the readers.
    link: &'a OwnedFd,
}

/// What the user's process mounts; gives the root file system and its upper directory, if they are wanted.
fn inside(wanted: &Wanted<'_>, ends: &Ends<'_>) -> Result<Option<(OwnedFd, OwnedFd)>> {
    rustix::process::umask(Mode::empty());
    let data = connected(wanted.data, wanted.device, ends.link)?;
    let root = match wanted.root {
        Some((layers, writable)) => {
            let scratch = Scratch::new(&ROOT, writable)?;
            let mounts = connected(layers, wanted.device, ends.link)?;
            let root = overlay::stack(&mounts, &scratch, Flavour::User)?;
            Some((root, scratch.upper))
        }
        None => None,
    };
    for mount in &data {
        // This waits for the reader's first answer: one that cannot read its file is an error now, and not for the tasks.
        rustix::fs::fstat(mount).map_err(|error| Error::sys("mount a squashfs file", "fstat", error))?;
        channel::send(ends.words, &Word::Data, &[mount.as_fd()])?;
    }
    Ok(root)
}

/// File systems whose connections go to `link`.
fn connected(count: usize, device: BorrowedFd<'_>, link: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut mounts = Vec::with_capacity(count);
    for _ in 0..count {
        // The kernel wants it opened in the user namespace that mounts.
        let connection = open_device(device)?;
        mounts.push(file_system(&connection)?);
        // A reader that dies must be the last who has its connection, so that nobody waits for it.
        channel::send(link, &(), &[connection.as_fd()])?;
    }
    Ok(mounts)
}

/// A node of the device that the user may open, behind which there is FUSE. Whether he gets one is what the site's policy
/// has decided; the host's own may be closed to users.
pub fn device() -> Result<OwnedFd> {
    let node = match rootless::entered() {
        false => own_node()?,
        // Who may make no nodes has the host's or none.
        true => host_node()?,
    };
    open_device(node.as_fd())?;
    // The device may be there without its file system, and then the next rung is the one to take.
    FsContext::open("fuse")?;
    Ok(node)
}

fn own_node() -> Result<OwnedFd> {
    let nodes = Nodes::default();
    nodes.make(NODE, FileType::CharacterDevice, DEVICE, 0o666)?;
    nodes.path(NODE)
}

fn host_node() -> Result<OwnedFd> {
    rustix::fs::open(HOST_NODE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::sys("open the FUSE device", format!("open({HOST_NODE})"), error))
}

pub(super) fn open_device(node: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", node.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NXIO | rustix::io::Errno::NODEV => {
            Error::Host("this kernel has no FUSE: load the module fuse".into())
        }
        rustix::io::Errno::PERM => {
            Error::Host("the FUSE device is not permitted: allow it (character 10:229) to this service or pod".into())
        }
        error => Error::sys("open the FUSE device", "open(fuse)", error),
    })
}

pub(super) fn file_system(connection: &OwnedFd) -> Result<OwnedFd> {
    let context = FsContext::open("fuse")?;
    context.set_string("source", super::reader::NAME)?;
    context.set_string("fd", &connection.as_raw_fd().to_string())?;
    context.set_string("rootmode", "40755")?;
    context.set_string("user_id", "0")?;
    context.set_string("group_id", "0")?;
    // All of the container's processes, whose user namespace is below this one.
    context.set_flag("allow_other")?;
    context.set_flag("default_permissions")?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(attributes)
}
