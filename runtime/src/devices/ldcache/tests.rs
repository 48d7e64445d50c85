//! Caches of the machine's own ldconfig, our own, and broken ones.
use super::*;
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;

fn entry(name: &str, path: &str) -> Entry {
    Entry {
        flags: 0x0303,
        name: name.into(),
        path: path.into(),
        os_version: 0,
        hwcap: 0,
    }
}

/// A tree with real libraries, and what ldconfig makes of it in this format.
fn of_ldconfig(format: &str) -> (tempfile::TempDir, Vec<u8>) {
    let tree = tempfile::tempdir().unwrap();
    let make = |path: &str, soname: &str| {
        let file = tree.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let made = Command::new("cc")
            .args(["-shared", "-nostdlib", "-o"])
            .arg(&file)
            .arg(format!("-Wl,-soname,{soname}"))
            .args(["-x", "c", "/dev/null"])
            .status();
        assert!(made.unwrap().success());
    };
    make("usr/lib/liba.so.1.2", "liba.so.1");
    make("usr/lib/glibc-hwcaps/x86-64-v2/liba.so.1.2", "liba.so.1");
    make("usr/lib/glibc-hwcaps/x86-64-v3/liba.so.1.2", "liba.so.1");
    for number in [2, 10, 9] {
        make(&format!("usr/lib/libb.so.{number}"), &format!("libb.so.{number}"));
    }
    std::fs::create_dir_all(tree.path().join("etc")).unwrap();
    std::fs::write(tree.path().join("etc/ld.so.conf"), "/usr/lib\n").unwrap();
    let ran = Command::new("/sbin/ldconfig")
        .args(["-c", format, "-r"])
        .arg(tree.path())
        .status();
    assert!(ran.unwrap().success());
    let bytes = std::fs::read(tree.path().join("etc/ld.so.cache")).unwrap();
    (tree, bytes)
}

fn paths<'a>(cache: &'a Cache, name: &'a str) -> Vec<&'a str> {
    let found = cache.find(
        name.as_bytes(),
        flags(std::env::consts::ARCH, super::super::Bits::B64).unwrap(),
    );
    found.map(|entry| std::str::from_utf8(&entry.path).unwrap()).collect()
}

#[test]
fn what_ldconfig_writes_in_each_format() {
    for format in ["new", "compat", "old"] {
        let (_tree, bytes) = of_ldconfig(format);
        let cache = Cache::parse(&bytes).unwrap();
        let found = paths(&cache, "liba.so.1");
        assert!(found.contains(&"/usr/lib/liba.so.1"), "{format}: {cache:?}");
        let extended = found.iter().filter(|path| path.contains("glibc-hwcaps")).count();
        assert_eq!(extended, 2, "{format}: {cache:?}");
        let names = if format == "old" { 0 } else { 2 };
        assert_eq!(cache.hwcaps.len(), names, "{format}: {cache:?}");
        assert_eq!(paths(&cache, "libb.so.10"), ["/usr/lib/libb.so.10"], "{format}");
        assert!(paths(&cache, "libnone.so").is_empty());
    }
}

/// glibc's own reader takes what is written here: `ldconfig -p` prints it, and the order is what ldconfig itself has.
#[test]
fn what_is_written_is_what_ldconfig_writes() {
    let (tree, bytes) = of_ldconfig("new");
    let mut cache = Cache::parse(&bytes).unwrap();
    let names = |cache: &Cache| -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = cache.entries.iter();
        entries.map(|entry| (entry.name.clone(), entry.path.clone())).collect()
    };
    let theirs = names(&cache);
    cache.entries.reverse();
    let ours = cache.write();
    let again = Cache::parse(&ours).unwrap();
    assert_eq!(names(&again), theirs);
    assert_eq!(again.hwcaps, cache.hwcaps);
    let print = |file: &Path| {
        let ran = Command::new("/sbin/ldconfig")
            .args(["-p", "-C"])
            .arg(file)
            .output()
            .unwrap();
        let text = String::from_utf8(ran.stdout).unwrap();
        text.lines()
            .filter(|line| line.contains("=>"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let file = tree.path().join("ours");
    std::fs::write(&file, ours).unwrap();
    assert_eq!(print(&file), print(&tree.path().join("etc/ld.so.cache")));
    assert!(!print(&file).is_empty());
}

#[test]
fn digits_count_by_their_value() {
    let mut cache = Cache {
        entries: ["libx.so.9", "libx.so.10", "liby.so", "libx.so", "libx-1.so"]
            .map(|name| entry(name, "/x"))
            .to_vec(),
        hwcaps: Vec::new(),
    };
    cache = Cache::parse(&cache.write()).unwrap();
    let names: Vec<_> = cache
        .entries
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.name))
        .collect();
    assert_eq!(names, ["liby.so", "libx.so.10", "libx.so.9", "libx.so", "libx-1.so"]);
}

