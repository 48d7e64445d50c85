//! `[policy]` of the site's settings: what no job may have, whatever it asks for and by whatever way. Patterns are compared
//! name by name with paths that the kernel has resolved, so `..` and symbolic links lead nowhere else.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::plan::{Identity, Plan};
use crate::reference::{DOCKER_HUB, ImageSource, Reference};
use crate::worker::protocol::Accounts;
use rustix::fd::{AsFd, AsRawFd};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `[policy]`. A list that is not there allows everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Registries, or parts of them, that images may come from.
    pub registries: Option<Allowed>,
    /// Directories in and below which image files may be.
    pub image_paths: Option<Allowed>,
    /// Directories of the host that may be mounted, and all that is below them.
    pub mount_sources: Option<Allowed>,
    /// Jobs may mount the user's home directory.
    pub mount_home: bool,
    /// Jobs may write to their container's root file system.
    pub writable: bool,
    /// Users may be root in their containers.
    pub remap_root: bool,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        PolicyConfig {
            registries: None,
            image_paths: None,
            mount_sources: None,
            mount_home: true,
            writable: true,
            remap_root: true,
        }
    }
}

/// Patterns: names with `/` between them, `*` for any characters of a name, and placeholders for who the user is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed(Vec<String>);

/// What stands for who the user is.
const PLACEHOLDERS: [&str; 4] = ["{user}", "{uid}", "{group}", "{gid}"];

/// What is wrong with a pattern, if anything is: names that a resolved path cannot have, or words that mean nothing.
fn wrong(pattern: &str) -> Option<String> {
    let path = pattern.strip_prefix('/').unwrap_or(pattern);
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() && path.split('/').any(|name| ["", ".", ".."].contains(&name)) {
        return Some("no empty names, . or .. are possible here".to_owned());
    }
    let known = PLACEHOLDERS.iter();
    let rest = known.fold(path.to_owned(), |rest, known| rest.replace(known, ""));
    rest.contains(['{', '}'])
        .then(|| format!("placeholders are {}", PLACEHOLDERS.join(", ")))
}

impl Allowed {
    fn check(&self, key: &str, are_paths: bool) -> Result<()> {
        for pattern in &self.0 {
            let reason = match are_paths {
                true if !pattern.starts_with('/') => Some("it is not an absolute path".to_owned()),
                false if pattern.starts_with('/') || pattern.contains("://") => {
                    Some("it is not HOST[:PORT][/REPOSITORY]".to_owned())
                }
                _ => wrong(pattern),
            };
            if let Some(reason) = reason {
                return Err(Error::Host(format!("policy.{key}: {pattern:?}: {reason}")));
            }
        }
        Ok(())
    }

    fn needs_names(&self) -> bool {
        let needs = |pattern: &String| ["{user}", "{group}"].iter().any(|name| pattern.contains(name));
        self.0.iter().any(needs)
    }

    /// The patterns with what the placeholders stand for. One that has nothing to stand for allows nothing.
    fn for_user(&self, identity: &Identity, accounts: &Accounts) -> Self {
        let values = [
            accounts.user.as_ref().map(|user| user.name.clone()),
            Some(identity.uid.to_string()),
            accounts.group.clone(),
            Some(identity.gid.to_string()),
        ];
        let filled = self.0.iter().filter_map(|pattern| {
            let mut text = pattern.clone();
            for (placeholder, value) in PLACEHOLDERS.iter().zip(&values) {
                if text.contains(placeholder) {
                    text = text.replace(placeholder, value.as_deref().filter(|value| is_name(value))?);
                }
            }
            Some(text)
        });
        Allowed(filled.collect())
    }

    /// Each name of a pattern fits the one of `path` in its place; the path may go on.
    fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| {
            let mut names = names_of(path);
            names_of(pattern).all(|wanted| names.next().is_some_and(|name| fits(wanted, name)))
        })
    }
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("nothing is allowed"),
            false => write!(f, "allowed: {}", self.0.join(", ")),
        }
    }
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// A name that means itself only, as one name of a path.
fn is_name(text: &str) -> bool {
    !["", ".", ".."].contains(&text) && !text.contains(['/', '*', '\0'])
}

