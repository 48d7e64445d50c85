//! Images of directories and archives on this node. They are opened with the user's rights, looked through by a worker that has
//! none, and then go the way of an image of a registry.
#![forbid(unsafe_code)]

use super::source::Source;
use super::{Import, Imported};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::BlobDescriptor;
use crate::image::file::{self, Part, cannot_open, name_of, open_regular};
use crate::image::local::layout::blob_name;
use crate::image::local::{Ask, Found, Inspected, Wanted};
use crate::plan::Identity;
use crate::privilege::{self, as_user};
use crate::reference::{ClientImage, Form, Local};
use crate::report::{Report, Trace};
use crate::worker::protocol::InspectRequest;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::path::Path;

/// Documents that stand between the layout's own files and the layers.
const MAX_DOCUMENTS: usize = 8;

/// What holds an image.
enum Holder {
    Directory(OwnedFd),
    Archive(OwnedFd),
}

/// Whose rights count for files.
pub(super) struct User<'a> {
    identity: Identity,
    /// Root becomes the user; everybody else is what he is.
    become_user: Option<&'a Identity>,
}

impl User<'_> {
    fn with_rights<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.become_user {
            Some(identity) => as_user(identity, action),
            None => action(),
        }
    }
}

/// An opened image: where its blobs are.
pub(super) struct Place<'a> {
    pub uid: u32,
    user: &'a User<'a>,
    path: &'a Path,
    holder: Holder,
    places: Vec<(Digest, Part)>,
}

impl Import<'_> {
    /// Makes an image of a directory or archive available. A relative path begins at `cwd`.
    pub fn run_local(
        &self,
        local: &Local,
        cwd: &Path,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let local = Local {
            path: cwd.join(&local.path),
            ..local.clone()
        };
        self.provide_local(&local, trace, report)
            .map_err(|error| self.store.explain(error))
    }

    fn provide_local(&self, local: &Local, trace: &mut Trace, report: &mut dyn FnMut(Report)) -> Result<Imported> {
        let user = self.user();
        let ask = Ask {
            image: local.path.display().to_string(),
            platform: self.platform.clone(),
            wanted: local.tag.clone().map_or(Wanted::Only, Wanted::Named),
        };
        let opened = trace.phase("resolve", || {
            let holder = self.open(local, &user, report)?;
            let found = self.inspect(&ask, local.form, &local.path, &holder, &user, report)?;
            Ok::<_, Error>((holder, found))
        })?;
        self.complete_local(opened, (&local.path, &user), &local.to_string(), trace, report)
    }

    /// Makes an image available that a client has saved.
    pub(super) fn provide_saved(
        &self,
        image: &ClientImage,
        archive: OwnedFd,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let (user, name) = (self.user(), image.to_string());
        let ask = Ask {
            image: name.clone(),
            platform: self.platform.clone(),
            wanted: Wanted::Rather(image.name()),
        };
        let (holder, path) = (Holder::Archive(archive), Path::new(&name));
        let found = trace.phase("resolve", || {
            self.inspect(&ask, Form::DockerArchive, path, &holder, &user, report)
        })?;
        self.complete_local((holder, found), (path, &user), &name, trace, report)
    }

    fn complete_local(
        &self,
        (holder, found): (Holder, Found),
        (path, user): (&Path, &User<'_>),
        name: &str,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let source = Source::Local(Place {
            uid: user.identity.uid,
            user,
            path,
            holder,
            places: found.places,
        });
        let config = Some(found.config.into_bytes());
        self.complete(&found.manifest, config, &source, name, trace, report)
    }

    pub(super) fn user(&self) -> User<'_> {
        let become_user = self.workers.requester();
        User {
            identity: become_user.cloned().unwrap_or_else(privilege::caller),
            become_user,
        }
    }

    fn open(&self, local: &Local, user: &User<'_>, report: &mut dyn FnMut(Report)) -> Result<Holder> {
        let path = &local.path;
        let root = Path::new("/");
        if local.form == Form::OciDirectory {
            let found = user.with_rights(|| file::find(path, root, &user.identity))?;
            return directory(found, path, user).map(Holder::Directory);
        }
        let file = user.with_rights(|| open_regular(&file::find(path, root, &user.identity)?, path, &user.identity))?;
        let size = Part { offset: 0, size: 512 };
        let head = file::read(&file, size)?;
        if !is_compressed(&head) {
            return Ok(Holder::Archive(file));
        }
        let doing = format!("unpack {}", path.display());
        let plain = self.store.unnamed_file()?;
        let most = self.config.store.max_layer_size;
        let spooled = self.workers.spool(file.as_fd(), &plain, most, self.requester)?;
        spooled.finish(&doing, report).map_err(|error| error.context(&doing))?;
        Ok(Holder::Archive(plain.into()))
    }

    /// Has a worker look what there is. A directory's documents are opened here as it asks for them.
    fn inspect(
        &self,
        ask: &Ask,
        form: Form,
        path: &Path,
        holder: &Holder,
        user: &User<'_>,
        report: &mut dyn FnMut(Report),
    ) -> Result<Found> {
        let mut request = InspectRequest {
            ask: ask.clone(),
            form,
            documents: Vec::new(),
        };
        let (directory, mut files) = match holder {
            Holder::Archive(file) => {
                let files = [file.as_fd()];
                return match self.workers.inspect(&request, &files, Some(self.requester), report)? {
                    Inspected::Found(found) => Ok(*found),
                    Inspected::Needs(blob) => Err(Error::Host(format!(
                        "the worker asks for {} of an archive",
                        blob.digest
                    ))),
                };
            }
            Holder::Directory(directory) => (directory, Vec::new()),
        };
        for name in ["oci-layout", "index.json"] {
            files.push(open_below(directory, name, path, user)?);
        }
        while request.documents.len() < MAX_DOCUMENTS {
            let given: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            match self.workers.inspect(&request, &given, None, report)? {
                Inspected::Found(found) => return Ok(*found),
                Inspected::Needs(blob) => {
                    files.push(open_below(directory, &blob_name(&blob.digest), path, user)?);
                    request.documents.push(blob.digest);
                }
            }
        }
        Err(Error::Host(
            "the worker asks for one document after the other".to_owned(),
        ))
    }
}

