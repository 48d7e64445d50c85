//! What the user asked for: the options of the command line and their environment variables, parsed, merged and checked,
//! but not yet judged by the site's policy and not yet looked up on any machine.
#![forbid(unsafe_code)]

pub mod mount_syntax;
pub mod options;
mod values;

use crate::devices::cdi::name::{DeviceName, parse_names};
use crate::error::{Error, Result};
use crate::mount::MountSpec;
use crate::plan::Unshare;
pub use options::{Key, Kind, OPTIONS, OptionSpec};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
pub use values::{ContainerName, NameMode};

/// A container, as asked for. `None` is "not said": the configuration decides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Request {
    /// `--container-image`, as written.
    pub image: Option<String>,
    /// `--container-mounts`, in order.
    pub mounts: Vec<MountSpec>,
    /// `--container-workdir`.
    pub workdir: Option<PathBuf>,
    /// `--container-name`.
    pub name: Option<ContainerName>,
    /// `--container-save`; a relative path starts at the job's working directory.
    pub save: Option<PathBuf>,
    /// `--container-mount-home`, `--no-container-mount-home`.
    pub mount_home: Option<bool>,
    /// `--container-remap-root`, `--no-container-remap-root`.
    pub remap_root: Option<bool>,
    /// `--container-entrypoint`, `--no-container-entrypoint`.
    pub entrypoint: Option<bool>,
    /// `--container-entrypoint-log`.
    pub entrypoint_log: Option<bool>,
    /// `--container-writable`, `--container-readonly`.
    pub writable: Option<bool>,
    /// `--container-env`: names that keep the job's value.
    pub env: Vec<String>,
    /// `--container-unshare`.
    pub unshare: Unshare,
    /// `--container-devices`, each once.
    pub devices: Vec<DeviceName>,
    /// `--container-gpus`, `--no-container-gpus`.
    pub gpus: Option<bool>,
    /// `--container-rocm`.
    pub rocm: Option<bool>,
}

/// One use of an option on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The option.
    pub option: &'static OptionSpec,
    /// Its argument, for an option that takes one.
    pub argument: Option<String>,
}

/// The outcome of [`Request::merge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// A container was asked for.
    Container(Box<Request>),
    /// None was; these warnings say which options mean nothing therefore.
    Nothing {
        /// One line each.
        warnings: Vec<String>,
    },
}

/// Mounts of one container. Each takes memory of the kernel that no limit of the job counts.
const MAX_MOUNTS: usize = 1000;
/// Devices of one container.
const MAX_DEVICES: usize = 256;

impl Request {
    /// Merges the uses of options with the environment. An option that the command line has is not looked up in the
    /// environment. The same use twice is one use: Slurm reports options more than once. `check_image` judges the form
    /// of an image's name.
    pub fn merge(
        uses: &[Use],
        variable: impl Fn(&str) -> Option<String>,
        check_image: impl Fn(&str) -> Result<()>,
    ) -> Result<Merged> {
        let mut request = Request::default();
        let said: Vec<Said> = said_by_options(uses)?;
        let also: Vec<Said> = said_by_variables(&said, variable)?;
        for word in said.iter().chain(&also) {
            request.take(word).map_err(|error| error.context(&word.origin))?;
        }
        if let Some(image) = &request.image {
            check_image(image)?;
        }
        if request.image.is_none() && request.name.is_none() {
            let warnings = said.iter().map(|word| {
                format!(
                    "ignoring {} because neither --container-image nor --container-name is set",
                    word.origin
                )
            });
            return Ok(Merged::Nothing {
                warnings: warnings.collect(),
            });
        }
        Ok(Merged::Container(Box::new(request)))
    }