#[test]
fn broken_ones_are_errors() {
    let good = Cache {
        entries: vec![
            entry("liba.so.1", "/usr/lib/liba.so.1"),
            entry("libb.so.1", "/usr/lib/libb.so.1"),
        ],
        hwcaps: vec![b"x86-64-v3".to_vec()],
    };
    let bytes = good.write();
    assert_eq!(Cache::parse(&bytes).unwrap().hwcaps, good.hwcaps);
    for end in 0..bytes.len() {
        assert!(Cache::parse(&bytes[..end]).is_err(), "{end} bytes");
    }
    let with = |at: usize, word: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        Cache::parse(&bytes).unwrap_err()
    };
    for (at, word, text) in [
        (20, 1_000_000, "it has no room for its 1000000 entries"),
        (20, u32::MAX, "it has no room for its"),
        (32, u32::MAX, "its extension is outside of it"),
        (NEW_HEADER + 4, u32::MAX, "a name lies outside of it"),
        (NEW_HEADER + 8, bytes.len() as u32, "a name has no end"),
    ] {
        assert!(with(at, word).starts_with(text), "{at} {word}: {}", with(at, word));
    }
    let mut other = bytes.clone();
    other[28] = if ENDIAN == 2 { 3 } else { 2 };
    assert!(Cache::parse(&other).unwrap_err().contains("other byte order"));
    assert!(Cache::parse(b"nonsense").is_err() && Cache::parse(b"").is_err());
    let mut old = OLD_MAGIC.to_vec();
    old.push(0);
    old.extend(u32::MAX.to_ne_bytes());
    assert!(Cache::parse(&old).unwrap_err().starts_with("it has no room"));
}

/// A file that really has a million entries is refused by their number, before any is read.
#[test]
fn a_million_entries_are_refused_at_once() {
    let mut bytes = Cache::default().write();
    bytes[20..24].copy_from_slice(&1_000_000_u32.to_ne_bytes());
    bytes.resize(NEW_HEADER + 1_000_000 * NEW_ENTRY, 0);
    let start = std::time::Instant::now();
    assert!(Cache::parse(&bytes).unwrap_err().contains("1000000 entries, more than"));
    assert!(start.elapsed().as_millis() < 100);
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0_usize..200, word: u32) {
        let _ = Cache::parse(&bytes);
        let mut headed = NEW_MAGIC.to_vec();
        headed.extend(&bytes);
        let _ = Cache::parse(&headed);
        let mut good = Cache { entries: vec![entry("a", "/a"), entry("b", "/b")], hwcaps: vec![b"h".to_vec()] }.write();
        let at = at.min(good.len() - 4);
        good[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        let _ = Cache::parse(&good);
    }
}

#[test]
fn a_small_file_does_not_become_large() {
    let long = "x".repeat(4000);
    let cache = Cache {
        entries: vec![entry(&long, "/a"); 10_000],
        hwcaps: Vec::new(),
    };
    let bytes = cache.write();
    assert!(bytes.len() < 1 << 20);
    let error = Cache::parse(&bytes).unwrap_err();
    assert!(error.contains("names and paths have more than"), "{error}");
}
