//! Mounts of every kind: flags, creation of targets, the user's rights on sources, what must not be reached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::mount::{Create, MountOptions, MountSource, Propagation, PropagationKind};
use pyxis_runtime::plan::Plan;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

/// A plan with `/proc` and these mounts of the user.
fn with(mounts: Vec<pyxis_runtime::plan::PlannedMount>) -> Plan {
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    plan.mounts.extend(mounts);
    plan
}

/// The mount options of a path, as the container sees them.
const FLAGS: &str = "grep ' /x ' /proc/self/mountinfo | while read a b c d e f g; do echo $f; done";

#[test]
fn binds_of_files_and_directories_with_their_flags() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let dir = clean.path("dir");
    host_dir(&dir, (UID, GID), 0o755);
    fs::write(dir.join("file"), "host\n").unwrap();
    let source = text(&dir);
    let made = with(vec![
        mount(&source, "/missing/a/b", rbind()),
        mount(&format!("{source}/file"), "/missing/f", MountOptions::default()),
        mount(&format!("{source}/file"), "/usr/lib/data", MountOptions::default()),
        mount("dir/file", "/relative", MountOptions::default()),
        mount(&source, "/sp ace", rbind()),
    ]);
    let made = Plan {
        cwd: clean.dir.path().into(),
        ..made
    };
    let script = "cat /missing/a/b/file /missing/f /usr/lib/data /relative '/sp ace/file'; echo in > /missing/a/b/new";
    assert_eq!(output(&made, &packs, script), "host\n".repeat(5));
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "in\n");
    assert_eq!(fs::metadata(dir.join("new")).unwrap().uid(), UID);
    let all = MountOptions {
        readonly: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..rbind()
    };
    let flags = |options| output(&with(vec![mount(&source, "/x", options)]), &packs, FLAGS);
    for word in ["ro", "nosuid", "nodev", "noexec"] {
        let all = flags(all.clone());
        assert!(all.trim().split(',').any(|flag| flag == word), "{word} is not in {all}");
    }
    // Never set-id or devices, asked for or not.
    let plain = flags(rbind());
    assert!(plain.starts_with("rw,nosuid,nodev"), "{plain}");
}

#[test]
fn the_hosts_read_only_mounts_stay_read_only() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let first = with(vec![mount(
        "tmpfs",
        "/x",
        MountOptions {
            readonly: true,
            ..MountOptions::default()
        },
    )]);
    assert!(
        output(&first, &packs, FLAGS).starts_with("ro,"),
        "{}",
        output(&first, &packs, FLAGS)
    );
    let (made, _) = build(&first, &packs).unwrap();
    let ran = run(&made, &first, "mount -o remount,rw /x; umount /x; touch /x/y");
    assert!(ran.output.contains("Read-only file system"), "{}", ran.output);
}

#[test]
fn sources_are_opened_with_the_users_rights() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let closed = clean.path("closed");
    host_dir(&closed, (0, 0), 0o700);
    host_file(&closed.join("file"), "secret", (0, 0), 0o644);
    let group = clean.path("group");
    host_dir(&group, (0, GROUP), 0o750);
    host_file(&group.join("file"), "for the group\n", (0, GROUP), 0o640);
    let closed = text(&closed);
    for source in [closed.clone(), format!("{closed}/file"), format!("{closed}/missing")] {
        let error = fails(&with(vec![mount(&source, "/x", rbind())]), &packs);
        assert!(
            error.contains("Permission denied") && error.contains(&source),
            "{error}"
        );
    }
    let seen = with(vec![mount(&text(&group), "/x", rbind())]);
    assert_eq!(output(&seen, &packs, "cat /x/file"), "for the group\n");
    let error = fails(&with(vec![mount("/no/such/place", "/x", rbind())]), &packs);
    assert_eq!(error, "source path does not exist: /no/such/place");
    // A link that the user made does not lend him the runtime's rights, and nor do links of /proc.
    symlink(format!("{closed}/file"), clean.path("link")).unwrap();
    assert!(fails(&with(vec![mount(&text(&clean.path("link")), "/x", rbind())]), &packs).contains("Permission denied"));
    for number in 0..12 {
        let source = format!("/proc/self/fd/{number}");
        let error = fails(&with(vec![mount(&source, "/x", rbind())]), &packs);
        assert!(error.contains(&source), "{error}");
    }
    for source in [
        "/proc/1/root/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd",
    ] {
        assert!(fails(&with(vec![mount(source, "/x", rbind())]), &packs).contains(source));
    }
}

#[test]
fn targets_never_leave_the_container() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let dir = clean.path("dir");
    host_dir(&dir, (UID, GID), 0o755);
    for target in ["../home", "/../home", "/usr/../../x", "./../x", "/usr/lib/../../.."] {
        let error = fails(&with(vec![mount(&text(&dir), target, rbind())]), &packs);
        assert!(error.contains("cross-device link") && error.contains(target), "{error}");
    }
    for target in ["/", "/usr/..", "."] {
        let error = fails(&with(vec![mount(&text(&dir), target, rbind())]), &packs);
        assert!(error.contains("root directory"), "{error}");
    }
    let inside = with(vec![mount(&text(&dir), "/usr/../usr/./lib/../y", rbind())]);
    assert_eq!(output(&inside, &packs, "ls -d /usr/y"), "/usr/y\n");
}

