//! Image files: those that the kernel mounts, and those that a process of the user reads.
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
use pyxis_runtime::image::file::{self, ImagesConfig, Trust, trust};
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::rootfs::{Base, Lower, Lowers, Writable};
use pyxis_runtime::sys::process::Exit;
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn squash(clean: &Clean, name: &str, options: &[&str], fill: impl FnOnce(&Path)) -> std::path::PathBuf {
    let tree = clean.path(&format!("{name}.d"));
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let file = clean.path(name);
    squashfs_of(&tree, &file, options);
    file
}

fn layers(path: &Path) -> Result<Vec<Lower>> {
    let opened = file::open(path, Path::new("/"), &user())?;
    Ok(vec![Lower {
        file: opened.file,
        part: Some(opened.part),
    }])
}

fn read(layers: Vec<Lower>, fuse: bool) -> Lowers {
    match fuse {
        true => on_fuse(layers, &user()),
        false => on_kernel(layers, &user()).unwrap(),
    }
}

/// The kernel reads it, and it has files of its own.
fn with_own_files(path: &Path) -> Lowers {
    Lowers {
        own_files: Some(BTreeMap::new()),
        ..on_kernel(layers(path).unwrap(), &user()).unwrap()
    }
}

fn start(plan: &Plan, lowers: &Lowers) -> Result<Namespaces> {
    let writable = Writable::Scratch;
    Ok(build_over(plan, &Base::Layers { lowers, writable })?.0)
}

fn says(plan: &Plan, lowers: &Lowers, script: &str) -> String {
    let made = start(plan, lowers).unwrap();
    let ran = run(&made, plan, script);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    ran.output
}

/// Every compressor, and every table that may be there or not: the kernel and squashfuse show the same.
#[test]
fn all_kinds_of_squashfs_files_on_both_rungs() {
    let clean = Clean::start();
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
        let path = squash(&clean, &format!("x{number}.sqsh"), options, |tree| {
            fill_base(tree);
            fs::write(tree.join("large"), "0123456789abcdef".repeat(20_000)).unwrap();
        });
        let plan = plan();
        let script = "stat -c %u:%g /large; cat /usr/lib/data; ls -l /large | grep -c 320000; echo x >> /large; \
                      mv /usr /moved && cat /moved/lib/data; rm -r /moved; test ! -e /moved";
        let expected = format!("{UID}:{GID}\nfrom the image\n1\nfrom the image\n");
        let kernel = on_kernel(layers(&path).unwrap(), &user()).unwrap();
        assert_eq!(says(&plan, &kernel, script), expected, "kernel, {options:?}");
        let fuse = on_fuse(layers(&path).unwrap(), &plan.identity);
        assert_eq!(says(&plan, &fuse, script), expected, "FUSE, {options:?}");
    }
}

#[test]
fn the_partition_of_a_sif_file_is_mounted_where_it_is() {
    let clean = Clean::start();
    let squashfs = fs::read(squash(&clean, "part", &[], fill_base)).unwrap();
    let path = clean.path("image");
    fs::write(&path, sif(&squashfs)).unwrap();
    let kernel = on_kernel(layers(&path).unwrap(), &user()).unwrap();
    assert_eq!(says(&plan(), &kernel, "cat /usr/lib/data"), "from the image\n");
    let fuse = on_fuse(layers(&path).unwrap(), &user());
    assert_eq!(says(&plan(), &fuse, "cat /usr/lib/data"), "from the image\n");
}

