//! What the pack tests share: a tar builder that can also write archives that no tar would, packs in temporary files,
//! and file trees as comparable data, read from a directory or from a pack that the kernel has mounted.
#![forbid(unsafe_code)]
#![allow(dead_code, missing_docs)]

use pyxis_runtime::Result;
use pyxis_runtime::pack::{Compression, Options, Summary, pack_layer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::{NamedTempFile, TempDir};

/// A tar archive being built, ustar with PAX extensions.
#[derive(Default, Clone)]
pub struct Tar {
    pub bytes: Vec<u8>,
}

/// The fields of a header that tests vary.
#[derive(Clone)]
pub struct Fields<'a> {
    pub kind: u8,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub mtime: u64,
    pub size: u64,
}

impl<'a> Fields<'a> {
    pub fn new(kind: u8, name: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Fields {
            kind,
            name: name.as_ref(),
            link: b"",
            mode: 0o644,
            mtime: 1_700_000_000,
            size: 0,
        }
    }
}

impl Tar {
    pub fn header(&mut self, fields: &Fields<'_>) -> &mut Self {
        let mut block = [0_u8; 512];
        let put = |block: &mut [u8; 512], at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut block, 0, &fields.name[..fields.name.len().min(100)]);
        put(&mut block, 100, format!("{:07o}", fields.mode).as_bytes());
        put(&mut block, 108, b"0001747");
        put(&mut block, 116, b"0001747");
        put(&mut block, 124, format!("{:011o}", fields.size).as_bytes());
        put(&mut block, 136, format!("{:011o}", fields.mtime).as_bytes());
        put(&mut block, 148, b"        ");
        block[156] = fields.kind;
        put(&mut block, 157, &fields.link[..fields.link.len().min(100)]);
        put(&mut block, 257, b"ustar\x0000");
        put(&mut block, 329, b"0000001");
        put(&mut block, 337, b"0000003");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut block, 148, format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&block);
        self
    }

    /// Content and its padding.
    pub fn content(&mut self, content: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// A PAX extension for the next header.
    pub fn pax(&mut self, records: &[(&[u8], &[u8])]) -> &mut Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(length.to_string().as_bytes());
            body.push(b' ');
            body.extend_from_slice(key);
            body.push(b'=');
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let fields = Fields {
            size: body.len() as u64,
            ..Fields::new(b'x', "pax")
        };
        self.header(&fields).content(&body)
    }

    /// An entry with everything; long names go into an extension.
    pub fn entry(&mut self, fields: &Fields<'_>, content: &[u8]) -> &mut Self {
        let mut records: Vec<(&[u8], &[u8])> = Vec::new();
        if fields.name.len() > 100 {
            records.push((b"path", fields.name));
        }
        if fields.link.len() > 100 {
            records.push((b"linkpath", fields.link));
        }
        if !records.is_empty() {
            self.pax(&records);
        }
        let fields = Fields {
            size: content.len() as u64,
            ..fields.clone()
        };
        self.header(&fields).content(content)
    }

    pub fn file(&mut self, name: impl AsRef<[u8]>, content: &[u8]) -> &mut Self {
        self.entry(&Fields::new(b'0', &name), content)
    }

    pub fn dir(&mut self, name: impl AsRef<[u8]>) -> &mut Self {
        let fields = Fields {
            mode: 0o755,
            ..Fields::new(b'5', &name)
        };
        self.entry(&fields, b"")
    }

    pub fn link(&mut self, kind: u8, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        let fields = Fields {
            link: target.as_ref(),
            ..Fields::new(kind, &name)
        };
        self.entry(&fields, b"")
    }

    pub fn symlink(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.link(b'2', name, target)
    }

    pub fn hard_link(&mut self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Self {
        self.link(b'1', name, target)
    }

    pub fn special(&mut self, kind: u8, name: impl AsRef<[u8]>) -> &mut Self {
        self.entry(&Fields::new(kind, &name), b"")
    }

    /// The archive with its end marker.
    pub fn end(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

pub fn options(threads: usize) -> Options {
    Options {
        threads,
        ..Options::default()
    }
}

/// Packs `blob` into a temporary file.
pub fn pack(blob: &[u8], options: &Options) -> Result<(NamedTempFile, Summary)> {
    let output = NamedTempFile::new().unwrap();
    let summary = pack_layer(blob, output.as_file(), options)?;
    assert_eq!(output.as_file().metadata().unwrap().len(), summary.pack_bytes);
    Ok((output, summary))
}

/// The bytes of the pack of `blob`.
pub fn pack_bytes(blob: &[u8], options: &Options) -> Vec<u8> {
    std::fs::read(pack(blob, options).unwrap().0.path()).unwrap()
}

/// Runs a command that must succeed and gives its output.
pub fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program} {arguments:?}: {text}\n{errors}");
    text.into_owned()
}

/// A pack that the kernel has mounted.
pub struct Mounted {
    dir: TempDir,
}

