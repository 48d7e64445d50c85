//! Squashfs files that are mounted as data: opened as the user, judged like image files.
#![forbid(unsafe_code)]

use super::Start;
use super::rung::{Made, Wanted};
use crate::error::{Error, Result};
use crate::image::file::{self, trust};
use crate::import::Workers;
use crate::mount::MountSource;
use crate::plan::Plan;
use crate::policy;
use crate::report::{Report, Trace};
use crate::rootfs::{Data, DataFile, Lower};
use std::path::Path;

/// Each is a process, and a descriptor that goes to whoever holds the container.
const READ_BY_USER_MAX: usize = 16;
/// Each is a loop device and memory of the kernel's that no control group counts: 3 MiB and more where blocks have 1 MiB.
const MAX: usize = 32;

impl Start<'_> {
    /// Opens the squashfs files that the plan mounts, and decides who reads each. One that cannot be had may be one that
    /// need not be there, so its error waits until it is mounted.
    pub(super) fn data(
        &self,
        plan: &Plan,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Data> {
        let files = sources(plan)?
            .into_iter()
            .map(|path| self.data_file(path, workers, trace, report));
        let data = Data(files.collect());
        if data.read_by_user().len() > READ_BY_USER_MAX {
            return Err(Error::Request(format!(
                "more than {READ_BY_USER_MAX} squashfs files that users can change are mounted: mount fewer"
            )));
        }
        Ok(data)
    }

    fn data_file(
        &self,
        path: &Path,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<DataFile> {
        let opened = file::open(path, &self.job.cwd, &self.job.identity)?;
        policy::check_path("mount_sources", self.config.policy.mount_sources.as_ref(), &opened.file)?;
        let trust = trust::judge(&opened.facts, opened.writers, &self.config.images);
        let shown = path.display().to_string();
        self.check_signature(&opened, &trust, workers, trace, report)
            .map_err(|error| error.context(&shown))?;
        let layers = [Lower {
            file: opened.file,
            part: Some(opened.part),
        }];
        let wanted = Wanted {
            layers: &layers,
            image: &shown,
            made: Made::Elsewhere(trust),
            data: true,
        };
        let rung = self.rung(&wanted, trace)?;
        let [layer] = layers;
        Ok(DataFile { layer, rung })
    }
}

/// The files, which may not be too many: this is known before the first one is opened.
fn sources(plan: &Plan) -> Result<Vec<&Path>> {
    let sources = plan.mounts.iter().filter_map(|mount| match &mount.spec.source {
        MountSource::Squashfs(path) => Some(path.as_path()),
        _ => None,
    });
    let sources: Vec<_> = sources.collect();
    match sources.len() > MAX {
        true => Err(Error::Request(format!(
            "more than {MAX} squashfs files are mounted: mount fewer"
        ))),
        false => Ok(sources),
    }
}
