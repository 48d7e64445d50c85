//! Where the loader of an image looks for libraries, and its cache, which is written with what is added. The image's own
//! `ldconfig` is never run: it would be a program of a stranger's.
#![forbid(unsafe_code)]

use super::files;
use super::tree::{Missing, Tree, kind};
use crate::devices::ldcache::{self, Cache, Entry};
use crate::devices::{Bits, LoaderDirectory};
use crate::error::Result;
use crate::plan::{FileContent, Identity, Origin, PlannedFile};
use rustix::fs::FileType;
use std::path::{Path, PathBuf};

/// glibc's cache.
const CACHE: &str = "/etc/ld.so.cache";
/// Where musl looks unless `/etc/ld-musl-MACHINE.path` says otherwise.
const MUSL_DEFAULT: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];

/// The loader of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Directory for 64-bit libraries.
    pub libraries: PathBuf,
    /// Directory for 32-bit libraries.
    pub libraries32: PathBuf,
    /// It does not read glibc's cache.
    pub musl: bool,
    /// No loader of the image is known to look there: only a variable helps.
    pub needs_variable: bool,
}

impl Loader {
    /// Looks at an image for this machine.
    pub fn of(tree: &Tree<'_>, machine: &str, identity: &Identity) -> Result<Self> {
        let has = |path: &str, wanted: FileType| {
            let found = tree.look_up(Path::new(path), Missing::Fail, Origin::System);
            found.is_ok_and(|found| kind(&found).is_ok_and(|kind| kind == wanted))
        };
        let file = |path: &str| has(path, FileType::RegularFile);
        let musl = file(&format!("/lib/ld-musl-{machine}.so.1"));
        let glibc = file("/lib64/ld-linux-x86-64.so.2") || file("/lib/ld-linux-aarch64.so.1");
        if !musl {
            let directory = |path: &str| has(path, FileType::Directory);
            return Ok(Loader {
                musl: false,
                needs_variable: false,
                ..of_glibc(directory, machine)
            });
        }
        let listed = files::image_file(tree, Path::new(&format!("/etc/ld-musl-{machine}.path")), identity)?;
        let directory = musl_directory(&String::from_utf8_lossy(&listed));
        Ok(Loader {
            libraries32: directory.clone(),
            // A glibc that was added to such an image has its cache and its directories elsewhere.
            needs_variable: glibc,
            libraries: directory,
            musl: true,
        })
    }

    /// The directory for libraries of this word size.
    pub fn directory(&self, bits: Bits) -> &Path {
        match bits {
            Bits::B64 => &self.libraries,
            Bits::B32 => &self.libraries32,
        }
    }
}

/// glibc's directories: Debian's have the machine's name, others have lib64 when they have both sizes.
fn of_glibc(directory: impl Fn(&str) -> bool, machine: &str) -> Loader {
    let multiarch = format!("/usr/lib/{machine}-linux-gnu");
    let (libraries, libraries32) = if directory(&multiarch) || directory(&format!("/lib/{machine}-linux-gnu")) {
        (multiarch.as_str(), "/usr/lib/i386-linux-gnu")
    } else {
        let wide = if directory("/usr/lib64") {
            "/usr/lib64"
        } else {
            "/usr/lib"
        };
        let narrow = if directory("/usr/lib32") {
            "/usr/lib32"
        } else {
            "/usr/lib"
        };
        (wide, narrow)
    };
    Loader {
        libraries: libraries.into(),
        libraries32: libraries32.into(),
        musl: false,
        needs_variable: false,
    }
}

/// One of the directories that musl searches: the usual one if it is, else the last that the image lists.
fn musl_directory(listed: &str) -> PathBuf {
    let listed: Vec<&str> = listed.split([':', '\n']).filter(|path| path.starts_with('/')).collect();
    let usual = MUSL_DEFAULT.last().copied().unwrap_or("/usr/lib");
    match listed.last() {
        Some(last) if !listed.contains(&usual) => PathBuf::from(last),
        _ => PathBuf::from(usual),
    }
}

/// A library that the cache is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The name that programs ask for.
    pub name: String,
    /// The file, in the container.
    pub path: PathBuf,
    /// Its word size.
    pub bits: Bits,
}

/// Writes the image's cache with `added`, which take the place of entries of the same name and kind. A cache that cannot be
/// read is none: the loader does not read it either.
pub fn write_cache(tree: &Tree<'_>, added: &[Added], machine: &str, identity: &Identity) -> Result<()> {
    let bytes = files::image_file(tree, Path::new(CACHE), identity)?;
    let cache = with(Cache::parse(&bytes).unwrap_or_default(), added, machine);
    let file = PlannedFile {
        path: CACHE.into(),
        content: FileContent::Replace {
            bytes: cache.write(),
            mode: 0o644,
        },
        only_with: None,
    };
    files::write(tree, &file, identity)
}

