//! The plan: every decision about a container, made before anything is touched. After it nobody asks "if".
#![forbid(unsafe_code)]

mod accounts;
mod pmi;
mod program;
mod system;

use crate::config::ContainerConfig;
use crate::devices::Wish;
use crate::environment::Edit;
use crate::hooks::Hooks;
use crate::image::ImageConfig;
use crate::mount::MountSpec;
use crate::policy::Allowed;
use crate::request::Request;
use crate::worker::protocol::Accounts;
pub use program::Program;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who the container is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The job's user.
    pub uid: u32,
    /// The job's primary group.
    pub gid: u32,
    /// The job's supplementary groups.
    pub groups: Vec<u32>,
}

/// Everything that `rootfs` and `namespaces` do for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whom the files belong to, who opens mount sources, who owns the namespaces.
    pub identity: Identity,
    /// The user is uid 0 inside.
    pub remap_root: bool,
    /// The root file system can be written.
    pub writable: bool,
    /// The user's home directory is mounted.
    pub mount_home: bool,
    /// A private `/dev` with the standard nodes only.
    pub restrict_dev: bool,
    /// Namespaces beyond user, mount and cgroup.
    pub unshare: Unshare,
    /// Mounts in order: the system's, then the user's.
    pub mounts: Vec<PlannedMount>,
    /// Where sources of those that are judged may be, if not everywhere.
    pub mount_sources: Option<Allowed>,
    /// Variables that follow from these decisions, over those of job and image.
    pub env: Vec<Edit>,
    /// Files made in the private layer before any mount, parents included.
    pub files: Vec<PlannedFile>,
    /// Paths at which `crate::stand_in` is, whatever image and mounts have there.
    pub stand_ins: Vec<PathBuf>,
    /// What has a say in which devices there are, if anything has.
    pub devices: Option<Wish>,
    /// Programs of the host to run before the mounts are made.
    pub hooks: Option<Hooks>,
    /// What the tasks execute first, if somebody knows.
    pub program: Option<Program>,
    /// Where relative mount sources start: the job's working directory on the host.
    pub cwd: PathBuf,
}

/// Namespaces beyond user, mount and cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Unshare {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// A mount and who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMount {
    /// The mount.
    pub spec: MountSpec,
    /// Whose authority opens the source.
    pub origin: Origin,
    /// Somebody has chosen the source for whom the site's policy is: the job, or files and variables that it has a say in.
    pub judged: bool,
}

/// Whose authority opens a mount's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The runtime itself: opened as root.
    System,
    /// The job: opened with the user's ids and groups.
    User,
}

/// A file of the private layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// What happens to it.
    pub content: FileContent,
    /// The file is made only in images that have this directory; elsewhere it would mean nothing.
    pub only_with: Option<PathBuf>,
}

/// How a planned file comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileContent {
    /// These bytes replace the image's file, mode as given.
    Replace {
        /// The content.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// These lines go before the image's own lines (`/etc/passwd`, `/etc/group`); lines of the image whose first field
    /// equals that of a line here, or is in `drop`, are left out. A missing file is made of the lines alone.
    Prepend {
        /// The lines.
        lines: Vec<AccountLine>,
        /// First fields (up to `:`) whose lines are dropped.
        drop: Vec<String>,
    },
}

/// A line of `/etc/passwd` or `/etc/group`, without its newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLine {
    /// The line, up to and with the last colon when a shell follows.
    pub text: String,
    /// The login shell; `/bin/sh` is written when the image does not have it.
    pub shell: Option<PathBuf>,
}

/// What the plan needs to know of the machine and the user.
#[derive(Debug, Clone)]
pub struct Host {
    /// The job's user.
    pub identity: Identity,
    /// What the name service knows of the user.
    pub accounts: Accounts,
    /// The environment of the job's task.
    pub env: BTreeMap<String, String>,
    /// The job's working directory.
    pub cwd: PathBuf,
    /// A file that the job executes at its own path.
    pub script: Option<PathBuf>,
    /// Programs that another stands in for inside.
    pub stand_ins: Vec<PathBuf>,
    /// Content of the host's `/etc/localtime`, if it has one.
    pub localtime: Option<Vec<u8>>,
    /// Mounts of described devices that were asked for.
    pub device_mounts: Vec<MountSpec>,
}

