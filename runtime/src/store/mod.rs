//! The image store of a node: immutable packs and configurations under their digests.
//!
//! ```text
//! STORE/packs-1/<blob digest>.sqsh   one layer as squashfs, named by the digest of the compressed blob
//! STORE/packs-1/<blob digest>.json   what was found when the pack was made
//! STORE/configs/<digest>.json        image configurations
//! STORE/images/<digest of name>.json what `pyxis images` lists
//! STORE/grants/<digest>[.<digest of repository>]  for whom a layer or configuration is there
//! STORE/key                          32 random bytes: what is sealed with them was written by root on this node
//! STORE/lock                         byte-range locks, a range per layer: they die with their owner and leave no file
//! ```
//!
//! Everything is written to an unnamed file first and linked under its name when it is whole and on disk, so a killed
//! import leaves nothing. The directory belongs to whoever runs the import and is closed to everybody else: packs of a
//! private image can only be reached by asking the registry with the user's own credentials.
#![forbid(unsafe_code)]

mod grants;
mod images;

pub use grants::Grantee;
pub use images::{Image, ImageRecord};

use crate::containers::Key;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::LockFile;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where packs are. The number goes up when packs are written in a way that older ones must not be used instead.
const PACKS: &str = "packs-1";
/// What to do when the disk is full.
const MAKE_ROOM: &str = "free some space or set store.path";
/// Directories below the store that hold files.
const DIRECTORIES: [&str; 4] = [PACKS, "configs", "images", "grants"];

/// What was found when a pack was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFacts {
    /// Digest of the layer's uncompressed bytes.
    pub diff_id: Digest,
    /// The layer hides all layers below it.
    pub opaque_root: bool,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    top: Directory,
    packs: Directory,
    configs: Directory,
    images: Directory,
    grants: Directory,
}

/// A directory of the store.
#[derive(Debug)]
struct Directory {
    name: &'static str,
    fd: OwnedFd,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Store {
    /// Opens the store at `path`, making it when it is missing. It must belong to the caller and be closed to others.
    pub fn open(path: &Path) -> Result<Self> {
        let root = open_directory(path)?;
        for name in DIRECTORIES {
            match fs::mkdirat(&root, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(refused(&path.join(name), "create", error)),
            }
        }
        Store::of(root, path).map_err(|(name, error)| refused(&path.join(name), "open", error))
    }

    /// Opens the store at `path` if something was imported to it before.
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        let Some(root) = existing_directory(path)? else {
            return Ok(None);
        };
        match Store::of(root, path) {
            Ok(store) => Ok(Some(store)),
            Err((_, Errno::NOENT)) => Ok(None),
            Err((name, error)) => Err(refused(&path.join(name), "open", error)),
        }
    }

