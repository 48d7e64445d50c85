//! An image that is a file: who reads it, and what it says of itself.
#![forbid(unsafe_code)]

use super::Start;
use super::rung::{Made, Wanted};
use crate::containers::{Layer, Record};
use crate::error::Result;
use crate::image::ImageConfig;
use crate::image::file::{self, trust};
use crate::import::Workers;
use crate::policy::{self, Allowed};
use crate::report::{Report, Trace};
use crate::rootfs::{Lower, Lowers, Rung};
use crate::rootless;
use crate::sys::mount::{Change, mount_setattr, open_tree_clone};
use rustix::mount::MountAttrFlags;
use std::path::Path;

impl Start<'_> {
    /// Opens the file, which must be in one of the directories `allowed` if there are any, and decides who reads it.
    pub(super) fn file(
        &self,
        path: &Path,
        allowed: Option<&Allowed>,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Record, Lowers)> {
        if let Some(found) = self.directory_image(path)? {
            return Ok(found);
        }
        let opened = file::open(path, &self.job.cwd, &self.job.identity)?;
        policy::check_path("image_paths", allowed, &opened.file)?;
        let shown = path.display().to_string();
        if opened.has_overlay {
            report(Report::Warning(format!("{shown}: its overlay partition is ignored")));
        }
        let trust = trust::judge(&opened.facts, opened.writers, &self.config.images);
        self.check_signature(&opened, &trust, workers, trace, report)
            .map_err(|error| error.context(&shown))?;
        let layers = vec![Lower {
            file: opened.file,
            part: Some(opened.part),
        }];
        let wanted = Wanted {
            layers: &layers,
            image: &shown,
            made: Made::Elsewhere(trust),
            data: false,
        };
        let rung = self.rung(&wanted, trace).map_err(|error| error.context(&shown))?;
        let record = Record {
            image: shown,
            manifest: None,
            config: ImageConfig::default(),
            layers: vec![Layer::File(self.job.cwd.join(path))],
            user_marks: rung.has_user_marks(),
        };
        let lowers = Lowers {
            layers,
            rung,
            own_files: Some(self.job.env.clone()),
            user_marks: record.user_marks,
        };
        Ok((record, lowers))
    }

    /// A directory that is an image, under what is written: in a user's own runtime only, whose kernel reads it with his rights.
    fn directory_image(&self, path: &Path) -> Result<Option<(Record, Lowers)>> {
        if !rootless::entered() {
            return Ok(None);
        }
        let path = self.job.cwd.join(path);
        let Some(directory) = file::open_directory(&path, &self.job.identity)? else {
            return Ok(None);
        };
        let mount = open_tree_clone(directory, false)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        mount_setattr(&mount, Change::Add(flags), false)?;
        let record = Record {
            image: path.display().to_string(),
            manifest: None,
            config: ImageConfig::default(),
            layers: vec![Layer::File(path)],
            user_marks: true,
        };
        let lowers = Lowers {
            layers: Vec::new(),
            rung: Rung::Kernel(vec![mount]),
            own_files: Some(self.job.env.clone()),
            user_marks: true,
        };
        Ok(Some((record, lowers)))
    }
}
