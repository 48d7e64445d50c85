//! The kernel's calls that every start needs, and what makes it safer.
#![forbid(unsafe_code)]

use super::{Finding, NO_NAMESPACE, Node, ROOTS, Subject, probe};
use crate::error::{Error, Result};
use crate::image::file::Writers;
use crate::sys::credentials::set_no_new_privs;
use crate::sys::mount::{Change, FsContext, mount_setattr, move_mount, open_tree_clone};
use crate::sys::{lease, process, seccomp};
use landlock::{ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::PidfdFlags;

const RELEASE: Subject = Subject::new("kernel.release", "kernel");
const PIDFD: Subject = Subject::new("kernel.pidfd", "process handles");
const OPENAT2: Subject = Subject::new("kernel.openat2", "openat2");
const MOUNTS: Subject = Subject::new("kernel.mounts", "mount calls");
const SECCOMP: Subject = Subject::new("kernel.seccomp", "seccomp");
const LANDLOCK: Subject = Subject::new("kernel.landlock", "Landlock");
const PID_NAMESPACES: Subject = Subject::new("kernel.pid_namespaces", "PID namespaces");
const LEASES: Subject = Subject::new("kernel.leases", "read leases");
const CGROUPS: Subject = Subject::new("kernel.cgroups", "control groups");

/// What to do when a call is missing that every container needs.
const NEWER: &str = "use Linux 5.12 or newer, or let the profile of this service or pod allow the call";
/// Where control groups are (cgroups(7)).
const CGROUP: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` and `TMPFS_MAGIC` of linux/magic.h.
const CGROUP2: u64 = 0x6367_7270;

pub fn look(node: &Node<'_>, namespaces: bool) -> Vec<Finding> {
    let root = node.is_root();
    let mount_calls = || {
        let tried = probe::attempt(&[], || mounts(root));
        needed(
            MOUNTS,
            tried,
            "fsopen, fsmount, move_mount, open_tree and mount_setattr work",
        )
    };
    vec![
        release(),
        needed(PIDFD, pidfd(), "pidfd_open, waitid and close_range work"),
        needed(OPENAT2, openat2(), "RESOLVE_IN_ROOT works"),
        MOUNTS.look_if(root || namespaces, NO_NAMESPACE, mount_calls),
        needed(SECCOMP, probe::attempt(&[], filter), "filters can be installed"),
        landlock(),
        pid_namespaces(root),
        leases(),
        cgroups(root),
    ]
}

fn release() -> Finding {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    RELEASE.ok(format!("Linux {} on {}", text(name.release()), text(name.machine())))
}

fn needed(subject: Subject, tried: Result<()>, good: &str) -> Finding {
    match tried {
        Ok(()) => subject.ok(good),
        Err(error) => subject.fail(error.to_string(), NEWER),
    }
}

fn pidfd() -> Result<()> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|error| Error::sys("name a process", "pidfd_open", error))?;
    probe::attempt(&[], || Ok(()))
}

fn openat2() -> Result<()> {
    let open = |directory, path: &str, resolve| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)
            .map_err(|error| Error::sys("open a directory", "openat2(RESOLVE_IN_ROOT)", error))
    };
    let root = open(rustix::fs::CWD, "/", ResolveFlags::NO_MAGICLINKS)?;
    open(
        rustix::fd::AsFd::as_fd(&root),
        "../..",
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map(drop)
}

fn mounts(root: bool) -> Result<()> {
    probe::mounts_of(root)?;
    let mount = FsContext::open("tmpfs")?.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open("/", flags, Mode::empty()).map_err(|error| Error::sys("mount", "open(/)", error))?;
    move_mount(&mount, &top)?;
    let copy = open_tree_clone(&mount, false)?;
    mount_setattr(&copy, Change::Add(MountAttrFlags::MOUNT_ATTR_RDONLY), false)
}

/// One instruction: everything is allowed.
fn filter() -> Result<()> {
    set_no_new_privs()?;
    let allow = seccompiler::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    seccomp::set_mode_filter(&[allow])
}

fn landlock() -> Finding {
    let without = |fact: &str, advice: &str| {
        LANDLOCK.warn(
            format!("{fact}: import workers rely on their user and on seccomp alone"),
            advice,
        )
    };
    match probe::attempt(&[], landlock_version) {
        Ok(Some(version)) => LANDLOCK.ok(format!("ABI {version}")),
        Ok(None) => without(
            "not there",
            "use a kernel with Landlock (5.13), and name landlock in the kernel's lsm= list",
        ),
        Err(error) => without(
            &error.to_string(),
            "let the profile of this service or pod allow Landlock",
        ),
    }
}

/// The version that the kernel enforces, as it says when a process restricts itself.
fn landlock_version() -> Result<Option<i32>> {
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| Error::Host(format!("landlock: {error}")))?;
    Ok(match restricted.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => Some(kernel_abi.unwrap_or(effective_abi as i32)),
        _ => None,
    })
}

fn pid_namespaces(root: bool) -> Finding {
    if !root {
        return PID_NAMESPACES.skip(ROOTS);
    }
    let made = probe::attempt(&[], || process::fork_init(&[], |_| 0)?.wait().map(drop));
    match made {
        Ok(()) => PID_NAMESPACES.ok("can be made, for hooks"),
        Err(error) => PID_NAMESPACES.warn(
            format!("{error}: hooks cannot run"),
            "allow PID namespaces (user.max_pid_namespaces), or keep container.hooks off",
        ),
    }
}

/// Whether the kernel gives any. That a file of this kind has a writer it does not see.
fn leases() -> Finding {
    let advice = "set fs.leases-enable = 1 (sysctl); until then the owners of an image file alone decide who reads it";
    let asked = rustix::fs::memfd_create("pyxis-check", MemfdFlags::CLOEXEC)
        .map_err(|error| Error::sys("make a file", "memfd_create", error))
        .and_then(lease::writers);
    match asked {
        Ok(Writers::Some | Writers::None) => LEASES.ok("tell when somebody writes to an image file"),
        Ok(Writers::Unknown) => LEASES.warn("do not tell when somebody writes to an image file", advice),
        Err(error) => LEASES.warn(error.to_string(), advice),
    }
}

fn cgroups(root: bool) -> Finding {
    let mount = format!("mount control groups on {CGROUP}");
    let kind = match rustix::fs::statfs(CGROUP) {
        Ok(found) => found.f_type as u64,
        Err(error) => return CGROUPS.warn(format!("{CGROUP}: {}", crate::error::words(error)), mount),
    };
    let version = match kind {
        CGROUP2 => "version 2",
        _ => "version 1 or mixed",
    };
    let namespace = probe::attempt(&[], || {
        let flags = match root {
            true => CloneFlags::CLONE_NEWCGROUP,
            false => CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWCGROUP,
        };
        unshare(flags).map_err(|error| Error::sys("make a namespace", "unshare(CLONE_NEWCGROUP)", error))
    });
    match namespace {
        Ok(()) => CGROUPS.ok(format!("{version}, with namespaces")),
        Err(error) if error.errno() == Some(libc::EINVAL) => CGROUPS.ok(format!("{version}, without namespaces")),
        Err(error) if root => CGROUPS.fail(
            format!("{version}; {error}"),
            "set user.max_cgroup_namespaces = 31000 (sysctl): each task makes one",
        ),
        Err(_) => CGROUPS.ok(format!("{version}; namespaces were not looked at")),
    }
}