    /// The store in an open directory; an error comes with the name of what cannot be opened.
    fn of(root: OwnedFd, path: &Path) -> std::result::Result<Self, (&'static str, Errno)> {
        let below = |name: &'static str| {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = fs::openat(&root, name, flags, Mode::empty());
            opened.map(|fd| Directory { name, fd }).map_err(|error| (name, error))
        };
        let (packs, configs, images, grants) = (below(PACKS)?, below("configs")?, below("images")?, below("grants")?);
        Ok(Store {
            path: path.to_owned(),
            top: Directory { name: "", fd: root },
            packs,
            configs,
            images,
            grants,
        })
    }

    /// Where the store is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locks of imports: a killed import lets go of its own.
    pub fn locks(&self) -> LockFile<'_> {
        LockFile {
            directory: self.top.as_fd(),
            path: &self.path,
        }
    }

    /// The node's secret; made when it is first asked for.
    pub fn key(&self) -> Result<Key> {
        if let Some(key) = self.read_key()? {
            return Ok(key);
        }
        let mut bytes = [0; Key::LENGTH];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::sys("make the node's key", "getrandom", error))?;
        if got != bytes.len() {
            return Err(Error::Host("make the node's key: too few random bytes".into()));
        }
        self.publish_bytes(&self.top, "key", &bytes)?;
        // Somebody else's may have been there first.
        self.read_key()?
            .ok_or_else(|| Error::Host(format!("{}/key was removed meanwhile: try again", self.path.display())))
    }

    fn read_key(&self) -> Result<Option<Key>> {
        let Some(bytes) = self.read(&self.top, "key")? else {
            return Ok(None);
        };
        let spoiled = || {
            let path = self.path.display();
            Error::Host(format!(
                "{path}/key is spoiled: remove it, and the containers that have a name"
            ))
        };
        Key::of(&bytes).map(Some).ok_or_else(spoiled)
    }

    /// The pack of the layer whose blob is `digest`, read-only, if the store has it.
    pub fn pack(&self, digest: &Digest) -> Result<Option<OwnedFd>> {
        self.open_file(&self.packs, &pack_name(digest))
    }

    /// Size of a pack in bytes, if the store has it.
    pub fn pack_size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.pack(digest)?.map(|pack| file_size(&pack)).transpose()
    }

    /// Links a finished pack under its digest, on disk before it can be seen, and what is known of it before that.
    pub fn publish_pack(&self, digest: &Digest, facts: &PackFacts, pack: &File) -> Result<()> {
        let bytes = serde_json::to_vec(facts).map_err(|error| Error::Host(format!("keep a pack: {error}")))?;
        self.publish_bytes(&self.packs, &facts_name(digest), &bytes)?;
        self.publish(&self.packs, &pack_name(digest), pack)
    }

    /// What is known of a pack.
    pub fn pack_facts(&self, digest: &Digest) -> Result<Option<PackFacts>> {
        let name = facts_name(digest);
        let Some(bytes) = self.read(&self.packs, &name)? else {
            return Ok(None);
        };
        let facts = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Host(format!(
                "{}/{PACKS}/{name}: {error}: remove it and the pack",
                self.path.display()
            ))
        })?;
        Ok(Some(facts))
    }

    /// The image configuration `digest`, verified again: a disk may lie as well as a registry.
    pub fn config(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.read(&self.configs, &config_name(digest))? else {
            return Ok(None);
        };
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }

    /// Keeps an image configuration under its digest.
    pub fn publish_config(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.publish_bytes(&self.configs, &config_name(digest), bytes)
    }

    /// A new file without a name on the store's file system; it is gone when nobody has it open.
    pub fn unnamed_file(&self) -> Result<File> {
        unnamed_file_in(&self.packs, &self.path)
    }

    /// Refuses to start an import that cannot end: `needed` bytes must be free.
    pub fn check_space(&self, needed: u64) -> Result<()> {
        let free = fs::fstatvfs(&self.top).map_err(|error| refused(&self.path, "ask the free space of", error))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if free < needed {
            return Err(Error::Host(format!(
                "the image store {} has {} MiB free and the import needs about {} MiB: {MAKE_ROOM}",
                self.path.display(),
                free >> 20,
                needed.div_ceil(1 << 20)
            )));
        }
        Ok(())
    }

    /// An error of an import into this store. That the disk is full is told by whoever writes, who does not know which.
    pub fn explain(&self, error: Error) -> Error {
        let store = self.path.display();
        match error {
            Error::Sys { doing, errno, .. } if errno == libc::ENOSPC => {
                Error::Host(format!("{doing}: the image store {store} is full: {MAKE_ROOM}"))
            }
            Error::Sys { doing, errno, .. } if errno == libc::EDQUOT => Error::Host(format!(
                "{doing}: the quota of the image store {store} is used up: {MAKE_ROOM}"
            )),
            other => other,
        }
    }

    fn open_file(&self, directory: &Directory, name: &str) -> Result<Option<OwnedFd>> {
        match fs::openat(
            directory,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(refused(&self.path.join(directory.name).join(name), "open", error)),
        }
    }

    fn read(&self, directory: &Directory, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(directory, name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        File::from(file)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::sys("read the image store", format!("read({name})"), error))?;
        Ok(Some(bytes))
    }

    fn publish_bytes(&self, directory: &Directory, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.unnamed_file()?;
        file.write_all(bytes)
            .map_err(|error| Error::sys("write to the image store", format!("write({name})"), error))?;
        self.publish(directory, name, &file)
    }

    /// Links an unnamed file under `name`; who comes second finds the name taken by the same content.
    fn publish(&self, directory: &Directory, name: &str, file: &File) -> Result<()> {
        fs::fdatasync(file)
            .map_err(|error| Error::sys("write to the image store", format!("fdatasync({name})"), error))?;
        match link(file, directory, name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(refused(&self.path.join(directory.name).join(name), "link", error)),
        }
    }
}

/// A new file without a name in a directory of the store at `path`.
pub(crate) fn unnamed_file_in(directory: impl AsFd, path: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| refused(path, "create a file in", error))
}

fn link(file: &File, directory: &Directory, name: &str) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::linkat(fs::CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
}

fn pack_name(digest: &Digest) -> String {
    format!("{}.sqsh", digest.hex())
}

