//! Specifications of devices (Container Device Interface) as files of a node: who may have written them, what is looked up
//! on the node, and what of it can be done in a container.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use pyxis_runtime::devices::DevicesConfig;
use pyxis_runtime::devices::cdi::name::parse_names;
use pyxis_runtime::devices::cdi::{Described, find};
use pyxis_runtime::mount::MountSource;
use pyxis_runtime::plan::Identity;
use pyxis_runtime::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

const UID: u32 = 23_456;

/// A node of its own, below a directory.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let node = Node(tempfile::tempdir().unwrap());
        fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["dev", "etc/cdi", "run/cdi", "var"] {
            fs::create_dir_all(node.path(directory)).unwrap();
        }
        symlink("../run", node.path("var/run")).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name.trim_start_matches('/'))
    }

    fn device(&self, name: &str, kind: FileType, major: u32, minor: u32) -> &Self {
        mknodat(
            CWD,
            self.path(name),
            kind,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .unwrap();
        self
    }

    /// A specification of `vendor.com/thing=0`, whose edits these are.
    fn spec(&self, file: &str, edits: &str) -> PathBuf {
        let text = format!(
            "cdiVersion: 0.6.0\nkind: vendor.com/thing\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [A={file}]\n{edits}"
        );
        fs::write(self.path(file), text).unwrap();
        self.path(file)
    }

    fn site(&self) -> DevicesConfig {
        DevicesConfig {
            root: self.0.path().to_owned(),
            unneeded_hooks: vec![PathBuf::from("/usr/bin/unneeded")],
            ..DevicesConfig::default()
        }
    }

    fn find(&self, names: &str) -> Result<Described> {
        find(&parse_names(names).unwrap(), &self.site(), &user())
    }

    fn error(&self, names: &str) -> String {
        let error = self.find(names).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }
}

fn user() -> Identity {
    Identity {
        uid: UID,
        gid: 100,
        groups: vec![100, 44],
    }
}

#[test]
fn a_device_is_what_the_node_has() {
    let node = Node::new();
    node.device("dev/x0", FileType::CharacterDevice, 226, 0)
        .device("dev/disk", FileType::BlockDevice, 259, 7);
    node.spec(
        "etc/cdi/vendor.yaml",
        "    deviceNodes:\n    - path: /dev/dri/renderD128\n      hostPath: /dev/x0\n      type: c\n      major: 226\n      minor: 0\n    \
         - path: /dev/disk\n    mounts:\n    - {hostPath: /lib/x.so.1, containerPath: /usr/lib/x.so.1, options: [ro, nosuid, bind, relatime]}\n    \
         - {hostPath: none, containerPath: /scratch, type: tmpfs, options: [size=1m]}\n    hooks:\n    \
         - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks, --link, 'x.so.1::/usr/lib/x.so']}\n    \
         - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib]}\n    \
         - {hookName: poststop, path: /usr/bin/unneeded}\n    additionalGids: [44, 45]\n",
    );
    let Described { edits, mounts } = node.find("vendor.com/thing=0").unwrap();
    let nodes: Vec<_> = edits
        .nodes
        .iter()
        .map(|node| (&*node.source, &*node.target, node.expected.minor))
        .collect();
    assert_eq!(
        nodes,
        [
            (Path::new("/dev/x0"), Path::new("/dev/dri/renderD128"), Some(0)),
            (Path::new("/dev/disk"), Path::new("/dev/disk"), Some(7)),
        ]
    );
    assert!(edits.mounts.is_empty());
    let library = &mounts[0];
    assert_eq!(library.source, MountSource::Path(node.path("lib/x.so.1")));
    assert!(library.options.readonly && library.options.nosuid && !library.options.noexec);
    assert_eq!(mounts[1].source, MountSource::Tmpfs);
    assert_eq!(edits.links[0].path, Path::new("/usr/lib/x.so"));
    assert_eq!(edits.loader_directories[0].path, Path::new("/usr/lib"));
    assert_eq!(edits.env, [("A".to_owned(), Some("etc/cdi/vendor.yaml".to_owned()))]);
    assert_eq!(edits.warnings.len(), 1);
    assert!(
        edits.warnings[0].contains("members of group 45"),
        "{}",
        edits.warnings[0]
    );
}

