//! Layers that mean harm or are broken, and what the rules of layers make of unusual ones. The trees are read back
//! through the kernel.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // the helpers of tests are tests

mod pack_support;

use pack_support::{Fields, FoundTree, Tar, kernel_tree, options, pack, run};
use pyxis_runtime::pack::{Limits, Options, Summary};
use pyxis_runtime::{Digest, Error};
use std::io::Write;
use std::path::Path;

fn packed(tar: &Tar) -> (FoundTree, Summary) {
    let (file, summary) = pack(&tar.end(), &options(2)).unwrap();
    (kernel_tree(file.path()), summary)
}

fn names(tree: &FoundTree) -> Vec<&str> {
    tree.keys()
        .filter_map(|path| path.to_str())
        .filter(|name| !name.is_empty())
        .collect()
}

#[track_caller]
fn refused(tar: &Tar) -> String {
    refused_with(&tar.end(), &options(1))
}

#[track_caller]
fn refused_with(blob: &[u8], options: &Options) -> String {
    match pack(blob, options) {
        Err(Error::Image(text)) => {
            assert!(!text.contains(['\n', '\0', '\x1b']), "{text:?}");
            assert!(text.len() < 600, "{text}");
            text
        }
        Err(other) => panic!("not an error of the image: {other}"),
        Ok((_, summary)) => panic!("not refused: {summary:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn names_that_climb_out_are_refused() {
    for name in ["../x", "a/../../x", "/../x", "a/..", ".."] {
        let text = refused(Tar::default().file(name, b"x"));
        assert!(text.contains(name) && text.contains(".."), "{text}");
    }
    let text = refused(Tar::default().file("a", b"x").hard_link("b", "../../etc/shadow"));
    assert!(text.contains("etc/shadow"), "{text}");
    assert!(refused(Tar::default().dir("a/../.wh.b")).contains(".."));
}

#[test]
fn names_that_cannot_be_are_refused() {
    let long = "n".repeat(256);
    assert!(refused(Tar::default().file(&long, b"")).contains("255 bytes"));
    assert!(refused(Tar::default().file("a/".repeat(2049), b"")).contains("path exceeds limit"));
    let nul = Tar::default().pax(&[(b"path", b"a\0b")]).file("x", b"").clone();
    assert!(refused(&nul).contains("NUL"));
    assert!(refused(Tar::default().file("a", b"").file("a/b", b"")).contains("not a directory"));
    assert!(refused(Tar::default().file("./", b"").file("/", b"x")).contains("root"));
    assert!(refused(Tar::default().symlink("a", "")).contains("target"));
    assert!(refused(Tar::default().symlink("a", "t".repeat(4096))).contains("target"));
    assert!(refused(Tar::default().special(b'Z', "a")).contains("'Z'"));
    let escape = Tar::default()
        .pax(&[(b"path", b"\x1b[2J\n/../x")])
        .file("x", b"")
        .clone();
    assert!(refused(&escape).contains("\\u{1b}[2J"));
}

#[test]
fn names_are_made_relative_to_the_root() {
    let name = "n".repeat(255);
    let (tree, _) = packed(
        Tar::default()
            .file("/etc//passwd", b"1")
            .file("./b/./c", b"2")
            .dir("d/")
            .file(&name, b""),
    );
    assert_eq!(names(&tree), ["b", "b/c", "d", "etc", "etc/passwd", &name]);
    assert_eq!(tree[Path::new("b")].mode, 0o755, "missing parents are made");
}

#[test]
fn owners_set_id_bits_and_attributes_go() {
    let fields = |kind, name, mode| Fields {
        mode,
        ..Fields::new(kind, name)
    };
    let mut tar = Tar::default();
    tar.entry(&fields(b'0', "suid", 0o6755), b"x");
    tar.entry(&fields(b'5', "sgid", 0o3777), b"");
    tar.pax(&[
        (b"SCHILY.xattr.user.kept", b"v\0w\n"),
        (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.overlay.redirect", b"/etc"),
        (b"SCHILY.xattr.user.fuseoverlayfs.opaque", b"y"),
        (b"SCHILY.xattr.user.containers.override_stat", b"0:0:6755"),
        (b"SCHILY.xattr.system.posix_acl_access", b"x"),
        (b"SCHILY.xattr.user.", b"x"),
    ]);
    tar.dir("forged");
    tar.pax(&[(b"SCHILY.xattr.user.kept", b"v")]).symlink("link", "suid");
    let (tree, summary) = packed(&tar);
    assert_eq!(tree[Path::new("suid")].mode, 0o755);
    assert_eq!(
        tree[Path::new("sgid")].mode,
        0o1777,
        "the sticky bit stays on directories"
    );
    assert!(tree.values().all(|found| found.owner == (0, 0)));
    let forged = &tree[Path::new("forged")].xattrs;
    assert_eq!(
        forged.iter().collect::<Vec<_>>(),
        [(&b"user.kept".to_vec(), &b"v\0w\n".to_vec())]
    );
    assert!(tree[Path::new("link")].xattrs.is_empty());
    assert_eq!((summary.cleared_set_id, summary.dropped_xattrs), (2, 9));
}

#[test]
fn devices_are_left_out_and_pipes_stay() {
    let mut tar = Tar::default();
    tar.special(b'3', "dev/null")
        .special(b'4', "dev/sda")
        .special(b'6', "pipe");
    tar.hard_link("dev/other", "dev/null")
        .file("was", b"")
        .special(b'3', "was");
    let (tree, summary) = packed(&tar);
    assert_eq!(names(&tree), ["dev", "pipe"]);
    assert_eq!(tree[Path::new("pipe")].kind, 'p');
    assert_eq!(summary.dropped_devices, 4);
}

#[test]
fn a_character_device_0_0_is_no_whiteout() {
    let mut tar = Tar::default();
    tar.special(b'3', "etc");
    let at = tar.bytes.len() - 512;
    for place in [329, 337] {
        tar.bytes[at + place..at + place + 7].copy_from_slice(b"0000000");
    }
    let block = &mut tar.bytes[at..];
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let (tree, summary) = packed(&tar);
    assert!(names(&tree).is_empty());
    assert_eq!(summary.dropped_devices, 1);
}

fn is_opaque(tree: &FoundTree, path: &str) -> bool {
    let xattrs = &tree[Path::new(path)].xattrs;
    let both = ["trusted.overlay.opaque", "user.overlay.opaque"].map(|name| xattrs.get(name.as_bytes()));
    assert_eq!(both[0], both[1], "{path}");
    both[0] == Some(&b"y".to_vec())
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let mut tar = Tar::default();
    tar.file("a/.wh.gone", b"")
        .dir("b")
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"n");
    tar.file(".wh..wh.plnk/1.2", b"aufs").file(".wh..wh.aufs", b"");
    let (tree, summary) = packed(&tar);
    assert_eq!(names(&tree), ["a", "a/gone", "b", "b/new"]);
    let gone = &tree[Path::new("a/gone")];
    assert_eq!((gone.kind, gone.device), ('c', 0));
    assert!(is_opaque(&tree, "b") && !is_opaque(&tree, "a") && !summary.opaque_root);
}

#[test]
fn whiteouts_do_not_hide_their_own_layer() {
    let mut tar = Tar::default();
    tar.file("before", b"1")
        .file(".wh.before", b"")
        .file(".wh.after", b"")
        .file("after", b"2");
    tar.dir("d1").file("d1/x", b"").file(".wh.d1", b"");
    tar.file(".wh.d2", b"").dir("d2");
    tar.file(".wh.d3", b"").file("d3/x", b"");
    let (tree, _) = packed(&tar);
    assert_eq!(names(&tree), ["after", "before", "d1", "d1/x", "d2", "d3", "d3/x"]);
    assert!(["d1", "d2", "d3"].iter().all(|name| is_opaque(&tree, name)));
    assert_eq!(tree[Path::new("after")].size, 1);
}

#[test]
fn an_opaque_root_is_told() {
    let (tree, summary) = packed(Tar::default().file(".wh..wh..opq", b""));
    assert!(summary.opaque_root && is_opaque(&tree, ""));
}

#[test]
fn bad_whiteouts_are_refused() {
    for name in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
        assert!(refused(Tar::default().file(name, b"")).contains("whiteout"), "{name}");
    }
    let through = Tar::default().file(".wh.a", b"").hard_link("b", "a").clone();
    assert!(refused(&through).contains("hard link"));
}

#[test]
fn the_last_of_equal_names_wins() {
    let mut tar = Tar::default();
    tar.file("f", b"old").file("f", b"newer");
    tar.dir("d").file("d/kept", b"").entry(
        &Fields {
            mode: 0o700,
            ..Fields::new(b'5', "d")
        },
        b"",
    );
    tar.dir("e").file("e/gone", b"").file("e", b"file");
    tar.symlink("s", "d").dir("s").file("s/x", b"");
    let (tree, _) = packed(&tar);
    assert_eq!(names(&tree), ["d", "d/kept", "e", "f", "s", "s/x"]);
    assert_eq!(tree[Path::new("f")].size, 5);
    assert_eq!(tree[Path::new("d")].mode, 0o700);
    assert_eq!((tree[Path::new("e")].kind, tree[Path::new("s")].kind), ('f', 'd'));
}

#[test]
fn links_of_the_layer_are_followed_inside_it() {
    let mut tar = Tar::default();
    tar.dir("usr/lib").symlink("lib", "usr/lib").file("lib/a.so", b"a");
    tar.symlink("up", "../../../../usr").file("up/b", b"b");
    tar.symlink("abs", "/made/for/it").file("abs/c", b"c");
    tar.symlink("etc", "/etc").file("etc2", b"").file("lib/.wh.gone", b"");
    tar.hard_link("hard", "lib/a.so").hard_link("hard-symlink", "lib");
    let (tree, _) = packed(&tar);
    let expected = [
        "abs",
        "etc",
        "etc2",
        "hard",
        "hard-symlink",
        "lib",
        "made",
        "made/for",
        "made/for/it",
        "made/for/it/c",
        "up",
        "usr",
        "usr/b",
        "usr/lib",
        "usr/lib/a.so",
        "usr/lib/gone",
    ];
    assert_eq!(names(&tree), expected);
    assert_eq!(tree[Path::new("usr/lib/gone")].kind, 'c');
    assert_eq!(
        tree[Path::new("hard")].links,
        [Path::new("hard"), Path::new("usr/lib/a.so")]
    );
    assert_eq!(
        tree[Path::new("hard-symlink")].links,
        [Path::new("hard-symlink"), Path::new("lib")]
    );
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    assert!(refused(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"")).contains("too many"));
    assert!(refused(Tar::default().symlink("a", "a").file("a/x", b"")).contains("too many"));
    assert!(refused(Tar::default().symlink("a", "f").file("f", b"").file("a/x", b"")).contains("not a directory"));
    let long = "n".repeat(300);
    assert!(refused(Tar::default().symlink("a", long).file("a/x", b"")).contains("255"));
    let mut deep = Tar::default();
    for level in 0..5 {
        deep.symlink(format!("l{level}"), format!("l{}/{}", level + 1, "d/".repeat(1000)));
    }
    assert!(refused(deep.file("l0/x", b"")).contains("too deep"));
}

