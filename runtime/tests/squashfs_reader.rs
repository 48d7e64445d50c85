//! The squashfs reader against the kernel and unsquashfs, on images of our writer and of mksquashfs with each of its
//! compressors, and against bytes that mean harm.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // the helpers of tests are tests

mod pack_support;

use pack_support::{Found, FoundTree, Tar, awkward, compressions, kernel_tree, noise, options, pack, run, same};
use proptest::prelude::*;
use pyxis_runtime::pack::squashfs::format::NO_FRAGMENT;
use pyxis_runtime::pack::squashfs::reader::{Content, Inode, InodeRef, Piece, ReadAt, Reader};
use pyxis_runtime::pack::{Compression, Options};
use pyxis_runtime::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Everything in an image, as [`pack_support::tree`] shows a mounted one.
fn read_tree<S: ReadAt>(reader: &Reader<S>) -> Result<FoundTree> {
    let mut found = FoundTree::new();
    let mut names: BTreeMap<InodeRef, Vec<PathBuf>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut stack = vec![(PathBuf::new(), reader.root())];
    while let Some((path, reference)) = stack.pop() {
        let inode = reader.inode(reference)?;
        if let Content::Directory(listing) = &inode.content {
            if !seen.insert(reference) {
                return Err(Error::Image("a directory has two names".into()));
            }
            for entry in reader.entries(listing)? {
                let entry = entry?;
                stack.push((path.join(OsString::from_vec(entry.name.into_vec())), entry.inode));
            }
        } else if inode.links > 1 {
            names.entry(reference).or_default().push(path.clone());
        }
        found.insert(path, look(reader, &inode)?);
    }
    for names in names.values_mut() {
        names.sort();
        for name in names.iter() {
            found.get_mut(name).unwrap().links.clone_from(names);
        }
    }
    Ok(found)
}

fn look<S: ReadAt>(reader: &Reader<S>, inode: &Inode) -> Result<Found> {
    let device = |number: u32| {
        let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
        rustix::fs::makedev(major, minor)
    };
    let mut found = Found {
        kind: 's',
        mode: u32::from(inode.mode),
        mtime: i64::from(inode.mtime),
        owner: (inode.uid, inode.gid),
        device: 0,
        size: 0,
        target: Vec::new(),
        links: Vec::new(),
        content: None,
        xattrs: reader.xattrs(inode)?.into_iter().collect(),
    };
    match &inode.content {
        Content::Directory(_) => found.kind = 'd',
        Content::File(file) => {
            found.kind = 'f';
            found.size = file.size;
            let mut hasher = Sha256::new();
            let zeros = vec![0; 1 << 16];
            reader.content(file, |piece| {
                match piece {
                    Piece::Bytes(bytes) => hasher.update(bytes),
                    Piece::Hole(mut size) => {
                        while size > 0 {
                            let now = size.min(zeros.len() as u64);
                            hasher.update(&zeros[..now as usize]);
                            size -= now;
                        }
                    }
                }
                Ok(())
            })?;
            found.content = Some(hasher.finalize().into());
        }
        Content::Symlink(target) => {
            found.kind = 'l';
            found.target = target.to_vec();
            found.size = target.len() as u64;
        }
        Content::CharDevice(number) => {
            found.kind = 'c';
            found.device = device(*number);
        }
        Content::BlockDevice(number) => {
            found.kind = 'b';
            found.device = device(*number);
        }
        Content::Fifo => found.kind = 'p',
        Content::Socket => {}
    }
    Ok(found)
}

fn read_file(path: &Path) -> FoundTree {
    read_tree(&Reader::open(File::open(path).unwrap()).unwrap()).unwrap()
}

/// The awkward tree with what only root can add, and set-id bits and owners.
fn complete() -> TempDir {
    let dir = awkward();
    let root = dir.path();
    for (name, kind, major, minor) in [("null", "c", 1, 3), ("disk", "b", 259, 70_000), ("whiteout", "c", 0, 0)] {
        let numbers = [major.to_string(), minor.to_string()];
        let path = root.join(name);
        let arguments = [
            path.as_os_str(),
            OsStr::new(kind),
            OsStr::new(&numbers[0]),
            OsStr::new(&numbers[1]),
        ];
        run("mknod", &arguments);
    }
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    std::os::unix::fs::chown(root.join("size-4096"), Some(70_000), Some(123)).unwrap();
    run(
        "chmod",
        &["4755", root.join("size-1").to_str().unwrap()].map(OsStr::new),
    );
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("d/d"), "trusted.overlay.opaque", b"y", flags).unwrap();
    // Long values that several files share are kept out of line.
    for number in 0..20 {
        let path = root.join(format!("small-{number}"));
        rustix::fs::setxattr(&path, "user.long", &noise(5, 3500), flags).unwrap();
        rustix::fs::setxattr(&path, "user.own", format!("{number}").as_bytes(), flags).unwrap();
    }
    fs::write(root.join("name-".to_owned() + &"x".repeat(200)), b"").unwrap();
    dir
}

