//! Configuration files of a site and of a user, with real files and real ids: who may write what, and which source counts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use pyxis_runtime::config::load::{Loaded, Owned, Sources, load, load_site};
use pyxis_runtime::image::AllowHttp;
use pyxis_runtime::mount::MountSource;
use pyxis_runtime::plan::{Identity, Unshare};
use pyxis_runtime::worker::protocol::{Account, Accounts};
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const UID: u32 = 23_456;
const GID: u32 = 23_457;

/// A site and a user, each with a directory.
struct World {
    dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = World {
            env: [("HOME".to_owned(), text(&dir.path().join("home")))].into(),
            dir,
        };
        for directory in ["etc/enroot.conf.d", "etc/environ.d", "etc/mounts.d"] {
            fs::create_dir_all(world.path(directory)).unwrap();
        }
        for directory in ["home", "home/.config", "home/.config/enroot"] {
            world.users_directory(directory);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn users_directory(&self, name: &str) {
        fs::create_dir(self.path(name)).unwrap();
        chown(self.path(name), Some(UID), Some(GID)).unwrap();
    }

    /// A file of the site.
    fn site(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path("etc").join(name), text).unwrap();
        self
    }

    /// A file of the user, which nobody else can read.
    fn user(&self, name: &str, text: &str) -> &Self {
        let path = self.path("home/.config/enroot").join(name);
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir(parent).unwrap();
            chown(parent, Some(UID), Some(GID)).unwrap();
        }
        fs::write(&path, text).unwrap();
        own(&path, 0o600);
        self
    }

    fn policy(&self, text: &str) -> &Self {
        fs::write(self.path("pyxis.toml"), text).unwrap();
        self
    }

    fn with(&self, accounts: impl Fn() -> Accounts, site_alone: bool) -> Result<Loaded> {
        let identity = Identity {
            uid: UID,
            gid: GID,
            groups: vec![GID],
        };
        let (policy, enroot) = (self.path("pyxis.toml"), self.path("etc"));
        let sources = Sources {
            policy: &policy,
            enroot: &enroot,
        };
        let job = Owned {
            identity: &identity,
            env: &self.env,
        };
        let load = if site_alone { load_site } else { load };
        load(&sources, &job, &mut |_| Ok(accounts()))
    }

    /// Loads; the name service must not be asked.
    fn load(&self) -> Result<Loaded> {
        self.with(|| panic!("nothing here needs the user's name"), false)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap()
    }
}