#[test]
fn targets_in_host_directories_are_made_with_the_users_rights() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let (mine, theirs) = (clean.path("mine"), clean.path("theirs"));
    host_dir(&mine, (UID, GID), 0o755);
    host_dir(&theirs, (0, 0), 0o755);
    symlink(text(&theirs), mine.join("link")).unwrap();
    let tmp = || mount("tmpfs", "/x/made", MountOptions::default());
    let error = fails(&with(vec![mount(&text(&theirs), "/x", rbind()), tmp()]), &packs);
    assert!(error.contains("Permission denied"), "{error}");
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
    let allowed = with(vec![mount(&text(&mine), "/x", rbind()), tmp()]);
    output(&allowed, &packs, "touch /x/made/y");
    assert_eq!(fs::metadata(mine.join("made")).unwrap().uid(), UID);
    // The user's own link leads into the container, not to the host.
    let linked = with(vec![
        mount(&text(&mine), "/x", rbind()),
        mount("tmpfs", "/x/link/made", MountOptions::default()),
    ]);
    output(&linked, &packs, &format!("touch {}/made/y", theirs.display()));
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
}

#[test]
fn creation_and_kinds() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let dir = clean.path("dir");
    host_dir(&dir, (UID, GID), 0o755);
    host_file(&dir.join("file"), "x", (UID, GID), 0o644);
    let (dir, file) = (text(&dir), text(&dir.join("file")));
    let create = |create| MountOptions { create, ..rbind() };
    let error = |mounts| fails(&with(mounts), &packs);
    assert!(error(vec![mount(&dir, "/none", create(Create::No))]).contains("No such file or directory"));
    assert!(error(vec![mount(&dir, "/none", create(Create::File))]).contains("not a directory"));
    assert!(error(vec![mount(&file, "/none", create(Create::Dir))]).contains("is a directory"));
    assert!(error(vec![mount(&file, "/usr", rbind())]).contains("/usr is a directory"));
    assert!(error(vec![mount(&dir, "/usr/lib/data", rbind())]).contains("not a directory"));
    assert!(error(vec![mount(&dir, "/usr/lib/data/x", rbind())]).contains("Not a directory"));
    output(
        &with(vec![mount(&file, "/a/b", create(Create::File))]),
        &packs,
        "test -f /a/b",
    );
}

#[test]
fn tmpfs_has_its_size_and_only_harmless_options() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let tmpfs = |data: &[&str]| {
        let data = data.iter().map(|text| (*text).to_owned()).collect();
        with(vec![mount(
            "tmpfs",
            "/x",
            MountOptions {
                data,
                ..MountOptions::default()
            },
        )])
    };
    let script = "df -k /x | { read a; read a b c; echo $b; }; stat -c '%u %a' /x; touch /x/file";
    assert_eq!(
        output(&tmpfs(&["size=1m", "mode=700"]), &packs, script),
        format!("1024\n{UID} 700\n")
    );
    output(
        &tmpfs(&["huge=within_size", "nr_inodes=100", "uid=0"]),
        &packs,
        "touch /x/y",
    );
    for bad in [
        "noswap",
        "usrquota",
        "uid=4294967295",
        "gid=1",
        "mode=9",
        "size=x",
        "source=/x",
        "context=x",
        "",
    ] {
        let error = fails(&tmpfs(&[bad]), &packs);
        assert!(error.contains("tmpfs option"), "{bad}: {error}");
    }
    let devpts = with(vec![mount(
        "/tmp",
        "/x",
        MountOptions {
            data: vec!["ptmxmode=666".into()],
            ..rbind()
        },
    )]);
    assert!(fails(&devpts, &packs).contains("ptmxmode"));
}

#[test]
fn umount_detach_and_move_act_on_the_containers_mounts_only() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let (one, two) = (clean.path("one"), clean.path("two"));
    for dir in [&one, &two] {
        host_dir(dir, (UID, GID), 0o755);
        fs::write(dir.join(dir.file_name().unwrap()), "").unwrap();
    }
    let (one, two) = (text(&one), text(&two));
    let umount = |target: &str| mount("umount", target, MountOptions::default());
    let gone = with(vec![mount(&one, "/x", rbind()), umount("/x")]);
    assert_eq!(output(&gone, &packs, "ls /x"), "");
    let detach = MountOptions {
        detach: true,
        ..rbind()
    };
    let swapped = with(vec![
        mount(&one, "/x", rbind()),
        mount(&two, "/x", detach),
        umount("/x"),
    ]);
    assert_eq!(
        output(&swapped, &packs, "ls /x; grep -c ' /x ' /proc/self/mountinfo || true"),
        "0\n"
    );
    let moved = MountOptions {
        move_mount: true,
        ..rbind()
    };
    let moving = with(vec![mount(&one, "/x", rbind()), mount("/x", "/y", moved.clone())]);
    assert_eq!(output(&moving, &packs, "ls /x /y"), "/x:\n\n/y:\none\n");
    for wrong in [
        umount("/usr"),
        umount("/missing"),
        umount("/"),
        mount("/usr", "/y", moved),
    ] {
        let error = fails(&with(vec![wrong]), &packs);
        assert!(
            error.contains("unmount") || error.contains("mount /usr on /y"),
            "{error}"
        );
    }
    // A mount that came along with the host's tree may cover something.
    let dev = system("/dev", "/dev", rbind());
    let error = fails(&with(vec![dev, umount("/dev/shm")]), &packs);
    assert!(error.contains("not one of the container's mounts"), "{error}");
}

