//! Where the site wants image files to be signed: which ones may run. What was verified must be what is mounted, so only
//! files that nobody can change meanwhile are looked at (`docs/adr/0014-signed-images.md`).
#![forbid(unsafe_code)]

use super::Start;
use crate::containers::Record;
use crate::error::{Error, Result};
use crate::image::file::keyring;
use crate::image::file::{ImageFile, Trust};
use crate::import::{Requester, Workers};
use crate::reference::ImageSource;
use crate::report::{Report, Trace};
use std::collections::BTreeMap;

/// The refusal.
fn denied(why: &str) -> Error {
    Error::Denied(format!(
        "the site's images.require_signature = true forbids this image: {why}"
    ))
}

impl Start<'_> {
    /// Refuses a file, be it an image or data, that the site does not want to be mounted for want of a signature.
    pub(super) fn check_signature(
        &self,
        file: &ImageFile,
        trust: &Trust,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<()> {
        let images = &self.config.images;
        if !images.require_signature {
            return Ok(());
        }
        if let Trust::Untrusted(reason) = trust {
            return Err(denied(&format!(
                "{reason}, so it could be changed after the check: the administrator has to install it"
            )));
        }
        let keyrings = images.keyrings.iter().map(|path| keyring::open_trusted(path));
        let keyrings = keyrings.collect::<Result<Vec<_>>>()?;
        let requester = Requester {
            task: self.job.task,
            env: BTreeMap::new(),
        };
        let verified = trace.phase("verify", || {
            workers.verify(&file.file, Some(file.part), &keyrings, &requester, report)
        });
        match verified {
            Ok(_) => Ok(()),
            Err(Error::Image(why)) => Err(denied(&why)),
            Err(error) => Err(error),
        }
    }

    /// Refuses images of places that the site does not want, or that have signatures nowhere, or none that is checked.
    pub(super) fn check_source(&self, source: &ImageSource) -> Result<()> {
        self.config.policy.check_source(source)?;
        match source {
            ImageSource::Local(_) | ImageSource::Client(_) if self.config.images.require_signature => Err(denied(
                "directories, archives, docker and podman have no signature that is checked",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses a container whose root file system has become a directory of the user's: nobody can check it any more.
    pub(super) fn check_unpacked(&self, record: &Record) -> Result<()> {
        self.check_source(&record.image.parse()?)?;
        // Images of registries have a manifest, and so have those that `check_source` refuses.
        match record.manifest {
            None if self.config.images.require_signature => Err(denied(
                "the container was unpacked from a file, and what it holds now cannot be checked: use another name",
            )),
            _ => Ok(()),
        }
    }
}
