//! Random trees: what goes in as tar comes out through the kernel and through rdsquashfs, and the threads do not show.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // the helpers of tests are tests

mod pack_support;

use pack_support::{Fields, Tar, kernel_tree, options, pack, run};
use proptest::collection::vec;
use proptest::prelude::*;
use pyxis_runtime::pack::{Compression, Options, pack_layer};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

/// One step of the model: something appears under a name.
#[derive(Debug, Clone)]
enum Step {
    Dir { mode: u32 },
    File { byte: u8, size: usize, period: usize },
    Symlink { target: String },
    HardLink { to: prop::sample::Index },
    Fifo,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0_usize..50, 4000_usize..4200, 8190_usize..8200, 0_usize..40_000];
    prop_oneof![
        2 => (0_u32..0o1000).prop_map(|mode| Step::Dir { mode }),
        5 => (any::<u8>(), size, 1_usize..2000).prop_map(|(byte, size, period)| Step::File { byte, size, period }),
        1 => "[a-z/.]{1,30}".prop_map(|target| Step::Symlink { target }),
        1 => any::<prop::sample::Index>().prop_map(|to| Step::HardLink { to }),
        1 => Just(Step::Fifo),
    ]
}

/// Unique names in directories that exist: `(parent, step)`, the name is the number of the step.
fn tree() -> impl Strategy<Value = Vec<(prop::sample::Index, Step)>> {
    vec((any::<prop::sample::Index>(), step()), 0..60)
}

fn content(byte: u8, size: usize, period: usize) -> Vec<u8> {
    (0..size)
        .map(|at| {
            if at % period == 0 {
                byte
            } else {
                (at / period) as u8 & 3
            }
        })
        .collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    kind: char,
    mode: u32,
    data: Vec<u8>,
    inode: usize,
}

/// Builds the archive and what must come out of it.
fn build(steps: &[(prop::sample::Index, Step)]) -> (Tar, BTreeMap<String, Wanted>) {
    let mut tar = Tar::default();
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut dirs = vec![String::new()];
    let mut files: Vec<String> = Vec::new();
    for (number, (parent, step)) in steps.iter().enumerate() {
        let name = format!(
            "{}{number:x}-{}",
            dirs[parent.index(dirs.len())],
            "n".repeat(number % 40)
        );
        let fields = |kind, mode| Fields {
            mode,
            ..Fields::new(kind, name.as_bytes())
        };
        let mut add = |kind, mode, data: &[u8]| {
            let found = Wanted {
                kind,
                mode,
                data: data.to_vec(),
                inode: number,
            };
            wanted.insert(name.clone(), found);
        };
        match step {
            Step::Dir { mode } => {
                tar.entry(&fields(b'5', *mode), b"");
                add('d', *mode, b"");
                dirs.push(format!("{name}/"));
            }
            Step::File { byte, size, period } => {
                let content = content(*byte, *size, *period);
                tar.entry(&fields(b'0', 0o640), &content);
                add('f', 0o640, &content);
                files.push(name);
            }
            Step::Symlink { target } => {
                tar.symlink(&name, target);
                add('l', 0o777, target.as_bytes());
            }
            Step::Fifo => {
                tar.entry(&fields(b'6', 0o600), b"");
                add('p', 0o600, b"");
            }
            Step::HardLink { to } if !files.is_empty() => {
                let target = &files[to.index(files.len())];
                tar.hard_link(&name, target);
                let same = wanted[target].clone();
                wanted.insert(name, same);
            }
            Step::HardLink { .. } => {}
        }
    }
    (tar, wanted)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_come_out_as_they_went_in(steps in tree(), compressor in 0_usize..4) {
        let (tar, wanted) = build(&steps);
        let compression = [
            Compression::Zstd { level: 1 },
            Compression::Lz4,
            Compression::Gzip { level: 1 },
            Compression::None,
        ][compressor];
        let options = |threads| Options { compression, block_size: 4096, ..options(threads) };
        let (file, _) = pack(&tar.end(), &options(3)).unwrap();
        let found = kernel_tree(file.path());
        let names: Vec<PathBuf> = std::iter::once(PathBuf::new()).chain(wanted.keys().map(PathBuf::from)).collect();
        let mut sorted = names.clone();
        sorted.sort();
        prop_assert_eq!(found.keys().cloned().collect::<Vec<_>>(), sorted);
        for (name, wanted_here) in &wanted {
            let found = &found[&PathBuf::from(name)];
            prop_assert_eq!((found.kind, found.mode), (wanted_here.kind, wanted_here.mode));
            match found.kind {
                'f' => prop_assert_eq!(found.content, Some(digest(&wanted_here.data))),
                'l' => prop_assert_eq!(&found.target, &wanted_here.data),
                _ => {}
            }
            let same = wanted.iter().filter(|(_, other)| other.inode == wanted_here.inode);
            let mut links: Vec<PathBuf> = same.map(|(name, _)| PathBuf::from(name)).collect();
            links.sort();
            prop_assert_eq!(&found.links, if links.len() > 1 { &links } else { &found.links });
            prop_assert!(links.len() > 1 || found.links.is_empty());
        }
        let described = run("rdsquashfs", &[OsStr::new("-d"), file.path().as_os_str()]);
        let lines = described.lines().filter(|line| !line.trim().is_empty()).count();
        prop_assert!(lines == wanted.len() || lines == wanted.len() + 1, "{}", described);
        let single = pack(&tar.end(), &options(1)).unwrap().0;
        prop_assert!(std::fs::read(single.path()).unwrap() == std::fs::read(file.path()).unwrap());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..3000)) {
        let output = tempfile::tempfile().unwrap();
        let _ = pack_layer(&bytes[..], &output, &options(1));
        for magic in [&[0x1f, 0x8b, 8, 0][..], &[0x28, 0xb5, 0x2f, 0xfd][..]] {
            let blob = [magic, &bytes].concat();
            prop_assert!(pack_layer(&blob[..], &output, &options(1)).is_err());
        }
    }

    #[test]
    fn damaged_headers_never_panic(steps in tree(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (tar, _) = build(&steps);
        let mut bytes = tar.end();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
            // With a checksum that fits, so that the damage is looked at.
            let start = place / 512 * 512;
            if bytes[start + 257..].starts_with(b"ustar") {
                bytes[start + 148..start + 156].copy_from_slice(b"        ");
                let sum: u32 = bytes[start..start + 512].iter().map(|byte| u32::from(*byte)).sum();
                bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let output = tempfile::tempfile().unwrap();
        if let Err(error) = pack_layer(&bytes[..], &output, &options(1)) {
            prop_assert!(matches!(error, pyxis_runtime::Error::Image(_)), "{}", error);
        }
    }
}