fn mksquashfs(tree: &Path, arguments: &[&str]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut all = vec![tree.as_os_str(), file.path().as_os_str()];
    all.extend(["-noappend", "-quiet", "-no-progress", "-xattrs"].map(OsStr::new));
    all.extend(arguments.iter().map(OsStr::new));
    run("mksquashfs", &all);
    file
}

/// Names, sizes, modes and owners as unsquashfs lists them: an oracle that does not need the kernel to know the
/// compressor.
fn unsquashed(file: &Path) -> FoundTree {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("out");
    let arguments = [OsStr::new("-d"), target.as_os_str(), file.as_os_str()];
    run("unsquashfs", &[&[OsStr::new("-no-progress")], &arguments[..]].concat());
    pack_support::tree(&target)
}

#[test]
fn images_of_mksquashfs_are_read_as_others_read_them() {
    let dir = complete();
    let compressors: [&[&str]; 10] = [
        &["-comp", "gzip"],
        &["-comp", "gzip", "-Xwindow-size", "9"],
        &["-comp", "zstd"],
        &["-comp", "lz4"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "xz"],
        &["-comp", "xz", "-Xbcj", "x86,arm"],
        &["-comp", "lzo"],
        &["-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-noD"],
        &["-noI", "-noD", "-noF", "-noX"],
    ];
    for compressor in compressors {
        let file = mksquashfs(dir.path(), compressor);
        same(&read_file(file.path()), &unsquashed(file.path()));
    }
    let shapes: [&[&str]; 6] = [
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-b", "4K"],
        &["-b", "1M"],
        &["-no-exports", "-no-duplicates"],
        &["-no-xattrs"],
    ];
    for shape in shapes {
        let file = mksquashfs(dir.path(), &[&["-comp", "zstd"], shape].concat());
        same(&read_file(file.path()), &kernel_tree(file.path()));
    }
}

#[test]
fn a_large_tree_is_read_as_unsquashfs_lists_it() {
    let source = Path::new("/etc");
    let file = mksquashfs(source, &["-comp", "lzo", "-Xcompression-level", "1"]);
    let reader = Reader::open(File::open(file.path()).unwrap()).unwrap();
    let found = read_tree(&reader).unwrap();
    let listed = run("unsquashfs", &[OsStr::new("-lls"), file.path().as_os_str()]);
    // "-rw-r--r-- root/root   1234 2026-11-22 05:00 squashfs-root/name": kind, mode and size of each name.
    let mut checked = 0;
    for line in listed.lines().filter(|line| line.starts_with(['-', 'd'])) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(path) = line
            .split_once("squashfs-root")
            .map(|(_, path)| path.trim_start_matches('/'))
        else {
            continue;
        };
        let Some(entry) = found.get(Path::new(path)) else {
            panic!("{line}")
        };
        assert_eq!(entry.kind, if line.starts_with('d') { 'd' } else { 'f' }, "{line}");
        if entry.kind == 'f' {
            assert_eq!(entry.size.to_string(), words[2], "{line}");
        }
        checked += 1;
    }
    let names = found.values().filter(|found| matches!(found.kind, 'f' | 'd')).count();
    assert_eq!(checked, names);
    assert!(checked > 100, "{checked}");
}

fn own_image(compression: Compression, block_size: u32) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.dir("d")
        .dir("d/e")
        .file("d/e/small", b"small")
        .symlink("link", "d/e/small");
    tar.pax(&[(b"SCHILY.xattr.user.one", b"1")])
        .file("big", &noise(1, 70_000));
    tar.hard_link("hard", "big")
        .special(b'6', "fifo")
        .file("zero", &[0; 40_000]);
    for number in 0..400 {
        tar.file(format!("d/n{number}"), &noise(number, number as usize));
    }
    let options = Options {
        compression,
        block_size,
        ..options(2)
    };
    let (file, _) = pack(&tar.end(), &options).unwrap();
    fs::read(file.path()).unwrap()
}

#[test]
fn our_own_images_are_read_as_the_kernel_reads_them() {
    for compression in compressions() {
        for block_size in [4096, 131_072] {
            let bytes = own_image(compression, block_size);
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), &bytes).unwrap();
            let found = read_tree(&Reader::open(bytes.as_slice()).unwrap()).unwrap();
            same(&found, &kernel_tree(file.path()));
        }
    }
}

#[test]
fn a_directory_of_70000_files_with_its_index_is_read() {
    let mut tar = Tar::default();
    for number in 0..70_000 {
        tar.file(format!("big/file-number-{number}"), b"");
    }
    tar.file("last", b"behind the index");
    let (file, _) = pack(&tar.end(), &options(2)).unwrap();
    let reader = Reader::open(File::open(file.path()).unwrap()).unwrap();
    let found = read_tree(&reader).unwrap();
    assert_eq!(found.len(), 70_003);
    assert_eq!(reader.fragment_uses().unwrap().values().sum::<u32>(), 1);
}

