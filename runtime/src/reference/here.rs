//! Images that are on the compute node, in other forms than image files: in directories and archives, and with clients that have
//! images of their own.
#![forbid(unsafe_code)]

use super::{check_tag, invalid, is_tag, split_tag};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// An image as a client knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientImage {
    /// Whose.
    pub client: Client,
    /// Its name there.
    pub image: String,
}

/// Programs that have images of their own on the compute node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Client {
    /// The local Docker daemon (`dockerd://`).
    Docker,
    /// The user's podman (`podman://`).
    Podman,
}

impl fmt::Display for ClientImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.client {
            Client::Docker => "dockerd",
            Client::Podman => "podman",
        };
        write!(f, "{scheme}://{}", self.image)
    }
}

impl ClientImage {
    /// The image of `dockerd://` and `podman://`: it becomes an argument of those clients, so it must not look like an option.
    pub(super) fn parse(client: Client, value: &str, image: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | ':' | '@' | '-');
        if image.is_empty() || image.starts_with('-') || !image.chars().all(allowed) {
            return Err(invalid(value, "letters, digits and /._:@- name the image"));
        }
        let image = image.to_owned();
        Ok(ClientImage { client, image })
    }

    /// The name and tag by which an archive of several images has it.
    pub fn name(&self) -> String {
        match split_tag(&self.image) {
            (_, Some(_)) => self.image.clone(),
            (name, None) => format!("{name}:latest"),
        }
    }
}

/// One image of a directory or archive on the compute node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// What it is.
    pub form: Form,
    /// Where it is.
    pub path: PathBuf,
    /// Which image of those in it: a tag, or a name with a tag.
    pub tag: Option<String>,
}

/// The forms of images outside of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// A directory in OCI layout (`oci:DIR[:TAG]`).
    OciDirectory,
    /// A tar file in OCI layout (`oci-archive:FILE[:TAG]`).
    OciArchive,
    /// A tar file as `docker save` writes it (`docker-archive:FILE[:TAG]`).
    DockerArchive,
}

impl Form {
    const ALL: [(Form, &'static str); 3] = [
        (Form::OciDirectory, "oci"),
        (Form::OciArchive, "oci-archive"),
        (Form::DockerArchive, "docker-archive"),
    ];

    pub(super) fn named(scheme: &str) -> Option<Self> {
        let mut all = Form::ALL.iter();
        all.find(|(_, name)| *name == scheme).map(|(form, _)| *form)
    }

    /// The word before the colon.
    pub fn scheme(self) -> &'static str {
        let mut all = Form::ALL.iter();
        all.find(|(form, _)| *form == self).map_or("", |(_, name)| name)
    }
}

impl Local {
    /// `PATH[:TAG]`. The first colon that a tag, or a name with a tag, follows ends the path.
    pub(super) fn parse(value: &str, form: Form, text: &str) -> Result<Self> {
        let mut colons = text.match_indices(':').map(|(at, _)| text.split_at(at));
        let split =
            colons.find_map(|(path, rest)| Some((path, rest.strip_prefix(':').filter(|rest| is_local_name(rest))?)));
        let (path, tag) = match split {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => match split_tag(text) {
                (_, Some(tag)) => return Err(check_tag(value, tag).err().unwrap_or_else(|| invalid(value, "no tag"))),
                (path, None) => (path, None),
            },
        };
        if path.is_empty() {
            return Err(invalid(value, "the path is missing"));
        }
        let path = path.into();
        Ok(Local { form, path, tag })
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.form.scheme(), self.path.display())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

fn is_local_name(text: &str) -> bool {
    match split_tag(text) {
        (name, Some(tag)) => is_tag(tag) && !name.is_empty() && name.split(['/', ':']).all(is_domain_or_name),
        (tag, None) => is_tag(tag),
    }
}

/// A part of a name as registries and Docker have them.
fn is_domain_or_name(part: &str) -> bool {
    !part.is_empty()
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
