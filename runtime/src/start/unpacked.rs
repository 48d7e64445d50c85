//! The third rung: a container whose root file system is a directory of the user's.
#![forbid(unsafe_code)]

use super::Start;
use super::decide::Origin;
use crate::containers::{Data, Kept, Record};
use crate::error::{Error, Result};
use crate::report::Report;
use crate::rootfs::{Base, Lowers, Rung};
use crate::unpack::Unpacker;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long removing what a start has left may take.
const REMOVAL: Duration = Duration::from_secs(60);

/// Removes what unpacked containers without a name have left that nobody holds any more.
pub fn sweep(uid: u32, until: Instant) -> Result<()> {
    let site = super::site_config(uid)?.container;
    let data = match site.data_path_is_users {
        true => Data::existing_own(&site.data_path, uid)?,
        false => Data::existing(&site.data_path, uid)?,
    };
    data.map_or(Ok(()), |data| data.sweep(until))
}

impl Start<'_> {
    /// The user's containers on this node.
    pub(super) fn data_directory(&self) -> Result<Data> {
        let site = &self.config.container;
        match site.data_path_is_users {
            true => Data::open_own(&site.data_path, &self.job.identity),
            false => Data::open(&site.data_path, &self.job.identity),
        }
    }

    /// The root file system; with the lock that keeps it, when it is a directory that goes away with the container.
    pub(super) fn base<'a>(
        &self,
        origin: &'a Origin,
        lowers: &'a Lowers,
        record: &mut Record,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Base<'a>, Option<OwnedFd>)> {
        let id = &self.job.place.id;
        match (origin, &lowers.rung) {
            (Origin::Kept(data, kept), _) if kept.is_unpacked() => {
                Ok((self.directory(&data.container(id), record)?, None))
            }
            (Origin::Kept(..), Rung::Unpack(_)) => Err(Error::Host(format!(
                "container {id} was made over mounted layers, which cannot be mounted any more here: remove it"
            ))),
            (Origin::Named(data, _), Rung::Unpack(unpacker)) => {
                let kept = data.container(id);
                kept.renew()?;
                self.unpack(unpacker, lowers, &kept, record, report)?;
                Ok((self.directory(&kept, record)?, None))
            }
            (Origin::Image, Rung::Unpack(unpacker)) => {
                let data = self.data_directory()?;
                let unnamed = data.unnamed(id)?;
                self.unpack(unpacker, lowers, &unnamed.kept(), record, report)?;
                let base = self.directory(&unnamed.kept(), record)?;
                Ok((base, Some(unnamed.into_lock()?)))
            }
            _ => {
                let mut tell = || {
                    let text = format!("waiting until container {id} is no longer in use");
                    report(Report::Progress(text));
                };
                Ok((origin.base(id, lowers, &mut tell)?, None))
            }
        }
    }

    /// Unpacks the image. From then on the container is not made of its layers.
    fn unpack(
        &self,
        unpacker: &Unpacker,
        lowers: &Lowers,
        kept: &Kept<'_>,
        record: &mut Record,
        report: &mut dyn FnMut(Report),
    ) -> Result<()> {
        unpacker.unpack(&lowers.layers, &kept.root()?, |text| report(Report::Progress(text)))?;
        record.layers.clear();
        Ok(())
    }

    fn directory(&self, kept: &Kept<'_>, record: &Record) -> Result<Base<'static>> {
        // An image with a manifest has a configuration beside its files.
        let own_files = record.manifest.is_none().then(|| self.job.env.clone());
        Ok(Base::Directory {
            mount: kept.root_mount()?,
            own_files,
        })
    }

    /// Removes what this start has left of a container without a name. The next start tries again.
    pub(super) fn clear(&self) {
        let until = Instant::now() + REMOVAL;
        let _ = self.data_directory().and_then(|data| data.sweep(until));
    }
}
