//! Makes the namespaces of a container: a mount namespace whose root is the container, owned by a user namespace that
//! belongs to the user, and whatever else the plan unshares. They live on descriptors only; the processes that made
//! them are gone when [`make`] returns, and when the last descriptor and the last task are gone, so are all mounts and
//! loop devices.
#![forbid(unsafe_code)]

pub mod user;

use crate::containers::{Held, Kind};
use crate::environment::Edit;
use crate::error::{Error, Result};
use crate::image::own_files::OwnFiles;
use crate::mount::Propagation;
use crate::plan::{Identity, Plan};
use crate::privilege::{irrevocably_become_user, mask};
use crate::rootfs::reader::Readers;
use crate::rootfs::{self, Base, Built, Data};
use crate::sys::channel;
use crate::sys::mount::{FsContext, mount_of, move_mount};
use crate::sys::process::{self, Child};
use crate::timings::{Stopwatch, Timings};
use caps::Capability;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};
use std::path::Path;
use user::{ProcessDirectory, unshare_or_explain};

/// The namespaces of one container.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace; the user owns it. None where the machine has none to give: the others are the node's then.
    pub user: Option<OwnedFd>,
    /// The mount namespace; its root is the container.
    pub mount: OwnedFd,
    /// The network namespace, if it is not the host's.
    pub net: Option<OwnedFd>,
    /// The IPC namespace, if it is not the host's.
    pub ipc: Option<OwnedFd>,
    /// The UTS namespace, if it is not the host's.
    pub uts: Option<OwnedFd>,
    /// Variables that devices and hooks have set.
    pub edits: Vec<Edit>,
    /// The root file system without anything mounted on it, attached nowhere.
    pub root: OwnedFd,
    /// The directory that takes what is written to the root file system.
    pub upper: OwnedFd,
    /// Handles of the processes that read its layers.
    pub readers: Vec<OwnedFd>,
    /// Handles of the processes that read files with data.
    pub data_readers: Vec<OwnedFd>,
    /// What the image says of itself, if it does so in files.
    pub own_files: Option<OwnFiles>,
    /// Where the time went.
    pub timings: Timings,
}

impl From<Namespaces> for Held {
    fn from(made: Namespaces) -> Self {
        let mut held = Held::default();
        for (kind, fd) in [
            (Kind::User, made.user),
            (Kind::Mount, Some(made.mount)),
            (Kind::Net, made.net),
            (Kind::Ipc, made.ipc),
            (Kind::Uts, made.uts),
            (Kind::Root, Some(made.root)),
            (Kind::Upper, Some(made.upper)),
        ] {
            if let Some(fd) = fd {
                held.push(kind, fd);
            }
        }
        for reader in made.readers {
            held.push(Kind::Reader, reader);
        }
        for reader in made.data_readers {
            held.push(Kind::DataReader, reader);
        }
        held
    }
}

/// What the process that builds says to the one that waits.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Something for the user to read.
    Note(String),
    /// Devices and hooks have set these variables.
    Variables(Vec<Edit>),
    /// The namespaces are there; the user namespace has no map yet. The one above it comes along, if it is the user's.
    Unshared,
    /// Everything is done; this took so long. The bare root and the upper directory come along.
    Done(Timings, Option<OwnFiles>),
    /// It failed.
    Failed(Error),
}

/// The answer to [`Word::Unshared`].
const MAPPED: &str = "mapped";

