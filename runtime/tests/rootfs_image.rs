//! The container's root file system: owners, the writable layer, whiteouts, generated files, hostile images.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::mount::MountOptions;
use pyxis_runtime::plan::{AccountLine, FileContent, PlannedFile};
use pyxis_runtime::sys::process::Exit;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

#[test]
fn the_user_owns_and_changes_every_file() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let script = "stat -c %u:%g / /usr/lib/data && cat /usr/lib/data && echo more >> /usr/lib/data && \
                  mkdir /new && mv /usr/lib /usr/moved && rm -r /root && cat /usr/moved/data && test ! -e /root && \
                  stat -c %u:%g /new /usr/moved/data";
    let id = format!("{UID}:{GID}\n");
    let expected = format!("{id}{id}from the image\nfrom the image\nmore\n{id}{id}");
    assert_eq!(output(&plan(), &packs, script), expected);
    // The pack is as before.
    assert_eq!(output(&plan(), &packs, "cat /usr/lib/data"), "from the image\n");
    let mut remapped = plan();
    remapped.remap_root = true;
    let script = "id -u; id -g; stat -c %u:%g / /usr/lib/data; echo x > /usr/lib/new; stat -c %u:%g /usr/lib/new";
    assert_eq!(output(&remapped, &packs, script), "0\n0\n0:0\n0:0\n0:0\n");
}

#[test]
fn a_root_job_works_too() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.identity = pyxis_runtime::plan::Identity {
        uid: 0,
        gid: 0,
        groups: vec![0],
    };
    plan.mounts = vec![proc_mount()];
    let script = "id -u; stat -c %u /usr/lib/data; echo x > /usr/lib/new; cat /usr/lib/new";
    assert_eq!(output(&plan, &packs, script), "0\n0\nx\n");
}

#[test]
fn layers_hide_and_replace_what_is_below() {
    let clean = Clean::start();
    let base = clean.base();
    let middle = clean.pack("middle", |tree| {
        fs::create_dir_all(tree.join("opt/a")).unwrap();
        fs::write(tree.join("opt/a/old"), "old").unwrap();
        fs::write(tree.join("opt/gone"), "gone").unwrap();
    });
    let top = clean.pack("top", |tree| {
        fs::create_dir_all(tree.join("opt/a")).unwrap();
        fs::write(tree.join("opt/a/new"), "new").unwrap();
        rustix::fs::setxattr(
            tree.join("opt/a"),
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.join("opt/gone"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
    });
    let found = output(
        &plan(),
        &[base, middle, top],
        "cd /opt; find . | while read f; do echo $f; done",
    );
    let mut lines: Vec<&str> = found.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [".", "./a", "./a/new"]);
}

#[test]
fn many_layers_mount() {
    let clean = Clean::start();
    let mut packs = vec![clean.base()];
    for number in 0..24 {
        packs.push(clean.pack(&format!("l{number}"), |tree| {
            fs::write(tree.join(format!("n{number}")), "").unwrap();
            fs::write(tree.join("last"), number.to_string()).unwrap();
        }));
    }
    assert_eq!(output(&plan(), &packs, "ls / | grep -c ^n; cat /last"), "24\n23");
}

#[test]
fn read_only_means_the_root_only() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.writable = false;
    plan.mounts = vec![proc_mount(), mount("tmpfs", "/tmp", MountOptions::default())];
    plan.files = vec![replace("/etc/made", "made\n")];
    let script = "cat /etc/made; echo x > /x; echo $?; echo y > /tmp/y; cat /tmp/y; mount -o remount,rw /; touch /z";
    let (made, _) = build(&plan, &packs).unwrap();
    let ran = run(&made, &plan, script);
    assert!(ran.output.starts_with("made\n"), "{}", ran.output);
    assert!(ran.output.contains("Read-only file system"), "{}", ran.output);
    assert!(ran.output.contains("\n1\ny\n"), "{}", ran.output);
    assert_eq!(ran.exit, Exit::Code(1), "{}", ran.output);
}

#[test]
fn the_users_passwd_lines_come_first_and_the_image_keeps_its_own() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.files = vec![PlannedFile {
        path: "/etc/passwd".into(),
        content: FileContent::Prepend {
            lines: vec![
                AccountLine {
                    text: format!("me:x:{UID}:{GID}::/:"),
                    shell: Some("/bin/sh".into()),
                },
                AccountLine {
                    text: "you:x:1:1::/:".into(),
                    shell: Some("/bin/no-such-shell".into()),
                },
            ],
            drop: vec!["_apt".into()],
        },
        only_with: None,
    }];
    let script = "cat /etc/passwd; stat -c '%u %a' /etc/passwd; echo mine >> /etc/passwd";
    let expected =
        format!("me:x:{UID}:{GID}::/:/bin/sh\nyou:x:1:1::/:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n{UID} 644\n");
    assert_eq!(output(&plan, &packs, script), expected);
}

