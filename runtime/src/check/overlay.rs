//! Overlays: as root mounts them, and as a user's root file system needs them.
#![forbid(unsafe_code)]

use super::{Finding, NO_NAMESPACE, Node, ROOTS, Subject, probe};
use crate::error::Result;
use crate::rootfs::Writable;
use crate::rootfs::trial::{self, Flavour};

const OVERLAY: Subject = Subject::new("overlay.root", "overlay");
const DESCRIPTORS: Subject = Subject::new("overlay.descriptors", "overlay layers by descriptor");
const USERS: Subject = Subject::new("overlay.user", "overlay in a user namespace");
const ATTRIBUTES: Subject = Subject::new("tmpfs.attributes", "user.* attributes on tmpfs");

pub fn look(node: &Node<'_>, namespaces: bool) -> Vec<Finding> {
    let (flavour, can_mount) = match node.is_root() {
        true => (Flavour::Root, true),
        false => (Flavour::User, namespaces),
    };
    let as_root = || {
        let tried = probe::attempt(&[], || {
            probe::own_mounts()?;
            trial::overlay(Flavour::Root, &Writable::Scratch)
        });
        of_root(tried)
    };
    let named = || {
        let tried = probe::attempt(&[], || {
            probe::mounts_of(node.is_root())?;
            trial::overlay_by_descriptor(flavour)
        });
        by_descriptor(tried)
    };
    vec![
        OVERLAY.look_if(node.is_root(), ROOTS, as_root),
        DESCRIPTORS.look_if(can_mount, NO_NAMESPACE, named),
        USERS.look_if(namespaces, NO_NAMESPACE, || {
            of_users(in_namespace(|| trial::overlay(Flavour::User, &Writable::Scratch)))
        }),
        ATTRIBUTES.look_if(namespaces, NO_NAMESPACE, || {
            attributes(in_namespace(trial::user_attributes))
        }),
    ]
}

fn in_namespace(tried: impl FnOnce() -> Result<()>) -> Result<()> {
    probe::attempt(&[], || {
        probe::users_mounts()?;
        tried()
    })
}

fn of_root(tried: Result<()>) -> Finding {
    match tried {
        Ok(()) => OVERLAY.ok("can be mounted and written"),
        Err(error) => OVERLAY.warn(error.to_string(), "load the module overlay, or use a kernel with it"),
    }
}

fn by_descriptor(tried: Result<()>) -> Finding {
    match tried {
        Ok(()) => DESCRIPTORS.ok("work"),
        // Nothing is lost: names of the runtime's own are used.
        Err(error) if trial::takes_no_descriptors(&error) => DESCRIPTORS
            .ok("do not work (Linux 6.13), names are used instead; an image of over 100 layers needs Linux 6.7"),
        Err(error) => DESCRIPTORS.skip(error.to_string()),
    }
}

fn of_users(tried: Result<()>) -> Finding {
    match tried {
        Ok(()) => USERS.ok("can be mounted and written (userxattr)"),
        Err(error) => USERS.warn(
            error.to_string(),
            "use Linux 5.11 or newer with user namespaces: image files of users need it",
        ),
    }
}

fn attributes(tried: Result<()>) -> Finding {
    match tried {
        Ok(()) => ATTRIBUTES.ok("work"),
        Err(error) => ATTRIBUTES.warn(
            format!("{error}: where squashfuse_ll reads the image, a directory of it cannot be removed or replaced"),
            "use Linux 6.6 or newer, if that matters",
        ),
    }
}