/// Makes the namespaces of `plan`, over a root file system of `base`. `data` are the squashfs files of the plan's mounts.
///
/// The caller is root and single-threaded. Nothing is attached in the caller's own mount namespace. `report` gets lines
/// for the user about mounts that failed and were allowed to.
pub fn make(plan: &Plan, base: &Base<'_>, data: &Data, report: &mut dyn FnMut(String)) -> Result<Namespaces> {
    let mut watch = Stopwatch::start();
    let (ours, theirs) = channel::pair()?;
    let (connections, link) = channel::pair()?;
    let mut keep = base.fds();
    keep.extend(data.fds());
    keep.extend([theirs.as_fd(), link.as_fd()]);
    let parent = rustix::process::getpid();
    // Asked once, and here: what the builder sees after it has gone inside is the image's.
    let own_user = !user::switched_off();
    let child = process::fork(&keep, || {
        let material = Material { base, data, own_user };
        let ends = Ends {
            channel: &theirs,
            link: &link,
        };
        builder(plan, &material, &ends, parent)
    })?;
    drop((theirs, link));
    let (of_data, of_root) = (data.read_by_user(), base.read_by_user());
    let mut readers = Readers::default();
    readers.serve(&connections, &of_data)?;
    readers.serve(&connections, &of_root)?;
    let built = follow(plan, own_user, child, &ours, report).map_err(|error| readers.explain(error))?;
    watch.mark("build");
    let mut data_readers = readers.into_handles();
    let readers = data_readers.split_off(of_data.len());
    Ok(Namespaces {
        user: built.opened.user,
        mount: built.opened.mount,
        net: built.opened.net,
        ipc: built.opened.ipc,
        uts: built.opened.uts,
        edits: built.edits,
        root: built.root,
        upper: built.upper,
        readers,
        data_readers,
        own_files: built.own_files,
        timings: in_detail(watch.finish(), built.timings),
    })
}

/// What came from the builder.
struct FromBuilder {
    opened: Opened,
    edits: Vec<Edit>,
    root: OwnedFd,
    upper: OwnedFd,
    own_files: Option<OwnFiles>,
    timings: Timings,
}

/// Goes along with the builder until it is done, and waits for its end.
fn follow(
    plan: &Plan,
    own_user: bool,
    child: Child,
    from: &OwnedFd,
    report: &mut dyn FnMut(String),
) -> Result<FromBuilder> {
    let edits = match hear(from, report, |word| matches!(word, Word::Variables(_)))? {
        (Word::Variables(edits), _) => edits,
        _ => Vec::new(),
    };
    let (_, owner) = hear(from, report, |word| matches!(word, Word::Unshared))?;
    let opened = open_and_map(plan, own_user, &child, owner.first())?;
    channel::send(from, MAPPED, &[])?;
    let (done, fds) = hear(from, report, |word| matches!(word, Word::Done(..)))?;
    child.wait()?;
    let (timings, own_files) = match done {
        Word::Done(timings, own_files) => (timings, own_files),
        _ => Default::default(),
    };
    let [root, upper] = <[OwnedFd; 2]>::try_from(fds)
        .map_err(|fds| Error::Host(format!("the container's builder sent {} descriptors", fds.len())))?;
    Ok(FromBuilder {
        opened,
        edits,
        root,
        upper,
        own_files,
        timings,
    })
}

/// The builder's own phases in place of the one that waited for them, as they tell more.
fn in_detail(mut outer: Timings, inner: Timings) -> Timings {
    let waited = outer.0.pop().map(|(_, duration)| duration).unwrap_or_default();
    let rest = waited.saturating_sub(inner.total());
    outer.0.extend(inner.0);
    outer.0.push(("processes".to_owned(), rest));
    outer
}

/// What the builder builds of.
struct Material<'a> {
    base: &'a Base<'a>,
    data: &'a Data,
    /// The container gets a user namespace.
    own_user: bool,
}

/// The builder's ends of its sockets.
#[derive(Clone, Copy)]
struct Ends<'a> {
    /// To the one that waits for it.
    channel: &'a OwnedFd,
    /// To the same, for connections that want a reader.
    link: &'a OwnedFd,
}

/// Listens until the wanted word comes.
fn hear(
    from: &OwnedFd,
    report: &mut dyn FnMut(String),
    wanted: impl Fn(&Word) -> bool,
) -> Result<(Word, Vec<OwnedFd>)> {
    loop {
        match channel::recv::<Word>(from)?.map(|received| (received.message, received.fds)) {
            Some((Word::Note(text), _)) => report(text),
            Some((Word::Failed(error), _)) => return Err(error),
            Some((word, fds)) if wanted(&word) => return Ok((word, fds)),
            Some((word, _)) => return Err(Error::Host(format!("the container's builder said {word:?} too early"))),
            None => {
                return Err(Error::Host(
                    "the process that builds the container was killed; out of memory?".into(),
                ));
            }
        }
    }
}