#[test]
fn the_reader_is_the_users_and_ends_with_the_container() {
    let clean = Clean::start();
    let path = squash(&clean, "x.sqsh", &[], fill_base);
    for remap_root in [false, true] {
        let plan = Plan { remap_root, ..plan() };
        let fuse = on_fuse(layers(&path).unwrap(), &plan.identity);
        let made = start(&plan, &fuse).unwrap();
        let owner = if remap_root { "0 0" } else { &format!("{UID} {GID}") };
        let ran = run(
            &made,
            &plan,
            "stat -c '%u %g' /usr/lib/data; id -u; touch /new; stat -c '%u %g' /new /usr",
        );
        let id = owner.split(' ').next().unwrap();
        assert_eq!(ran.output, format!("{owner}\n{id}\n{owner}\n{owner}\n"));
        let pid = pid_of(&made);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in [
            format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}"),
            "CapEff:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
            "Seccomp_filters:\t2".to_owned(),
        ] {
            assert!(status.contains(&line), "{status}");
        }
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/ns/user")).unwrap(),
            fs::read_link("/proc/self/ns/user").unwrap()
        );
        drop(made);
        eventually("the reader has ended", || {
            !Path::new(&format!("/proc/{pid}/root")).exists()
        });
    }
}

/// The process that a handle is for (pidfd's fdinfo).
fn pid_of(made: &Namespaces) -> u32 {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", made.readers[0].as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_killed_reader_hangs_nobody() {
    let clean = Clean::start();
    let path = squash(&clean, "x.sqsh", &[], fill_base);
    let plan = plan();
    let fuse = on_fuse(layers(&path).unwrap(), &plan.identity);
    let made = start(&plan, &fuse).unwrap();
    rustix::process::pidfd_send_signal(&made.readers[0], rustix::process::Signal::KILL).unwrap();
    let held: Held = made.into();
    eventually("the end is seen", || held.lost(Kind::Reader).next().is_some());
}