#[test]
fn hard_links_need_their_target() {
    let text = refused(Tar::default().hard_link("a", "usr/bin/lower"));
    assert!(text.contains("\"a\" is a hard link to \"usr/bin/lower\""), "{text}");
    assert!(refused(Tar::default().hard_link("a", "a")).contains("hard link"));
    assert!(refused(Tar::default().dir("d").hard_link("a", "d")).contains("hard link"));
    assert!(refused(Tar::default().file("f", b"").hard_link("a", "f/x")).contains("hard link"));
    assert!(refused(Tar::default().hard_link("a", "/")).contains("hard link"));
    let (tree, _) = packed(
        Tar::default()
            .file("f", b"x")
            .hard_link("g", "/f")
            .hard_link("f", "g")
            .file("g", b"other"),
    );
    assert_eq!((tree[Path::new("f")].size, tree[Path::new("g")].size), (1, 5));
    assert!(tree[Path::new("f")].links.is_empty());
}

#[test]
fn content_of_what_has_none_is_not_read() {
    let mut tar = Tar::default();
    for kind in [b'1', b'2', b'3', b'5', b'6'] {
        let name = [b'n', kind];
        let fields = Fields {
            link: b"first",
            size: 1 << 30,
            ..Fields::new(kind, &name)
        };
        if kind == b'1' {
            tar.file("first", b"");
        }
        tar.header(&fields);
    }
    let (tree, _) = packed(tar.file("last", b"l"));
    assert_eq!(names(&tree), ["first", "last", "n1", "n2", "n5", "n6"]);
}