fn with(mut cache: Cache, added: &[Added], machine: &str) -> Cache {
    let entries = added.iter().filter_map(|library| {
        Some(Entry {
            flags: ldcache::flags(machine, library.bits)?,
            name: library.name.clone().into_bytes(),
            path: library.path.as_os_str().as_encoded_bytes().to_vec(),
            os_version: 0,
            hwcap: 0,
        })
    });
    let entries: Vec<Entry> = entries.collect();
    let replaced: std::collections::HashSet<_> =
        entries.iter().map(|entry| (entry.flags, entry.name.clone())).collect();
    cache
        .entries
        .retain(|old| !replaced.contains(&(old.flags, old.name.clone())));
    cache.entries.extend(entries);
    cache
}

/// The libraries in those of these directories that the image has, and that are asked for: names with a version, as
/// programs ask for them.
pub fn libraries_in(tree: &Tree<'_>, directory: &LoaderDirectory) -> Vec<Added> {
    let names = super::devices::names(tree, &directory.path);
    if let Some((stem, version)) = &directory.newer_than {
        let prefix = format!("{stem}.so.");
        let versions = names
            .iter()
            .filter_map(|name| parse_version(name.strip_prefix(&prefix)?));
        // `libcuda.so.1` is a name that says nothing.
        let newest = versions.filter(|version| version.len() > 1).max();
        if newest.is_none_or(|newest| newest <= *version) {
            return Vec::new();
        }
    }
    let mounted = directory.mounted.iter().filter(|name| !names.contains(name)).cloned();
    let wanted = names.iter().filter(|name| is_soname(name)).cloned().chain(mounted);
    let added = wanted.map(|name| Added {
        path: directory.path.join(&name),
        name,
        bits: Bits::B64,
    });
    added.collect()
}

/// `550.54.15` as numbers.
fn parse_version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// `libx.so.1`, not `libx.so` (for the linker) nor `libx.so.1.2.3` (the file).
fn is_soname(name: &str) -> bool {
    let version = name.split_once(".so.").map(|(_, version)| version);
    name.starts_with("lib") && version.is_some_and(|version| version.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_distributions() {
        let of = |machine: &str, directories: &[&str]| {
            let loader = of_glibc(|path| directories.contains(&path), machine);
            (
                loader.libraries.display().to_string(),
                loader.libraries32.display().to_string(),
            )
        };
        let expected = |wide: &str, narrow: &str| (wide.to_owned(), narrow.to_owned());
        assert_eq!(
            of("x86_64", &["/usr/lib", "/usr/lib/x86_64-linux-gnu"]),
            expected("/usr/lib/x86_64-linux-gnu", "/usr/lib/i386-linux-gnu")
        );
        assert_eq!(
            of("aarch64", &["/lib/aarch64-linux-gnu"]).0,
            "/usr/lib/aarch64-linux-gnu"
        );
        assert_eq!(
            of("x86_64", &["/usr/lib", "/usr/lib64"]),
            expected("/usr/lib64", "/usr/lib")
        );
        assert_eq!(of("x86_64", &["/usr/lib", "/usr/lib64", "/usr/lib32"]).1, "/usr/lib32");
        assert_eq!(of("x86_64", &[]).0, "/usr/lib");
    }

    #[test]
    fn musl_searches_what_the_image_lists() {
        for (listed, expected) in [
            ("", "/usr/lib"),
            ("/lib:/usr/local/lib:/usr/lib\n", "/usr/lib"),
            ("/opt/a\n/opt/b\n", "/opt/b"),
            ("relative", "/usr/lib"),
        ] {
            assert_eq!(musl_directory(listed), Path::new(expected), "{listed:?}");
        }
    }

    #[test]
    fn added_libraries_win() {
        let entry = |name: &str, path: &str, flags: u32| Entry {
            flags,
            name: name.into(),
            path: path.into(),
            os_version: 0,
            hwcap: 0,
        };
        let image = Cache {
            entries: vec![
                entry("libcuda.so.1", "/usr/local/cuda/stubs/libcuda.so.1", 0x303),
                entry("libcuda.so.1", "/usr/lib32/libcuda.so.1", 3),
                entry("libc.so.6", "/lib/libc.so.6", 0x303),
            ],
            hwcaps: Vec::new(),
        };
        let added = [Added {
            name: "libcuda.so.1".into(),
            path: "/usr/lib64/libcuda.so.1".into(),
            bits: Bits::B64,
        }];
        let cache = with(image, &added, "x86_64");
        let of = |flags| {
            cache
                .find(b"libcuda.so.1", flags)
                .map(|entry| entry.path.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(0x303), [b"/usr/lib64/libcuda.so.1"]);
        assert_eq!(of(3), [b"/usr/lib32/libcuda.so.1"]);
        assert_eq!(cache.entries.len(), 3);
    }

    #[test]
    fn names_that_programs_ask_for() {
        for (name, is) in [
            ("libcuda.so.1", true),
            ("libcuda.so", false),
            ("libcuda.so.550.54.15", false),
            ("libcuda.so.1.1", false),
            ("cuda.so.1", false),
            ("libx.so.a", false),
        ] {
            assert_eq!(is_soname(name), is, "{name}");
        }
    }
}
