//! `pull`: an image of a registry becomes a SIF file, with what its configuration says in the files that Singularity and
//! Apptainer look for.
#![forbid(unsafe_code)]

use super::args::Pull;
use super::here;
use crate::container::platform;
use crate::settings;
use crate::tell::{self, SINGULARITY};
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::save::{Form, Save};
use pyxis_runtime::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub fn pull(args: &Pull, quiet: bool) -> Result<()> {
    let (name, uri) = match args.what.as_slice() {
        [name, uri] => (Some(name), uri),
        [uri] => (None, uri),
        _ => return Err(Error::Request("pull needs the name of an image".into())),
    };
    let source: ImageSource = uri.parse()?;
    let name = name.map_or_else(|| name_of(&source), |name| Ok(name.clone()))?;
    let here = here()?;
    let path = args.dir.as_deref().unwrap_or(Path::new("")).join(&name);
    let target = here.free(&path, args.force)?;
    let platform = platform(args.arch.as_deref());
    let save = Save {
        form: Form::Sif {
            machine: platform.architecture.clone(),
            id: unique()?,
        },
        mode: 0o777 & !settings::umask(),
        ..here.empty_save(target.clone())?
    };
    let saved = here.write_image(&source, &platform, save, quiet);
    saved.map_err(|error| error.context(&path.display().to_string()))?;
    if !quiet {
        tell::line(SINGULARITY.info, &format!("pulled {uri} to {}", target.display()));
    }
    Ok(())
}

/// A number that no other file has: a random one, as RFC 9562 writes it.
fn unique() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut id));
    read.map_err(|error| Error::sys("make a number for the file", "read(/dev/urandom)", error))?;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    Ok(id)
}

/// `cuda_12.2.sif` for `docker://nvcr.io/nvidia/cuda:12.2`.
fn name_of(source: &ImageSource) -> Result<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let (name, tag) = match source {
        ImageSource::Registry(reference) => (last(reference.repository()), reference.tag().map(str::to_owned)),
        ImageSource::Client(image) => match last(&image.name()).split_once(':') {
            Some((name, tag)) => (name.to_owned(), Some(tag.to_owned())),
            None => (last(&image.name()), None),
        },
        other => return Err(Error::Request(format!("{other}: give the name of the file before it"))),
    };
    Ok(format!("{name}_{}.sif", tag.unwrap_or_else(|| "latest".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (uri, expected) in [
            ("docker://alpine", "alpine_latest.sif"),
            ("docker://nvcr.io/nvidia/cuda:12.2", "cuda_12.2.sif"),
            ("podman://localhost/a:b", "a_b.sif"),
        ] {
            assert_eq!(name_of(&uri.parse().unwrap()).unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn numbers_of_files_differ() {
        let (one, other) = (unique().unwrap(), unique().unwrap());
        assert!(one != other && one[6] >> 4 == 4);
    }
}