#[test]
fn every_truncation_of_a_layer_is_an_error() {
    let mut tar = Tar::default();
    tar.dir("d")
        .file("d/f", &[7; 1500])
        .pax(&[(b"SCHILY.xattr.user.a", b"b")]);
    tar.file("d/g", b"x").symlink("s", "d");
    let whole = tar.end();
    pack(&whole, &options(1)).unwrap();
    for blob in [gzip(&whole), zstd::encode_all(&whole[..], 1).unwrap()] {
        for end in 0..blob.len() {
            refused_with(&blob[..end], &options(1));
        }
    }
    // An archive may lack its end marker: cut between two entries it is whole, and its diff id tells the difference.
    let between = [512, 512 + 2048, 512 + 2048 + 2048, tar.bytes.len()];
    for end in 0..tar.bytes.len() {
        match pack(&whole[..end], &options(1)) {
            Ok((_, summary)) => {
                assert!(between.contains(&end), "{end}");
                assert_eq!(summary.diff_id, Digest::of(&whole[..end]));
            }
            Err(error) => assert!(
                matches!(error, Error::Image(_)) && !between.contains(&end),
                "{end}: {error}"
            ),
        }
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    refused_with(b"", &options(1));
    refused_with(b"<html>", &options(1));
    refused_with(&gzip(b"<html>"), &options(1));
    refused_with(&gzip(&[b'x'; 5000]), &options(1));
    let mut tar = Tar::default();
    tar.dir("d")
        .file("d/f", &[7; 600])
        .pax(&[(b"path", b"long")])
        .file("x", b"y");
    let whole = tar.end();
    for place in (0..tar.bytes.len()).step_by(3) {
        for bits in [0xff, 0x01] {
            let mut damaged = whole.clone();
            damaged[place] ^= bits;
            if let Err(error) = pack(&damaged, &options(1)) {
                assert!(matches!(error, Error::Image(_)), "{error}");
            }
        }
    }
}

#[test]
fn the_diff_id_counts_every_byte() {
    let mut whole = Tar::default().file("a", b"b").end();
    for more in [0, 1, 511, 300_000] {
        whole.extend(std::iter::repeat_n(more as u8, more));
        let (_, summary) = pack(&gzip(&whole), &options(1)).unwrap();
        assert_eq!(
            (summary.diff_id, summary.tar_bytes),
            (Digest::of(&whole), whole.len() as u64)
        );
    }
    let (_, empty) = pack(&gzip(b""), &options(1)).unwrap();
    assert_eq!((empty.diff_id, empty.entries, empty.inodes), (Digest::of(b""), 0, 1));
}

#[test]
fn limits_hold() {
    let limited = |change: fn(&mut Limits)| {
        let mut options = options(1);
        change(&mut options.limits);
        options
    };
    let two = Tar::default().file("a", &[1; 700]).file("b", b"").end();
    assert!(refused_with(&two, &limited(|limits| limits.max_entries = 1)).contains("more than 1 entries"));
    assert!(refused_with(&two, &limited(|limits| limits.max_bytes = 1024)).contains("limit of 1024 bytes"));
    let mut deep = Tar::default();
    for number in 0..50 {
        deep.file(format!("{number}/").repeat(600), b"");
    }
    assert!(refused_with(&deep.end(), &limited(|limits| limits.max_tree_bytes = 1 << 20)).contains("tree of files"));
    let big = vec![b'v'; 1 << 20];
    let xattr = Tar::default()
        .pax(&[(b"SCHILY.xattr.user.a", &big)])
        .file("a", b"")
        .end();
    assert!(refused_with(&xattr, &options(1)).contains("metadata exceeds limit"));
    let value = vec![b'v'; 65_537];
    let xattr = Tar::default()
        .pax(&[(b"SCHILY.xattr.user.a", &value)])
        .file("a", b"")
        .end();
    assert!(refused_with(&xattr, &options(1)).contains("user.a"));
    let hole = sparse(b"9000000000000000000", b"0,0");
    assert!(refused_with(&hole, &options(1)).contains("larger than"));
}

/// A PAX 0.1 sparse file with a given size and map, and no data.
fn sparse(size: &[u8], map: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.pax(&[(b"GNU.sparse.size", size), (b"GNU.sparse.map", map)]);
    tar.file("sparse", b"").end()
}

#[test]
fn maps_that_lie_are_refused() {
    for (size, map) in [
        ("100", "0,200"),
        ("100", "50,10,20,10"),
        ("100", "0,10,5,10"),
        ("100", "0,10"),
        ("100", "18446744073709551615,1"),
        ("100", "0"),
        ("100", "a,b"),
        ("x", "0,0"),
    ] {
        refused_with(&sparse(size.as_bytes(), map.as_bytes()), &options(1));
    }
    for records in [
        &[(&b"size"[..], &b"x"[..])][..],
        &[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"9"),
        ],
        &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")],
    ] {
        refused(Tar::default().pax(records).file("a", b"no map at all"));
    }
    // A map line without an end must not be waited for until the end of a large file.
    let endless = vec![b'1'; 9 << 20];
    let mut tar = Tar::default();
    tar.pax(&[
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"9"),
    ]);
    assert!(refused(tar.file("a", &endless)).contains("header that is too large"));
}