/// Takes every decision about a container: what was asked for, over what the site says, for this user and image.
pub fn plan(request: &Request, site: &ContainerConfig, host: &Host) -> Plan {
    let remap_root = request.remap_root.unwrap_or(site.remap_root);
    let home = home(request, site, host, remap_root);
    let home_mount = home.as_ref().map(|home| system::home(&home.source, &home.target));
    let script = host.script.as_deref().map(system::script);
    let by_user = |spec: &MountSpec| PlannedMount {
        spec: spec.clone(),
        origin: Origin::User,
        judged: true,
    };
    // Files of root's describe them.
    let of_devices = host.device_mounts.iter().map(|spec| PlannedMount {
        judged: false,
        ..by_user(spec)
    });
    let configured = site.mounts.iter().map(by_user);
    let user_mounts = request.mounts.iter().map(by_user);
    let mut files = accounts::files(&host.identity, &host.accounts, remap_root);
    files.extend(system::files(remap_root, host.localtime.as_deref()));
    Plan {
        identity: host.identity.clone(),
        remap_root,
        writable: request.writable.unwrap_or(site.writable),
        restrict_dev: site.restrict_dev,
        unshare: site.unshared(request.unshare),
        mounts: system::mounts(site.restrict_dev)
            .into_iter()
            .chain(of_devices)
            .chain(home_mount)
            .chain(configured)
            .chain(script)
            .chain(pmi::mounts(&host.env))
            .chain(user_mounts)
            .collect(),
        files,
        mount_sources: None,
        mount_home: home.is_some(),
        env: home
            .map(|home| ("HOME".to_owned(), Some(home.target.display().to_string())))
            .into_iter()
            .chain(pmi::env(&host.env))
            .collect(),
        stand_ins: host.stand_ins.clone(),
        devices: None,
        hooks: None,
        program: None,
        cwd: host.cwd.clone(),
    }
}

/// A home directory, on the host and in the container.
struct Home {
    source: PathBuf,
    target: PathBuf,
}

/// The user's home directory, if it is to be mounted: at its own path, or where root's is when the user is root inside.
fn home(request: &Request, site: &ContainerConfig, host: &Host, remap_root: bool) -> Option<Home> {
    let wanted = request.mount_home.unwrap_or(site.mount_home);
    let source = host.accounts.user.as_ref().map(|user| PathBuf::from(&user.home))?;
    let target = if remap_root {
        PathBuf::from("/root")
    } else {
        source.clone()
    };
    (wanted && source.is_absolute() && source != Path::new("/")).then_some(Home { source, target })
}

/// The working directory: the option's, else the image's, else the root.
pub fn workdir(request: &Request, image: &ImageConfig) -> PathBuf {
    let of_image = if image.working_dir.is_empty() {
        "/"
    } else {
        &image.working_dir
    };
    request.workdir.clone().unwrap_or_else(|| PathBuf::from(of_image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::MountSource;
    use crate::worker::protocol::Account;

    fn host(home: &str) -> Host {
        let user = Account {
            name: "alice".into(),
            gecos: String::new(),
            home: home.into(),
            shell: "/bin/sh".into(),
        };
        Host {
            identity: Identity {
                uid: 1000,
                gid: 100,
                groups: vec![],
            },
            accounts: Accounts {
                user: Some(user),
                group: None,
            },
            env: BTreeMap::new(),
            cwd: "/work".into(),
            script: None,
            stand_ins: Vec::new(),
            localtime: None,
            device_mounts: Vec::new(),
        }
    }

    fn home_of(plan: &Plan) -> Option<(PathBuf, PathBuf)> {
        let mount = plan.mounts.iter().find(|mount| mount.origin == Origin::User)?;
        match &mount.spec.source {
            MountSource::Path(source) => Some((source.clone(), mount.spec.target.clone())),
            _ => None,
        }
    }

    #[test]
    fn the_option_wins_over_the_site() {
        let site = ContainerConfig {
            writable: true,
            remap_root: true,
            mount_home: true,
            ..Default::default()
        };
        let request = Request {
            writable: Some(false),
            remap_root: Some(false),
            mount_home: Some(false),
            ..Default::default()
        };
        let by_site = plan(&Request::default(), &site, &host("/home/alice"));
        assert!(by_site.writable && by_site.remap_root && home_of(&by_site).is_some());
        let by_option = plan(&request, &site, &host("/home/alice"));
        assert!(!by_option.writable && !by_option.remap_root && home_of(&by_option).is_none());
    }

    #[test]
    fn the_home_is_mounted_where_the_user_has_it() {
        let wanted = Request {
            mount_home: Some(true),
            ..Default::default()
        };
        let own = plan(&wanted, &ContainerConfig::default(), &host("/home/alice"));
        assert_eq!(home_of(&own), Some(("/home/alice".into(), "/home/alice".into())));
        assert_eq!(own.env, [("HOME".to_owned(), Some("/home/alice".to_owned()))]);
        let root = Request {
            remap_root: Some(true),
            ..wanted.clone()
        };
        let root = plan(&root, &ContainerConfig::default(), &host("/home/alice"));
        assert_eq!(home_of(&root), Some(("/home/alice".into(), "/root".into())));
        assert_eq!(root.env, [("HOME".to_owned(), Some("/root".to_owned()))]);
        // Accounts without a home have the root directory, or nothing, for one.
        for none in ["/", "", "relative"] {
            let plan = plan(&wanted, &ContainerConfig::default(), &host(none));
            assert!(home_of(&plan).is_none() && plan.env.is_empty(), "{none}");
        }
    }
}