impl Mounted {
    pub fn new(pack: &Path) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the pack tests mount: run them as root"
        );
        let dir = TempDir::new().unwrap();
        let arguments = ["-t", "squashfs", "-o", "ro,loop"].map(OsStr::new);
        run(
            "mount",
            &[&arguments[..], &[pack.as_os_str(), dir.path().as_os_str()]].concat(),
        );
        Mounted { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub kind: char,
    pub mode: u32,
    pub mtime: i64,
    pub owner: (u32, u32),
    pub device: u64,
    pub size: u64,
    pub target: Vec<u8>,
    /// The other names of the same inode and this one, sorted; empty for one name.
    pub links: Vec<PathBuf>,
    pub content: Option<[u8; 32]>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub type FoundTree = BTreeMap<PathBuf, Found>;

/// Everything below `root`, by its path from there; the root itself has the empty path.
pub fn tree(root: &Path) -> FoundTree {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        let full = root.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        if meta.is_dir() {
            let mut entries = 0;
            for entry in std::fs::read_dir(&full).unwrap() {
                stack.push(path.join(entry.unwrap().file_name()));
                entries += 1;
            }
            assert!(entries < 1_000_000);
        } else if meta.nlink() > 1 {
            let names = inodes.entry((meta.dev(), meta.ino())).or_default();
            names.push(path.clone());
        }
        found.insert(path.clone(), look(&full, &meta));
    }
    for names in inodes.values_mut() {
        names.sort();
        for name in names.iter() {
            found.get_mut(name).unwrap().links.clone_from(names);
        }
    }
    found
}

fn look(full: &Path, meta: &std::fs::Metadata) -> Found {
    let kind = meta.file_type();
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_file() => 'f',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () if kind.is_char_device() => 'c',
        () => 'b',
    };
    Found {
        kind: letter,
        mode: meta.permissions().mode() & 0o7777,
        mtime: meta.mtime(),
        owner: (meta.uid(), meta.gid()),
        device: meta.rdev(),
        size: if letter == 'd' { 0 } else { meta.size() },
        target: match letter {
            'l' => std::fs::read_link(full).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        },
        links: Vec::new(),
        content: (letter == 'f').then(|| digest(full)),
        xattrs: xattrs(full),
    }
}

fn digest(path: &Path) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).unwrap();
    let mut buffer = [0; 1 << 14];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).unwrap() {
            0 => return hasher.finalize().into(),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    // Most have none, and there are trees with many files.
    if rustix::fs::llistxattr_query(path).unwrap_or(0) == 0 {
        return BTreeMap::new();
    }
    let mut names = vec![0; 65_536];
    let size = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..size]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let size = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(size);
            (name.to_vec(), value)
        })
        .collect()
}

/// The tree of a pack as the kernel shows it.
pub fn kernel_tree(pack: &Path) -> FoundTree {
    tree(Mounted::new(pack).path())
}

pub const BLOCK: usize = 131_072;

pub fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    })
    .take(size)
    .collect()
}

/// A tree with everything that is awkward, but no devices and set-id files.
pub fn awkward() -> TempDir {
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    let sizes = [0, 1, 511, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 77];
    for (seed, size) in sizes.into_iter().enumerate() {
        std::fs::write(root.join(format!("size-{size}")), noise(seed as u32, size)).unwrap();
        std::fs::write(root.join(format!("zero-{size}")), vec![0; size]).unwrap();
    }
    let deep = root.join(format!("{}{}", "d/".repeat(60), "long-".repeat(40)));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("n".repeat(255)), b"deep").unwrap();
    std::fs::hard_link(root.join("size-4096"), root.join("d/hard")).unwrap();
    std::fs::hard_link(root.join("size-4096"), root.join("zz-hard")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", root.join("link")).unwrap();
    std::os::unix::fs::symlink("t".repeat(4000), root.join("long-link")).unwrap();
    std::fs::hard_link(root.join("link"), root.join("link-hard")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"x").unwrap();
    std::fs::write(root.join("new\nline"), b"x").unwrap();
    for number in 0..300 {
        std::fs::write(root.join(format!("small-{number}")), noise(number, number as usize * 7)).unwrap();
    }
    run("mkfifo", &[root.join("pipe").as_os_str()]);
    let set = |name: &str, value: &[u8], path: &str| {
        rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.one", b"1", "size-1");
    set("user.one", b"1", "zero-1");
    set("user.two", &noise(9, 2000), "size-1");
    set("user.dir", b"value", "d");
    run("chmod", &["1777", root.join("d/d").to_str().unwrap()].map(OsStr::new));
    let sparse = File::create(root.join("sparse")).unwrap();
    for (place, text) in [(0_u64, "start"), (BLOCK as u64 * 5 + 4096, "middle"), (20 << 20, "end")] {
        (&sparse).seek(SeekFrom::Start(place)).unwrap();
        (&sparse).write_all(text.as_bytes()).unwrap();
    }
    sparse.set_len(30 << 20).unwrap();
    dir
}

#[track_caller]
pub fn same(left: &FoundTree, right: &FoundTree) {
    let shown = |tree: &FoundTree, other: &FoundTree| -> Vec<(PathBuf, Option<Found>, Option<Found>)> {
        let differs = |path: &&PathBuf| tree.get(*path) != other.get(*path);
        let paths = tree.keys().chain(other.keys()).filter(differs).take(5);
        paths
            .map(|path| (path.clone(), tree.get(path).cloned(), other.get(path).cloned()))
            .collect()
    };
    assert!(left == right, "{:#?}", shown(left, right));
}

/// One of each.
pub fn compressions() -> [Compression; 4] {
    [
        Compression::Zstd { level: 3 },
        Compression::Lz4,
        Compression::Gzip { level: 6 },
        Compression::None,
    ]
}
