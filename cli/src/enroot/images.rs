//! Images to containers, containers to images.
#![forbid(unsafe_code)]

use super::args::{Create, Digest, Export, Import, Load};
use super::{here, print};
use crate::container::{Containers, Here, platform};
use crate::settings;
use crate::tell::{self, ENROOT};
use pyxis_runtime::image::Platform;
use pyxis_runtime::image::file::{ReadBy, UserImages};
use pyxis_runtime::import::{Requester, Workers};
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::request::{ContainerName, NameMode, Request};
use pyxis_runtime::{Error, Result};

pub fn create(args: &Create) -> Result<()> {
    let mut here = here()?.in_own_namespaces()?;
    let stem = args.image.file_stem().unwrap_or_default().to_string_lossy();
    let name = args.name.clone().unwrap_or_else(|| stem.into_owned());
    let image = here.absolute(&args.image).display().to_string();
    make(&mut here, &name, args.force, image)
}

pub fn load(args: &Load) -> Result<()> {
    let mut here = here()?.in_own_namespaces()?;
    let source: ImageSource = args.uri.parse()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&source, &args.uri)?,
    };
    make(&mut here, &name, args.force, args.uri.clone())
}

/// Makes a container with all of its files in a directory: the image need not stay.
fn make(here: &mut Here, name: &str, force: bool, image: String) -> Result<()> {
    let ContainerName { name, .. } = name.parse()?;
    let containers = Containers::open(here)?;
    if containers.exists(&name) {
        match force {
            true => containers.remove(&name)?,
            false => {
                return Err(Error::Request(format!(
                    "container {name} exists already: use --force to replace it"
                )));
            }
        }
    }
    here.config.images.read_by = ReadBy::Unpack;
    if here.config.images.user_images != UserImages::Deny {
        here.config.images.user_images = UserImages::Unpack;
    }
    let request = Request {
        image: Some(image),
        name: Some(ContainerName {
            name: name.clone(),
            mode: NameMode::Create,
        }),
        ..Request::default()
    };
    here.prepare(&request, &name, false).map(drop)
}

pub fn import(args: &Import) -> Result<()> {
    let source: ImageSource = args.uri.parse()?;
    let output = match &args.output {
        Some(path) => path.clone(),
        None => format!("{}.sqsh", name_of(&source, &args.uri)?).into(),
    };
    let here = here()?.in_own_namespaces()?;
    let save = here.empty_save(here.free(&output, args.force)?)?;
    here.write_image(&source, &platform(args.arch.as_deref()), save, false)?;
    tell::line(ENROOT.info, &format!("imported {} to {}", args.uri, output.display()));
    Ok(())
}

pub fn export(args: &Export) -> Result<()> {
    let here = here()?.in_own_namespaces()?;
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| format!("{}.sqsh", args.name).into());
    let target = here.free(&output, args.force)?;
    Containers::open(&here)?.export(&here, &args.name, target)?;
    Ok(())
}

pub fn digest(args: &Digest) -> Result<()> {
    let ImageSource::Registry(reference) = args.uri.parse()? else {
        return Err(Error::Request(format!(
            "{}: only images of registries have a digest that can be asked for",
            args.uri
        )));
    };
    let here = here()?;
    let requester = Requester {
        task: None,
        env: here.job.env.clone(),
    };
    let registry = here.config.registry.client().with_variables(&settings::environment())?;
    let workers = Workers::of_this_program(&here.config.worker)?;
    let asked = workers.start_resolve(&reference, &Platform::host(), &registry)?;
    let (manifest, _) = workers.resolve(asked, &requester, &mut |_| ())?;
    print(&format!("{}\n", manifest.digest))
}

/// What a container or file of this image is called: `nvidia+cuda+12.2` for `nvcr.io#nvidia/cuda:12.2`.
fn name_of(source: &ImageSource, uri: &str) -> Result<String> {
    let (name, tag) = match source {
        ImageSource::Registry(reference) => {
            let repository = reference.repository();
            let name = repository.strip_prefix("library/").unwrap_or(repository).to_owned();
            (name, reference.tag().map(str::to_owned))
        }
        ImageSource::Client(image) => match image.name().rsplit_once(':') {
            Some((name, tag)) => (name.to_owned(), Some(tag.to_owned())),
            None => (image.name(), None),
        },
        other => return Err(Error::Request(format!("{other} is a file already: use create"))),
    };
    // One that nobody has said is not said.
    let tag = tag.filter(|tag| uri.ends_with(&format!(":{tag}")));
    let words = name.split('/').map(str::to_owned).chain(tag);
    Ok(words.collect::<Vec<_>>().join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (uri, expected) in [
            ("docker://alpine", "alpine"),
            ("docker://ubuntu:22.04", "ubuntu+22.04"),
            ("docker://nvcr.io#nvidia/cuda:12.2", "nvidia+cuda+12.2"),
            ("docker://user@localhost:5000#a/b", "a+b"),
            ("dockerd://a/b:c", "a+b+c"),
            ("podman://b", "b"),
        ] {
            assert_eq!(name_of(&uri.parse().unwrap(), uri).unwrap(), expected, "{uri}");
        }
        assert!(name_of(&"./x.sqsh".parse().unwrap(), "./x.sqsh").is_err());
    }
}