impl Place<'_> {
    /// Opens the file with a blob; where it begins there.
    pub fn open_blob(&self, blob: &BlobDescriptor) -> Result<(OwnedFd, u64)> {
        match &self.holder {
            Holder::Archive(file) => {
                let mut places = self.places.iter();
                let (_, part) = places
                    .find(|(digest, _)| *digest == blob.digest)
                    .ok_or_else(|| Error::Host(format!("nobody knows where blob {} is", blob.digest)))?;
                let copy = file
                    .try_clone()
                    .map_err(|error| Error::sys("read an archive", "fcntl(F_DUPFD)", error))?;
                Ok((copy, part.offset))
            }
            Holder::Directory(directory) => {
                let file = open_below(directory, &blob_name(&blob.digest), self.path, self.user)?;
                let stat = rustix::fs::fstat(&file).map_err(|error| Error::sys("open a blob", "fstat", error))?;
                let size = stat.st_size.unsigned_abs();
                match size == blob.size {
                    true => Ok((file, 0)),
                    false => Err(Error::Image(format!(
                        "blob {} of {} has {size} bytes, and {} are expected",
                        blob.digest,
                        self.path.display(),
                        blob.size
                    ))),
                }
            }
        }
    }
}

fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

fn directory(found: OwnedFd, path: &Path, user: &User<'_>) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(&found).map_err(|error| cannot_open(path, error, &user.identity))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(found),
        FileType::RegularFile => Err(Error::Request(format!(
            "{} is a file, and oci: wants a directory: write oci-archive: in front of an archive",
            path.display()
        ))),
        kind => Err(Error::Request(format!(
            "{} is {}, and oci: wants a directory",
            path.display(),
            name_of(kind)
        ))),
    }
}

/// Opens a file of the layout with the user's rights. A link is followed as long as it stays in the directory.
fn open_below(directory: &OwnedFd, name: &str, path: &Path, user: &User<'_>) -> Result<OwnedFd> {
    let path = path.join(name);
    let cannot = |error: Errno| match error {
        Errno::XDEV => Error::Request(format!("{} leads out of the directory", path.display())),
        Errno::NOENT => Error::Image(format!("{}: No such file: the image is not complete", path.display())),
        error => cannot_open(&path, error, &user.identity),
    };
    user.with_rights(|| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(cannot)?;
        open_regular(&found, &path, &user.identity)
    })
}
