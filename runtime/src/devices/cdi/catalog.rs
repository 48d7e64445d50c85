//! All devices that the specifications of a node describe, and the choice among them. Of two files that describe the same
//! device the one in the later directory counts; in the same directory they contradict each other.
#![forbid(unsafe_code)]

use super::name::{DeviceClass, DeviceName};
use super::spec::{ContainerEdits, Spec};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// So many names are told in an error.
const MAX_TOLD: usize = 20;

/// The specifications of a node.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: Vec<SpecFile>,
    /// What cannot be used, and why: one line each.
    pub unusable: Vec<String>,
}

/// A specification that can be used.
#[derive(Debug)]
struct SpecFile {
    path: String,
    /// Of its directory: a larger one wins.
    priority: usize,
    spec: Spec,
}

/// What a container gets, and who says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chosen<'a> {
    /// The file.
    pub path: &'a str,
    /// What it says.
    pub edits: &'a ContainerEdits,
}

impl Catalog {
    /// Adds a file, or why it cannot be used.
    pub fn add(&mut self, path: &str, priority: usize, spec: std::result::Result<Spec, String>) {
        match spec {
            Ok(spec) => self.files.push(SpecFile {
                path: path.to_owned(),
                priority,
                spec,
            }),
            Err(reason) => self.unusable.push(format!("{path}: {reason}")),
        }
    }

    /// What these devices need: of each file first what all its devices have in common, once.
    pub fn choose(&self, names: &[DeviceName]) -> Result<Vec<Chosen<'_>>> {
        let mut begun: Vec<&str> = Vec::new();
        let mut chosen = Vec::new();
        for name in names {
            let (file, edits) = self.find(name)?;
            let path = file.path.as_str();
            if !begun.contains(&path) {
                begun.push(path);
                chosen.push(Chosen {
                    path,
                    edits: &file.spec.common,
                });
            }
            chosen.push(Chosen { path, edits });
        }
        Ok(chosen)
    }

    fn find(&self, name: &DeviceName) -> Result<(&SpecFile, &ContainerEdits)> {
        let of_class = self.files.iter().filter(|file| file.spec.class == name.class);
        let all = of_class.filter_map(|file| {
            let mut devices = file.spec.devices.iter();
            devices
                .find(|device| device.name == name.name)
                .map(|device| (file, &device.container_edits))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(file, _)| file.priority);
        let found = all.pop().ok_or_else(|| self.unknown(name))?;
        match all.pop() {
            Some((other, _)) if other.priority == found.0.priority => Err(Error::Host(format!(
                "device {name} is described twice, by {} and {}",
                other.path, found.0.path
            ))),
            _ => Ok(found),
        }
    }

    fn unknown(&self, name: &DeviceName) -> Error {
        let same: BTreeSet<String> = self.names(|class| *class == name.class).collect();
        let known = match same.is_empty() {
            true => self.names(|_| true).collect(),
            false => same,
        };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let (told, untold) = known.split_at(known.len().min(MAX_TOLD));
        let mut text = format!("unknown device {name}: this node has ");
        text.push_str(&match (told, untold) {
            ([], _) => "none that is described".to_owned(),
            (told, []) => told.join(", "),
            (told, more) => format!("{} and {} more", told.join(", "), more.len()),
        });
        for reason in &self.unusable {
            text.push_str("; not used: ");
            text.push_str(reason);
        }
        Error::Request(text)
    }

    fn names(&self, wanted: impl Fn(&DeviceClass) -> bool) -> impl Iterator<Item = String> {
        let files = self.files.iter().filter(move |file| wanted(&file.spec.class));
        files.flat_map(|file| {
            let class = &file.spec.class;
            file.spec
                .devices
                .iter()
                .map(move |device| format!("{class}={}", device.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::parse_names;
    use super::super::spec::parse;
    use super::*;

    /// Specifications by directory: each device has a variable that says where it comes from.
    fn catalog(files: &[(&str, usize, &str, &[&str])]) -> Catalog {
        let mut catalog = Catalog::default();
        for (path, priority, kind, devices) in files {
            let devices: Vec<String> = devices
                .iter()
                .map(|name| format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["D={path}={name}"]}}}}"#))
                .collect();
            let devices = devices.join(",");
            let text = format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "containerEdits": {{"env": ["C={path}"]}}, "devices": [{devices}]}}"#
            );
            catalog.add(path, *priority, parse(&text, true));
        }
        catalog
    }

    fn chosen(catalog: &Catalog, names: &str) -> std::result::Result<Vec<String>, String> {
        let chosen = catalog
            .choose(&parse_names(names).unwrap())
            .map_err(|error| error.to_string())?;
        Ok(chosen.iter().flat_map(|chosen| chosen.edits.env.clone()).collect())
    }

    #[test]
    fn what_is_common_comes_once_and_first() {
        let catalog = catalog(&[("one", 0, "a.b/c", &["0", "1", "all"]), ("two", 0, "a.b/d", &["0"])]);
        assert_eq!(
            chosen(&catalog, "a.b/c=1,a.b/d=0,a.b/c=0").unwrap(),
            ["C=one", "D=one=1", "C=two", "D=two=0", "D=one=0"]
        );
        assert_eq!(chosen(&catalog, "a.b/c=all").unwrap(), ["C=one", "D=one=all"]);
    }

    #[test]
    fn a_later_directory_wins_and_equal_ones_contradict() {
        let files: &[(&str, usize, &str, &[&str])] = &[
            ("etc", 0, "a.b/c", &["0", "1"]),
            ("run", 1, "a.b/c", &["0"]),
            ("run2", 1, "a.b/c", &["2"]),
        ];
        let good = catalog(files);
        assert_eq!(
            chosen(&good, "a.b/c=0,a.b/c=1,a.b/c=2").unwrap(),
            ["C=run", "D=run=0", "C=etc", "D=etc=1", "C=run2", "D=run2=2"]
        );
        let bad = catalog(&[("x", 0, "a.b/c", &["0", "1"]), ("y", 0, "a.b/c", &["0", "2"])]);
        assert_eq!(chosen(&bad, "a.b/c=2").unwrap(), ["C=y", "D=y=2"]);
        assert_eq!(
            chosen(&bad, "a.b/c=0").unwrap_err(),
            "device a.b/c=0 is described twice, by x and y"
        );
    }

    #[test]
    fn who_asks_for_what_is_not_there_learns_what_is() {
        let mut catalog = catalog(&[("one", 0, "a.b/c", &["0", "1"]), ("two", 0, "a.b/d", &["0"])]);
        let error = |catalog: &Catalog, name| chosen(catalog, name).unwrap_err();
        assert_eq!(
            error(&catalog, "a.b/c=all"),
            "unknown device a.b/c=all: this node has a.b/c=0, a.b/c=1"
        );
        assert_eq!(
            error(&catalog, "x.y/z=0"),
            "unknown device x.y/z=0: this node has a.b/c=0, a.b/c=1, a.b/d=0"
        );
        catalog.add("three", 0, parse("{", true));
        assert!(error(&catalog, "x.y/z=0").contains("a.b/d=0; not used: three: EOF"));
        assert_eq!(
            error(&Catalog::default(), "x.y/z=0"),
            "unknown device x.y/z=0: this node has none that is described"
        );
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let catalog = self::catalog(&[("one", 0, "a.b/c", &many)]);
        assert!(error(&catalog, "a.b/c=all").ends_with(" and 80 more"));
    }
}