#[test]
fn a_reader_that_fails_says_why() {
    let clean = Clean::start();
    let path = squash(&clean, "x.sqsh", &[], fill_base);
    let lowers = layers(&path).unwrap();
    // What was good when it was judged has changed.
    fs::write(&path, "rubbish").unwrap();
    let lowers = on_fuse(lowers, &user());
    let error = start(&plan(), &lowers).unwrap_err();
    assert!(matches!(error, Error::Image(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("squashfuse_ll, which reads the test's image for the user, has ended: "),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn enroots_own_files_are_read_inside() {
    let clean = Clean::start();
    let source = clean.path("source");
    host_dir(&source, (UID, GID), 0o755);
    host_file(&source.join("file"), "of the host\n", (UID, GID), 0o644);
    let path = squash(&clean, "x.sqsh", &[], |tree| {
        fill_base(tree);
        fs::write(tree.join("etc/environment"), "A=${HERE}\n").unwrap();
        fs::write(tree.join("etc/rc"), "exec \"$@\"\n").unwrap();
        let fstab = "${ENROOT_ROOTFS}/tmp /tmp none x-create=dir,bind,rw,nosuid,nodev\n\
                     ${HERE}/source /mounted none x-create=dir,bind,ro\ntmpfs /scratch tmpfs x-create=dir,size=1m\n";
        fs::write(tree.join("etc/fstab"), fstab).unwrap();
    });
    let env: BTreeMap<String, String> = [("HERE".to_owned(), text(clean.dir.path()))].into();
    for fuse in [false, true] {
        let mut lowers = match (layers(&path).unwrap(), fuse) {
            (layers, true) => on_fuse(layers, &user()),
            (layers, false) => on_kernel(layers, &user()).unwrap(),
        };
        lowers.own_files = Some(env.clone());
        let made = start(&plan(), &lowers).unwrap();
        let config = made.own_files.as_ref().unwrap().config(&env).unwrap();
        assert_eq!(config.env, [format!("A={}", text(clean.dir.path()))]);
        assert_eq!(config.entrypoint, ["/bin/sh", "/etc/rc"]);
        let ran = run(
            &made,
            &plan(),
            "cat /mounted/file; touch /mounted/x; echo $?; touch /scratch/x; echo $?",
        );
        assert!(ran.output.starts_with("of the host\n"), "{}", ran.output);
        assert!(ran.output.ends_with("\n1\n0\n"), "{}", ran.output);
    }
}

#[test]
fn hostile_own_files_reach_nothing() {
    let clean = Clean::start();
    let secret = clean.path("secret");
    host_file(&secret, "SECRET=1\n", (0, 0), 0o600);
    type Trap<'a> = (&'a str, &'a dyn Fn(&Path));
    let traps: [Trap<'_>; 4] = [
        ("link", &|file| symlink(&secret, file).unwrap()),
        ("up", &|file| {
            symlink("../../../../../../../../proc/self/environ", file).unwrap()
        }),
        ("fifo", &|file| {
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("directory", &|file| fs::create_dir(file).unwrap()),
    ];
    for (name, trap) in traps {
        let path = squash(&clean, name, &[], |tree| {
            fill_base(tree);
            for file in ["etc/environment", "etc/fstab", "etc/rc"] {
                trap(&tree.join(file));
            }
        });
        let made = start(&plan(), &with_own_files(&path)).unwrap();
        assert_eq!(made.own_files, Some(Default::default()), "{name}");
    }
    let path = squash(&clean, "large", &[], |tree| {
        fill_base(tree);
        fs::write(tree.join("etc/environment"), vec![b'x'; 2 << 20]).unwrap();
    });
    let error = start(&plan(), &with_own_files(&path)).unwrap_err();
    assert!(error.to_string().contains("/etc/environment is larger than"), "{error}");
}

#[test]
fn bad_files_are_errors_at_once() {
    let clean = Clean::start();
    let good = squash(&clean, "good", &[], fill_base);
    let bytes = fs::read(&good).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = clean.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let fifo = clean.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    host_file(&clean.path("closed"), "x", (0, 0), 0o600);
    let socket = clean.path("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut tables = bytes.clone();
    tables[72..80].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let mut lying = bytes.clone();
    lying[12..16].copy_from_slice(&(1_u32 << 31).to_le_bytes());
    for (path, why) in [
        ("/no/such/file".into(), "No such file or directory"),
        (clean.path("closed"), "Permission denied"),
        (clean.dir.path().to_owned(), "is a directory"),
        ("/dev/urandom".into(), "is a device"),
        ("/proc/self/exe".into(), "a link of /proc"),
        (fifo, "is a FIFO"),
        (write("empty", b""), "it is empty"),
        (write("foreign", b"\x7fELF...."), "neither a squashfs nor a SIF file"),
        (write("script", b"#!/bin/sh\n"), "it is a script"),
        (write("gzip", b"\x1f\x8b\x08\0\0\0\0\0"), "it is a compressed file"),
        (write("other", b"sqsh\0\0\0\0"), "of the other byte order"),
        (socket, "is a socket"),
        (write("tables", &tables), "outside of it"),
        (write("cut", &bytes[..bytes.len() / 2]), "truncated"),
        (write("head", &bytes[..60]), "shorter than a superblock"),
        (write("lying", &lying), "its blocks have 2147483648 bytes"),
        (write("sif", &sif(&bytes)[..40_000]), "is it truncated?"),
    ] {
        let error = file::open(&path, Path::new("/"), &user()).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{error} lacks {why}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

/// The facts of real files: what the kernel may mount and what not.
#[test]
fn trust_is_about_every_directory_on_the_way() {
    let clean = Clean::start();
    let site = ImagesConfig::default();
    // The temporary directory can be written by everybody, so nothing in it is trusted ...
    let path = squash(&clean, "x.sqsh", &[], fill_base);
    let judge = |path: &Path| {
        let opened = file::open(path, Path::new("/"), &user()).unwrap();
        trust::judge(&opened.facts, opened.writers, &site)
    };
    assert!(matches!(judge(&path), Trust::Untrusted(reason) if reason.contains("can write to /tmp")));
    // ... and a directory of root's below / is, until something on the way is a user's.
    let root = tempfile::Builder::new()
        .prefix("pyxis-test-trust-")
        .tempdir_in("/")
        .unwrap();
    own(root.path(), (0, 0), 0o755);
    let file = root.path().join("x.sqsh");
    fs::copy(&path, &file).unwrap();
    own(&file, (0, 0), 0o644);
    assert_eq!(judge(&file), Trust::Trusted);
    let link = clean.path("link");
    symlink(&file, &link).unwrap();
    assert!(matches!(judge(&link), Trust::Untrusted(_)));
    let writer = fs::OpenOptions::new().append(true).open(&file).unwrap();
    assert!(matches!(judge(&file), Trust::Untrusted(reason) if reason.contains("open for writing")));
    drop(writer);
    own(&file, (0, GID), 0o664);
    assert!(matches!(judge(&file), Trust::Untrusted(_)));
    own(&file, (UID, 0), 0o644);
    assert!(matches!(judge(&file), Trust::Untrusted(_)));
    own(&file, (0, 0), 0o644);
    own(root.path(), (UID, GID), 0o755);
    assert!(matches!(judge(&file), Trust::Untrusted(_)));
    own(root.path(), (0, 0), 0o755);
}

/// What is mounted is what was looked at, whatever has its name meanwhile.
#[test]
fn a_file_that_is_exchanged_after_it_was_judged_is_still_the_one() {
    let clean = Clean::start();
    let path = squash(&clean, "x.sqsh", &[], fill_base);
    let other = squash(&clean, "other.sqsh", &[], |tree| {
        fill_base(tree);
        fs::write(tree.join("usr/lib/data"), "exchanged\n").unwrap();
    });
    for fuse in [false, true] {
        let opened = layers(&path).unwrap();
        fs::rename(&path, clean.path("aside")).unwrap();
        symlink(&other, &path).unwrap();
        let lowers = read(opened, fuse);
        assert_eq!(says(&plan(), &lowers, "cat /usr/lib/data"), "from the image\n");
        fs::remove_file(&path).unwrap();
        fs::rename(clean.path("aside"), &path).unwrap();
    }
}

/// The owner of a file can do this at any time.
#[test]
fn a_file_that_is_truncated_while_it_is_used() {
    let clean = Clean::start();
    for fuse in [false, true] {
        let path = squash(&clean, &format!("{fuse}.sqsh"), &["-comp", "gzip", "-noD"], |tree| {
            fill_base(tree);
            fs::write(tree.join("large"), "0123456789abcdef".repeat(200_000)).unwrap();
        });
        let made = start(&plan(), &read(layers(&path).unwrap(), fuse)).unwrap();
        let works = run(&made, &plan(), "cat /usr/lib/data");
        assert_eq!(works.exit, Exit::Code(0), "{}", works.output);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        // The shell may be gone as well, whatever signal that makes; what counts is that everything ends.
        let ran = run(&made, &plan(), "cat /large >/dev/null");
        assert_ne!(ran.exit, Exit::Code(0), "{}", ran.output);
    }
}

/// Names that no path can have, in a file that a process of the user reads.
#[test]
fn names_that_lead_elsewhere_lead_nowhere() {
    let clean = Clean::start();
    let secret = clean.path("secret");
    host_file(&secret, "SECRET", (0, 0), 0o644);
    for name in [b"..", b"a/", b"/a", b"a\0"] {
        let options = ["-comp", "gzip", "-noI", "-noD", "-noF", "-noX"];
        let path = squash(&clean, &format!("{name:?}.sqsh"), &options, |tree| {
            fill_base(tree);
            fs::create_dir(tree.join("zz")).unwrap();
            fs::write(tree.join("zz/qq"), "inside").unwrap();
        });
        let mut bytes = fs::read(&path).unwrap();
        let table = u64::from_le_bytes(bytes[72..80].try_into().unwrap()) as usize;
        let found: Vec<usize> = (table..bytes.len() - 2)
            .filter(|at| &bytes[*at..at + 2] == b"zz" || &bytes[*at..at + 2] == b"qq")
            .collect();
        assert!(found.len() >= 2, "{found:?}");
        for at in found {
            bytes[at..at + 2].copy_from_slice(name);
        }
        fs::write(&path, &bytes).unwrap();
        let fuse = read(layers(&path).unwrap(), true);
        // It may be refused; what starts shows nothing of the host, and ends.
        if let Ok(made) = start(&plan(), &fuse) {
            let ran = run(
                &made,
                &plan(),
                "ls -la / /a /zz 2>&1; find / -xdev -name secret; cat /../secret /*/secret 2>&1",
            );
            assert!(!ran.output.contains("SECRET"), "{}", ran.output);
        }
    }
}