/// `*` stands for any characters of a name.
fn fits(wanted: &str, name: &str) -> bool {
    let Some((first, rest)) = wanted.split_once('*') else {
        return wanted == name;
    };
    let Some(name) = name.strip_prefix(first) else {
        return false;
    };
    name.char_indices()
        .map(|(at, _)| at)
        .chain([name.len()])
        .any(|at| name.get(at..).is_some_and(|tail| fits(rest, tail)))
}

impl PolicyConfig {
    /// What types do not say.
    pub fn check(&self) -> Result<()> {
        self.lists()
            .into_iter()
            .filter_map(|(key, list)| Some((key, list.as_ref()?)))
            .try_for_each(|(key, list)| list.check(key, key != "registries"))
    }

    fn lists(&self) -> [(&'static str, &Option<Allowed>); 3] {
        [
            ("registries", &self.registries),
            ("image_paths", &self.image_paths),
            ("mount_sources", &self.mount_sources),
        ]
    }

    /// Somebody has to ask the name service who the user is.
    pub fn needs_names(&self) -> bool {
        let lists = self.lists();
        lists
            .iter()
            .any(|(_, list)| list.as_ref().is_some_and(Allowed::needs_names))
    }

    /// What it says for this user.
    #[must_use]
    pub fn for_user(&self, identity: &Identity, accounts: &Accounts) -> Self {
        let of = |list: &Option<Allowed>| list.as_ref().map(|list| list.for_user(identity, accounts));
        PolicyConfig {
            registries: of(&self.registries),
            image_paths: of(&self.image_paths),
            mount_sources: of(&self.mount_sources),
            ..*self
        }
    }

    /// Refuses an image for where it comes from. Files are judged when they are open.
    pub fn check_source(&self, source: &ImageSource) -> Result<()> {
        let unnamed = |rule| {
            Err(denied(
                rule,
                "images of directories, archives, docker and podman",
                "they cannot be named there",
            ))
        };
        match source {
            ImageSource::Registry(reference) => self.check_registry(reference),
            ImageSource::Client(_) if self.registries.is_some() => unnamed("registries"),
            ImageSource::Local(_) | ImageSource::Client(_) if self.image_paths.is_some() => unnamed("image_paths"),
            ImageSource::File(_) | ImageSource::Local(_) | ImageSource::Client(_) => Ok(()),
        }
    }

    fn check_registry(&self, reference: &Reference) -> Result<()> {
        let Some(allowed) = &self.registries else {
            return Ok(());
        };
        let (host, repository) = (reference.registry(), reference.repository());
        // Docker's own registry has a name for people.
        let hosts = [host, if host == DOCKER_HUB { "docker.io" } else { host }];
        match hosts.iter().any(|host| allowed.covers(&format!("{host}/{repository}"))) {
            true => Ok(()),
            false => Err(denied(
                "registries",
                &format!("{}/{repository}", hosts[1]),
                &allowed.to_string(),
            )),
        }
    }

    /// Refuses what a plan has decided for.
    pub fn check_plan(&self, plan: &Plan) -> Result<()> {
        for (decided, allowed, name, without) in [
            (
                plan.mount_home,
                self.mount_home,
                "mount_home",
                "no-container-mount-home",
            ),
            (plan.writable, self.writable, "writable", "container-readonly"),
            (
                plan.remap_root,
                self.remap_root,
                "remap_root",
                "no-container-remap-root",
            ),
        ] {
            if decided && !allowed {
                let option = name.replace('_', "-");
                return Err(Error::Denied(format!(
                    "the site's policy.{name} = false forbids --container-{option}: use --{without}"
                )));
            }
        }
        Ok(())
    }
}

/// Refuses an open file or directory for where it is, if there is a list of `rule` and it is not in it.
pub fn check_path(rule: &str, allowed: Option<&Allowed>, file: impl AsFd) -> Result<()> {
    let Some(allowed) = allowed else {
        return Ok(());
    };
    let path = path_of(file)?;
    // One that cannot be reached any more, or is no text, is in no list.
    let covered = path.is_absolute() && path.to_str().is_some_and(|path| allowed.covers(path));
    match covered {
        true => Ok(()),
        false => Err(denied(rule, &path.display().to_string(), &allowed.to_string())),
    }
}

/// Where an open file is, as the kernel has found it.
pub(crate) fn path_of(file: impl AsFd) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(Path::new(&link))
        .map_err(|error| Error::sys("look where a file is", format!("readlink({link})"), error))
}