#[test]
fn the_uses_of_fragments_are_all_counted() {
    let dir = complete();
    for arguments in [["-comp", "zstd"], ["-b", "4K"]] {
        let file = mksquashfs(dir.path(), &arguments);
        let reader = Reader::open(File::open(file.path()).unwrap()).unwrap();
        let mut expected: BTreeMap<u32, BTreeSet<InodeRef>> = BTreeMap::new();
        let mut stack = vec![reader.root()];
        while let Some(reference) = stack.pop() {
            match reader.inode(reference).unwrap().content {
                Content::Directory(listing) => {
                    stack.extend(reader.entries(&listing).unwrap().map(|entry| entry.unwrap().inode));
                }
                Content::File(file) if file.fragment != NO_FRAGMENT => {
                    expected.entry(file.fragment).or_default().insert(reference);
                }
                _ => {}
            }
        }
        let expected: BTreeMap<u32, u32> = expected.into_iter().map(|(key, set)| (key, set.len() as u32)).collect();
        assert!(!expected.is_empty());
        assert_eq!(
            reader.fragment_uses().unwrap().into_iter().collect::<BTreeMap<_, _>>(),
            expected
        );
    }
}

/// Reads whatever can be read. Must come back, soon, with an image or an error.
fn survive(bytes: &[u8]) -> Option<FoundTree> {
    let begun = Instant::now();
    let outcome = Reader::open(bytes).and_then(|reader| {
        let uses = reader.fragment_uses();
        let tree = read_tree(&reader)?;
        uses.map(|_| tree)
    });
    assert!(begun.elapsed() < Duration::from_secs(60));
    match outcome {
        Ok(tree) => Some(tree),
        Err(Error::Image(text)) => {
            assert!(!text.contains('\n'), "{text:?}");
            None
        }
        Err(other) => panic!("not an error of the image: {other}"),
    }
}

#[test]
fn a_truncated_image_is_refused() {
    for compression in compressions() {
        let bytes = own_image(compression, 4096);
        let used = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        for end in (0..used).step_by(211) {
            assert!(survive(&bytes[..end]).is_none(), "{compression:?} cut at {end}");
        }
        // Also when the superblock was made to fit.
        for end in (96..used).step_by(211) {
            let mut cut = bytes[..end].to_vec();
            cut[40..48].copy_from_slice(&(end as u64).to_le_bytes());
            survive(&cut);
        }
    }
}

#[test]
fn every_byte_of_the_superblock_may_be_anything() {
    let bytes = own_image(Compression::Zstd { level: 1 }, 4096);
    for at in 0..96 {
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
            let mut changed = bytes.clone();
            changed[at] = value;
            survive(&changed);
        }
    }
}

/// A directory that contains itself cannot be told from a tree by the reader, but its walker notices.
#[test]
fn a_loop_of_directories_is_noticed() {
    let mut tar = Tar::default();
    tar.dir("a").dir("b");
    let options = Options {
        compression: Compression::None,
        ..options(1)
    };
    let (file, _) = pack(&tar.end(), &options).unwrap();
    let mut bytes = fs::read(file.path()).unwrap();
    let place = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (root, directories) = (place(32), place(72));
    // The listing: length word, header of 12 bytes, then the offset of the first entry's inode.
    let first = directories + 2 + 12;
    bytes[first..first + 2].copy_from_slice(&(root as u16).to_le_bytes());
    assert!(survive(&bytes).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_do_no_harm(
        compressor in 0_usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        metadata in any::<bool>(),
    ) {
        let mut bytes = own_image(compressions()[compressor], 4096);
        let inodes = u64::from_le_bytes(bytes[64..72].try_into().unwrap()) as usize;
        // Without compression changes in the tables reach the parser as they are.
        let start = if metadata { inodes } else { 0 };
        for (index, value) in changes {
            let at = start + index.index(bytes.len() - start);
            bytes[at] = value;
        }
        survive(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_superblock_do_no_harm(tail in prop::collection::vec(any::<u8>(), 64..4096)) {
        let image = own_image(Compression::None, 4096);
        let mut bytes = image[..96].to_vec();
        bytes.extend_from_slice(&tail);
        let end = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&end.to_le_bytes());
        for (at, part) in [(48, 4_u64), (56, 5), (64, 1), (72, 2), (80, 3), (88, 6)] {
            let place = 96 + (end - 96) * part / 8;
            bytes[at..at + 8].copy_from_slice(&place.to_le_bytes());
        }
        survive(&bytes);
    }
}

#[test]
fn what_is_not_an_image_is_refused() {
    let text = |bytes: &[u8]| Reader::open(bytes).err().unwrap().to_string();
    assert!(text(b"").contains("too short"));
    assert!(text(&[b'x'; 4096]).contains("does not begin like one"));
    let mut lzma = own_image(Compression::Gzip { level: 1 }, 4096);
    lzma[20] = 2;
    assert!(text(&lzma).contains("lzma"));
    let bytes = OsStr::new("x").as_bytes();
    assert!(Reader::open(bytes).is_err());
}
