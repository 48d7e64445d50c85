//! Containers on the caller's disk.
#![forbid(unsafe_code)]

use super::Here;
use pyxis_runtime::containers::{Data, Record};
use pyxis_runtime::save::{Save, Saved, Saver};
use pyxis_runtime::store::Store;
use pyxis_runtime::{Error, Result};
use std::path::PathBuf;

/// The caller's own containers, and those that the node's plugin keeps for him.
pub struct Containers {
    own: Data,
    of_node: Option<Data>,
}

impl Containers {
    pub fn open(here: &Here) -> Result<Self> {
        let identity = &here.job.identity;
        let site = &here.config.container;
        let own = match site.data_path_is_users {
            true => Data::open_own(&site.data_path, identity)?,
            false => Data::open(&site.data_path, identity)?,
        };
        // What the plugin has never made is not there.
        let of_node = here
            .node_data
            .as_ref()
            .filter(|path| path.join(identity.uid.to_string()).is_dir());
        let of_node = of_node.map(|path| Data::open_own(path, identity)).transpose()?;
        Ok(Containers { own, of_node })
    }

    fn all(&self) -> impl Iterator<Item = &Data> {
        std::iter::once(&self.own).chain(&self.of_node)
    }

    /// The names of all.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for data in self.all() {
            let ids = data.ids()?.into_iter();
            names.extend(ids.filter(|id| !id.starts_with('.') && data.container(id).exists()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn of(&self, name: &str) -> Result<&Data> {
        for data in self.all() {
            if data.container(name).exists() {
                return Ok(data);
            }
        }
        Err(Error::Request(format!(
            "there is no container {name}: see the list of all"
        )))
    }

    /// Refuses what this command cannot start.
    pub fn check_own(&self, name: &str) -> Result<()> {
        match (self.own.container(name).exists(), self.exists(name)) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::Request(format!(
                "container {name} is made of layers of the node's store: use it in a job (srun --container-name)"
            ))),
            (false, false) => Err(Error::Request(format!(
                "there is no container {name}, and no file of this name: make one with create or load"
            ))),
        }
    }

    pub fn exists(&self, name: &str) -> bool {
        self.of(name).is_ok()
    }

    /// The directory of a container.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.of(name)?.container(name).directory().to_owned())
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        self.of(name)?.container(name).remove()
    }

    /// Writes a container to a squashfs file.
    pub fn export(&self, here: &Here, name: &str, target: PathBuf) -> Result<Saved> {
        self.of(name)?;
        self.check_own(name)?;
        let container = self.own.container(name);
        let key = Store::open(&here.config.store.path)?.key()?;
        let record: Record = container
            .record(&key)?
            .ok_or_else(|| Error::Request(format!("container {name} was not finished: remove it")))?;
        let save = Save {
            upper: container.root()?,
            config: Some(record.config),
            ..here.empty_save(target)?
        };
        Saver::start(&save)?.finish()
    }
}
