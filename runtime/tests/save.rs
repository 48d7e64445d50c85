//! Saved containers, compared with what the container itself shows: real overlays in which a task of the user changes
//! what can be changed, read back through the kernel and unsquashfs.
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

use common::{Clean, GID, UID, build, fill_base, how, own, plan, run, run_with, user};
use pack_support::{FoundTree, Tar, awkward, kernel_tree, noise, same, tree};
use pyxis_runtime::Result;
use pyxis_runtime::image::ImageConfig;
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::pack::{Compression, Options, pack_layer};
use pyxis_runtime::save::{Form, LayerFile, Save, Saved, Saver};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::sys::process::{self, Exit};
use rustix::mount::MountPropagationFlags;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The test's own view of mounts: others mount packs to look at them meanwhile.
fn start() -> Clean {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).unwrap();
    Clean::start()
}

/// A directory that the user can write to.
fn home(clean: &Clean) -> PathBuf {
    let path = clean.path("home");
    if !path.exists() {
        fs::create_dir(&path).unwrap();
        own(&path, (UID, GID), 0o700);
    }
    path
}

fn whole(layer: &OwnedFd) -> LayerFile {
    LayerFile {
        file: layer.try_clone().unwrap().into(),
        part: None,
    }
}

fn job(made: &Namespaces, layers: &[OwnedFd], target: &Path) -> Save {
    Save {
        identity: user(),
        target: target.to_owned(),
        mode: 0o640,
        layers: layers.iter().map(whole).collect(),
        upper: made.upper.try_clone().unwrap(),
        user_marks: false,
        config: None,
        form: Form::Squashfs,
        groups: Groups::default(),
        mounts: None,
        compression: Compression::Zstd { level: 1 },
        threads: 2,
    }
}

fn save(job: &Save) -> Result<Saved> {
    Saver::start(job).unwrap().finish()
}

/// What must be in the file for what the container shows.
fn expected(made: &Namespaces) -> FoundTree {
    let mut found = tree(Path::new(&format!("/proc/self/fd/{}/.", made.root.as_raw_fd())));
    found.retain(|path, found| !("cbs".contains(found.kind) || path.starts_with("dev") && path != Path::new("dev")));
    for found in found.values_mut() {
        assert_eq!(found.owner, (UID, GID));
        found.owner = (0, 0);
        found.mode &= if found.kind == 'd' { 0o1777 } else { 0o777 };
        found
            .xattrs
            .retain(|name, _| name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
    }
    found
}

/// Saves, and compares through the kernel; gives the file and what was said of it.
#[track_caller]
fn check(clean: &Clean, made: &Namespaces, layers: &[OwnedFd]) -> (PathBuf, Saved) {
    let target = home(clean).join("saved.sqsh");
    let begun = std::time::Instant::now();
    let saved = save(&job(made, layers, &target)).unwrap();
    println!("saved in {:?}: {saved:?}", begun.elapsed());
    let meta = fs::metadata(&target).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (UID, GID, 0o640));
    assert_eq!(meta.len(), saved.size);
    assert_eq!(fs::read_dir(home(clean)).unwrap().count(), 1, "nothing but the file");
    same(&kernel_tree(&target), &expected(made));
    let listed = pack_support::run("unsquashfs", &[OsStr::new("-s"), target.as_os_str()]);
    assert!(
        listed.contains(&format!("Number of inodes {}", saved.inodes)),
        "{listed}"
    );
    (target, saved)
}

#[track_caller]
fn change(made: &Namespaces, script: &str) {
    let ran = run(made, &plan(), &format!("set -e\n{script}"));
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
}

