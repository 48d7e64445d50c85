//! Squashfs files mounted as data: whoever reads them, over a root file system that whoever reads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::containers::{Held, Kind};
use pyxis_runtime::image::file;
use pyxis_runtime::mount::{Create, MountOptions, MountSource};
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::{Plan, PlannedMount};
use pyxis_runtime::rootfs::reader::Reader;
use pyxis_runtime::rootfs::{Base, Data, DataFile, Lower, Lowers, Rung, Writable};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::sys::process::Exit;
use pyxis_runtime::{Error, Result};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A file with a bit of data in it.
fn data_of(clean: &Clean) -> PathBuf {
    drop(clean.pack("data", |tree| {
        fs::write(tree.join("file"), "data\n").unwrap();
        host_file(&tree.join("closed"), "the owner's\n", (0, 0), 0o600);
        host_file(&tree.join("program"), "#!/bin/sh\necho ran\n", (0, 0), 0o4755);
        fs::create_dir(tree.join("sub")).unwrap();
    }));
    clean.path("data.sqsh")
}

fn squashfs(path: &Path, target: &str, options: MountOptions) -> PlannedMount {
    let mut mount = mount("tmpfs", target, options);
    mount.spec.source = MountSource::Squashfs(path.into());
    mount
}

fn dir() -> MountOptions {
    MountOptions {
        create: Create::Dir,
        ..MountOptions::default()
    }
}

fn rung(fuse: bool, layer: Lower, path: &Path) -> DataFile {
    let program = Path::new("/usr/bin/squashfuse_ll");
    let layers = [layer];
    let rung = match fuse {
        true => Rung::Fuse(Reader::new(program, Groups::default(), &user(), path.to_str().unwrap()).unwrap()),
        false => Rung::kernel(&layers, &user()).unwrap(),
    };
    let [layer] = layers;
    DataFile { layer, rung }
}

/// The files of the plan's mounts, all read in the same way.
fn open(plan: &Plan, fuse: bool) -> Data {
    let paths = plan.mounts.iter().filter_map(|mount| match &mount.spec.source {
        MountSource::Squashfs(path) => Some(path),
        _ => None,
    });
    let open = |path: &PathBuf| {
        let opened = file::open(path, &plan.cwd, &user())?;
        let layer = Lower {
            file: opened.file,
            part: Some(opened.part),
        };
        Ok(rung(fuse, layer, path))
    };
    Data(paths.map(open).collect())
}

fn start(plan: &Plan, pack: &OwnedFd, root_fuse: bool, data: &Data) -> Result<Namespaces> {
    let layers = vec![Lower::pack(pack.try_clone().unwrap())?];
    let lowers = match root_fuse {
        true => on_fuse(layers, &plan.identity),
        false => on_kernel(layers, &plan.identity)?,
    };
    let base = Base::Layers {
        lowers: &lowers,
        writable: Writable::Scratch,
    };
    build_with(plan, &base, data).map(|(made, _)| made)
}

fn says(made: &Namespaces, plan: &Plan, script: &str) -> String {
    let ran = run(made, plan, script);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    ran.output
}

fn with(mounts: Vec<PlannedMount>) -> Plan {
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    plan.mounts.extend(mounts);
    plan
}

const ALL: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn data_is_the_users_and_read_only_whoever_reads_it_and_the_root() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    for (root, data) in ALL {
        for remap_root in [false, true] {
            let plan = Plan {
                remap_root,
                ..with(vec![squashfs(&path, "/new/data", dir())])
            };
            let made = start(&plan, &pack, root, &open(&plan, data)).unwrap();
            let owner = if remap_root { 0 } else { UID };
            let script = "cat /new/data/file /new/data/closed; stat -c %u /new/data/file; /new/data/program; \
                          touch /new/data/x 2>&1; chmod 600 /new/data/file 2>&1; touch /beside; \
                          grep ' /new/data ' /proc/self/mountinfo | grep -c ' ro,nosuid,nodev'";
            let expected = format!(
                "data\nthe owner's\n{owner}\nran\ntouch: /new/data/x: Read-only file system\n\
                 chmod: /new/data/file: Read-only file system\n1\n"
            );
            assert_eq!(says(&made, &plan, script), expected, "{root} {data} {remap_root}");
            assert_eq!(
                (made.readers.len(), made.data_readers.len()),
                (root.into(), data.into())
            );
            // What takes it off would see what it covers.
            assert_ne!(run(&made, &plan, "umount /new/data").exit, Exit::Code(0));
        }
    }
}

#[test]
fn flags_and_more_than_one() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    let noexec = MountOptions { noexec: true, ..dir() };
    let link = clean.path("link.sqsh");
    std::os::unix::fs::symlink("data.sqsh", &link).unwrap();
    for (root, data) in ALL {
        let mut plan = with(vec![
            squashfs(&path, "/a", dir()),
            squashfs(Path::new("./link.sqsh"), "/b", noexec.clone()),
            mount("tmpfs", "/c", dir()),
            squashfs(&path, "/c/d", dir()),
        ]);
        plan.cwd = clean.dir.path().to_owned();
        let made = start(&plan, &pack, root, &open(&plan, data)).unwrap();
        let script = "cat /a/file /b/file /c/d/file; /a/program; /b/program 2>&1 || true";
        let said = says(&made, &plan, script);
        assert!(
            said.starts_with("data\ndata\ndata\nran\n") && said.contains("Permission denied"),
            "{said}"
        );
        assert_eq!(made.data_readers.len(), if data { 3 } else { 0 });
    }
}