#[test]
fn generated_files_never_follow_the_images_links() {
    let clean = Clean::start();
    let outside = clean.path("outside");
    host_file(&outside, "host\n", (0, 0), 0o666);
    host_dir(&clean.path("outside.d"), (0, 0), 0o777);
    let trap = clean.pack("trap", |tree| {
        fill_base(tree);
        fs::remove_file(tree.join("etc/passwd")).unwrap();
        symlink(&outside, tree.join("etc/passwd")).unwrap();
        symlink("../../../../../../etc/shadow", tree.join("etc/group")).unwrap();
        symlink(clean.path("outside.d"), tree.join("etc/sub")).unwrap();
        symlink("../usr/lib/data", tree.join("etc/linked")).unwrap();
        let fifo = Command::new("mkfifo").arg(tree.join("etc/fifo")).status().unwrap();
        assert!(fifo.success());
        fs::create_dir(tree.join("etc/dir")).unwrap();
    });
    let packs = [trap];
    let mut traps = plan();
    let lines = |path: &str| PlannedFile {
        path: path.into(),
        content: FileContent::Prepend {
            lines: vec![AccountLine {
                text: "a:b".into(),
                shell: None,
            }],
            drop: vec![],
        },
        only_with: None,
    };
    traps.files = vec![
        lines("/etc/passwd"),
        lines("/etc/group"),
        lines("/etc/fifo"),
        lines("/etc/linked"),
        lines("/etc/../../../etc/missing/deep/file"),
        replace("/etc/sub/file", "inside\n"),
    ];
    let escaping = fails(&traps, &packs);
    assert!(escaping.contains("cross-device link"), "{escaping}");
    traps.files.remove(4);
    let script = "cat /etc/passwd /etc/group /etc/fifo /etc/linked /etc/sub/file; cat /usr/lib/data; \
                  test ! -L /etc/passwd && test -f /etc/fifo";
    assert_eq!(
        output(&traps, &packs, script),
        "a:b\na:b\na:b\na:b\nfrom the image\ninside\nfrom the image\n"
    );
    assert_eq!(fs::read_to_string(&outside).unwrap(), "host\n");
    assert_eq!(fs::read_dir(clean.path("outside.d")).unwrap().count(), 0);
    traps.files = vec![replace("/etc/dir", "x")];
    let error = fails(&traps, &packs);
    assert!(
        error.contains("write /etc/dir") && error.contains("directory"),
        "{error}"
    );
}

#[test]
fn mount_targets_that_are_links_stay_inside() {
    let clean = Clean::start();
    let host = clean.path("host");
    host_dir(&host, (UID, GID), 0o755);
    let source = clean.path("source");
    host_dir(&source, (UID, GID), 0o755);
    fs::write(source.join("here"), "").unwrap();
    let trap = clean.pack("trap", |tree| {
        fill_base(tree);
        for (name, target) in [("dev", text(&host)), ("proc", "../../../../etc".into())] {
            fs::remove_dir(tree.join(name)).unwrap();
            symlink(target, tree.join(name)).unwrap();
        }
        symlink("/abs/olute", tree.join("mnt")).unwrap();
        symlink("mnt/../../../../..//tmp/./x", tree.join("dangling")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
    });
    let packs = [trap];
    let mut plan = plan();
    let source = text(&source);
    plan.mounts = ["/dev", "/proc", "/mnt", "/dangling"]
        .map(|target| mount(&source, target, rbind()))
        .to_vec();
    let script = format!("ls {} /etc /abs/olute /tmp/x", host.display());
    let found = output(&plan, &packs, &script);
    assert_eq!(found.matches("here").count(), 4, "{found}");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    plan.mounts = vec![mount(&source, "/loop/x", rbind())];
    assert!(
        fails(&plan, &packs).contains("symbolic links"),
        "{}",
        fails(&plan, &packs)
    );
}

/// The runtime's own mounts come after the host's `/dev`, and an image's links may lead them there.
#[test]
fn links_to_the_hosts_dev_make_nothing_there() {
    let clean = Clean::start();
    let name = format!("pyxis-test-{}", std::process::id());
    let pack = clean.pack("links", |tree| {
        fill_base(tree);
        fs::remove_dir(tree.join("tmp")).unwrap();
        symlink(format!("/dev/{name}-directory"), tree.join("tmp")).unwrap();
        symlink(format!("/dev/{name}-file"), tree.join("etc/hosts")).unwrap();
    });
    for (source, target) in [("tmpfs", "/tmp"), ("/etc/hosts", "/etc/hosts")] {
        let mut plan = plan();
        plan.mounts = vec![system("/dev", "/dev", rbind()), system(source, target, rbind())];
        let error = fails(&plan, &[pack.try_clone().unwrap()]);
        assert!(error.contains("Permission denied"), "{error}");
    }
    for kind in ["directory", "file"] {
        assert!(!fs::exists(format!("/dev/{name}-{kind}")).unwrap(), "{kind}");
    }
}

#[test]
fn hostile_names_and_bad_packs_are_errors() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    for name in [
        format!("/{}", "x".repeat(256)),
        "/a\0b".into(),
        "/usr/lib/data/below".into(),
    ] {
        plan.files = vec![replace(&name, "x")];
        let error = fails(&plan, &packs);
        assert!(error.contains("write /"), "{error}");
    }
    plan.files.clear();
    let file = clean.path("garbage");
    fs::write(&file, vec![7; 8192]).unwrap();
    assert!(fails(&plan, &[fs::File::open(&file).unwrap().into()]).contains("not a squashfs"));
    let whole = fs::read(clean.path("base.sqsh")).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(fails(&plan, &[fs::File::open(&file).unwrap().into()]).contains("truncated"));
    let mut broken = whole;
    let end = broken.len();
    broken[96..end].fill(0x5a);
    fs::write(&file, &broken).unwrap();
    let error = fails(&plan, &[fs::File::open(&file).unwrap().into()]);
    assert!(error.contains("mount layer 1 of 1"), "{error}");
    assert!(fails(&plan, &[]).contains("no layer"));
    assert!(fails(&plan, &[fs::File::open("/dev/null").unwrap().into()]).contains("regular file"));
}
