//! tmpfs mounts with options from outside: only those that a user could give in a user namespace of his own.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::mount::MountOptions;
use crate::plan::Identity;
use crate::sys::mount::FsContext;
use rustix::fd::OwnedFd;
use rustix::mount::MountAttrFlags;

/// Options with a value that are handed to the kernel, which checks the value.
const WITH_VALUE: [&str; 6] = ["size", "nr_blocks", "nr_inodes", "huge", "mode", "mpol"];
/// Options without a value.
const FLAGS: [&str; 2] = ["inode32", "inode64"];

/// A new tmpfs that belongs to the user, attached nowhere, never with set-id programs or devices.
pub fn mount(options: &MountOptions, identity: &Identity) -> Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set_string("uid", &identity.uid.to_string())?;
    context.set_string("gid", &identity.gid.to_string())?;
    for option in &options.data {
        apply(&context, option, identity)?;
    }
    let restrictions = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    context.mount(super::attributes(options) | restrictions)
}

fn apply(context: &FsContext, option: &str, identity: &Identity) -> Result<()> {
    let bad = |what: &str| Error::Request(format!("tmpfs option {option:?}: {what}"));
    let set = match option.split_once('=') {
        Some((name @ ("uid" | "gid"), value)) => {
            let own = if name == "uid" { identity.uid } else { identity.gid };
            return match value.parse::<u32>() {
                Ok(id) if id == own || id == 0 => Ok(()),
                Ok(_) => Err(bad(
                    "a tmpfs belongs to the user, no other owner exists in the container",
                )),
                Err(_) => Err(bad("not a number")),
            };
        }
        Some(("mode", value)) => match u32::from_str_radix(value, 8) {
            Ok(mode) if mode <= 0o7777 => context.set_string("mode", value),
            _ => return Err(bad("not an octal mode")),
        },
        Some((name, value)) if WITH_VALUE.contains(&name) => context.set_string(name, value),
        None if FLAGS.contains(&option) => context.set_flag(option),
        _ => {
            return Err(bad(
                "unknown; known are size, nr_inodes, nr_blocks, mode, huge, mpol, uid, gid",
            ));
        }
    };
    set.map_err(|error| match error.errno() {
        Some(libc::EINVAL) => bad("the kernel does not take this value"),
        _ => error,
    })
}