/// The namespaces of the child.
struct Opened {
    user: Option<OwnedFd>,
    mount: OwnedFd,
    net: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    uts: Option<OwnedFd>,
}

/// Opens the namespaces of the child, and maps its user namespace if it has one of its own.
fn open_and_map(plan: &Plan, own_user: bool, child: &Child, owner: Option<&OwnedFd>) -> Result<Opened> {
    let process = ProcessDirectory::open(child)?;
    let some = |wanted: bool, name: &str| wanted.then(|| process.namespace(name)).transpose();
    let user = some(own_user, "user")?;
    if user.is_some() {
        map(plan, &process, owner)?;
    }
    Ok(Opened {
        user,
        mount: process.namespace("mnt")?,
        net: some(plan.unshare.net, "net")?,
        ipc: some(plan.unshare.ipc, "ipc")?,
        uts: some(plan.unshare.uts, "uts")?,
    })
}

/// Writes the maps of the builder's user namespace: one id, so that nothing else exists inside.
fn map(plan: &Plan, process: &ProcessDirectory, owner: Option<&OwnedFd>) -> Result<()> {
    let identity = &plan.identity;
    let (uid, gid) = if plan.remap_root {
        (0, 0)
    } else {
        (identity.uid, identity.gid)
    };
    // The user is root in a namespace in between, if there is one.
    let outside = owner.map_or((identity.uid, identity.gid), |_| (0, 0));
    process.map(owner, (uid, outside.0), (gid, outside.1))
}

/// A user namespace that maps 0 to the user, for mount_setattr(2): files of root in a pack are the user's in the mount.
pub(crate) fn user_namespace_of(identity: &Identity) -> Result<OwnedFd> {
    let (ours, theirs) = channel::pair()?;
    let child = process::fork(&[theirs.as_fd()], || {
        let word = match unshare_or_explain(CloneFlags::CLONE_NEWUSER) {
            Ok(()) => Word::Unshared,
            Err(error) => Word::Failed(error),
        };
        let told = channel::send(&theirs, &word, &[]);
        // Until the parent has what it wants and closes its end.
        u8::from(told.and_then(|()| channel::recv::<String>(&theirs)).is_err())
    })?;
    drop(theirs);
    hear(&ours, &mut |_| (), |word| matches!(word, Word::Unshared))?;
    let process = ProcessDirectory::open(&child)?;
    process.write("uid_map", &format!("0 {} 1\n", identity.uid))?;
    process.write("gid_map", &format!("0 {} 1\n", identity.gid))?;
    let namespace = process.namespace("user")?;
    drop(ours);
    child.wait()?;
    Ok(namespace)
}

/// The process that builds. Its exit code means nothing: what it has to say it says.
fn builder(plan: &Plan, material: &Material<'_>, ends: &Ends<'_>, parent: rustix::process::Pid) -> u8 {
    let channel = ends.channel;
    let told = match build(plan, material, ends, parent) {
        Ok((
            timings,
            Built {
                bare, upper, own_files, ..
            },
        )) => channel::send(channel, &Word::Done(timings, own_files), &[bare.as_fd(), upper.as_fd()]),
        Err(error) => channel::send(channel, &Word::Failed(error), &[]),
    };
    u8::from(told.is_err())
}