#[test]
fn a_sparse_map_with_its_size_in_an_extension_is_read() {
    let mut content = b"2\n0\n3\n200000\n4\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcdefg");
    let size = content.len().to_string();
    let mut tar = Tar::default();
    tar.pax(&[
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"real"),
        (b"GNU.sparse.realsize", b"200010"),
        (b"size", size.as_bytes()),
    ]);
    tar.file("GNUSparseFile.0/real", &content).file("next", b"n");
    let mut expected = vec![0; 200_010];
    expected[..3].copy_from_slice(b"abc");
    expected[200_000..200_004].copy_from_slice(b"defg");
    let (file, _) = pack(&tar.end(), &options(1)).unwrap();
    let mounted = pack_support::Mounted::new(file.path());
    assert_eq!(std::fs::read(mounted.path().join("real")).unwrap(), expected);
    assert_eq!(std::fs::read(mounted.path().join("next")).unwrap(), b"n");
}

#[test]
fn old_dates_and_far_ones_fit() {
    let mut tar = Tar::default();
    tar.pax(&[(b"mtime", b"-62135596800.5")]).file("old", b"");
    tar.pax(&[(b"mtime", b"99999999999.25")]).file("far", b"");
    let (file, _) = pack(&tar.end(), &options(1)).unwrap();
    let tree = kernel_tree(file.path());
    assert_eq!(tree[Path::new("far")].mtime, i64::from(u32::MAX));
    assert!(tree.contains_key(Path::new("old")));
}

#[test]
fn a_full_disk_is_an_error_of_the_system() {
    // The tests beside this one look at the host's mounts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let arguments = ["-t", "tmpfs", "-o", "size=64k", "none"].map(std::ffi::OsStr::new);
    run("mount", &[&arguments[..], &[dir.path().as_os_str()]].concat());
    let file = std::fs::File::create(dir.path().join("pack")).unwrap();
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(1 << 20)
    .collect();
    let tar = Tar::default().file("noise", &noise).end();
    let result = pyxis_runtime::pack::pack_layer(&tar[..], &file, &options(2));
    drop(file);
    run("umount", &[dir.path().as_os_str()]);
    assert_eq!(result.unwrap_err().errno(), Some(libc::ENOSPC));
}
