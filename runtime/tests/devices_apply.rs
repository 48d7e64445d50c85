//! Edits for devices, done in real root file systems: nodes, mounts, links, covers, and images that lead elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::devices::{CoverFile, DevicesConfig, Edits, Expected, Link, Node, NodeKind, Wish};
use pyxis_runtime::mount::{MountOptions, MountSource, MountSpec};
use pyxis_runtime::plan::Plan;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

fn make_node(path: &Path, major: u32, minor: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor)).unwrap();
}

fn node(path: &str, major: u32, minor: u32) -> Node {
    Node {
        source: path.into(),
        target: path.into(),
        expected: Expected {
            kind: NodeKind::Character,
            major: Some(major),
            minor: Some(minor),
        },
    }
}

/// A plan with these edits; the host is what lies below `host`.
fn with(host: &Path, also: Edits) -> Plan {
    let site = DevicesConfig {
        root: host.into(),
        ..DevicesConfig::default()
    };
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    plan.restrict_dev = true;
    plan.devices = Some(Wish {
        site,
        also,
        ..Wish::default()
    });
    plan
}

#[test]
fn nodes_are_the_hosts_and_what_they_should_be() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let host = clean.path("host");
    make_node(&host.join("dev/nvidia0"), 195, 0);
    make_node(&host.join("dev/caps/cap1"), 234, 1);
    symlink("/dev/nvidia0", host.join("dev/link")).unwrap();
    let edits = |nodes| Edits {
        nodes,
        ..Edits::default()
    };
    let all = vec![
        node("/dev/nvidia0", 195, 0),
        node("/dev/caps/cap1", 234, 1),
        node("/dev/link", 195, 0),
    ];
    let script = "stat -c '%n %t:%T %F' /dev/nvidia0 /dev/caps/cap1 /dev/link; ls -d /dev/null";
    assert_eq!(
        output(&with(&host, edits(all)), &packs, script),
        "/dev/nvidia0 c3:0 character special file\n/dev/caps/cap1 ea:1 character special file\n\
         /dev/link c3:0 character special file\n/dev/null\n"
    );
    let other = fails(&with(&host, edits(vec![node("/dev/nvidia0", 195, 1)])), &packs);
    assert!(
        other.contains("/dev/nvidia0") && other.contains("195:0; it should be the character device 195:1"),
        "{other}"
    );
    let missing = fails(&with(&host, edits(vec![node("/dev/nvidia7", 195, 7)])), &packs);
    assert!(
        missing.contains("/dev/nvidia7 does not exist on this node"),
        "{missing}"
    );
    fs::write(host.join("dev/file"), "").unwrap();
    let none = fails(&with(&host, edits(vec![node("/dev/file", 195, 7)])), &packs);
    assert!(none.contains("it is no device"), "{none}");
    // With the host's /dev what is there needs nothing, and nothing is made in it.
    make_node(&host.join("dev/null"), 1, 3);
    let mut shared = with(&host, edits(vec![node("/dev/null", 1, 3)]));
    shared.restrict_dev = false;
    shared.mounts.push(system("/dev", "/dev", rbind()));
    output(&shared, &packs, "echo x >/dev/null");
    shared.devices.as_mut().unwrap().also = edits(vec![node("/dev/caps/cap1", 234, 1)]);
    let refused = fails(&shared, &packs);
    assert!(refused.contains("container.restrict_dev"), "{refused}");
}

