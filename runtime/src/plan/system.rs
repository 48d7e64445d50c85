//! What every container gets from the host beside the image: system mounts, and files that programs expect.
#![forbid(unsafe_code)]

use super::{FileContent, Origin, PlannedFile, PlannedMount};
use crate::mount::{Create, MountOptions, MountSource, MountSpec};
use std::path::{Path, PathBuf};

/// Files of the host that a container sees, read-only, when the host has them.
const HOST_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id"];
/// Directories that are empty and private in every container.
const SCRATCH: [&str; 3] = ["/tmp", "/run", "/var/lock"];

/// The system mounts, in order.
pub(super) fn mounts(restrict_dev: bool) -> Vec<PlannedMount> {
    let tree = MountOptions {
        recursive: true,
        nosuid: true,
        noexec: true,
        create: Create::Dir,
        ..Default::default()
    };
    let mut mounts = vec![
        bind(
            "/proc",
            MountOptions {
                nodev: true,
                ..tree.clone()
            },
        ),
        bind(
            "/sys",
            MountOptions {
                nodev: true,
                readonly: true,
                ..tree.clone()
            },
        ),
    ];
    if !restrict_dev {
        mounts.push(bind("/dev", tree));
    }
    mounts.extend(SCRATCH.iter().map(|path| scratch(path)));
    let file = MountOptions {
        readonly: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        nofail: true,
        silent: true,
        create: Create::File,
        ..Default::default()
    };
    mounts.extend(HOST_FILES.iter().map(|path| bind(path, file.clone())));
    mounts
}

/// The user's home directory, with what is mounted below it.
pub(super) fn home(source: &Path, target: &Path) -> PlannedMount {
    let options = MountOptions {
        recursive: true,
        nosuid: true,
        nodev: true,
        create: Create::Dir,
        ..Default::default()
    };
    PlannedMount {
        spec: MountSpec {
            source: MountSource::Path(source.to_owned()),
            target: target.to_owned(),
            options,
        },
        origin: Origin::User,
        judged: false,
    }
}

/// The job's script at its own path, read-only. It is the user's file, in a directory of the host that the user may have
/// a hand in, so it is opened with the user's rights.
pub(super) fn script(path: &Path) -> PlannedMount {
    let options = MountOptions {
        readonly: true,
        nosuid: true,
        nodev: true,
        create: Create::File,
        ..Default::default()
    };
    PlannedMount {
        origin: Origin::User,
        judged: false,
        ..bind(&path.to_string_lossy(), options)
    }
}

/// Files of the private layer that do not depend on the user.
pub(super) fn files(remap_root: bool, localtime: Option<&[u8]>) -> Vec<PlannedFile> {
    let file = |path: &str, bytes: &[u8], only_with: Option<&str>| PlannedFile {
        path: PathBuf::from(path),
        content: FileContent::Replace {
            bytes: bytes.to_vec(),
            mode: 0o644,
        },
        only_with: only_with.map(PathBuf::from),
    };
    let mut files: Vec<_> = localtime
        .map(|bytes| file("/etc/localtime", bytes, None))
        .into_iter()
        .collect();
    if remap_root {
        // There is one id inside, so apt cannot become its sandbox user.
        files.push(file(
            "/etc/apt/apt.conf.d/00pyxis",
            b"APT::Sandbox::User \"root\";\n",
            Some("/etc/apt/apt.conf.d"),
        ));
    }
    files
}

fn bind(path: &str, options: MountOptions) -> PlannedMount {
    let path = PathBuf::from(path);
    let spec = MountSpec {
        source: MountSource::Path(path.clone()),
        target: path,
        options,
    };
    PlannedMount {
        spec,
        origin: Origin::System,
        judged: false,
    }
}

fn scratch(path: &str) -> PlannedMount {
    let mode = if path == "/run" { "mode=0755" } else { "mode=1777" };
    let options = MountOptions {
        nosuid: true,
        nodev: true,
        create: Create::Dir,
        data: vec![mode.to_owned()],
        ..Default::default()
    };
    let spec = MountSpec {
        source: MountSource::Tmpfs,
        target: PathBuf::from(path),
        options,
    };
    PlannedMount {
        spec,
        origin: Origin::System,
        judged: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_is_read_only_and_dev_has_devices() {
        let mounts = mounts(false);
        let of = |path: &str| {
            mounts
                .iter()
                .find(|m| m.spec.target == Path::new(path))
                .unwrap()
                .spec
                .options
                .clone()
        };
        assert!(of("/sys").readonly && !of("/proc").readonly);
        assert!(!of("/dev").nodev && of("/proc").nodev);
        assert!(mounts.iter().all(|mount| mount.spec.options.nosuid));
    }

    #[test]
    fn a_restricted_dev_is_not_the_hosts() {
        assert!(mounts(true).iter().all(|mount| mount.spec.target != Path::new("/dev")));
    }

    #[test]
    fn apt_is_told_only_where_it_matters() {
        assert!(files(false, None).is_empty());
        assert_eq!(
            files(true, None)[0].only_with,
            Some(PathBuf::from("/etc/apt/apt.conf.d"))
        );
    }
}
