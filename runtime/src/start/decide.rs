//! The first decision of a start: join what runs, use what is there, or make it. Whoever decides to make something holds
//! the container's lock until others can find it, so that of many who want the same container at once one makes it.
#![forbid(unsafe_code)]

use super::Start;
use crate::containers::{Data, Found, Held, Key, Kind, Record, Running};
use crate::error::{Error, Result};
use crate::image::file::Part;
use crate::lock::Lock;
use crate::report::{PATIENCE, Report};
use crate::request::{ContainerName, NameMode};
use crate::rootfs::{Base, Lowers, Rung, Writable};
use crate::store::Store;

/// What becomes of a start.
pub enum Decision {
    /// It joins a running container.
    Join(Box<Found>),
    /// It makes namespaces, and meanwhile nobody else decides anything about this container.
    Make(Origin, Option<Lock>),
}

/// What new namespaces are made of.
pub enum Origin {
    /// An image, and memory for what is written.
    Image,
    /// An image, and a new directory for what is written; the key seals what it is made of.
    Named(Data, Key),
    /// A container that does not run.
    Kept(Data, Box<Record>),
    /// The root file system of a running container.
    Running(Box<Found>),
}

impl Origin {
    /// The root file system, with these layers if it is made of any. `tell` is called when something is waited for.
    pub fn base<'a>(&'a self, id: &str, lowers: &'a Lowers, tell: impl FnMut()) -> Result<Base<'a>> {
        let writable = match self {
            Origin::Image => Writable::Scratch,
            Origin::Named(data, _) => {
                data.container(id).renew()?;
                let mount = data.container(id).mount(tell)?;
                Writable::Kept { mount, fresh: true }
            }
            Origin::Kept(data, _) => {
                let mount = data.container(id).mount(tell)?;
                Writable::Kept { mount, fresh: false }
            }
            Origin::Running(found) => return base_of(found),
        };
        Ok(Base::Layers { lowers, writable })
    }

    /// Keeps the file that the root file system is made of, and who reads it, for who saves the container. Gives the
    /// place in the file. Packs are found in the store.
    pub fn hold_file(&self, lowers: Lowers, held: &mut Held) -> Result<Option<Part>> {
        if let Origin::Running(found) = self {
            for kind in [Kind::Layer, Kind::Reader, Kind::Unpacked] {
                if let Some(fd) = found.held.get(kind) {
                    let copy = fd.try_clone_to_owned();
                    held.push(
                        kind,
                        copy.map_err(|error| Error::sys("hold the container", "dup", error))?,
                    );
                }
            }
            return Ok(found.description.part);
        }
        if let Rung::Unpack(_) = lowers.rung {
            return Ok(None);
        }
        let file = lowers
            .layers
            .into_iter()
            .find_map(|layer| Some((layer.file, layer.part?)));
        Ok(file.map(|(file, part)| {
            held.push(Kind::Layer, file);
            part
        }))
    }

    /// An error of this start: that the disk is full is told by whoever writes, who does not know which.
    pub fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (Origin::Named(..) | Origin::Kept(..), Error::Sys { doing, errno, .. })
                if [libc::ENOSPC, libc::EDQUOT].contains(&errno) =>
            {
                Error::Host(format!("{doing}: the disk of container.data_path is full"))
            }
            (_, error) => error,
        }
    }
}

fn base_of(found: &Found) -> Result<Base<'_>> {
    let need = |kind| {
        let missing = || Error::Host(format!("the running container came without its {kind:?}"));
        found.held.get(kind).ok_or_else(missing)
    };
    Ok(Base::Running {
        root: need(Kind::Root)?,
        upper: need(Kind::Upper)?,
    })
}

/// Decides.
pub fn decide(start: &Start<'_>, running: &Running, report: &mut dyn FnMut(Report)) -> Result<Decision> {
    let Some(name) = &start.request.name else {
        return Ok(Decision::Make(Origin::Image, None));
    };
    let id = &start.job.place.id;
    // What runs can be joined without the lock: nothing is decided for others then.
    if joins(name.mode)
        && let Some(found) = running.find(id)?
    {
        return Ok(Decision::Join(Box::new(found)));
    }
    let tell = |report: &mut dyn FnMut(Report)| {
        let text = format!("waiting for another step that makes or starts container {}", name.name);
        report(Report::Progress(text));
    };
    let lock = running.locks().lock(&Running::key(id), PATIENCE, || tell(report))?;
    let found = running.find(id)?;
    running.clear(id, |member| !member.starts_with('.'))?;
    match (found, joins(name.mode)) {
        (Some(found), true) => Ok(Decision::Join(Box::new(found))),
        (found, _) => origin(name, found, start).map(|origin| Decision::Make(origin, Some(lock))),
    }
}

fn joins(mode: NameMode) -> bool {
    matches!(mode, NameMode::Auto | NameMode::Exec)
}

/// What a container with a name that is not joined is made of.
fn origin(name: &ContainerName, found: Option<Found>, start: &Start<'_>) -> Result<Origin> {
    let ContainerName { name, mode } = name;
    let error = |text: String| Err(Error::Request(text));
    if *mode == NameMode::Exec {
        return error(format!("container {name} is not running"));
    }
    let data = start.data_directory()?;
    let key = Store::open(&start.config.store.path)?.key()?;
    let record = data.container(&start.job.place.id).record(&key);
    let exists = found.is_some() || !matches!(record, Ok(None));
    if *mode == NameMode::Create && exists {
        return error(format!(
            "container {name} exists already: take another name, or leave :create out"
        ));
    }
    // A directory is mounted again by its path: a mount of it belongs to the mount namespace where it was made.
    if let Some(found) = found.filter(|found| !found.description.record.is_unpacked()) {
        return Ok(Origin::Running(Box::new(found)));
    }
    match record.map_err(|error| error.context(&format!("container {name}")))? {
        Some(record) => Ok(Origin::Kept(data, Box::new(record))),
        None if start.request.image.is_some() => Ok(Origin::Named(data, key)),
        None => error(format!(
            "container {name} does not exist: give --container-image to make it"
        )),
    }
}
