//! Image files that the caller gets.
#![forbid(unsafe_code)]

use super::Here;
use crate::tell::Teller;
use crate::{pull, settings};
use pyxis_runtime::image::Platform;
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::save::{Form, LayerFile, Save, Saved, Saver, nothing, threads};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

impl Here {
    /// The absolute path of a file to be; what is there must be meant to be replaced.
    pub fn free(&self, path: &Path, force: bool) -> Result<PathBuf> {
        let target = self.absolute(path);
        match target.exists() && !force {
            true => Err(Error::Request(format!(
                "{} exists already: use --force to replace it",
                path.display()
            ))),
            false => Ok(target),
        }
    }

    /// A file of nothing, with the caller's settings.
    pub fn empty_save(&self, target: PathBuf) -> Result<Save> {
        Ok(Save {
            identity: self.job.identity.clone(),
            target,
            mode: 0o666 & !settings::umask(),
            layers: Vec::new(),
            upper: nothing()?,
            user_marks: false,
            config: None,
            form: Form::Squashfs,
            groups: Groups::default(),
            mounts: None,
            compression: self.config.store.compression()?,
            threads: threads(),
        })
    }

    /// Imports an image for `platform` into the caller's store, and writes it to the file that `save` describes.
    pub fn write_image(&self, source: &ImageSource, platform: &Platform, save: Save, quiet: bool) -> Result<Saved> {
        let teller = Teller::new(self.style, quiet);
        let imported = pull::import(source, platform, &self.config, &teller);
        teller.finish();
        let imported = imported?;
        let layers = imported.packs.into_iter().map(|pack| LayerFile {
            file: File::from(pack),
            part: None,
        });
        let save = Save {
            layers: layers.collect(),
            config: Some(imported.config),
            ..save
        };
        Saver::start(&save)?.finish()
    }
}

/// The platform of an image: this machine's, or that of another architecture.
pub fn platform(architecture: Option<&str>) -> Platform {
    architecture.map_or_else(Platform::host, |architecture| {
        Platform::new("linux", architecture, None)
    })
}
