//! For whom a layer or configuration in the store is there. Its digest alone must not open it: digests of packs can be
//! read from `/sys/block/loop*/loop/backing_file`, and anybody can have a registry that lists them. What was fetched
//! without credentials is for all; the rest is for images of the repository that served it. An image of another
//! repository has it fetched again: who serves the bytes has them. What came from a user's own file is for him.
#![forbid(unsafe_code)]

use super::{Store, refused};
use crate::digest::Digest;
use crate::error::Result;
use crate::reference::Reference;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// To whom a grant is made.
#[derive(Debug, Clone, Copy)]
pub enum Grantee<'a> {
    /// No credentials were needed.
    Everybody,
    /// Images of this repository.
    Repository(&'a Reference),
    /// Images that this user has the bytes of.
    User(u32),
}

impl Store {
    /// Opens a layer or configuration.
    pub fn grant(&self, digest: &Digest, grantee: Grantee<'_>) -> Result<()> {
        let name = name(digest, grantee);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.grants, &*name, flags, Mode::RUSR | Mode::WUSR)
            .map(drop)
            .map_err(|error| refused(&self.path.join("grants").join(name), "create", error))
    }

    /// Whether a layer or configuration is open to somebody.
    pub fn is_granted(&self, digest: &Digest, grantee: Grantee<'_>) -> Result<bool> {
        for grantee in [Grantee::Everybody, grantee] {
            let name = name(digest, grantee);
            match rustix::fs::statat(&self.grants, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => return Ok(true),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(refused(&self.path.join("grants").join(name), "look at", error)),
            }
        }
        Ok(false)
    }
}

fn name(digest: &Digest, grantee: Grantee<'_>) -> String {
    match grantee {
        Grantee::Everybody => digest.hex(),
        Grantee::Repository(image) => {
            let repository = format!("{}/{}", image.registry(), image.repository());
            format!("{}.{}", digest.hex(), Digest::of(repository.as_bytes()).hex())
        }
        Grantee::User(uid) => format!("{}.uid-{uid}", digest.hex()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ImageSource;

    fn image(text: &str) -> Reference {
        match text.parse().unwrap() {
            ImageSource::Registry(reference) => reference,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_needed_credentials_is_for_its_repository() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let layer = Digest::of(b"layer");
        let (mine, other) = (image("a.example#x/y:1"), image("evil.example#x/y:1"));
        let is_granted = |digest: &Digest, image: &Reference| store.is_granted(digest, Grantee::Repository(image));
        assert!(!is_granted(&layer, &mine).unwrap());
        store.grant(&layer, Grantee::Repository(&mine)).unwrap();
        assert!(is_granted(&layer, &mine).unwrap());
        assert!(is_granted(&layer, &image("a.example#x/y:2")).unwrap());
        assert!(!is_granted(&layer, &other).unwrap());
        store.grant(&layer, Grantee::Everybody).unwrap();
        assert!(is_granted(&layer, &other).unwrap());
        assert!(!is_granted(&Digest::of(b"other"), &mine).unwrap());
    }

    #[test]
    fn what_a_user_brought_is_for_him() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let layer = Digest::of(b"layer");
        store.grant(&layer, Grantee::User(1000)).unwrap();
        for (grantee, granted) in [
            (Grantee::User(1000), true),
            (Grantee::User(100), false),
            (Grantee::Everybody, false),
            (Grantee::Repository(&image("a.example#x/y:1")), false),
        ] {
            assert_eq!(store.is_granted(&layer, grantee).unwrap(), granted, "{grantee:?}");
        }
    }
}