fn squash(clean: &Clean, tree: &Path, name: &str, arguments: &[&str]) -> OwnedFd {
    let file = clean.path(&format!("{name}.sqsh"));
    let made = Command::new("mksquashfs")
        .args([tree, &file])
        .args(["-quiet", "-no-progress", "-all-root", "-xattrs"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    File::open(file).unwrap().into()
}

/// Busybox beside everything that is awkward.
fn awkward_base(clean: &Clean) -> PathBuf {
    let dir = awkward();
    fill_base(dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tree = clean.path("tree");
    fs::rename(dir.keep(), &tree).unwrap();
    tree
}

/// A pack of ours.
fn pack(clean: &Clean, name: &str, tar: &Tar, compression: Compression) -> OwnedFd {
    let path = clean.path(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let options = Options {
        compression,
        ..pack_support::options(2)
    };
    pack_layer(tar.end().as_slice(), &file, &options).unwrap();
    File::open(path).unwrap().into()
}

const CHANGES: &str = "
    cd /
    echo changed >> /usr/lib/data
    rm -r /d/d/d/d; mkdir /d/d/d/d; echo new > /d/d/d/d/new       # removed and made again: opaque
    mv /usr /moved                                                # renamed: redirect
    mkdir /usr; mv /moved/lib /usr/lib2                           # out of a renamed directory
    mkdir -p /deep/er; mv /root /deep/er/root; touch /deep/er/root/x
    mv /d/d /d/e
    rm size-1; ln size-4096 another                               # a copied-up file loses its other names
    echo x > one; ln one two; ln -s one three
    rm zero-131072; mkdir zero-131072; touch zero-131072/inside   # a file becomes a directory
    rm link; mkdir link
    rm small-17; touch small-18
    chmod 0 size-511; chmod 4755 size-4096; chmod 2777 /tmp
    mkdir secret; echo hidden > secret/file; chmod 0 secret/file secret
    echo odd > \"$(printf 'new\\nline 2')\"
    mknod pipe2 p
";

#[test]
fn what_a_task_changed_is_saved_and_what_it_left_is_copied() {
    let shapes: [(&str, &[&str], bool); 7] = [
        ("zstd", &["-comp", "zstd"], true),
        ("gzip", &["-comp", "gzip"], true),
        ("lz4", &["-comp", "lz4"], true),
        ("none", &["-noI", "-noD", "-noF", "-noX"], true),
        ("enroot", &["-comp", "lzo", "-noD"], true),
        ("xz", &["-comp", "xz"], false),
        ("small", &["-comp", "zstd", "-b", "4K", "-no-fragments"], true),
    ];
    for (name, arguments, copied) in shapes {
        let clean = start();
        let layers = [squash(&clean, &awkward_base(&clean), name, arguments)];
        let (made, _) = build(&plan(), &layers).unwrap();
        let (_, untouched) = check(&clean, &made, &layers);
        assert_eq!(untouched.copied > 0, copied, "{name}: {untouched:?}");
        change(&made, CHANGES);
        let (_, changed) = check(&clean, &made, &layers);
        assert_eq!(changed.copied > 0, copied, "{name}: {changed:?}");
    }
}

#[test]
fn layers_hide_what_is_below_them_and_changes_hide_both() {
    let clean = start();
    let base = squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd"]);
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
        .hard_link("e/y", "e/x");
    let mut top = Tar::default();
    top.file("d/.wh..wh..opq", b"")
        .file("d/new/c", b"c")
        .file(".wh.link", b"")
        .file("link/now", b"a directory");
    top.file("usr/lib/more", &noise(2, 4000)).file(".wh.e", b"");
    let layers = [
        base,
        pack(&clean, "middle", &middle, Compression::Lz4),
        pack(&clean, "top", &top, Compression::Zstd { level: 1 }),
    ];
    let (made, _) = build(&plan(), &layers).unwrap();
    check(&clean, &made, &layers);
    change(
        &made,
        "mv /d /dd; mv /dd/new /new; rm /usr/lib/more; mv /usr/lib /usr/share; mkdir /usr/lib; echo > /usr/lib/more; \
         mkdir /e; echo > /e/x; mv /new /e/new; mv /e /ee; rm -r /link; touch /link",
    );
    check(&clean, &made, &layers);
}

#[test]
fn a_saved_file_is_the_layer_of_a_new_container() {
    let clean = start();
    let layers = [squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd"])];
    let (made, _) = build(&plan(), &layers).unwrap();
    change(&made, "echo one > /first; rm /small-9");
    let (file, _) = check(&clean, &made, &layers);
    let again = clean.path("again.sqsh");
    fs::rename(file, &again).unwrap();
    let layers: [OwnedFd; 1] = [File::open(&again).unwrap().into()];
    let (made, _) = build(&plan(), &layers).unwrap();
    change(
        &made,
        "test \"$(cat /first)\" = one; test ! -e /small-9; echo two > /second; rm /first",
    );
    check(&clean, &made, &layers);
    // The same once more gives the same bytes.
    let bytes = fs::read(home(&clean).join("saved.sqsh")).unwrap();
    check(&clean, &made, &layers);
    assert!(bytes == fs::read(home(&clean).join("saved.sqsh")).unwrap());
}

#[test]
fn deleted_contents_are_not_in_the_file() {
    let clean = start();
    let secret = b"the secret that was deleted";
    let layers = [squash(
        &clean,
        &{
            let tree = clean.path("tree");
            fs::create_dir(&tree).unwrap();
            fill_base(&tree);
            for number in 0..20 {
                fs::write(tree.join(format!("small-{number}")), noise(number, 100)).unwrap();
            }
            fs::write(tree.join("small-5a"), secret).unwrap();
            own(&tree, (0, 0), 0o755);
            tree
        },
        "base",
        &["-noI", "-noD", "-noF", "-noX"],
    )];
    let contains = |path: &Path| fs::read(path).unwrap().windows(secret.len()).any(|part| part == secret);
    let (made, _) = build(&plan(), &layers).unwrap();
    assert!(contains(&check(&clean, &made, &layers).0));
    change(&made, "rm /small-5a");
    assert!(!contains(&check(&clean, &made, &layers).0));
}

#[test]
fn sparse_files_stay_sparse_and_contents_keep_their_place() {
    let clean = start();
    let tree = clean.path("tree");
    fs::create_dir(&tree).unwrap();
    fill_base(&tree);
    own(&tree, (0, 0), 0o755);
    let huge = File::create(tree.join("huge")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&huge, b"here", 900 << 20).unwrap();
    huge.set_len(1 << 30).unwrap();
    let layers = [squash(&clean, &tree, "base", &["-comp", "zstd"])];
    let (made, _) = build(&plan(), &layers).unwrap();
    let upper = File::create(format!("/proc/self/fd/{}/mine", made.upper.as_raw_fd())).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&upper, b"there", 5 << 30).unwrap();
    upper.set_len(6 << 30).unwrap();
    own(
        Path::new(&format!("/proc/self/fd/{}/mine", made.upper.as_raw_fd())),
        (UID, GID),
        0o600,
    );
    let target = home(&clean).join("saved.sqsh");
    let saved = save(&job(&made, &layers, &target)).unwrap();
    assert!(saved.size < 8 << 20, "{saved:?}");
    let mounted = pack_support::Mounted::new(&target);
    for (name, size, place, text) in [
        ("huge", 1 << 30, 900 << 20, "here"),
        ("mine", 6_u64 << 30, 5_u64 << 30, "there"),
    ] {
        let file = File::open(mounted.path().join(name)).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() < 4096, "{name}");
        let mut bytes = vec![0; text.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, place).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
}

#[test]
fn many_files_and_long_attributes_are_saved() {
    let clean = start();
    let mut tar = Tar::default();
    for number in 0..100_000_u32 {
        let content = if number % 100 == 0 { &b"content"[..] } else { b"" };
        tar.file(format!("many/{}/file-{number}", number % 37), content);
    }
    let base = squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd"]);
    let layers = [base, pack(&clean, "many", &tar, Compression::Zstd { level: 1 })];
    let (made, _) = build(&plan(), &layers).unwrap();
    let script = "mkdir /mine; cd /mine; n=0; while [ $n -lt 2000 ]; do echo $n > $n; n=$((n+1)); done; \
                  rm -r /many/11; echo gone > /many/12/file-12";
    change(&made, script);
    let path = format!("/proc/self/fd/{}/mine/7", made.upper.as_raw_fd());
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, "user.long", &noise(3, 3000), flags).unwrap();
    rustix::fs::setxattr(&path, "user.other", b"", flags).unwrap();
    rustix::fs::setxattr(&path, "trusted.other", b"x", flags).unwrap();
    check(&clean, &made, &layers);
}

#[test]
fn the_images_configuration_is_in_the_file() {
    let clean = start();
    let mut tar = Tar::default();
    tar.file("etc/environment", b"PATH=/of/the/image\n")
        .file("etc/motd", b"hello");
    let layers = [clean.base(), pack(&clean, "etc", &tar, Compression::Gzip { level: 1 })];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let config = ImageConfig {
        env: words(&["PATH=/bin", "GREETING=good day"]),
        working_dir: "/usr/lib".into(),
        entrypoint: words(&["echo", "said:"]),
        cmd: words(&["it's"]),
        ..ImageConfig::default()
    };
    let read = |made: &Namespaces, name: &str| {
        let target = home(&clean).join("saved.sqsh");
        let job = Save {
            config: Some(config.clone()),
            ..job(made, &layers, &target)
        };
        save(&job).unwrap();
        let mounted = pack_support::Mounted::new(&target);
        fs::read_to_string(mounted.path().join(name)).unwrap()
    };
    let (made, _) = build(&plan(), &layers).unwrap();
    assert_eq!(read(&made, "etc/environment"), "PATH=/bin\nGREETING=good day\n");
    assert_eq!(read(&made, "etc/motd"), "hello");
    // The script does what it says, in the container that it was made for.
    let script = read(&made, "etc/rc");
    change(
        &made,
        &format!("cat > /rc <<'E'\n{script}\nE\ntest \"$(sh /rc)\" = \"said: it's\"; rm /rc"),
    );
    change(&made, "echo GREETING=mine > /etc/environment; echo '# own' > /etc/rc");
    assert_eq!(read(&made, "etc/environment"), "PATH=/bin\nGREETING=mine\n");
    assert_eq!(read(&made, "etc/rc"), "# own\n");
}

/// The error text of a save that must fail; nothing is left of it.
#[track_caller]
fn fails(job: &Save, directory: &Path) -> String {
    let before = fs::read_dir(directory).map(Iterator::count).unwrap_or(0);
    let text = save(job).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(
        fs::read_dir(directory).map(Iterator::count).unwrap_or(0),
        before,
        "something is left"
    );
    text
}

#[test]
fn what_cannot_be_written_is_told_in_a_line_and_leaves_nothing() {
    let clean = start();
    let layers = [clean.base()];
    let (made, _) = build(&plan(), &layers).unwrap();
    let home = home(&clean);
    let foreign = clean.path("foreign");
    common::host_dir(&foreign, (0, 0), 0o755);
    fs::create_dir(home.join("directory")).unwrap();
    common::host_file(&home.join("file"), "old", (UID, GID), 0o600);
    for (target, expected) in [
        (home.join("missing/x.sqsh"), "does not exist"),
        (home.join("directory"), "it is a directory"),
        (home.join("file/x.sqsh"), "is not a directory"),
        (foreign.join("x.sqsh"), "no permission to write"),
        (PathBuf::from("/proc/x.sqsh"), "/proc"),
        (PathBuf::from("/dev/null"), "no regular file"),
    ] {
        let text = fails(&job(&made, &layers, &target), target.parent().unwrap());
        assert!(text.contains(expected), "{target:?}: {text}");
    }
    // A file of somebody else in the user's own directory is replaced, as rename(2) does.
    common::host_file(&home.join("theirs"), "old", (0, 0), 0o600);
    save(&job(&made, &layers, &home.join("theirs"))).unwrap();
    // A link is replaced and not followed.
    std::os::unix::fs::symlink(foreign.join("x"), home.join("link")).unwrap();
    save(&job(&made, &layers, &home.join("link"))).unwrap();
    assert!(fs::symlink_metadata(home.join("link")).unwrap().is_file());
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let clean = start();
    let layers = [clean.base()];
    let (made, _) = build(&plan(), &layers).unwrap();
    change(
        &made,
        "head -c 3000000 /bin/busybox > /big 2> /dev/null || cat /bin/busybox /bin/busybox /bin/busybox > /big",
    );
    let small = clean.path("small");
    fs::create_dir(&small).unwrap();
    let options = format!("size=1m,uid={UID},mode=700");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(&small)
        .status();
    assert!(mount.unwrap().success());
    fs::write(small.join("x.sqsh"), "old").unwrap();
    let text = fails(&job(&made, &layers, &small.join("x.sqsh")), &small);
    let old = fs::read_to_string(small.join("x.sqsh")).unwrap();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(old, "old");
}

#[test]
fn what_is_not_the_users_is_refused() {
    let clean = start();
    let layers = [clean.base()];
    let (made, _) = build(&plan(), &layers).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}/root", made.upper.as_raw_fd()));
    fs::create_dir_all(&path).unwrap();
    own(&path, (UID, GID), 0o755);
    common::host_file(&path.join("shadow"), "root's own", (0, 0), 0o600);
    let target = home(&clean).join("x.sqsh");
    let text = fails(&job(&made, &layers, &target), &home(&clean));
    assert!(text.contains("\"shadow\"") && text.contains("uid 0"), "{text}");
}

#[test]
fn a_broken_layer_is_an_error_of_one_line() {
    let clean = start();
    let layers = [squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd"])];
    let (made, _) = build(&plan(), &layers).unwrap();
    let bytes = fs::read(clean.path("base.sqsh")).unwrap();
    let target = home(&clean).join("x.sqsh");
    for (name, from) in [("superblock", 20), ("tables", bytes.len() - 5000)] {
        let mut broken = bytes.clone();
        for byte in broken.iter_mut().skip(from).take(3000) {
            *byte ^= 0x55;
        }
        let path = clean.path(name);
        fs::write(&path, broken).unwrap();
        let layers = [File::open(path).unwrap().into()];
        let text = fails(&job(&made, &layers, &target), &home(&clean));
        assert!(text.contains("squashfs"), "{text}");
    }
}

/// The marks of an overlay that was mounted with `userxattr`; with root's they mean nothing.
#[test]
fn marks_of_a_userxattr_overlay_are_read_when_it_is_one() {
    let clean = start();
    let layers = [squash(&clean, &awkward_base(&clean), "base", &["-comp", "zstd"])];
    let (made, _) = build(&plan(), &layers).unwrap();
    let upper = PathBuf::from(format!("/proc/self/fd/{}", made.upper.as_raw_fd()));
    let flags = rustix::fs::XattrFlags::empty();
    for (name, attribute, value) in [("usr", "opaque", "y"), ("renamed", "redirect", "bin")] {
        common::host_dir(&upper.join(name), (UID, GID), 0o755);
        rustix::fs::setxattr(
            upper.join(name),
            format!("user.overlay.{attribute}"),
            value.as_bytes(),
            flags,
        )
        .unwrap();
    }
    // What was renamed has a whiteout where it was.
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("bin"), kind, mode, 0).unwrap();
    let target = home(&clean).join("x.sqsh");
    let names = |user_marks| {
        let job = job(&made, &layers, &target);
        save(&Save { user_marks, ..job }).unwrap();
        let found = kernel_tree(&target);
        ["usr/lib/data", "renamed/busybox"].map(|name| found.contains_key(Path::new(name)))
    };
    assert_eq!(names(true), [false, true]);
    assert_eq!(names(false), [true, false]);
}

#[test]
fn a_killed_save_leaves_nothing() {
    let clean = start();
    let layers = [squash(&clean, &awkward_base(&clean), "base", &["-comp", "xz"])];
    let (made, _) = build(&plan(), &layers).unwrap();
    let target = home(&clean).join("x.sqsh");
    let job = job(&made, &layers, &target);
    for round in 0..30 {
        let mut keep: Vec<_> = job.layers.iter().map(|layer| layer.file.as_fd()).collect();
        keep.push(job.upper.as_fd());
        let supervisor = process::fork(&keep, || {
            let saved = Saver::start(&job).and_then(Saver::finish);
            u8::from(saved.is_err())
        })
        .unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(round * 2) {
            std::hint::spin_loop();
        }
        supervisor.kill();
        supervisor.wait().unwrap();
        for entry in fs::read_dir(home(&clean)).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "x.sqsh");
        }
    }
}

#[test]
fn what_the_user_may_not_read_any_more_is_still_his_to_save() {
    let clean = start();
    let layers = [clean.base()];
    let (made, _) = build(&plan(), &layers).unwrap();
    change(&made, "mkdir -p /a/b; echo deep > /a/b/c; chmod 0 /a/b/c /a/b /a");
    check(&clean, &made, &layers);
    // The task sees it as before.
    let ran = run_with(&made, &user(), &how(&plan()), "ls /a");
    assert_ne!(ran.exit, Exit::Code(0));
}
