//! Images that become directories: what is in them is compared with the kernel's overlay of the same layers, and whatever
//! an image says reaches nothing outside.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

mod common;
mod pack_support;

use common::{Clean, GID, UID, build, build_over, eventually, fill_base, own, plan, run, user};
use pack_support::{FoundTree, Tar, awkward, noise, same, tree};
use pyxis_runtime::containers::Data;
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::pack::{Compression, Options, pack_layer};
use pyxis_runtime::plan::Plan;
use pyxis_runtime::rootfs::{Base, Lower};
use pyxis_runtime::save::{Form, Save, Saver};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::sys::process::{self, Exit};
use pyxis_runtime::unpack::Unpacker;
use pyxis_runtime::{Error, Result};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn data(clean: &Clean) -> Data {
    Data::open(&clean.path("data"), &user()).unwrap()
}

/// What is in the user's directory on the data path.
fn left(clean: &Clean) -> Vec<PathBuf> {
    let entries = fs::read_dir(clean.path(&format!("data/{UID}"))).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn unpack(data: &Data, layers: &[OwnedFd]) -> Result<(Base<'static>, OwnedFd)> {
    let unnamed = data.unnamed("pyxis_1.0")?;
    let unpacker = Unpacker::new(Groups::default(), &user(), "the test's image");
    let layers: Vec<Lower> = layers
        .iter()
        .map(|file| Lower {
            file: file.try_clone().unwrap(),
            part: None,
        })
        .collect();
    unpacker.unpack(&layers, &unnamed.kept().root()?, |_| ())?;
    let base = Base::Directory {
        mount: unnamed.kept().root_mount()?,
        own_files: None,
    };
    Ok((base, unnamed.into_lock()?))
}

fn start(clean: &Clean, plan: &Plan, layers: &[OwnedFd]) -> (Namespaces, OwnedFd) {
    let (base, lock) = unpack(&data(clean), layers).unwrap();
    (build_over(plan, &base).unwrap().0, lock)
}

fn says(made: &Namespaces, plan: &Plan, script: &str) -> String {
    let ran = run(made, plan, script);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    ran.output
}

fn squash(clean: &Clean, tree: &Path, name: &str, arguments: &[&str]) -> OwnedFd {
    let file = clean.path(&format!("{name}.sqsh"));
    common::squashfs_of(tree, &file, arguments);
    File::open(file).unwrap().into()
}

/// Busybox beside everything that is awkward, set-id bits and devices among it.
fn awkward_base(clean: &Clean) -> PathBuf {
    let dir = awkward();
    fill_base(dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tree = clean.path("tree");
    fs::rename(dir.keep(), &tree).unwrap();
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::create_dir(tree.join("closed")).unwrap();
    fs::write(tree.join("closed/file"), "x").unwrap();
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    tree
}

fn pack(clean: &Clean, name: &str, tar: &Tar, compression: Compression) -> OwnedFd {
    let path = clean.path(name);
    let options = File::options().read(true).write(true).create_new(true).open(&path);
    let file = options.unwrap();
    let options = Options {
        compression,
        ..pack_support::options(2)
    };
    pack_layer(tar.end().as_slice(), &file, &options).unwrap();
    File::open(path).unwrap().into()
}

/// What a root file system shows, as far as an unpacked one must have it.
fn shown(made: &Namespaces) -> FoundTree {
    let mut found = tree(Path::new(&format!("/proc/self/fd/{}/.", made.root.as_raw_fd())));
    found.remove(Path::new(""));
    found.retain(|path, found| !("cbs".contains(found.kind) || path.starts_with("dev") && path != Path::new("dev")));
    for found in found.values_mut() {
        assert_eq!(found.owner, (UID, GID));
        found.mode &= if found.kind == 'd' { 0o1777 } else { 0o777 };
        found
            .xattrs
            .retain(|name, _| name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
    }
    found
}

#[test]
fn the_directory_is_what_the_kernels_overlay_shows() {
    let clean = Clean::start();
    let base = squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd", "-xattrs"]);
    let mut middle = Tar::default();
    middle
        .dir("d/new")
        .file("d/new/a", &noise(1, 300_000))
        .file("d/new/b", b"b");
    middle
        .file("d/.wh.hard", b"")
        .file("small-3", b"from the middle")
        .file(".wh.small-4", b"");
    middle
        .file("e/.wh..wh..opq", b"")
        .file("e/x", b"x")
        .hard_link("e/y", "e/x")
        .hard_link("z", "e/x");
    let mut top = Tar::default();
    top.file("d/.wh..wh..opq", b"")
        .file("d/new/c", b"c")
        .file(".wh.link", b"")
        .file("link/now", b"a directory");
    let layers = [
        base,
        pack(&clean, "middle", &middle, Compression::Lz4),
        pack(&clean, "top", &top, Compression::Zstd { level: 1 }),
    ];
    let (mounted, _) = build(&plan(), &layers).unwrap();
    let (unpacked, _lock) = start(&clean, &plan(), &layers);
    same(&shown(&unpacked), &shown(&mounted));
    let upper = format!("/proc/self/fd/{}/.", unpacked.upper.as_raw_fd());
    for found in tree(Path::new(&upper)).values() {
        assert!(!"cbs".contains(found.kind) && found.mode & 0o6000 == 0, "{found:?}");
    }
}

#[test]
fn every_kind_of_squashfs_file() {
    let clean = Clean::start();
    let source = clean.path("source");
    fs::create_dir(&source).unwrap();
    fill_base(&source);
    fs::write(source.join("large"), "0123456789abcdef".repeat(20_000)).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for (number, options) in [
        &["-comp", "gzip"][..],
        &["-comp", "gzip", "-no-fragments", "-no-exports", "-no-xattrs"],
        &["-comp", "xz", "-b", "1M"],
        &["-comp", "lzo", "-b", "4096"],
        &["-comp", "lz4"],
        &["-comp", "zstd", "-Xcompression-level", "19"],
        &["-comp", "zstd", "-noI", "-noD", "-noF", "-noX", "-always-use-fragments"],
        &["-c", "gzip", "-e"],
        &["-c", "xz"],
        &["-c", "lz4", "-T"],
        &["-c", "zstd", "-b", "1M"],
    ]
    .into_iter()
    .enumerate()
    {
        let layer = squash(&clean, &source, &format!("x{number}"), options);
        let (made, lock) = start(&clean, &plan(), &[layer]);
        let script = "stat -c %u:%g /large; cat /usr/lib/data; ls -l /large | grep -c 320000; stat -c '%s %b' /sparse; \
                      echo x >> /large; mv /usr /moved && cat /moved/lib/data; rm -r /moved; test ! -e /moved";
        let expected = format!("{UID}:{GID}\nfrom the image\n1\n41943040 0\nfrom the image\n");
        assert_eq!(says(&made, &plan(), script), expected, "{options:?}");
        drop((made, lock));
        data(&clean).sweep(Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(left(&clean), Vec::<PathBuf>::new());
    }
}

#[test]
fn read_only_and_root_inside_and_what_is_mounted_from_the_same_disk() {
    let clean = Clean::start();
    let layers = [clean.base()];
    // A directory of root's on the file system that the container is on: links of the image lead there.
    let outside = clean.path("outside");
    common::host_dir(&outside, (0, 0), 0o755);
    let home = clean.path("home");
    common::host_dir(&home, (UID, GID), 0o755);
    for (writable, remap_root) in [(true, false), (false, true)] {
        let mut plan = Plan {
            writable,
            remap_root,
            ..plan()
        };
        plan.mounts = vec![common::mount(outside.to_str().unwrap(), "/outside", common::rbind())];
        plan.mounts
            .push(common::mount("tmpfs", "/made/here", Default::default()));
        plan.files = vec![common::replace("/etc/made", "made\n")];
        let (made, _lock) = start(&clean, &plan, &layers);
        let id = if remap_root { 0 } else { UID };
        let script =
            "cat /etc/made; stat -c %u /bin /etc/made; ls -d /made/here; if touch /new 2>&-; then echo written; fi";
        let written = if writable { "written\n" } else { "" };
        assert_eq!(
            says(&made, &plan, script),
            format!("made\n{id}\n{id}\n/made/here\n{written}")
        );
        // Root makes targets of mounts in the container only, whatever else is on its file system.
        plan.mounts
            .push(common::mount(home.to_str().unwrap(), "/outside/below", common::rbind()));
        let (base, _lock) = unpack(&data(&clean), &layers).unwrap();
        let error = build_over(&plan, &base).unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}

#[test]
fn it_can_be_saved() {
    let clean = Clean::start();
    let layers = [squash(
        &clean,
        &awkward_base(&clean),
        "base",
        &["-comp", "zstd", "-xattrs"],
    )];
    let (made, _lock) = start(&clean, &plan(), &layers);
    says(
        &made,
        &plan(),
        "echo changed > /changed; rm /usr/lib/data; mv /d /moved",
    );
    let home = clean.path("home");
    common::host_dir(&home, (UID, GID), 0o700);
    let save = Save {
        identity: user(),
        target: home.join("x.sqsh"),
        mode: 0o644,
        layers: Vec::new(),
        upper: made.upper.try_clone().unwrap(),
        user_marks: false,
        config: None,
        form: Form::Squashfs,
        groups: Groups::default(),
        mounts: None,
        compression: Compression::Zstd { level: 1 },
        threads: 2,
    };
    Saver::start(&save).unwrap().finish().unwrap();
    let again: OwnedFd = File::open(&save.target).unwrap().into();
    let (from_file, _) = build(&plan(), &[again]).unwrap();
    same(&shown(&from_file), &shown(&made));
}

#[test]
fn a_directory_lives_as_long_as_somebody_holds_its_lock() {
    let clean = Clean::start();
    let layers = [clean.base()];
    let data = data(&clean);
    let long = || Instant::now() + Duration::from_secs(60);
    let (_, first) = unpack(&data, &layers).unwrap();
    let (_, second) = unpack(&data, &layers).unwrap();
    assert_eq!(left(&clean).len(), 2);
    // A copy holds it as well, in another process too.
    let copy = first.try_clone().unwrap();
    let (ours, theirs) = pyxis_runtime::sys::channel::pair().unwrap();
    let holder = process::fork(&[copy.as_fd(), theirs.as_fd()], || {
        u8::from(pyxis_runtime::sys::channel::recv::<()>(&theirs).is_err())
    })
    .unwrap();
    drop((first, copy, theirs));
    data.sweep(long()).unwrap();
    assert_eq!(left(&clean).len(), 2);
    // Whatever ends the holder.
    holder.kill();
    holder.wait().unwrap();
    drop(ours);
    data.sweep(long()).unwrap();
    assert_eq!(left(&clean).len(), 1);
    drop(second);
    // A new start needs nobody to have looked.
    let (_, third) = unpack(&data, &layers).unwrap();
    assert_eq!(left(&clean).len(), 1);
    drop(third);
    // What a user puts there himself is removed, and followed nowhere.
    let top = clean.path(&format!("data/{UID}"));
    let outside = clean.path("outside");
    common::host_dir(&outside, (UID, GID), 0o700);
    fs::write(outside.join("file"), "stays").unwrap();
    std::os::unix::fs::symlink(&outside, top.join(".unpacked.link.0")).unwrap();
    let own_dir = top.join(".unpacked.mine.0");
    common::host_dir(&own_dir, (UID, GID), 0o700);
    std::os::unix::fs::symlink(&outside, own_dir.join("upper")).unwrap();
    let _ = data.sweep(long());
    assert!(!own_dir.exists() && outside.join("file").exists());
    fs::remove_file(top.join(".unpacked.link.0")).unwrap();
    assert_eq!(left(&clean), Vec::<PathBuf>::new());
    // Nor is what he has mounted on the lock opened: a file system of his own need not answer.
    common::host_dir(&own_dir, (UID, GID), 0o700);
    let lock = own_dir.join("lock");
    fs::write(&lock, "").unwrap();
    rustix::mount::mount_bind(outside.join("file"), &lock).unwrap();
    let text = data.sweep(long()).unwrap_err().to_string();
    assert!(text.contains(".unpacked.mine.0"), "{text}");
    rustix::mount::unmount(&lock, rustix::mount::UnmountFlags::empty()).unwrap();
    // When the time is over the rest is left for later, untouched.
    fs::remove_file(&lock).unwrap();
    assert!(data.sweep(Instant::now()).is_err() && own_dir.exists() && !lock.exists());
    data.sweep(long()).unwrap();
    assert_eq!(left(&clean), Vec::<PathBuf>::new());
}

/// The error of an image that must not be unpacked; nothing of it is left.
#[track_caller]
fn refused(clean: &Clean, layer: OwnedFd) -> Error {
    let error = match unpack(&data(clean), &[layer]) {
        Ok(_) => panic!("this image should not have been unpacked"),
        Err(error) => error,
    };
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(error.to_string().starts_with("unpack the test's image: "), "{error}");
    assert_eq!(left(clean), Vec::<PathBuf>::new());
    error
}

fn file_of(clean: &Clean, bytes: &[u8]) -> OwnedFd {
    let path = clean.path("hostile");
    fs::write(&path, bytes).unwrap();
    File::open(path).unwrap().into()
}

/// A small image without compression, its directory listing and the reference of its root.
fn small(clean: &Clean) -> (Vec<u8>, usize, u64) {
    let mut tar = Tar::default();
    tar.dir("aa").dir("bb").file("cc", b"content");
    fs::remove_file(clean.path("small")).ok();
    drop(pack(clean, "small", &tar, Compression::None));
    let bytes = fs::read(clean.path("small")).unwrap();
    let place = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (root, directories) = (place(32), place(72) as usize);
    (bytes, directories, root)
}

#[test]
fn trees_that_make_no_sense() {
    let clean = Clean::start();
    // The listing: length word, header of 12 bytes, then entries of 8 bytes and a name.
    let first = 2 + 12;
    let (mut loops, listing, root) = small(&clean);
    loops[listing + first..listing + first + 2].copy_from_slice(&(root as u16).to_le_bytes());
    let error = refused(&clean, file_of(&clean, &loops)).to_string();
    assert!(error.contains("directory"), "{error}");
    for (name, why) in [
        (b"..", "an impossible name"),
        (b"a/", "an impossible name"),
        (b"/a", "an impossible name"),
        (b"a\0", "an impossible name"),
        (b"bb", "two entries of one name"),
    ] {
        let (mut bytes, listing, _) = small(&clean);
        let at = listing + first + 8;
        assert_eq!(&bytes[at..at + 2], b"aa");
        bytes[at..at + 2].copy_from_slice(name);
        let error = refused(&clean, file_of(&clean, &bytes)).to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    let (bytes, ..) = small(&clean);
    for (at, value, why) in [
        (12, 1_u64 << 31, "blocks of 2147483648 bytes"),
        (64, u64::MAX - 5, "outside"),
        (72, 1 << 40, "outside"),
        (32, 0xffff, "nowhere"),
        (40, 1 << 50, "truncated"),
    ] {
        let mut bytes = bytes.clone();
        let size = if at == 12 { 4 } else { 8 };
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        let error = refused(&clean, file_of(&clean, &bytes)).to_string();
        assert!(error.contains(why), "{error} lacks {why}");
    }
}

#[test]
fn sizes_that_do_not_fit() {
    let clean = Clean::start();
    let source = clean.path("source");
    fs::create_dir(&source).unwrap();
    // A large file without a byte in it.
    File::create(source.join("huge")).unwrap().set_len(1 << 31).unwrap();
    let layer = squash(&clean, &source, "huge", &["-b", "1M"]);
    let (_, lock) = unpack(&data(&clean), &[layer]).unwrap();
    let huge = clean.path(&format!("data/{UID}/.unpacked.pyxis_1.0.0/upper/huge"));
    let meta = fs::metadata(&huge).unwrap();
    assert!(meta.len() == 1 << 31 && meta.blocks() < 100, "{meta:?}");
    drop(lock);
    data(&clean).sweep(Instant::now() + Duration::from_secs(60)).unwrap();
    // A disk that is too small, or has too few inodes, is told before anything is written.
    let disk = clean.path("data");
    let mount = |size: &str| {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "x"])
            .arg(&disk)
            .output();
        assert!(output.unwrap().status.success());
    };
    let umount = || assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    fs::remove_file(source.join("huge")).unwrap();
    fs::write(source.join("large"), noise(7, 3 << 20)).unwrap();
    let layer = squash(&clean, &source, "large", &[]);
    mount("size=2m,mode=0755");
    let error = refused(&clean, layer.try_clone().unwrap()).to_string();
    umount();
    assert!(
        error.ends_with(": it takes 3 MiB, and the disk of container.data_path has 2 MiB"),
        "{error}"
    );
    fs::remove_file(source.join("large")).unwrap();
    for number in 0..200 {
        fs::write(source.join(number.to_string()), "").unwrap();
    }
    let layer = squash(&clean, &source, "many", &[]);
    mount("nr_inodes=100,mode=0755");
    let error = refused(&clean, layer).to_string();
    umount();
    assert!(
        error.contains("it has 201 files, and the disk of container.data_path has room for"),
        "{error}"
    );
}

/// A container that ends while its image is being unpacked.
#[test]
fn nothing_of_a_killed_start_stays() {
    let clean = Clean::start();
    let source = clean.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..3000 {
        fs::write(source.join(number.to_string()), number.to_string()).unwrap();
    }
    let layer = squash(&clean, &source, "many", &[]);
    let data = data(&clean);
    let child = process::fork(&[layer.as_fd()], || {
        let data = Data::open(&clean.path("data"), &user()).unwrap();
        u8::from(unpack(&data, &[layer.try_clone().unwrap()]).is_err())
    })
    .unwrap();
    let first = clean.path(&format!("data/{UID}/.unpacked.pyxis_1.0.0/upper"));
    eventually("the first files are there", || {
        fs::read_dir(&first).is_ok_and(|entries| entries.count() > 0)
    });
    child.kill();
    child.wait().unwrap();
    // Its child, which unpacks, dies with it.
    eventually("everything is removed", || {
        let _ = data.sweep(Instant::now() + Duration::from_secs(60));
        left(&clean).is_empty()
    });
}

#[test]
fn a_directory_that_is_not_the_users_is_no_root_file_system() {
    let clean = Clean::start();
    let data = data(&clean);
    let unnamed = data.unnamed("pyxis_1.0").unwrap();
    let upper = clean.path(&format!("data/{UID}/.unpacked.pyxis_1.0.0/upper"));
    own(&upper, (0, 0), 0o755);
    let error = unnamed.kept().root().unwrap_err().to_string();
    assert!(error.contains("belongs to uid 0"), "{error}");
    fs::remove_dir(&upper).unwrap();
    std::os::unix::fs::symlink("/etc", &upper).unwrap();
    let error = unnamed.kept().root_mount().unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");
    drop(unnamed);
    assert_eq!(left(&clean), Vec::<PathBuf>::new());
}