#[test]
fn a_plain_bind_uncovers_nothing() {
    let clean = Clean::start();
    let packs = [clean.base()];
    // /dev/shm and /dev/pts are mounts; without them their empty mount points would show.
    let pts = "grep -c ' /x/pts ' /proc/self/mountinfo";
    let plan = with(vec![mount("/dev", "/x", MountOptions::default())]);
    assert_ne!(output(&plan, &packs, &format!("{pts}; echo data > /x/null")), "0\n");
}

#[test]
fn failures_may_be_allowed_and_silent() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let nofail = MountOptions {
        nofail: true,
        ..rbind()
    };
    let silent = MountOptions {
        silent: true,
        ..nofail.clone()
    };
    let plan = with(vec![
        mount("/no/such/place", "/x", nofail.clone()),
        mount("/no/such/other", "/x", silent),
        mount("/tmp", "/usr/lib/data", nofail),
    ]);
    let (made, notes) = build(&plan, &packs).unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_eq!(notes[0], "source path does not exist: /no/such/place, ignoring");
    assert!(
        notes[1].contains("/usr/lib/data") && notes[1].ends_with(", ignoring"),
        "{notes:?}"
    );
    assert_eq!(run(&made, &plan, "cat /usr/lib/data").output, "from the image\n");
}

#[test]
fn propagation_never_reaches_the_host() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let dir = clean.path("dir");
    host_dir(&dir, (UID, GID), 0o755);
    for kind in [
        PropagationKind::Private,
        PropagationKind::Slave,
        PropagationKind::Shared,
        PropagationKind::Unbindable,
    ] {
        let propagation = Some(Propagation { kind, recursive: true });
        let options = MountOptions { propagation, ..rbind() };
        let plan = with(vec![
            mount(&text(&dir), "/x", options),
            mount("tmpfs", "/x/below", MountOptions::default()),
        ]);
        output(&plan, &packs, "touch /x/below/file");
        assert_eq!(fs::read_dir(dir.join("below")).unwrap().count(), 0);
    }
}

#[test]
fn the_wanted_propagation_is_seen_inside() {
    let clean = Clean::start();
    let packs = [clean.base()];
    // A mount of the host that is shared: without a word its copy is a slave.
    let dir = clean.path("dir");
    host_dir(&dir, (UID, GID), 0o755);
    nix::mount::mount(
        Some("tmpfs"),
        &dir,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    rustix::mount::mount_change(&dir, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    for (kind, expected) in [
        (None, &["master"][..]),
        (Some(PropagationKind::Private), &[]),
        (Some(PropagationKind::Slave), &["master"]),
        (Some(PropagationKind::Shared), &["shared", "master"]),
        (Some(PropagationKind::Unbindable), &["unbindable"]),
    ] {
        let recursive = false;
        let propagation = kind.map(|kind| Propagation { kind, recursive });
        let options = MountOptions { propagation, ..rbind() };
        let plan = with(vec![proc_mount(), mount(&text(&dir), "./made/x", options)]);
        let line = output(&plan, &packs, "grep ' /made/x ' /proc/self/mountinfo");
        let fields = line.split_whitespace().skip(6).take_while(|word| *word != "-");
        let found: Vec<&str> = fields.map(|field| field.split(':').next().unwrap()).collect();
        assert_eq!(found, expected, "{kind:?}: {line}");
    }
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_private_dev_has_the_standard_nodes_only() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = with(vec![]);
    plan.restrict_dev = true;
    let script = "ls /dev; echo x > /dev/null && cat /dev/full | { read -n 1 x; } ; echo y > /dev/shm/y; \
                  cat /dev/shm/y; stat -c %a /dev/pts/ptmx; test ! -e /dev/kmsg && test ! -e /dev/vda";
    let found = output(&plan, &packs, script);
    let nodes = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let expected: String = nodes.split(' ').map(|name| format!("{name}\n")).collect();
    assert!(found.starts_with(&expected), "{found}");
    assert!(found[expected.len()..].starts_with("y\n666\n"), "{found}");
}

#[test]
fn only_a_path_can_be_moved() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut planned = mount(
        "tmpfs",
        "/x",
        MountOptions {
            move_mount: true,
            ..rbind()
        },
    );
    // x-move of a tmpfs is a tmpfs: there is nothing to move.
    assert_eq!(output(&with(vec![planned.clone()]), &packs, "ls /x"), "");
    planned.spec.source = MountSource::Path("/missing".into());
    assert!(fails(&with(vec![planned]), &packs).contains("No such file or directory"));
}