#[test]
fn mounts_links_covers_and_variables() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let host = clean.path("host");
    fs::create_dir_all(host.join("run")).unwrap();
    fs::create_dir_all(host.join("usr/bin")).unwrap();
    fs::copy("/bin/busybox", host.join("usr/bin/tool.real")).unwrap();
    // The way out of the prefix stays in it.
    symlink("../../../../usr/bin/tool.real", host.join("usr/bin/busybox")).unwrap();
    let socket = UnixListener::bind(host.join("run/socket")).unwrap();
    let bind = |path: &str, readonly: bool, nofail: bool| MountSpec {
        source: MountSource::Path(path.into()),
        target: path.into(),
        options: MountOptions {
            readonly,
            nofail,
            nosuid: true,
            nodev: true,
            ..MountOptions::default()
        },
    };
    let edits = Edits {
        mounts: vec![
            bind("/usr/bin/busybox", true, false),
            bind("/run/socket", false, false),
            bind("/etc/none", true, true),
        ],
        links: vec![
            Link {
                path: "/usr/lib/new".into(),
                target: "data".into(),
            },
            Link {
                path: "/usr/lib/data".into(),
                target: "elsewhere".into(),
            },
        ],
        files: vec![CoverFile {
            path: "/proc/version".into(),
            bytes: b"covered\n".to_vec(),
        }],
        hidden: vec!["/etc/passwd".into(), "/usr/lib/none".into(), "/root".into()],
        env: vec![("DEVICES".to_owned(), Some("here".to_owned()))],
        warnings: vec!["a word to the user".to_owned()],
        ..Edits::default()
    };
    let mut plan = with(&host, edits);
    plan.writable = false;
    let (made, notes) = build(&plan, &packs).unwrap();
    let none = "/etc/none does not exist on this node, ignoring";
    assert_eq!(notes, ["a word to the user", none]);
    assert_eq!(made.edits, [("DEVICES".to_owned(), Some("here".to_owned()))]);
    let script = "/usr/bin/busybox echo tool; test -S /run/socket && echo socket; cat /usr/lib/new /proc/version; \
                  cat /etc/passwd 2>&1; ls /root | grep -c .; grep -c ' /run/socket rw' /proc/self/mountinfo; \
                  grep -c ' /usr/bin/busybox ro' /proc/self/mountinfo";
    let ran = run(&made, &plan, script);
    assert_eq!(
        ran.output,
        "tool\nsocket\nfrom the image\ncovered\ncat: can't open '/etc/passwd': Permission denied\n0\n1\n1\n"
    );
    drop(socket);
}

#[test]
fn an_image_of_links_leads_nowhere() {
    let clean = Clean::start();
    let (host, outside) = (clean.path("host"), clean.path("outside"));
    make_node(&host.join("dev/nvidia0"), 195, 0);
    fs::create_dir_all(host.join("usr/bin")).unwrap();
    fs::write(host.join("usr/bin/tool"), "tool\n").unwrap();
    host_dir(&outside, (0, 0), 0o777);
    let target = outside.clone();
    let packs = [
        clean.base(),
        clean.pack("links", |tree| {
            for (name, to) in [
                ("opt", "/proc/self/root"),
                ("srv", "../../../../../../.."),
                ("var", "/dev/shm"),
            ] {
                symlink(to, tree.join(name)).unwrap();
            }
            symlink(target, tree.join("media")).unwrap();
            symlink("/mnt/loop", tree.join("mnt")).unwrap();
        }),
    ];
    let link = |path: &str| Edits {
        links: vec![Link {
            path: path.into(),
            target: "x".into(),
        }],
        ..Edits::default()
    };
    // Inside of the root file system, whatever the links say.
    for inside in ["/opt/link", "/srv/link", "/media/link"] {
        output(&with(&host, link(inside)), &packs, "true");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for refused in ["/var/link", "/mnt/link"] {
        fails(&with(&host, link(refused)), &packs);
    }
    let mount = |target: &str| Edits {
        mounts: vec![MountSpec {
            source: MountSource::Path("/usr/bin/tool".into()),
            target: target.into(),
            options: MountOptions::default(),
        }],
        ..Edits::default()
    };
    assert_eq!(
        output(&with(&host, mount("/media/tool")), &packs, "cat /media/tool"),
        "tool\n"
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(fails(&with(&host, mount("/../tool")), &packs).contains("cross-device link"));
}
