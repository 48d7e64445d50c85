//! What `--container-image` may say, as a grammar: image references in enroot's and in Docker's notation, scheme URIs and
//! paths. Pure: nothing is looked up here. Names follow the OCI distribution specification ("Pulling manifests").
#![forbid(unsafe_code)]

mod here;

use crate::digest::Digest;
use crate::error::{Error, Result};
pub use here::{Client, ClientImage, Form, Local};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Docker Hub's registry host, which is meant when no registry is named.
pub const DOCKER_HUB: &str = "registry-1.docker.io";
/// Other names of Docker Hub that people write.
const HUB_ALIASES: [&str; 3] = ["docker.io", "index.docker.io", DOCKER_HUB];
/// The longest repository name that registries take (distribution's reference grammar).
const MAX_NAME: usize = 255;
/// The longest tag (OCI distribution specification).
const MAX_TAG: usize = 128;
/// The longest value that is looked at.
const MAX_VALUE: usize = 4096;

/// Where an image comes from: the whole value of `--container-image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageSource {
    /// An image of a registry.
    Registry(Reference),
    /// A file on the compute node: squashfs or SIF, told apart by content.
    File(PathBuf),
    /// An image that a client on the compute node has.
    Client(ClientImage),
    /// Files that hold images in the form of a registry or of Docker.
    Local(Local),
}

impl FromStr for ImageSource {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        check_text(value)?;
        if value.starts_with(['.', '/']) {
            return Ok(ImageSource::File(value.into()));
        }
        if let Some((scheme, rest)) = value.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
            return match scheme {
                "docker" => Ok(ImageSource::Registry(rest.parse()?)),
                "dockerd" => Ok(ImageSource::Client(ClientImage::parse(Client::Docker, value, rest)?)),
                "podman" => Ok(ImageSource::Client(ClientImage::parse(Client::Podman, value, rest)?)),
                _ => Err(Error::Request(format!(
                    "unknown scheme {scheme:?} in {value:?} (known: docker://, dockerd://, podman://, oci:, oci-archive:, \
                     docker-archive:)"
                ))),
            };
        }
        let form = value
            .split_once(':')
            .and_then(|(scheme, rest)| Some((Form::named(scheme)?, rest)));
        match form {
            Some((form, rest)) => Ok(ImageSource::Local(Local::parse(value, form, rest)?)),
            None => Ok(ImageSource::Registry(value.parse()?)),
        }
    }
}

impl ImageSource {
    /// The same with the path of a directory or archive from the root; a relative one begins at `cwd`.
    #[must_use]
    pub fn absolute(self, cwd: &Path) -> Self {
        match self {
            ImageSource::Local(local) => ImageSource::Local(Local {
                path: cwd.join(&local.path),
                ..local
            }),
            other => other,
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageSource::Registry(reference) => write!(f, "docker://{reference}"),
            ImageSource::File(path) => write!(f, "{}", path.display()),
            ImageSource::Client(image) => write!(f, "{image}"),
            ImageSource::Local(local) => write!(f, "{local}"),
        }
    }
}

/// The path that a value was probably meant to be: `x.sqsh` is a valid image name, but the user may have forgotten the
/// `./`. The caller says "did you mean ./x.sqsh?" when that file exists.
pub fn forgotten_path(value: &str) -> Option<String> {
    let looks_like_file = [".sqsh", ".squashfs", ".sif"].iter().any(|end| value.ends_with(end));
    let bare = !value.starts_with(['.', '/']) && !value.contains("://") && !value.contains('#');
    (looks_like_file && bare).then(|| format!("./{value}"))
}