#[test]
fn a_partition_of_a_sif_file_is_data_too() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    let image = clean.path("data.sif");
    fs::write(&image, sif(&fs::read(path).unwrap())).unwrap();
    for (root, data) in ALL {
        let plan = with(vec![squashfs(&image, "/data", dir())]);
        let made = start(&plan, &pack, root, &open(&plan, data)).unwrap();
        assert_eq!(says(&made, &plan, "cat /data/file"), "data\n");
    }
}

#[test]
fn the_file_system_of_a_running_container_with_data_of_its_own() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    let bare = plan();
    let first = start(&bare, &pack, false, &Data::default()).unwrap();
    let base = Base::Running {
        root: std::os::fd::AsFd::as_fd(&first.root),
        upper: std::os::fd::AsFd::as_fd(&first.upper),
    };
    for data in [false, true] {
        let plan = with(vec![squashfs(&path, "/data", dir())]);
        let (second, _) = build_with(&plan, &base, &open(&plan, data)).unwrap();
        assert_eq!(says(&second, &plan, "cat /data/file; touch /by-second"), "data\n");
        assert_eq!(
            says(&first, &bare, "ls -d /by-second; ls /data; rm /by-second"),
            "/by-second\n"
        );
    }
}

#[test]
fn what_is_no_squashfs_file_is_an_error_at_once() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    let bytes = fs::read(&path).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(clean.path(name), bytes).unwrap();
        clean.path(name)
    };
    host_file(&clean.path("unreadable"), "x", (0, 0), 0o600);
    for (path, why) in [
        (clean.path("missing"), "missing: No such file or directory"),
        (clean.path("unreadable"), "unreadable: Permission denied"),
        (clean.dir.path().to_owned(), "is a directory"),
        ("/dev/urandom".into(), "is a device"),
        (write("empty", b""), "it is empty"),
        (write("script", b"#!/bin/sh\n"), "it is a script"),
        (write("cut", &bytes[..200]), "truncated"),
    ] {
        let plan = with(vec![squashfs(&path, "/data", dir())]);
        let error = start(&plan, &pack, false, &open(&plan, true)).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{error} lacks {why}");
        // One that need not be there is told, and the others are where they belong.
        let nofail = MountOptions { nofail: true, ..dir() };
        let good = clean.path("data.sqsh");
        let plan = with(vec![squashfs(&path, "/none", nofail), squashfs(&good, "/data", dir())]);
        let lowers = on_kernel(vec![Lower::pack(pack.try_clone().unwrap()).unwrap()], &plan.identity).unwrap();
        let writable = Writable::Scratch;
        let base = Base::Layers {
            lowers: &lowers,
            writable,
        };
        let (made, notes) = build_with(&plan, &base, &open(&plan, true)).unwrap();
        assert!(
            notes.len() == 1 && notes[0].contains(why) && notes[0].ends_with(", ignoring"),
            "{notes:?}"
        );
        assert_eq!(
            says(&made, &plan, "cat /data/file; ls -d /none 2>/dev/null || true"),
            "data\n"
        );
    }
}

#[test]
fn a_reader_that_fails_says_so_before_anything_starts_and_one_that_is_killed_is_seen() {
    let clean = Clean::start();
    let (pack, path) = (clean.base(), data_of(&clean));
    let plan = with(vec![squashfs(&path, "/data", dir())]);
    for root in [false, true] {
        let good = fs::read(&path).unwrap();
        let data = open(&plan, true);
        // What was good when it was judged has changed.
        fs::write(&path, "rubbish").unwrap();
        let error = start(&plan, &pack, root, &data).unwrap_err();
        let begin = format!(
            "squashfuse_ll, which reads {} for the user, has ended: ",
            path.display()
        );
        assert!(
            matches!(&error, Error::Image(text) if text.starts_with(&begin)),
            "{error}"
        );
        fs::write(&path, good).unwrap();
        let made = start(&plan, &pack, root, &open(&plan, true)).unwrap();
        rustix::process::pidfd_send_signal(&made.data_readers[0], rustix::process::Signal::KILL).unwrap();
        let ran = run(&made, &plan, "cat /usr/lib/data; cat /data/sub/none");
        assert!(
            ran.output.starts_with("from the image\n") && ran.exit != Exit::Code(0),
            "{}",
            ran.output
        );
        let held: Held = made.into();
        eventually("the end is seen", || held.lost(Kind::DataReader).eq([0]));
        assert_eq!(held.lost(Kind::Reader).next(), None);
    }
}

/// Mounts that are known only when the root file system is there.
#[test]
fn an_images_own_fstab_cannot_mount_files() {
    let clean = Clean::start();
    let path = data_of(&clean);
    let pack = clean.pack("own", |tree| {
        fill_base(tree);
        fs::write(
            tree.join("etc/fstab"),
            format!("{} /data squashfs ro,x-create=dir\n", text(&path)),
        )
        .unwrap();
    });
    let lowers = Lowers {
        own_files: Some(Default::default()),
        ..on_kernel(vec![Lower::pack(pack).unwrap()], &user()).unwrap()
    };
    let base = Base::Layers {
        lowers: &lowers,
        writable: Writable::Scratch,
    };
    let error = build_with(&plan(), &base, &Data::default()).unwrap_err().to_string();
    assert!(error.contains("by --container-mounts and by mounts.d only"), "{error}");
}