fn facts_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn config_name(digest: &Digest) -> String {
    format!("{}.json", digest.hex())
}

fn file_size(file: impl AsFd) -> Result<u64> {
    let stat = fs::fstat(file).map_err(|error| Error::sys("read the image store", "fstat", error))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Opens the store's directory, making it when it is missing.
fn open_directory(path: &Path) -> Result<OwnedFd> {
    if let Some(directory) = existing_directory(path)? {
        return Ok(directory);
    }
    make_directory(path)?;
    existing_directory(path)?.ok_or_else(|| refused(path, "open", Errno::NOENT))
}

/// Opens the store's directory, if there is one, and checks that nobody else can put files into it.
pub(crate) fn existing_directory(path: &Path) -> Result<Option<OwnedFd>> {
    let directory = match fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|error| refused(path, "open", error))?,
    };
    let stat = fs::fstat(&directory).map_err(|error| refused(path, "stat", error))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me || stat.st_mode & 0o077 != 0 {
        return Err(Error::Host(format!(
            "the image store {} belongs to uid {} with mode {:04o}: it must belong to uid {me} with mode 0700",
            path.display(),
            stat.st_uid,
            stat.st_mode & 0o7777
        )));
    }
    Ok(Some(directory))
}

fn make_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            Error::Host(format!(
                "the image store {} cannot be created: {error}: create it or set store.path",
                path.display()
            ))
        })
}

fn refused(path: &Path, what: &str, error: Errno) -> Error {
    let advice = match error {
        Errno::NOSPC | Errno::DQUOT => {
            return Error::Host(format!(
                "cannot {what} {} in the image store: its disk is full: {MAKE_ROOM}",
                path.display()
            ));
        }
        Errno::ROFS => ": mount it writable or set store.path",
        Errno::OPNOTSUPP => ": it must be on a local file system with unnamed files (O_TMPFILE): set store.path",
        Errno::ACCESS | Errno::PERM => ": it must belong to the importing user, or give --store",
        _ => "",
    };
    let words = std::io::Error::from(error).kind();
    Error::Host(format!(
        "cannot {what} {} in the image store: {words}{advice}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_pack_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        let digest = Digest::of(b"blob");
        let mut file = store.unnamed_file().unwrap();
        file.write_all(b"content").unwrap();
        assert!(store.pack(&digest).unwrap().is_none());
        assert_eq!(std::fs::read_dir(path.join(PACKS)).unwrap().count(), 0);
        let facts = PackFacts {
            diff_id: Digest::of(b"tar"),
            opaque_root: true,
        };
        store.publish_pack(&digest, &facts, &file).unwrap();
        assert_eq!(store.pack_size(&digest).unwrap(), Some(7));
        assert_eq!(store.pack_facts(&digest).unwrap(), Some(facts.clone()));
        store
            .publish_pack(&digest, &facts, &store.unnamed_file().unwrap())
            .unwrap();
        assert_eq!(store.pack_size(&digest).unwrap(), Some(7));
    }

    #[test]
    fn a_spoiled_configuration_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        let digest = Digest::of(b"{}");
        store.publish_config(&digest, b"{}").unwrap();
        assert_eq!(store.config(&digest).unwrap().as_deref(), Some(&b"{}"[..]));
        let file = path.join("configs").join(format!("{}.json", digest.hex()));
        std::fs::write(file, b"[]").unwrap();
        assert_eq!(store.config(&digest).unwrap(), None);
    }

    #[test]
    fn a_node_has_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        Store::open(&path).unwrap().key().unwrap();
        let bytes = std::fs::read(path.join("key")).unwrap();
        assert_eq!(bytes.len(), Key::LENGTH);
        assert_ne!(bytes, [0; Key::LENGTH]);
        Store::open(&path).unwrap().key().unwrap();
        assert_eq!(std::fs::read(path.join("key")).unwrap(), bytes);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(path.join("key")).unwrap().permissions().mode() & 0o077,
            0
        );
        std::fs::write(path.join("key"), "short").unwrap();
        let text = Store::open(&path).unwrap().key().unwrap_err().to_string();
        assert!(text.contains("key is spoiled"), "{text}");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = Store::open(directory.path()).unwrap_err().to_string();
        assert!(
            text.contains("must belong to uid") && text.contains("mode 0755"),
            "{text}"
        );
    }

    #[test]
    fn too_little_space_is_said_before_the_import() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        store.check_space(1).unwrap();
        let text = store.check_space(u64::MAX).unwrap_err().to_string();
        assert!(text.contains("MiB free and the import needs"), "{text}");
    }
}