#[test]
fn a_library_gets_the_name_that_programs_ask_for() {
    let node = Node::new();
    fs::create_dir_all(node.path("lib")).unwrap();
    let status = std::process::Command::new("cc")
        .args([
            "-shared",
            "-nostdlib",
            "-Wl,-soname,libthing.so.1",
            "-x",
            "c",
            "/dev/null",
            "-o",
        ])
        .arg(node.path("lib/libthing.so.1.2.3"))
        .status();
    assert!(status.unwrap().success());
    fs::write(node.path("lib/libtext.so"), "no library").unwrap();
    // Who may not read a library does not learn its name, and a link to it leads him no further.
    fs::copy(node.path("lib/libthing.so.1.2.3"), node.path("lib/libroots.so.1.2")).unwrap();
    fs::set_permissions(node.path("lib/libroots.so.1.2"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("libroots.so.1.2", node.path("lib/liblink.so.1.2")).unwrap();
    let mount = |name: &str, directory: &str| {
        format!("    - {{hostPath: /lib/{name}, containerPath: {directory}/{name}, options: [ro, bind]}}\n")
    };
    node.spec(
        "etc/cdi/vendor.yaml",
        &format!(
            "    hooks: [{{path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib]}}]\n    mounts:\n{}{}{}{}{}{}",
            mount("libthing.so.1.2.3", "/usr/lib"),
            mount("libthing.so.1.2.3", "/opt/lib"),
            mount("libtext.so", "/usr/lib"),
            mount("libmissing.so.1", "/usr/lib"),
            mount("libroots.so.1.2", "/usr/lib"),
            mount("liblink.so.1.2", "/usr/lib"),
        ),
    );
    let edits = node.find("vendor.com/thing=0").unwrap().edits;
    let links: Vec<_> = edits.links.iter().map(|link| (&*link.path, &*link.target)).collect();
    assert_eq!(
        links,
        [(Path::new("/usr/lib/libthing.so.1"), Path::new("libthing.so.1.2.3"))]
    );
    assert_eq!(edits.loader_directories[0].mounted, ["libthing.so.1"]);
}

#[test]
fn what_cannot_be_done_is_not_done_in_part() {
    let node = Node::new();
    node.device("dev/x0", FileType::CharacterDevice, 226, 0);
    fs::write(node.path("dev/file"), "").unwrap();
    symlink("x0", node.path("dev/link")).unwrap();
    for (edits, reason) in [
        (
            "    deviceNodes: [{path: /dev/x1}]",
            "device node /dev/x1: No such file",
        ),
        (
            "    deviceNodes: [{path: /dev/file}]",
            "device node /dev/file: it is not a device",
        ),
        (
            "    deviceNodes: [{path: /dev/link}]",
            "device node /dev/link: it is not a device",
        ),
        (
            "    deviceNodes: [{path: /dev/x0, type: b}]",
            "device node /dev/x0: it is another device",
        ),
        (
            "    deviceNodes: [{path: /dev/x0, major: 1}]",
            "device node /dev/x0: it is another device",
        ),
        (
            "    deviceNodes: [{path: /dev/x0, major: 226, minor: 1}]",
            "it is another device",
        ),
        (
            "    mounts: [{hostPath: /a, containerPath: /b, options: [x-move]}]",
            "mount of /b: unknown option \"x-move\"",
        ),
        (
            "    mounts: [{hostPath: /a, containerPath: /b, options: [size=1]}]",
            "mount of /b: unknown option \"size=1\"",
        ),
        ("    netDevices: [{hostInterfaceName: eth0, name: eth0}]", "netDevices"),
        (
            "    hooks: [{hookName: prestart, path: /bin/sh, args: [sh, -c, id]}]",
            "a hook that is not known, and no program is run for a device: /bin/sh -c id",
        ),
    ] {
        node.spec("etc/cdi/vendor.yaml", edits);
        let error = node.error("vendor.com/thing=0");
        assert!(error.contains(reason), "{edits}: {error}");
        assert!(
            error.starts_with(&node.path("etc/cdi/vendor.yaml").display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_to_who_misses_its_devices() {
    let node = Node::new();
    fs::write(
        node.path("run/cdi/other.json"),
        r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/other", "devices": [{"name": "1"}]}"#,
    )
    .unwrap();
    let bomb: String = (1..20)
        .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(9)))
        .collect();
    for (text, reason) in [
        ("a: &a0 [x, x, x]\n".to_owned() + &bomb, "when its aliases are written out"),
        ("x".repeat((1 << 20) + 1), "larger than 1048576 bytes"),
        ("[".repeat(1 << 20), "line 1: "),
        ("kind: x\n".to_owned(), "missing field `cdiVersion`"),
        ("cdiVersion: 9.0.0\nkind: a.b/c\ndevices: []\n".to_owned(), "is not one that is known"),
        ("cdiVersion: 1.0.0\nkind: a.b/c\ndevices: [{name: a, containerEdits: {deviceNodes: [{path: /dev/../x}]}}]\n".to_owned(), "has \"..\" in it"),
        ("\u{0}".to_owned(), "line 1"),
    ] {
        fs::write(node.path("etc/cdi/vendor.yaml"), text).unwrap();
        let error = node.error("vendor.com/thing=0");
        assert!(error.contains("unknown device vendor.com/thing=0: this node has vendor.com/other=1; not used: "), "{error}");
        assert!(error.contains(reason), "{error}");
        let other = node.find("vendor.com/other=1").unwrap().edits;
        assert!(other.warnings[0].ends_with(", ignoring") && other.warnings.len() == 1, "{other:?}");
    }
}

#[test]
fn specifications_are_the_administrators_alone() {
    let node = Node::new();
    let refused = |why: &str| {
        let error = node.error("vendor.com/thing=0");
        assert!(error.contains("others than root can write it"), "{why}: {error}");
    };
    let spec = node.spec("etc/cdi/vendor.yaml", "");
    node.find("vendor.com/thing=0").unwrap();
    chown(&spec, Some(UID), None).unwrap();
    refused("a user's file");
    chown(&spec, Some(0), None).unwrap();
    fs::set_permissions(&spec, fs::Permissions::from_mode(0o666)).unwrap();
    refused("a file that all can write");
    fs::set_permissions(&spec, fs::Permissions::from_mode(0o600)).unwrap();
    // Root reads what nobody else can.
    node.find("vendor.com/thing=0").unwrap();
    fs::set_permissions(node.path("etc/cdi"), fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory that all can write");
    fs::set_permissions(node.path("etc/cdi"), fs::Permissions::from_mode(0o755)).unwrap();
    // A link is as good as the file behind it.
    fs::rename(&spec, node.path("elsewhere")).unwrap();
    symlink(node.path("elsewhere"), &spec).unwrap();
    node.find("vendor.com/thing=0").unwrap();
    chown(node.path("elsewhere"), Some(UID), None).unwrap();
    refused("a link to a user's file");
    fs::remove_file(&spec).unwrap();
    symlink("/proc/self/environ", &spec).unwrap();
    let error = node.error("vendor.com/thing=0");
    assert!(
        error.contains("a file of /proc is no configuration") || error.contains("magic"),
        "{error}"
    );
    fs::remove_file(&spec).unwrap();
    mknodat(CWD, &spec, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let error = node.error("vendor.com/thing=0");
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn the_later_directory_wins() {
    let node = Node::new();
    node.spec("etc/cdi/vendor.yaml", "");
    node.spec("run/cdi/vendor.yaml", "");
    let edits = node.find("vendor.com/thing=0").unwrap().edits;
    assert_eq!(edits.env, [("A".to_owned(), Some("run/cdi/vendor.yaml".to_owned()))]);
    node.spec("run/cdi/again.yaml", "");
    assert!(node.error("vendor.com/thing=0").contains("is described twice, by "));
    // Neither hidden files nor those of other kinds are specifications.
    fs::rename(node.path("run/cdi/again.yaml"), node.path("run/cdi/.again.yaml")).unwrap();
    fs::write(node.path("run/cdi/README"), "").unwrap();
    node.find("vendor.com/thing=0").unwrap();
}

#[test]
fn the_site_says_which_kinds_there_are() {
    let node = Node::new();
    node.spec("etc/cdi/vendor.yaml", "");
    for (cdi, allowed) in [
        (vec!["vendor.com/other".parse().unwrap()], "vendor.com/other"),
        (vec![], "none"),
    ] {
        let site = DevicesConfig {
            cdi: Some(cdi),
            ..node.site()
        };
        let error = find(&parse_names("vendor.com/thing=0").unwrap(), &site, &user()).unwrap_err();
        assert!(matches!(error, Error::Denied(_)));
        assert_eq!(
            error.to_string(),
            format!("device vendor.com/thing=0: this site allows {allowed} (devices.cdi of /etc/pyxis/pyxis.toml)")
        );
    }
}

#[test]
fn without_a_request_nothing_is_read() {
    let nowhere = DevicesConfig {
        root: PathBuf::from("/nonexistent"),
        ..DevicesConfig::default()
    };
    assert_eq!(find(&[], &nowhere, &user()).unwrap(), Described::default());
    let error = find(&parse_names("a.b/c=0").unwrap(), &nowhere, &user()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown device a.b/c=0: this node has none that is described"
    );
}