fn denied(rule: &str, what: &str, allowed: &str) -> Error {
    Error::Denied(format!("the site's policy.{rule} forbids {what} ({allowed})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::protocol::Account;

    fn allowed(patterns: &[&str]) -> Allowed {
        Allowed(patterns.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn names_are_compared_and_not_letters() {
        let list = allowed(&["/data/tenant-1", "/scratch/*/public", "/x*y*z/"]);
        for (path, covered) in [
            ("/data/tenant-1", true),
            ("/data/tenant-1/a/b", true),
            ("/data/tenant-12", false),
            ("/data", false),
            ("/", false),
            ("/other/data/tenant-1", false),
            ("/scratch/a/public/b", true),
            ("/scratch/a/b/public", false),
            ("/scratch/public", false),
            ("/x12y3z", true),
            ("/xyz/deep", true),
            ("/xz", false),
        ] {
            assert_eq!(list.covers(path), covered, "{path}");
        }
        assert!(allowed(&["/"]).covers("/anything") && !allowed(&[]).covers("/"));
    }

    #[test]
    fn placeholders_stand_for_one_name() {
        let identity = Identity {
            uid: 1000,
            gid: 50,
            groups: vec![],
        };
        let account = |name: &str| Accounts {
            user: Some(Account {
                name: name.into(),
                gecos: String::new(),
                home: "/".into(),
                shell: String::new(),
            }),
            group: None,
        };
        let list = allowed(&["/h/{user}", "/u/{uid}-{gid}", "/g/{group}"]);
        let filled = list.for_user(&identity, &account("alice"));
        assert_eq!(filled.to_string(), "allowed: /h/alice, /u/1000-50");
        for name in ["*", "a/b", "..", ""] {
            assert_eq!(
                list.for_user(&identity, &account(name)).to_string(),
                "allowed: /u/1000-50",
                "{name}"
            );
        }
        assert!(list.needs_names() && !allowed(&["/u/{uid}"]).needs_names());
    }

    #[test]
    fn patterns_that_mean_nothing_are_errors() {
        for (text, reason) in [
            (
                "mount_sources = ['data']",
                "policy.mount_sources: \"data\": it is not an absolute path",
            ),
            (
                "image_paths = ['/data/../x']",
                "policy.image_paths: \"/data/../x\": no empty names",
            ),
            (
                "image_paths = ['/data//x']",
                "policy.image_paths: \"/data//x\": no empty names",
            ),
            (
                "mount_sources = ['/', '/data/{account}']",
                "policy.mount_sources: \"/data/{account}\": placeholders are {user}, {uid}, {group}, {gid}",
            ),
            (
                "registries = ['docker://nvcr.io']",
                "policy.registries: \"docker://nvcr.io\": it is not HOST",
            ),
        ] {
            let error = toml::from_str::<PolicyConfig>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().starts_with(reason), "{error}");
        }
    }

    #[test]
    fn registries_and_parts_of_them() {
        let policy: PolicyConfig =
            toml::from_str("registries = ['nvcr.io/nvidia', '*.example.com', 'docker.io', 'r:5000/{uid}']").unwrap();
        let policy = policy.for_user(
            &Identity {
                uid: 7,
                gid: 7,
                groups: vec![],
            },
            &Accounts::default(),
        );
        let may = |image: &str| policy.check_source(&image.parse().unwrap());
        for image in [
            "nvcr.io#nvidia/cuda",
            "a.example.com#x",
            "debian",
            "docker.io/debian:12",
            "r:5000#7/x",
        ] {
            may(image).unwrap();
        }
        for image in [
            "nvcr.io#other/x",
            "example.com#x",
            "a.example.com.evil.org#x",
            "r:5000#8/x",
            "r#7/x",
            "nvcr.io#nvidia-x/y",
        ] {
            let error = may(image).unwrap_err().to_string();
            assert!(error.starts_with("the site's policy.registries forbids "), "{error}");
        }
        assert!(
            may("podman://debian")
                .unwrap_err()
                .to_string()
                .contains("policy.registries")
        );
        assert!(may("oci:/x").is_ok() && may("./x.sqsh").is_ok());
    }
}