/// An image of a registry: `[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST]` or `[USER@]REGISTRY/IMAGE[:TAG][@DIGEST]`.
///
/// It prints in the first notation with every default filled in, and what it prints parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    login: Option<String>,
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The login whose credentials are to be used, when the reference names one.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The registry as `host` or `host:port`, lower case; IPv6 addresses are in brackets.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository: the image's name on the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, when the image is not named by digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index, when the reference pins one. It wins over the tag.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image, as it was when its manifest had this digest.
    #[must_use]
    pub fn pinned(self, digest: Digest) -> Self {
        Reference {
            digest: Some(digest),
            ..self
        }
    }

    /// What the registry is asked for: the digest, else the tag.
    pub fn manifest_name(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The image without its registry and login, for people: `library/debian:12`.
    pub fn image(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(login) = &self.login {
            write!(f, "{login}@")?;
        }
        write!(f, "{}#{}", self.registry, self.image())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        check_text(value)?;
        let text = value.strip_prefix("docker://").unwrap_or(value);
        let (text, digest) = split_digest(value, text)?;
        let (login, text) = split_login(value, text)?;
        let (registry, image) = split_registry(value, text)?;
        let (name, tag) = split_tag(image);
        let repository = match registry.as_str() {
            DOCKER_HUB if !name.contains('/') && !name.is_empty() => format!("library/{name}"),
            _ => name.to_owned(),
        };
        check_name(value, &repository)?;
        let tag = match tag {
            Some(tag) => Some(check_tag(value, tag)?),
            None if digest.is_none() => Some("latest".to_owned()),
            None => None,
        };
        Ok(Reference {
            login,
            registry,
            repository,
            tag,
            digest,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(value: String) -> Result<Self> {
        value.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

/// What is common to all values: something is there, it is not huge, and it can be shown in a message and a log.
fn check_text(value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::Request("the image is empty".into()));
    }
    if value.len() > MAX_VALUE {
        return Err(Error::Request(format!("the image is longer than {MAX_VALUE} bytes")));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::Request(format!(
            "the image {value:?} contains a control character"
        )));
    }
    Ok(())
}

fn invalid(value: &str, why: &str) -> Error {
    Error::Request(format!("invalid image reference {value:?}: {why}"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Takes `@sha256:...` off the end. An `@` that no digest algorithm follows belongs to the login.
fn split_digest<'a>(value: &str, text: &'a str) -> Result<(&'a str, Option<Digest>)> {
    match text.rsplit_once('@') {
        Some((rest, digest)) if digest.starts_with("sha256:") => {
            let digest = digest.parse().map_err(|error| invalid(value, &format!("{error}")))?;
            Ok((rest, Some(digest)))
        }
        Some((_, digest)) if digest.starts_with("sha512:") || digest.starts_with("sha384:") => {
            Err(invalid(value, "only sha256 digests are known"))
        }
        _ => Ok((text, None)),
    }
}

/// Takes `USER@` off the front. Logins are often mail addresses: the last `@` ends them.
fn split_login<'a>(value: &str, text: &'a str) -> Result<(Option<String>, &'a str)> {
    let Some((login, rest)) = text.rsplit_once('@') else {
        return Ok((None, text));
    };
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '#' | ':');
    if login.is_empty() || !login.chars().all(good) {
        return Err(invalid(value, "what stands before the @ is not a login"));
    }
    Ok((Some(login.to_owned()), rest))
}

/// Splits the registry from the image: what `#` says, else the first part when it has a `.` or a `:`, else Docker Hub.
fn split_registry<'a>(value: &str, text: &'a str) -> Result<(String, &'a str)> {
    if let Some((registry, image)) = text.split_once('#') {
        return Ok((check_registry(value, registry)?, image));
    }
    match text.split_once('/') {
        Some((first, image)) if first.contains(['.', ':']) => Ok((check_registry(value, first)?, image)),
        _ => Ok((DOCKER_HUB.to_owned(), text)),
    }
}

/// Splits the tag off: a `:` in the last path component.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn check_registry(value: &str, registry: &str) -> Result<String> {
    let bad = |why| Err(invalid(value, why));
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if let Some(port) = port
        && (port.starts_with('+') || !port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return bad("the registry's port is not a number from 1 to 65535");
    }
    let is_address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    if !is_address && !is_domain(host) {
        return bad("the registry is not a host name (HOST or HOST:PORT)");
    }
    let registry = registry.to_ascii_lowercase();
    if HUB_ALIASES.contains(&registry.as_str()) {
        return Ok(DOCKER_HUB.to_owned());
    }
    Ok(registry)
}

fn is_domain(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// The name grammar of the distribution specification:
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
fn check_name(value: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid(value, "the image's name is missing"));
    }
    if name.len() > MAX_NAME {
        return Err(invalid(value, "the image's name is longer than 255 characters"));
    }
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(invalid(value, "image names are lower case"));
    }
    if !name.split('/').all(is_name_component) {
        return Err(invalid(
            value,
            "an image's name is lower-case letters and digits, joined by single . _ - or /",
        ));
    }
    Ok(())
}

fn is_name_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joined_well = component
        .split(alphanumeric)
        .filter(|joint| !joint.is_empty())
        .all(is_joint);
    component.starts_with(alphanumeric) && component.ends_with(alphanumeric) && joined_well
}

fn is_joint(joint: &str) -> bool {
    matches!(joint, "." | "_" | "__") || joint.chars().all(|c| c == '-')
}

fn is_tag(tag: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = |c: char| first(c) || matches!(c, '.' | '-');
    tag.len() <= MAX_TAG && tag.starts_with(first) && tag.chars().all(rest)
}

