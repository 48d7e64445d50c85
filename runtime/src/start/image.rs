//! The image of a start: from a registry, or from a file.
#![forbid(unsafe_code)]

use super::Start;
use super::rung::{Made, Wanted};
use crate::containers::{Layer, Record};
use crate::error::{Error, Result};
use crate::image::{Platform, RegistryConfig};
use crate::import::{Import, Imported, Lookup, Remote, Requester, Workers};
use crate::importer::Importer;
use crate::privilege::as_user;
use crate::reference::{ImageSource, Reference, forgotten_path};
use crate::report::{Report, Trace};
use crate::rootfs::{Lower, Lowers};
use crate::rootless;
use crate::store::Store;
use rustix::fd::OwnedFd;

/// An image, and the answer to who the user is, which is on its way.
type Image = (Record, Lowers, Lookup);

impl Start<'_> {
    /// Gets the image that was asked for.
    pub(super) fn image(&self, workers: &Workers, trace: &mut Trace, report: &mut dyn FnMut(Report)) -> Result<Image> {
        let image = self.request.image.as_deref();
        let image = image.ok_or_else(|| Error::Request("no container image was given".to_owned()))?;
        let failed = |error: Error| error.context(&format!("failed to import docker image: {image}"));
        let source: ImageSource = image.parse().map_err(failed)?;
        self.check_source(&source).map_err(failed)?;
        match source {
            ImageSource::File(path) => {
                let lookup = workers.start_lookup(&self.job.identity)?;
                let allowed = self.config.policy.image_paths.as_ref();
                let (record, lowers) = self.file(&path, allowed, workers, trace, report)?;
                Ok((record, lowers, lookup))
            }
            ImageSource::Registry(reference) => {
                report(Report::Message(format!("importing docker image: {image}")));
                let got = match &self.job.importer {
                    None => self.registry(image, &reference, workers, trace, report),
                    Some(importer) => self.ask_importer(importer, image, workers, trace, report),
                };
                let got = got.map_err(failed).map_err(|error| self.with_hint(error, image))?;
                report(Report::Message(format!("imported docker image: {image}")));
                Ok(got)
            }
            source @ (ImageSource::Local(_) | ImageSource::Client(_)) => {
                report(Report::Message(format!("importing docker image: {image}")));
                let got = self.here(&source, workers, trace, report).map_err(failed)?;
                report(Report::Message(format!("imported docker image: {image}")));
                Ok(got)
            }
        }
    }

    /// The image of a container that exists. Packs that the store has lost are asked of the registry again, by the digest
    /// of the manifest that the container was made of, or made of the user's file again; image files are opened, and judged,
    /// again.
    pub(super) fn image_of(
        &self,
        record: &Record,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Image> {
        let again = |error: Error| error.context(&format!("get the layers of {} again", record.image));
        let source: ImageSource = record.image.parse()?;
        self.check_source(&source).map_err(again)?;
        if let [Layer::File(path)] = record.layers.as_slice() {
            let (_, lowers, lookup) = match (&self.job.importer, source) {
                (Some(importer), ImageSource::Registry(_)) => {
                    self.ask_importer(importer, &record.image, workers, trace, report)
                }
                _ => {
                    let lookup = workers.start_lookup(&self.job.identity)?;
                    let allowed = self.config.policy.image_paths.as_ref();
                    self.file(path, allowed, workers, trace, report)
                        .map(|(record, lowers)| (record, lowers, lookup))
                }
            }
            .map_err(again)?;
            return Ok((record.clone(), lowers, lookup));
        }
        let store = Store::open(&self.config.store.path)?;
        let packs = record.layers.iter().map(|layer| match layer {
            Layer::Pack(digest) => store.pack(digest),
            Layer::File(_) => Ok(None),
        });
        let packs: Option<Vec<OwnedFd>> = packs.collect::<Result<_>>()?;
        if let Some(packs) = packs {
            let lookup = workers.start_lookup(&self.job.identity)?;
            return Ok((record.clone(), self.packs(packs, &record.image, trace)?, lookup));
        }
        let (found, lowers, lookup) = match (source, record.manifest) {
            (ImageSource::Registry(reference), Some(manifest)) => self
                .registry(&record.image, &reference.pinned(manifest), workers, trace, report)
                .map_err(again)?,
            (source @ (ImageSource::Local(_) | ImageSource::Client(_)), _) => {
                self.here(&source, workers, trace, report).map_err(again)?
            }
            _ => return Err(again(Error::Host("the store has lost them".into()))),
        };
        if found.layers != record.layers {
            return Err(again(Error::Image("its source has others now".into())));
        }
        Ok((record.clone(), lowers, lookup))
    }

    /// Gets an image from its registry, and asks the name service who the user is while the registry answers.
    fn registry(
        &self,
        image: &str,
        reference: &Reference,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Image> {
        let store = Store::open(&self.config.store.path)?;
        let (requester, platform) = (self.requester(), Platform::host());
        let import = self.import(&store, workers, (&requester, &platform));
        let registry = self.registry_settings()?;
        let remote = Remote {
            reference,
            registry: &registry,
        };
        let asked = import.ask(remote)?;
        let lookup = workers.start_lookup(&self.job.identity)?;
        let imported = import.run(remote, asked, trace, report)?;
        self.of_packs(image.to_owned(), imported, lookup, trace)
    }

    /// How registries are reached: as the site says, and in a user's own runtime as he does.
    fn registry_settings(&self) -> Result<RegistryConfig> {
        let settings = self.config.registry.client();
        match rootless::entered() {
            true => settings.with_variables(&self.job.env),
            false => Ok(settings),
        }
    }

    /// Gets an image out of a directory or archive, or from a client on this node.
    fn here(
        &self,
        source: &ImageSource,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Image> {
        let store = Store::open(&self.config.store.path)?;
        let (requester, platform) = (self.requester(), Platform::host());
        let lookup = workers.start_lookup(&self.job.identity)?;
        let import = self.import(&store, workers, (&requester, &platform));
        let source = source.clone().absolute(&self.job.cwd);
        let imported = match &source {
            ImageSource::Local(local) => import.run_local(local, &self.job.cwd, trace, report)?,
            ImageSource::Client(image) => import.run_client(image, trace, report)?,
            other => return Err(Error::Host(format!("{other} is not imported from here"))),
        };
        self.of_packs(source.to_string(), imported, lookup, trace)
    }

    fn import<'a>(
        &'a self,
        store: &'a Store,
        workers: &'a Workers,
        (requester, platform): (&'a Requester, &'a Platform),
    ) -> Import<'a> {
        Import {
            store,
            config: self.config,
            workers,
            requester,
            platform,
        }
    }

    fn requester(&self) -> Requester {
        Requester {
            task: self.job.task,
            env: self.job.env.clone(),
        }
    }

    /// An image that is in the store, and what is to be remembered of it.
    fn of_packs(&self, image: String, imported: Imported, lookup: Lookup, trace: &mut Trace) -> Result<Image> {
        let lowers = self.packs(imported.packs, &image, trace)?;
        let record = Record {
            image,
            manifest: Some(imported.manifest),
            config: imported.config,
            layers: imported.layers.into_iter().map(Layer::Pack).collect(),
            user_marks: lowers.user_marks,
        };
        Ok((record, lowers, lookup))
    }

    /// Packs of the store.
    fn packs(&self, packs: Vec<OwnedFd>, image: &str, trace: &mut Trace) -> Result<Lowers> {
        let layers = packs.into_iter().map(Lower::pack).collect::<Result<Vec<_>>>()?;
        let wanted = Wanted {
            layers: &layers,
            image,
            made: Made::Here,
            data: false,
        };
        let rung = self.rung(&wanted, trace)?;
        Ok(Lowers {
            layers,
            user_marks: rung.has_user_marks(),
            rung,
            own_files: None,
        })
    }

    /// Asks the site's importer for a file.
    fn ask_importer(
        &self,
        importer: &Importer,
        image: &str,
        workers: &Workers,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Image> {
        let lookup = workers.start_lookup(&self.job.identity)?;
        let call = importer.call(&self.job.identity, self.job.task)?;
        let path = trace.phase("importer", || call.get(image, report))?;
        // The site's own program has chosen it.
        let (mut record, lowers) = match self.file(&path, None, workers, trace, report) {
            Ok(got) => got,
            Err(error) => {
                // The first error counts.
                let _ = call.release();
                return Err(error.context("the importer's file"));
            }
        };
        image.clone_into(&mut record.image);
        Ok((record, lowers, lookup))
    }

    /// A file's name looks like an image of Docker Hub when its `./` was forgotten.
    fn with_hint(&self, error: Error, image: &str) -> Error {
        let exists = |path: &str| {
            let path = self.job.cwd.join(path);
            as_user(&self.job.identity, || Ok(path.is_file())).unwrap_or(false)
        };
        match forgotten_path(image) {
            Some(path) if exists(&path) => Error::Request(format!("{error}: did you mean {path}?")),
            _ => error,
        }
    }
}
