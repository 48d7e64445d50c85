//! Packs of real and of difficult trees, compared with what tar, the kernel, unsquashfs and sqfsdiff make of the same
//! archive.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // the helpers of tests are tests

mod pack_support;

use pack_support::{
    FoundTree, Tar, awkward, compressions, kernel_tree, noise, options, pack, pack_bytes, run, same, tree,
};
use pyxis_runtime::pack::Options;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use tempfile::{NamedTempFile, TempDir};

fn tar_of(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let archive = NamedTempFile::new().unwrap();
    let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    all.extend(["--xattrs", "-cf"].map(OsString::from));
    all.push(archive.path().into());
    all.extend(["-C".into(), dir.into(), ".".into()]);
    run("tar", &all.iter().map(OsString::as_os_str).collect::<Vec<_>>());
    fs::read(archive.path()).unwrap()
}

/// What a pack must hold for a tree on the disk.
fn expected(dir: &Path) -> FoundTree {
    let mut found = tree(dir);
    for found in found.values_mut() {
        found.owner = (0, 0);
        found.mode &= if found.kind == 'd' { 0o1777 } else { 0o777 };
        found.xattrs.retain(|name, _| name.starts_with(b"user."));
    }
    found
}

#[test]
fn an_awkward_tree_survives_every_tar_format_and_compressor() {
    let dir = awkward();
    let wanted = expected(dir.path());
    let formats: [&[&str]; 5] = [
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu", "--sparse"],
    ];
    for format in formats {
        let archive = tar_of(dir.path(), format);
        let (file, _) = pack(&archive, &options(2)).unwrap();
        let mut found = kernel_tree(file.path());
        if format.contains(&"--format=gnu") {
            // The GNU format has no extended attributes.
            for (path, found) in &mut found {
                found.xattrs.clone_from(&wanted[path].xattrs);
            }
        }
        same(&found, &wanted);
    }
    let archive = tar_of(dir.path(), &["--format=posix"]);
    for compression in compressions() {
        for block_size in [4096, 1 << 20] {
            let options = Options {
                compression,
                block_size,
                ..options(2)
            };
            same(&kernel_tree(pack(&archive, &options).unwrap().0.path()), &wanted);
        }
    }
}

#[test]
fn unsquashfs_and_sqfsdiff_agree() {
    let dir = awkward();
    let archive = tar_of(dir.path(), &["--format=posix"]);
    let reference = TempDir::new().unwrap();
    let reference = reference.path().join("reference");
    fs::write(reference.with_extension("tar"), &archive).unwrap();
    let made = reference.with_extension("sqfs");
    let tar = File::open(reference.with_extension("tar")).unwrap();
    let arguments = ["-q", "-c", "gzip", "--defaults", "uid=0,gid=0,mode=0755"].map(OsStr::new);
    let status = std::process::Command::new("tar2sqfs")
        .args(arguments)
        .arg(&made)
        .stdin(tar)
        .status();
    assert!(status.unwrap().success());
    for compression in compressions() {
        let options = Options {
            compression,
            ..options(2)
        };
        let (file, summary) = pack(&archive, &options).unwrap();
        let target = TempDir::new().unwrap();
        let target = target.path().join("out");
        let arguments = [OsStr::new("-d"), target.as_os_str(), file.path().as_os_str()];
        run("unsquashfs", &[&[OsStr::new("-no-progress")], &arguments[..]].concat());
        same(&tree(&target), &expected(dir.path()));
        // sqfsdiff compares contents, types, permissions and targets, and whether inodes are extended.
        let arguments = ["--no-owner", "-a"].map(OsStr::new);
        let images = [made.as_os_str(), OsStr::new("-b"), file.path().as_os_str()];
        let difference = run("sqfsdiff", &[&arguments[..], &images[..]].concat());
        assert_eq!(difference, "", "{compression:?}");
        let stat = run("unsquashfs", &[OsStr::new("-s"), file.path().as_os_str()]);
        assert!(stat.contains(&format!("Number of inodes {}", summary.inodes)), "{stat}");
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let dir = awkward();
    let archive = tar_of(dir.path(), &["--format=posix", "--sort=name"]);
    for compression in compressions() {
        let with = |threads| {
            let options = Options {
                compression,
                block_size: 16_384,
                ..options(threads)
            };
            pack_bytes(&archive, &options)
        };
        let one = with(1);
        for threads in [2, 7] {
            assert!(one == with(threads), "{compression:?} with {threads} threads");
        }
        assert_eq!(one.len() % 4096, 0);
    }
}

#[test]
fn real_trees_are_the_same_as_tar_extracts_them() {
    for source in ["/etc", "/usr/share/perl5", "/usr/share/zoneinfo", "/usr/lib/python3"] {
        let source = Path::new(source);
        if !source.exists() {
            continue;
        }
        let archive = tar_of(source, &["--format=posix"]);
        let target = TempDir::new().unwrap();
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), &archive).unwrap();
        let arguments = ["--xattrs", "-xpf"].map(OsStr::new);
        let places = [file.path().as_os_str(), OsStr::new("-C"), target.path().as_os_str()];
        run("tar", &[&arguments[..], &places[..]].concat());
        let (pack, summary) = pack(&archive, &options(2)).unwrap();
        let mut wanted = expected(target.path());
        wanted.retain(|_, found| !matches!(found.kind, 'c' | 'b' | 's'));
        same(&kernel_tree(pack.path()), &wanted);
        assert_eq!(summary.diff_id, pyxis_runtime::Digest::of(&archive));
    }
    assert!(Path::new("/etc").exists());
}