fn check_tag(value: &str, tag: &str) -> Result<String> {
    if !is_tag(tag) {
        return Err(invalid(
            value,
            "a tag is at most 128 letters, digits, _ . and -, and starts with none of the last two",
        ));
    }
    Ok(tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text(value: &str) -> String {
        value
            .parse::<Reference>()
            .unwrap_or_else(|error| panic!("{value}: {error}"))
            .to_string()
    }

    #[test]
    fn references_with_their_defaults() {
        let hub = "registry-1.docker.io";
        for (value, expected) in [
            ("debian", format!("{hub}#library/debian:latest")),
            ("debian:12", format!("{hub}#library/debian:12")),
            ("docker://debian", format!("{hub}#library/debian:latest")),
            ("docker.io/debian", format!("{hub}#library/debian:latest")),
            ("index.docker.io/library/debian:12", format!("{hub}#library/debian:12")),
            ("registry-1.docker.io#debian", format!("{hub}#library/debian:latest")),
            ("docker.io#debian", format!("{hub}#library/debian:latest")),
            ("pytorch/pytorch:2.5", format!("{hub}#pytorch/pytorch:2.5")),
            ("localhost/debian", format!("{hub}#localhost/debian:latest")),
            ("nvcr.io/nvidia/cuda:12", "nvcr.io#nvidia/cuda:12".into()),
            ("nvcr.io#nvidia/cuda:12", "nvcr.io#nvidia/cuda:12".into()),
            ("localhost#debian", "localhost#debian:latest".into()),
            ("localhost:5000/debian", "localhost:5000#debian:latest".into()),
            (
                "127.0.0.1:5000#library/debian:12",
                "127.0.0.1:5000#library/debian:12".into(),
            ),
            ("[::1]:5000/debian", "[::1]:5000#debian:latest".into()),
            ("[fe80::1]#debian", "[fe80::1]#debian:latest".into()),
            ("REGISTRY.Example.COM/a/b/c", "registry.example.com#a/b/c:latest".into()),
            ("joe@nvcr.io#a/b", "joe@nvcr.io#a/b:latest".into()),
            (
                "$oauthtoken@nvcr.io#nvidia/cuda",
                "$oauthtoken@nvcr.io#nvidia/cuda:latest".into(),
            ),
            ("joe@example.org@nvcr.io#a", "joe@example.org@nvcr.io#a:latest".into()),
            ("joe@host:5000/a:1", "joe@host:5000#a:1".into()),
            ("joe@debian:12", format!("joe@{hub}#library/debian:12")),
            ("a.b/c__d/e-f.g--h:_x", "a.b#c__d/e-f.g--h:_x".into()),
            ("x.sqsh", format!("{hub}#library/x.sqsh:latest")),
        ] {
            assert_eq!(text(value), expected, "{value}");
        }
    }

    #[test]
    fn a_digest_wins_over_the_tag() {
        let reference: Reference = format!("joe@nvcr.io/a/b:1.0@{SHA}").parse().unwrap();
        assert_eq!(reference.login(), Some("joe"));
        assert_eq!(reference.tag(), Some("1.0"));
        assert_eq!(reference.manifest_name(), SHA);
        assert_eq!(reference.image(), format!("a/b:1.0@{SHA}"));
        let reference: Reference = format!("debian@{SHA}").parse().unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(
            reference.to_string(),
            format!("registry-1.docker.io#library/debian@{SHA}")
        );
    }

    #[test]
    fn wrong_references_say_why() {
        let long_name = format!("a.b/{}", "x".repeat(256));
        let long_tag = format!("debian:{}", "x".repeat(129));
        for (value, why) in [
            ("", "the image is empty"),
            ("debian\n", "control character"),
            ("debian\0", "control character"),
            ("Debian", "image names are lower case"),
            ("a b", "lower-case letters and digits"),
            ("a//b", "lower-case letters and digits"),
            ("a..b", "lower-case letters and digits"),
            ("a___b", "lower-case letters and digits"),
            ("-a", "lower-case letters and digits"),
            ("a/../b", "lower-case letters and digits"),
            ("débian", "lower-case letters and digits"),
            ("nvcr.io/", "the image's name is missing"),
            ("nvcr.io#", "the image's name is missing"),
            ("#debian", "the registry is not a host name"),
            ("a_b#debian", "the registry is not a host name"),
            ("a.b/c#debian", "the registry is not a host name"),
            ("[::g]#debian", "the registry is not a host name"),
            ("host:0#debian", "port is not a number"),
            ("host:65536/debian", "port is not a number"),
            ("host:+80/debian", "port is not a number"),
            ("debian:", "a tag is at most 128"),
            ("debian:.x", "a tag is at most 128"),
            ("a/b:c d", "a tag is at most 128"),
            ("@debian", "not a login"),
            ("a:b@debian", "not a login"),
            ("debian@sha256:00", "is not a sha256 digest"),
            ("debian@sha512:00", "only sha256 digests are known"),
            (&long_name, "longer than 255"),
            (&long_tag, "a tag is at most 128"),
        ] {
            let error = value.parse::<Reference>().unwrap_err();
            assert!(matches!(error, Error::Request(_)), "{value}");
            assert!(error.to_string().contains(why), "{value}: {error}");
            assert!(!error.to_string().contains('\n'), "{value}: {error}");
        }
    }

    #[test]
    fn sources() {
        let local = |form, path: &str, tag: Option<&str>| {
            ImageSource::Local(Local {
                form,
                path: path.into(),
                tag: tag.map(Into::into),
            })
        };
        let of_client = |client, image: &str| {
            let image = image.to_owned();
            ImageSource::Client(ClientImage { client, image })
        };
        let oci = |path: &str, tag: Option<&str>| local(Form::OciDirectory, path, tag);
        for (value, expected) in [
            ("./x.sqsh", ImageSource::File("./x.sqsh".into())),
            ("/images/x y.sif", ImageSource::File("/images/x y.sif".into())),
            ("../x", ImageSource::File("../x".into())),
            ("debian:12", ImageSource::Registry("debian:12".parse().unwrap())),
            ("docker://a.b#c", ImageSource::Registry("a.b#c".parse().unwrap())),
            ("dockerd://debian:12", of_client(Client::Docker, "debian:12")),
            ("podman://localhost/x", of_client(Client::Podman, "localhost/x")),
            ("oci:dir", oci("dir", None)),
            ("oci:/a/dir:1.2", oci("/a/dir", Some("1.2"))),
            ("oci:/a:b/dir", oci("/a:b/dir", None)),
            ("oci:dir:localhost/x:1", oci("dir", Some("localhost/x:1"))),
            ("oci-archive:/a/x.tar", local(Form::OciArchive, "/a/x.tar", None)),
            (
                "oci-archive:x y.tar:latest",
                local(Form::OciArchive, "x y.tar", Some("latest")),
            ),
            ("docker-archive:./x.tar", local(Form::DockerArchive, "./x.tar", None)),
            (
                "docker-archive:x.tar:127.0.0.1:5000/a/B:12",
                local(Form::DockerArchive, "x.tar", Some("127.0.0.1:5000/a/B:12")),
            ),
        ] {
            let source: ImageSource = value.parse().unwrap();
            assert_eq!(source, expected, "{value}");
            assert_eq!(source.to_string().parse::<ImageSource>().unwrap(), source, "{value}");
        }
    }

    #[test]
    fn wrong_sources_say_why() {
        for (value, why) in [
            ("", "empty"),
            ("/a\nb", "control character"),
            ("ftp://x", "unknown scheme \"ftp\""),
            ("library://x", "unknown scheme \"library\""),
            ("Docker://x", "unknown scheme \"Docker\""),
            ("docker://", "the image is empty"),
            ("dockerd://", "name the image"),
            ("dockerd://--privileged", "name the image"),
            ("podman://a b", "name the image"),
            ("oci:", "the path is missing"),
            ("oci:dir:", "a tag is at most"),
            ("oci-archive:", "the path is missing"),
            ("docker-archive:", "the path is missing"),
        ] {
            let error = value.parse::<ImageSource>().unwrap_err();
            assert!(error.to_string().contains(why), "{value}: {error}");
        }
    }

    #[test]
    fn forgotten_paths() {
        assert_eq!(forgotten_path("x.sqsh").as_deref(), Some("./x.sqsh"));
        assert_eq!(forgotten_path("dir/X.sif").as_deref(), Some("./dir/X.sif"));
        for value in ["./x.sqsh", "/x.sif", "debian:12", "docker://x.sqsh", "host#x.sqsh"] {
            assert_eq!(forgotten_path(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(value in "\\PC{0,60}") {
            if let Ok(source) = value.parse::<ImageSource>() {
                prop_assert_eq!(source.to_string().parse::<ImageSource>().unwrap(), source);
            }
        }

        #[test]
        fn text_of_the_grammars_letters_round_trips(value in "[a-z0-9:/@#._\\[\\]-]{0,40}") {
            if let Ok(reference) = value.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn well_formed_references_parse(
            login in proptest::option::of("[a-z$][a-z.+-]{0,8}"),
            registry in "[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?",
            name in "[a-z0-9]{1,5}([._-][a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,2}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}",
            with_digest: bool,
        ) {
            let login_part = login.as_ref().map(|login| format!("{login}@")).unwrap_or_default();
            let digest = if with_digest { format!("@{SHA}") } else { String::new() };
            let value = format!("{login_part}{registry}#{name}:{tag}{digest}");
            let reference: Reference = value.parse().unwrap();
            prop_assert_eq!(reference.to_string(), &value[..]);
            prop_assert_eq!(reference.login(), login.as_deref());
            prop_assert_eq!(reference.registry(), &registry);
            prop_assert_eq!(reference.repository(), &name);
            prop_assert_eq!(reference.tag(), Some(&tag[..]));
        }
    }
}
