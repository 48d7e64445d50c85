//! Parsers of single option values. They take text and look nothing up.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::plan::Unshare;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest name of a container: a file name (255 bytes) less what goes before it (`pyxis_`, a job's number, `_`).
const NAME_MAX: usize = 255 - "pyxis_4294967295_".len();

/// `--container-name=NAME[:MODE]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerName {
    /// The name, without any prefix; it can be a part of a file name.
    pub name: String,
    /// What to do when it exists, runs, or does neither.
    pub mode: NameMode,
}

/// What a name means for a container that exists or runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NameMode {
    /// Join it when it runs; else use its file system when it exists; else make it.
    #[default]
    Auto,
    /// Make it; an error when it exists.
    Create,
    /// Join it; an error when it does not run.
    Exec,
    /// Use its file system or make it; never join.
    NoExec,
}

impl FromStr for ContainerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, mode) = match text.split_once(':') {
            None => (text, NameMode::default()),
            Some((name, "auto")) => (name, NameMode::Auto),
            Some((name, "create")) => (name, NameMode::Create),
            Some((name, "exec")) => (name, NameMode::Exec),
            Some((name, "no_exec")) => (name, NameMode::NoExec),
            Some((_, mode)) => {
                return Err(Error::Request(format!(
                    "unknown mode {mode:?}: take auto, create, exec or no_exec"
                )));
            }
        };
        if name.is_empty() {
            return Err(Error::Request("the name is empty".into()));
        }
        if name.contains('/') || name.chars().any(char::is_control) {
            return Err(Error::Request(format!(
                "the name {name:?} holds a slash or a control character"
            )));
        }
        if name.len() > NAME_MAX {
            return Err(Error::Request(format!("the name is longer than {NAME_MAX} bytes")));
        }
        Ok(ContainerName {
            name: name.to_owned(),
            mode,
        })
    }
}

/// A path of the container or of the host.
pub(super) fn path(text: &str) -> Result<PathBuf> {
    if text.contains('\0') {
        return Err(Error::Request(format!("the path {text:?} holds a NUL character")));
    }
    Ok(PathBuf::from(text))
}

/// A path of something that is not a directory.
pub(super) fn file_path(text: &str) -> Result<PathBuf> {
    if text.ends_with('/') {
        return Err(Error::Request(format!(
            "the path {text:?} ends with a slash: name a file"
        )));
    }
    path(text)
}

/// Names of environment variables, separated by commas.
pub(super) fn variable_names(text: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',') {
        if name.is_empty() {
            return Err(Error::Request(format!("empty variable name in {text:?}")));
        }
        if name.contains(['=', '\0']) {
            return Err(Error::Request(format!("{name:?} is not the name of a variable")));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Kinds of namespaces, separated by commas.
pub(super) fn namespaces(text: &str) -> Result<Unshare> {
    let mut unshare = Unshare::default();
    for word in text.split(',') {
        match word {
            "net" => unshare.net = true,
            "ipc" => unshare.ipc = true,
            "uts" => unshare.uts = true,
            other => {
                return Err(Error::Request(format!(
                    "unknown namespace {other:?}: take net, ipc or uts"
                )));
            }
        }
    }
    Ok(unshare)
}

/// A boolean variable's value.
pub(super) fn boolean(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" => Ok(true),
        "0" | "false" | "no" | "n" => Ok(false),
        _ => Err(Error::Request(format!(
            "{text:?} is not a boolean: take 1, 0, true, false, yes, no, y or n"
        ))),
    }
}
