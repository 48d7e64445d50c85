//! The `inspect` role: finds an image in a directory or archive that a user gave. It parses what a stranger wrote, so it can do
//! nothing but read the files that it was started with.
#![forbid(unsafe_code)]

use super::protocol::{FIRST_INPUT, InspectRequest};
use super::sandbox;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::file::{Part, read};
use crate::image::local::docker::Archive;
use crate::image::local::layout::{self, Step, blob_name};
use crate::image::local::members::Members;
use crate::image::local::{Ask, Found, Inspected, MAX_DOCUMENT};
use crate::image::part::digest_of;
use crate::image::{BlobDescriptor, Manifest};
use crate::reference::Form;
use crate::sys::exec::take_inherited;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn run(request: &InspectRequest) -> Result<Inspected> {
    let count = match request.form {
        Form::OciDirectory => 2_usize.saturating_add(request.documents.len()),
        Form::OciArchive | Form::DockerArchive => 1,
    };
    let files = (FIRST_INPUT..).take(count).map(take_inherited);
    let files = files.collect::<Result<Vec<_>>>()?;
    sandbox::for_layer()?;
    match (request.form, files.as_slice()) {
        (Form::OciDirectory, [mark, index, documents @ ..]) => directory(request, [mark, index], documents),
        (Form::OciArchive, [file]) => oci_archive(&request.ask, file).map(|found| Inspected::Found(Box::new(found))),
        (Form::DockerArchive, [file]) => {
            docker_archive(&request.ask, file).map(|found| Inspected::Found(Box::new(found)))
        }
        _ => Err(Error::Host(
            "the inspect worker got other files than it needs".to_owned(),
        )),
    }
}

fn size_of(file: &OwnedFd) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(|error| Error::sys("look at an image", "fstat", error))?;
    Ok(stat.st_size.unsigned_abs())
}

/// All of a file that should be small.
fn whole(file: &OwnedFd, name: &str, image: &str) -> Result<Vec<u8>> {
    let size = size_of(file)?;
    match size <= MAX_DOCUMENT {
        true => read(file, Part { offset: 0, size }),
        false => Err(too_large(name, size, image)),
    }
}

fn too_large(name: &str, size: u64, image: &str) -> Error {
    Error::Image(format!(
        "{name} of {image} is {size} bytes; at most {MAX_DOCUMENT} are supported"
    ))
}

fn directory(request: &InspectRequest, [mark, index]: [&OwnedFd; 2], documents: &[OwnedFd]) -> Result<Inspected> {
    let image = &request.ask.image;
    layout::check_mark(&whole(mark, "oci-layout", image)?, image)?;
    let document = |blob: &BlobDescriptor| {
        let given = request.documents.iter().zip(documents);
        let file = given
            .filter(|(digest, _)| **digest == blob.digest)
            .map(|(_, file)| file)
            .next();
        // What the descriptor says has been found to be little.
        let part = Part {
            offset: 0,
            size: blob.size,
        };
        file.map(|file| read(file, part)).transpose()
    };
    match layout::resolve(&whole(index, "index.json", image)?, &request.ask, document)? {
        Step::Needs(blob) => Ok(Inspected::Needs(blob)),
        Step::Found(manifest, config) => Ok(Inspected::Found(Box::new(Found {
            manifest,
            config,
            places: Vec::new(),
        }))),
    }
}

fn oci_archive(ask: &Ask, file: &OwnedFd) -> Result<Found> {
    let image = &ask.image;
    let members = Members::of(file, size_of(file)?)?;
    let document = |name: &str| {
        let part = members
            .document(name)?
            .ok_or_else(|| match members.find("manifest.json") {
                Some(_) => Error::Request(format!(
                    "{image} is an archive of Docker's: write docker-archive: in front of it"
                )),
                None => Error::Image(format!("{image} has no {name}: it is no OCI archive")),
            })?;
        match part.size <= MAX_DOCUMENT {
            true => read(file, part),
            false => Err(too_large(name, part.size, image)),
        }
    };
    layout::check_mark(&document("oci-layout")?, image)?;
    let place = |blob: &BlobDescriptor| match members.find(&blob_name(&blob.digest)) {
        Some(part) if part.size == blob.size => Ok(part),
        Some(_) => Err(Error::Image(format!(
            "blob {} of {image} has another size",
            blob.digest
        ))),
        None => Err(Error::Image(format!("{image} has no blob {}", blob.digest))),
    };
    let index = document("index.json")?;
    let step = layout::resolve(&index, ask, |blob| read(file, place(blob)?).map(Some))?;
    let Step::Found(manifest, config) = step else {
        return Err(Error::Host("an archive needs no documents".to_owned()));
    };
    let places = places(&manifest, place)?;
    Ok(Found {
        manifest,
        config,
        places,
    })
}

fn places(manifest: &Manifest, place: impl Fn(&BlobDescriptor) -> Result<Part>) -> Result<Vec<(Digest, Part)>> {
    manifest.blobs().map(|blob| Ok((blob.digest, place(blob)?))).collect()
}

fn docker_archive(ask: &Ask, file: &OwnedFd) -> Result<Found> {
    let members = Members::of(file, size_of(file)?)?;
    let archive = Archive {
        members: &members,
        read: |part| read(file, part),
        digest: &|part| digest_of(file.as_fd(), part),
    };
    archive.find(ask)
}
