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
use crate::rootfs::{Lower, Lowers};
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
}