    /// Takes one word in. Nothing is said twice here but mounts and devices, which add up.
    fn take(&mut self, word: &Said) -> Result<()> {
        match (&word.value, word.key) {
            (Value::Text(text), Key::Image) => self.image = Some(text.clone()),
            (Value::Text(text), Key::Mounts) => {
                self.mounts.extend(mount_syntax::parse_mounts(text)?);
                if self.mounts.len() > MAX_MOUNTS {
                    return Err(Error::Request(format!("more than {MAX_MOUNTS} mounts")));
                }
            }
            (Value::Text(text), Key::Workdir) => self.workdir = Some(values::path(text)?),
            (Value::Text(text), Key::Name) => self.name = Some(text.parse()?),
            (Value::Text(text), Key::Save) => self.save = Some(values::file_path(text)?),
            (Value::Text(text), Key::Env) => self.env = values::variable_names(text)?,
            (Value::Text(text), Key::Unshare) => self.unshare = values::namespaces(text)?,
            (Value::Text(text), Key::Devices) => {
                let new = parse_names(text)?
                    .into_iter()
                    .filter(|name| !self.devices.contains(name));
                let new: Vec<DeviceName> = new.collect();
                self.devices.extend(new);
                if self.devices.len() > MAX_DEVICES {
                    return Err(Error::Request(format!("more than {MAX_DEVICES} devices")));
                }
            }
            (Value::Switch(on), Key::MountHome) => self.mount_home = Some(*on),
            (Value::Switch(on), Key::RemapRoot) => self.remap_root = Some(*on),
            (Value::Switch(on), Key::Entrypoint) => self.entrypoint = Some(*on),
            (Value::Switch(on), Key::EntrypointLog) => self.entrypoint_log = Some(*on),
            (Value::Switch(on), Key::Gpus) => self.gpus = Some(*on),
            (Value::Switch(on), Key::Rocm) => self.rocm = Some(*on),
            (Value::Switch(on), Key::Writable) => self.writable = Some(*on),
            (_, key) => return Err(Error::Host(format!("the table of options is wrong about {key:?}"))),
        }
        Ok(())
    }
}

/// One thing said, whoever said it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    key: Key,
    value: Value,
    /// For messages: the option or the variable.
    origin: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Switch(bool),
}

fn said_by_options(uses: &[Use]) -> Result<Vec<Said>> {
    let mut said: Vec<Said> = Vec::new();
    for one in uses {
        let origin = format!("--{}", one.option.name);
        let value = match (one.option.kind, &one.argument) {
            (Kind::Switch(on), _) => Value::Switch(on),
            (Kind::Text(_), Some(text)) => Value::Text(text.clone()),
            (Kind::Text(what), None) => return Err(Error::Request(format!("{origin} needs an argument: {what}"))),
        };
        add(
            &mut said,
            Said {
                key: one.option.key,
                value,
                origin,
            },
        )?;
    }
    Ok(said)
}

fn said_by_variables(said: &[Said], variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Said>> {
    let mut also: Vec<Said> = Vec::new();
    for option in OPTIONS {
        let Some(name) = option.variable else { continue };
        if said.iter().any(|word| word.key == option.key) {
            continue;
        }
        let Some(text) = variable(name) else { continue };
        let value = match option.kind {
            Kind::Text(_) => Value::Text(text),
            Kind::Switch(meaning) => {
                let on = values::boolean(&text).map_err(|error| error.context(name))?;
                Value::Switch(on == meaning)
            }
        };
        add(
            &mut also,
            Said {
                key: option.key,
                value,
                origin: name.to_owned(),
            },
        )?;
    }
    Ok(also)
}

/// Adds a word to those said before, unless it is one of them, or contradicts one.
fn add(said: &mut Vec<Said>, word: Said) -> Result<()> {
    if word.value == Value::Text(String::new()) {
        return Err(Error::Request(format!("{} has an empty argument", word.origin)));
    }
    for before in said.iter().filter(|before| before.key == word.key) {
        if before.value == word.value {
            return Ok(());
        }
        match &word.value {
            Value::Switch(_) => {
                return Err(Error::Request(format!("{} contradicts {}", word.origin, before.origin)));
            }
            Value::Text(_) if matches!(word.key, Key::Mounts | Key::Devices) => {}
            Value::Text(_) => return Err(Error::Request(format!("{} specified multiple times", word.origin))),
        }
    }
    said.push(word);
    Ok(())
}

#[cfg(test)]
mod tests;
