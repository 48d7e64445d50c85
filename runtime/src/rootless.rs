//! A runtime without rights: a user's own. It moves into a user namespace of its own, in which it may mount and make
//! namespaces, and its user is who he was; from there on a start is the same as root's, but for what only the host's root
//! can do: loop devices and device nodes.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::namespaces::user::{not_permitted, unshare_or_explain};
use crate::privilege::caller;
use nix::sched::CloneFlags;
use rustix::mount::MountPropagationFlags;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// This process, or the one that it is a copy of, has moved.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// This is a user's own runtime, in a namespace where root has no id.
pub fn entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

/// The calling process enters namespaces of its own, where it has all capabilities. It must be single-threaded, and cannot
/// go back.
pub fn enter() -> Result<()> {
    let me = caller();
    unshare_or_explain(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{0} {0} 1\n", me.uid)),
        ("gid_map", format!("{0} {0} 1\n", me.gid)),
    ] {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, &text)
            .map_err(|error| explained("map the user", format!("write({path}, {:?})", text.trim_end()), error))?;
    }
    ENTERED.store(true, Ordering::Relaxed);
    // What the host mounts later appears here too, and nothing goes the other way.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(|error| {
        let doing = "separate the runtime's mounts from the host's";
        explained(doing, "mount(/, MS_SLAVE)".into(), error.into())
    })
}

/// Ubuntu's AppArmor lets everybody make a user namespace, and gives no rights in it.
fn explained(doing: &str, call: String, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => not_permitted(),
        _ => Error::sys(doing, call, error),
    }
}