fn own(path: &Path, mode: u32) {
    chown(path, Some(UID), Some(GID)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn alice(home: &str) -> Accounts {
    let user = Account {
        name: "alice".into(),
        gecos: String::new(),
        home: home.into(),
        shell: "/bin/sh".into(),
    };
    Accounts {
        user: Some(user),
        group: None,
    }
}

#[test]
fn nothing_configured_is_the_defaults() {
    let world = World::new();
    let loaded = world.loaded();
    assert_eq!(loaded.config, pyxis_runtime::config::Config::default());
    assert_eq!(loaded.config_path, Some(world.path("home/.config/enroot")));
    let bare = World {
        env: BTreeMap::new(),
        dir: tempfile::tempdir().unwrap(),
    };
    assert_eq!(bare.loaded().config_path, None);
}

#[test]
fn a_policy_that_others_can_write_or_that_cannot_be_read_is_an_error() {
    let world = World::new();
    let policy = world.path("pyxis.toml");
    world.policy("[container]\nwritable = true\n");
    let refused = |reason: &str| {
        let told = world.load().unwrap_err().to_string();
        assert_eq!(told, format!("{} {reason}", text(&policy)));
    };
    let by_others = format!(
        "can be written by others than root: chown root {0}; chmod go-w {0}",
        text(&policy)
    );
    for mode in [0o666, 0o664] {
        fs::set_permissions(&policy, fs::Permissions::from_mode(mode)).unwrap();
        refused(&by_others);
    }
    own(&policy, 0o600);
    refused(&by_others);
    fs::remove_file(&policy).unwrap();
    assert!(!world.loaded().config.container.writable);
    fs::create_dir(&policy).unwrap();
    refused("cannot be read: is a directory");
}

#[test]
fn later_files_and_pyxis_toml_count_more() {
    let world = World::new();
    world
        .site(
            "enroot.conf",
            "ENROOT_TRANSFER_RETRIES 1\nENROOT_CONNECT_TIMEOUT 1\nENROOT_MAX_CONNECTIONS 1\n",
        )
        .site(
            "enroot.conf.d/20-last.conf",
            "ENROOT_MAX_CONNECTIONS 3\nENROOT_CONNECT_TIMEOUT 3\n",
        )
        .site("enroot.conf.d/10-first.conf", "ENROOT_MAX_CONNECTIONS 2\n")
        .site("enroot.conf.d/30-not-a-conf.txt", "nonsense here $(reboot)\n")
        .site("enroot.conf.d/.40-hidden.conf", "nonsense here $(reboot)\n")
        .policy("[registry]\nconnect_timeout = 4\n");
    let client = world.loaded().config.registry.client();
    assert_eq!((client.retries, client.max_connections), (1, 3));
    assert_eq!(client.connect_timeout, Duration::from_secs(4));
}

#[test]
fn what_a_user_may_say_and_what_not() {
    let mut world = World::new();
    world
        .site(
            "enroot.conf",
            "ENROOT_UNSHARE_NET yes\nENROOT_RESTRICT_DEV yes\nENROOT_MOUNT_HOME yes\n",
        )
        .policy("[container]\nwritable = true\n")
        .user(
            "enroot.conf",
            "ENROOT_ROOTFS_WRITABLE no\nENROOT_REMAP_ROOT yes\nENROOT_RESTRICT_DEV no\nENROOT_UNSHARE_NET no\n\
             ENROOT_UNSHARE_UTS yes\nENROOT_ALLOW_HTTP yes\nhttps_proxy http://evil:1\nENROOT_DATA_PATH /evil\n\
             SSL_CERT_FILE /evil.pem\nENROOT_CACHE_PATH /x\n",
        )
        .user("enroot.conf.d/x.conf", "ENROOT_REMAP_ROOT no\n");
    for name in [
        "ENROOT_ALLOW_HTTP",
        "ENROOT_DATA_PATH",
        "SSL_CERT_FILE",
        "https_proxy",
        "HTTPS_PROXY",
        "ENROOT_SQUASH_OPTIONS",
        "ENROOT_MAX_CONNECTIONS",
        "ENROOT_TRANSFER_RETRIES",
        "ENROOT_RESTRICT_DEV",
        "ENROOT_UNSHARE_NET",
    ] {
        world.env.insert(name.into(), "no".into());
    }
    let loaded = world.loaded();
    let container = &loaded.config.container;
    assert!(!container.writable && !container.remap_root && container.mount_home && container.restrict_dev);
    let unshared = container.unshared(Unshare::default());
    assert!(unshared.net && unshared.uts && !unshared.ipc, "{unshared:?}");
    assert_eq!(container.data_path, Path::new("/var/lib/pyxis-data"));
    let client = loaded.config.registry.client();
    assert_eq!(client, pyxis_runtime::config::Config::default().registry.client());
    let told = loaded.warnings.join("\n");
    for key in ["ENROOT_ALLOW_HTTP", "https_proxy", "ENROOT_DATA_PATH", "SSL_CERT_FILE"] {
        assert!(
            told.contains(&format!("only the site's files can set {key}, ignoring")),
            "{told}"
        );
    }
    assert_eq!(loaded.warnings.len(), 4, "{told}");
    // The variables of the job count more than its files.
    world.env.insert("ENROOT_REMAP_ROOT".into(), "yes".into());
    world.env.insert("ENROOT_MOUNT_HOME".into(), "n".into());
    let container = world.loaded().config.container;
    assert!(container.remap_root && !container.mount_home);
    // A command that starts no container does not look at the user's.
    assert!(world.with(Accounts::default, true).unwrap().config.container.writable);
}

#[test]
fn errors_name_file_and_line_and_who_must_mend_it() {
    let world = World::new();
    world.site("enroot.conf.d/x.conf", "\nENROOT_DATA_PATH $(cat /etc/shadow)\n");
    let place = text(&world.path("etc/enroot.conf.d/x.conf"));
    match world.load() {
        Err(Error::Host(error)) => assert!(error.starts_with(&format!("{place}, line 2: ")), "{error}"),
        other => panic!("{other:?}"),
    }
    world.site("enroot.conf.d/x.conf", "ENROOT_COLOUR red\n");
    assert_eq!(
        world.loaded().warnings,
        [format!("{place}, line 1: unknown setting ENROOT_COLOUR, ignoring")]
    );
    world.user("enroot.conf", "ENROOT_REMAP_ROOT `id`\n");
    match world.load() {
        Err(Error::Request(error)) => assert!(error.contains("home/.config/enroot/enroot.conf, line 1: "), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_the_site_that_others_can_write_are_refused() {
    let refused = |world: &World, name: &str| match world.load() {
        Err(Error::Host(error)) => {
            assert!(error.contains("others than root can write it"), "{error}");
            assert!(error.contains(&text(&world.path(name))), "{error}");
        }
        other => panic!("{other:?}"),
    };
    let mode = |world: &World, name: &str, mode| {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in [
        "etc/enroot.conf",
        "etc/enroot.conf.d/x.conf",
        "etc/environ.d/x.env",
        "etc/mounts.d/x.fstab",
    ] {
        let world = World::new();
        world.site(name.strip_prefix("etc/").unwrap(), "");
        world.loaded();
        mode(&world, name, 0o646);
        refused(&world, name);
        mode(&world, name, 0o644);
        chown(world.path(name), Some(UID), Some(0)).unwrap();
        refused(&world, name);
        chown(world.path(name), Some(0), Some(GID)).unwrap();
        world.loaded();
        mode(&world, name, 0o664);
        refused(&world, name);
    }
    for name in ["etc", "etc/enroot.conf.d", "etc/environ.d", "etc/mounts.d"] {
        let world = World::new();
        world.site("enroot.conf", "");
        mode(&world, name, 0o777);
        refused(&world, name);
    }
}

#[test]
fn the_users_files_are_opened_with_his_rights() {
    let world = World::new();
    let secret = world.path("secret");
    fs::write(&secret, "ENROOT_REMAP_ROOT yes\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let file = world.path("home/.config/enroot/enroot.conf");
    let fails = |reason: &str| match world.load() {
        Err(Error::Request(error)) => assert!(error.contains(&text(&file)) && error.contains(reason), "{error}"),
        other => panic!("{other:?}"),
    };
    symlink(&secret, &file).unwrap();
    fails("Permission denied");
    fs::remove_file(&file).unwrap();
    // What /proc shows of the process that reads.
    symlink("/proc/self/maps", &file).unwrap();
    fails("/proc is no configuration");
    fs::remove_file(&file).unwrap();
    symlink("/proc/self/fd/0", &file).unwrap();
    fails("Too many levels of symbolic links");
    fs::remove_file(&file).unwrap();
    // None of these is waited for, or read without an end.
    symlink("/dev/zero", &file).unwrap();
    fails("not a regular file");
    fs::remove_file(&file).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    chown(&file, Some(UID), Some(GID)).unwrap();
    fails("not a regular file");
    fs::remove_file(&file).unwrap();
    fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    own(&file, 0o600);
    fails("larger than");
    fs::write(&file, b"\xff\n").unwrap();
    fails("not UTF-8");
    // A directory that the user may not enter is as good as none.
    fs::remove_file(&file).unwrap();
    let directory = world.path("home/.config/enroot");
    chown(&directory, Some(0), Some(0)).unwrap();
    fs::write(&file, "ENROOT_REMAP_ROOT yes\n").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!world.loaded().config.container.remap_root);
}

#[test]
fn where_the_users_files_are() {
    let mut world = World::new();
    world.users_directory("home/elsewhere");
    let elsewhere = world.path("home/elsewhere");
    fs::write(elsewhere.join("enroot.conf"), "ENROOT_REMAP_ROOT yes\n").unwrap();
    world.site("enroot.conf", "ENROOT_CONFIG_PATH ${HOME}/elsewhere\n");
    let loaded = world.loaded();
    assert!(loaded.config.container.remap_root);
    assert_eq!(loaded.config_path.as_deref(), Some(elsewhere.as_path()));
    world.env.insert("ENROOT_CONFIG_PATH".into(), text(&world.path("none")));
    assert!(!world.loaded().config.container.remap_root);
    world.env.insert("ENROOT_CONFIG_PATH".into(), "relative".into());
    assert_eq!(
        world.load().unwrap_err(),
        Error::Request("ENROOT_CONFIG_PATH=relative: not an absolute path".into())
    );
}

#[test]
fn the_data_path_follows_the_account_and_not_the_job() {
    let mut world = World::new();
    world.env.insert("USER".into(), "../../etc".into());
    world.env.insert("HOME".into(), "/evil".into());
    for (value, expected, users) in [
        ("/data/enroot", "/data/enroot", false),
        ("/data/user-$(id -u)", "/data/user-23456", true),
        ("/data/$(id -un)", "/data/alice", true),
        ("/data/${USER}", "/data/alice", true),
        ("${HOME}/x", "/nfs/alice/x", true),
    ] {
        world.site("enroot.conf", &format!("ENROOT_DATA_PATH {value}\n"));
        let container = world.with(|| alice("/nfs/alice"), false).unwrap().config.container;
        assert_eq!(
            (container.data_path.to_str().unwrap(), container.data_path_is_users),
            (expected, users),
            "{value}"
        );
    }
    world.policy("[container]\ndata_path = \"/shared\"\n");
    let container = world.with(|| alice("/nfs/alice"), false).unwrap().config.container;
    assert_eq!(
        (container.data_path.as_path(), container.data_path_is_users),
        (Path::new("/shared"), false)
    );
}

#[test]
fn a_site_that_allows_http() {
    let world = World::new();
    world.site(
        "enroot.conf",
        "ENROOT_ALLOW_HTTP yes\nENROOT_SQUASH_OPTIONS -comp lzo -noD\nENROOT_TRANSFER_TIMEOUT 9\n",
    );
    let config = world.loaded().config;
    let client = config.registry.client();
    assert_eq!(client.allow_http, AllowHttp::All);
    assert_eq!(client.transfer_timeout, Some(Duration::from_secs(9)));
    assert_eq!(
        config.store.compression().unwrap(),
        pyxis_runtime::pack::Compression::None
    );
}

#[test]
fn variables_and_mounts_of_both_places() {
    let mut world = World::new();
    world.env.insert("DATA".into(), "/data/of alice".into());
    world
        .site("environ.d/10.env", "A=site\nB=site ${DATA}\n")
        .site("mounts.d/10-system.fstab", "/proc /proc none rbind 0 -1\n")
        .site(
            "mounts.d/20.fstab",
            "/late /late none bind 0 1\n${DATA} /data none bind\n",
        )
        .user("environ.d/x.env", "A=user\nnonsense\n")
        .user("mounts.d/x.fstab", "/early /early none bind 0 -1\ntmpfs /scratch\n");
    let loaded = world.loaded();
    let container = loaded.config.container;
    let edit = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    assert_eq!(
        container.environ,
        [edit("A", "site"), edit("B", "site /data/of alice"), edit("A", "user")]
    );
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| (mount.source.clone(), mount.target.to_str().unwrap()))
        .collect();
    let path = |path: &str| MountSource::Path(path.into());
    assert_eq!(
        mounts,
        [
            (path("/early"), "/early"),
            (path("/data/of alice"), "/data"),
            (MountSource::Tmpfs, "/scratch"),
            (path("/late"), "/late"),
        ]
    );
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    world.user("mounts.d/y.fstab", "/dev/sda1 /x ext4 ro\n");
    assert!(matches!(world.load(), Err(Error::Request(error)) if error.contains("y.fstab, line 1: type \"ext4\"")));
}

#[test]
fn hooks_are_run_only_where_the_site_wants_them() {
    let world = World::new();
    fs::create_dir(world.path("etc/hooks.d")).unwrap();
    world
        .site("hooks.d/20.sh", "#!/bin/sh\n")
        .site("hooks.d/10", "#!/bin/sh\n")
        .site("hooks.d/README", "not a program\n")
        .site("hooks.d/.hidden", "#!/bin/sh\n")
        .user("hooks.d/mine.sh", "#!/bin/sh\n");
    for name in [
        "etc/hooks.d/10",
        "etc/hooks.d/20.sh",
        "etc/hooks.d/.hidden",
        "home/.config/enroot/hooks.d/mine.sh",
    ] {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let hooks = || -> Vec<(String, bool)> {
        let hooks = world.loaded().config.container.hook_files.into_iter();
        hooks
            .map(|hook| (text(hook.path.strip_prefix(world.dir.path()).unwrap()), hook.site))
            .collect()
    };
    assert_eq!(hooks(), []);
    let (first, second) = (
        ("etc/hooks.d/10".to_owned(), true),
        ("etc/hooks.d/20.sh".to_owned(), true),
    );
    world.policy("[container]\nhooks = true\n");
    assert_eq!(hooks(), [first.clone(), second.clone()]);
    world.policy("[container]\nhooks = true\nuser_hooks = true\n");
    let mine = ("home/.config/enroot/hooks.d/mine.sh".to_owned(), false);
    assert_eq!(hooks(), [first, second, mine]);
    fs::set_permissions(world.path("etc/hooks.d/10"), fs::Permissions::from_mode(0o775)).unwrap();
    chown(world.path("etc/hooks.d/10"), Some(0), Some(GID)).unwrap();
    assert!(
        matches!(world.load(), Err(Error::Host(error)) if error.contains("hooks.d/10: others than root can write it"))
    );
    fs::remove_file(world.path("etc/hooks.d/10")).unwrap();
    chown(world.path("etc/hooks.d"), Some(UID), None).unwrap();
    assert!(
        matches!(world.load(), Err(Error::Host(error)) if error.contains("hooks.d: others than root can write it"))
    );
}