/// First as root: a private copy of the host's mounts, the container's root in it, and the host's taken away. Then as
/// the user for good: namespaces that are his. The kernel locks all mounts that are there at that moment to one
/// another, so nobody inside can take one off to see what it covers.
fn build(
    plan: &Plan,
    material: &Material<'_>,
    ends: &Ends<'_>,
    parent: rustix::process::Pid,
) -> Result<(Timings, Built)> {
    let Material { base, data, own_user } = material;
    let channel = ends.channel;
    let mut watch = Stopwatch::start();
    rustix::process::umask(Mode::empty());
    unshare_or_explain(CloneFlags::CLONE_NEWNS)?;
    // Slaves, not private: what an automounter mounts on the host later must appear in the container's binds, and what
    // the host unmounts must go. Nothing ever travels the other way.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(
        |error| {
            Error::sys(
                "separate the container's mounts from the host's",
                "mount(/, MS_SLAVE)",
                error,
            )
        },
    )?;
    watch.mark("private mounts");
    let mut unsent = Ok(());
    let mut report = |text: String| {
        if unsent.is_ok() {
            unsent = channel::send(channel, &Word::Note(text), &[]);
        }
    };
    let built = rootfs::build(plan, base, data, ends.link, &mut report, &mut watch)?;
    unsent?;
    channel::send(channel, &Word::Variables(built.edits.clone()), &[])?;
    rootfs::switch_root(&built.root)?;
    watch.mark("pivot");
    become_owner(plan, *own_user, built.owner.as_ref(), parent)?;
    let owner: Vec<BorrowedFd<'_>> = built.owner.iter().map(AsFd::as_fd).collect();
    channel::send(channel, &Word::Unshared, &owner)?;
    match channel::recv::<String>(channel)? {
        Some(received) if received.message == MAPPED => {}
        _ => return Err(Error::Host("the process that started the container has ended".into())),
    }
    watch.mark("namespaces");
    set_up_inside(plan)?;
    watch.mark("inside");
    Ok((watch.finish(), built))
}

/// From here on the process is the user, for good. CAP_SYS_ADMIN stays for one call: some hosts let nobody else make
/// user namespaces. Where there are none to make, it and what the loopback device takes stay until this process ends:
/// it executes nothing.
fn become_owner(plan: &Plan, own_user: bool, owner: Option<&OwnedFd>, parent: rustix::process::Pid) -> Result<()> {
    let mut keep = vec![Capability::CAP_SYS_ADMIN];
    if !own_user && plan.unshare.net {
        keep.push(Capability::CAP_NET_ADMIN);
    }
    irrevocably_become_user(&plan.identity, mask(&keep))?;
    process::die_with_parent(parent)?;
    // Mounts of the user's own namespace can be used below it only.
    if let Some(owner) = owner {
        setns(owner, CloneFlags::CLONE_NEWUSER)
            .map_err(|error| Error::sys("enter the user's namespace", "setns(CLONE_NEWUSER)", error))?;
    }
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS, own_user);
    flags.set(CloneFlags::CLONE_NEWNET, plan.unshare.net);
    flags.set(CloneFlags::CLONE_NEWIPC, plan.unshare.ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, plan.unshare.uts);
    unshare_or_explain(flags)
}

/// What only a process inside the new namespaces can do.
fn set_up_inside(plan: &Plan) -> Result<()> {
    for mount in &plan.mounts {
        if let Some(propagation) = mount.spec.options.propagation {
            propagate(&mount.spec.target, propagation)?;
        }
    }
    if plan.unshare.net {
        crate::sys::net::loopback_up()?;
    }
    if plan.unshare.ipc {
        mount_inside("tmpfs", "/dev/shm", &[("mode", "1777")])?;
        mount_inside("mqueue", "/dev/mqueue", &[])?;
    }
    Ok(())
}

/// Says again how a mount propagates: the copy that the user's namespace got is private where the mount was shared, and since
/// Linux 6.17 where it was unbindable. One that another mount covers, or that was taken away, is left alone.
fn propagate(target: &Path, propagation: Propagation) -> Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::sys("look at a mount", "open(/)", error))?;
    let (flags, resolve) = (
        OFlags::PATH | OFlags::CLOEXEC,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    match rustix::fs::openat2(root, target, flags, Mode::empty(), resolve) {
        Ok(found) if mount_of(&found)?.is_root => rootfs::set_propagation(&found, propagation),
        _ => Ok(()),
    }
}

/// Mounts a file system of the new IPC namespace over the host's. Without such a directory there is nothing to cover.
fn mount_inside(name: &'static str, path: &str, options: &[(&str, &str)]) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.map_err(|error| Error::sys("set up IPC", format!("open({path})"), error))?,
    };
    let context = FsContext::open(name)?;
    for (key, value) in options {
        context.set_string(key, value)?;
    }
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    move_mount(context.mount(attributes)?, &target)
}