/// 70,000 names in one directory need headers of their own, an extended inode and an index; lookups use the index.
#[test]
fn a_directory_of_70000_files_can_be_listed_and_searched() {
    let mut tar = Tar::default();
    tar.dir("big").dir("big/zz-dir");
    for number in 0..70_000 {
        tar.file(
            format!("big/file-number-{number}"),
            if number % 1000 == 0 { b"content" } else { b"" },
        );
    }
    tar.hard_link("alias", "big/file-number-69000");
    let (file, summary) = pack(&tar.end(), &options(2)).unwrap();
    assert_eq!((summary.inodes, summary.entries), (70_003, 70_003));
    let mounted = pack_support::Mounted::new(file.path());
    let big = mounted.path().join("big");
    assert_eq!(fs::read_dir(&big).unwrap().count(), 70_001);
    for number in (0..70_000).step_by(7) {
        let size = fs::metadata(big.join(format!("file-number-{number}"))).unwrap().len();
        assert_eq!(size, if number % 1000 == 0 { 7 } else { 0 });
    }
    assert!(fs::metadata(big.join("file-number-70000")).is_err());
    assert!(fs::metadata(big.join("zz-dir")).unwrap().is_dir());
    let listing = run("unsquashfs", &[OsStr::new("-l"), file.path().as_os_str()]);
    assert_eq!(
        listing.lines().filter(|line| line.contains("file-number")).count(),
        70_000
    );
}

#[test]
fn a_sparse_file_beyond_4_gib_has_its_bytes_where_they_were() {
    let dir = TempDir::new().unwrap();
    let file = File::create(dir.path().join("huge")).unwrap();
    let places = [(5_u64 << 30) - 3, 4 << 30, 100];
    for place in places {
        (&file).seek(SeekFrom::Start(place)).unwrap();
        (&file).write_all(b"here I am").unwrap();
    }
    file.set_len(6 << 30).unwrap();
    for format in ["--format=posix", "--format=gnu"] {
        let archive = tar_of(dir.path(), &[format, "--sparse"]);
        assert!(archive.len() < 1 << 20);
        let (pack, _) = pack(&archive, &options(2)).unwrap();
        let mounted = pack_support::Mounted::new(pack.path());
        let mut huge = File::open(mounted.path().join("huge")).unwrap();
        assert_eq!(huge.metadata().unwrap().len(), 6 << 30);
        for place in places {
            let mut text = [0; 13];
            huge.seek(SeekFrom::Start(place - 2)).unwrap();
            std::io::Read::read_exact(&mut huge, &mut text).unwrap();
            assert_eq!(&text, b"\0\0here I am\0\0");
        }
        let used = std::os::unix::fs::MetadataExt::blocks(&huge.metadata().unwrap()) * 512;
        assert!(used < 1 << 20, "holes take no blocks: {used}");
    }
}

/// File handles (NFS, and overlayfs' index) are resolved through the export table.
#[test]
fn every_inode_is_in_the_export_table() {
    let dir = awkward();
    let (file, summary) = pack(&tar_of(dir.path(), &["--format=posix"]), &options(1)).unwrap();
    let bytes = fs::read(file.path()).unwrap();
    let place = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (export, ids) = (place(88), place(48));
    assert!(export < ids);
    let mounted = pack_support::Mounted::new(file.path());
    let mut inodes: Vec<u64> = Vec::new();
    for path in tree(mounted.path()).keys() {
        let meta = fs::symlink_metadata(mounted.path().join(path)).unwrap();
        inodes.push(std::os::unix::fs::MetadataExt::ino(&meta));
    }
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes, (1..=u64::from(summary.inodes)).collect::<Vec<_>>());
}

#[test]
fn an_empty_layer_is_an_empty_directory() {
    for compression in compressions() {
        let options = Options {
            compression,
            ..options(1)
        };
        let (file, summary) = pack(&[0; 1024], &options).unwrap();
        assert_eq!((summary.inodes, summary.entries), (1, 0));
        let found = kernel_tree(file.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[Path::new("")].mode, 0o755);
        run("unsquashfs", &[OsStr::new("-l"), file.path().as_os_str()]);
    }
}

/// A tail that fills a fragment makes the writer store blocks, perhaps the first of the very file that ends.
#[test]
fn files_whose_tails_end_a_fragment_keep_their_beginning() {
    let mut tar = Tar::default();
    for seed in 0..400 {
        tar.file(format!("{seed}"), &noise(seed, 4096 + 3000 + seed as usize));
    }
    for threads in [1, 3] {
        let options = Options {
            block_size: 4096,
            ..options(threads)
        };
        let (file, _) = pack(&tar.end(), &options).unwrap();
        let mounted = pack_support::Mounted::new(file.path());
        for seed in 0..400 {
            let content = fs::read(mounted.path().join(format!("{seed}"))).unwrap();
            assert!(content == noise(seed, 4096 + 3000 + seed as usize), "{seed}");
        }
    }
}
