//! What the store knows about whole images: a record per name, for people and for clean-up. Starts do not need it.
#![forbid(unsafe_code)]

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The record of an imported image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The canonical reference.
    pub reference: String,
    /// Whose file or local image it is; none for an image of a registry, which is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the configuration.
    pub config: Digest,
    /// Digests of the layers' blobs, bottom first: the packs.
    pub layers: Vec<Digest>,
    /// When the name came to mean this image, in seconds since 1970.
    pub imported: u64,
}

impl ImageRecord {
    fn is_of_same_image(&self, other: &Self) -> bool {
        (self.manifest, self.config, &self.layers) == (other.manifest, other.config, &other.layers)
    }

    /// Of images of one name there is one record for each user.
    fn file_name(&self) -> String {
        let owner = self.owner.map(|uid| format!("uid {uid}: ")).unwrap_or_default();
        format!(
            "{}.json",
            Digest::of(format!("{owner}{}", self.reference).as_bytes()).hex()
        )
    }
}

/// A recorded image with what its packs take on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The record.
    pub record: ImageRecord,
    /// Size of its packs, in bytes; packs that images share are counted in each.
    pub size: u64,
    /// All packs and the configuration are in the store.
    pub complete: bool,
}

impl Store {
    /// Records an image under its name, in place of an older record of that name; one that says the same stays.
    pub fn record_image(&self, record: &ImageRecord) -> Result<()> {
        let name = record.file_name();
        let failed = |what: &str, error| Error::sys("record an image", what, error);
        let bytes = serde_json::to_vec(record).map_err(|error| Error::Host(format!("record an image: {error}")))?;
        let old = self.read(&self.images, &name)?;
        let old = old.and_then(|old| serde_json::from_slice::<ImageRecord>(&old).ok());
        if old.is_some_and(|old| old.is_of_same_image(record)) {
            return Ok(());
        }
        // A link cannot replace a name, so the file gets a name of this process first and is renamed.
        let temporary = format!(".{}.{name}", std::process::id());
        let remove = |name: &str| match rustix::fs::unlinkat(&self.images, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("unlink", error)),
        };
        remove(&temporary)?;
        self.publish_bytes(&self.images, &temporary, &bytes)?;
        rustix::fs::renameat(&self.images, &*temporary, &self.images, &*name).map_err(|error| failed("rename", error))
    }

    /// All recorded images, by name.
    pub fn images(&self) -> Result<Vec<Image>> {
        let failed = |error| Error::sys("list the images", "readdir", error);
        let mut images = Vec::new();
        for entry in Dir::read_from(&self.images).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let Some(bytes) = self.read(&self.images, &name)? else {
                continue;
            };
            let record: ImageRecord = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Host(format!("{}/images/{name}: {error}: remove it", self.path.display())))?;
            images.push(self.measure(record)?);
        }
        let key = |image: &Image| (image.record.reference.clone(), image.record.owner);
        images.sort_by_key(key);
        Ok(images)
    }

    fn measure(&self, record: ImageRecord) -> Result<Image> {
        let mut size = 0;
        let mut complete = self.config(&record.config)?.is_some();
        for layer in &record.layers {
            match self.pack_size(layer)? {
                Some(bytes) => size += bytes,
                None => complete = false,
            }
        }
        Ok(Image { record, size, complete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_record_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mut record = ImageRecord {
            reference: "docker://x/y:z".into(),
            owner: None,
            manifest: Digest::of(b"m"),
            config: Digest::of(b"{}"),
            layers: vec![Digest::of(b"layer")],
            imported: 1,
        };
        store.record_image(&record).unwrap();
        let same = ImageRecord {
            imported: 2,
            ..record.clone()
        };
        store.record_image(&same).unwrap();
        assert_eq!(store.images().unwrap()[0].record, record);
        record.manifest = Digest::of(b"other");
        store.record_image(&record).unwrap();
        let images = store.images().unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].record, record);
        assert!(!images[0].complete);
        store.publish_config(&record.config, b"{}").unwrap();
        let facts = super::super::PackFacts {
            diff_id: Digest::of(b"tar"),
            opaque_root: false,
        };
        store
            .publish_pack(&record.layers[0], &facts, &store.unnamed_file().unwrap())
            .unwrap();
        assert!(store.images().unwrap()[0].complete);
        for owner in [Some(1), Some(2)] {
            store
                .record_image(&ImageRecord {
                    owner,
                    ..record.clone()
                })
                .unwrap();
        }
        let owners: Vec<_> = store
            .images()
            .unwrap()
            .into_iter()
            .map(|image| image.record.owner)
            .collect();
        assert_eq!(owners, [None, Some(1), Some(2)]);
    }
}
