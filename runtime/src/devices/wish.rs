//! What has a say in which devices a container gets, gathered before anything is looked up.
#![forbid(unsafe_code)]

use super::Edits;
use super::cdi::name::DeviceClass;
use crate::environment::{self, Edit, Layers};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[devices]` of the site's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesConfig {
    /// The directory below which everything about devices is looked for.
    pub root: PathBuf,
    /// Kinds of described devices (CDI) that a job may ask for; all without it.
    pub cdi: Option<Vec<DeviceClass>>,
    /// Programs that described devices have as hooks, and work without.
    pub unneeded_hooks: Vec<PathBuf>,
    /// Containers of jobs that were given GPUs have them, also when the image does not ask.
    pub job_gpus: bool,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        DevicesConfig {
            root: PathBuf::from("/"),
            cdi: None,
            unneeded_hooks: Vec::new(),
            job_gpus: false,
        }
    }
}

impl DevicesConfig {
    /// What types do not say.
    pub fn check(&self) -> Result<()> {
        match self.root.is_absolute() {
            true => Ok(()),
            false => Err(Error::Host(format!(
                "devices.root = {:?} is not an absolute path",
                self.root
            ))),
        }
    }
}

/// Names by which variables speak of devices.
const PREFIXES: [&str; 5] = ["NVIDIA_", "MELLANOX_", "CUDA_", "ROCR_", "HIP_"];

/// What has a say in which devices a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// The site.
    pub site: DevicesConfig,
    /// `--container-gpus`, `--no-container-gpus`.
    pub gpus: Option<bool>,
    /// `--container-rocm`.
    pub rocm: bool,
    /// Minor numbers of the GPUs that the job was given, if somebody has said.
    pub granted: Option<Vec<u32>>,
    /// The job's variables about devices.
    pub job: BTreeMap<String, String>,
    /// The image's `NAME=VALUE` list, as far as its configuration has it.
    pub image: Vec<String>,
    /// Names that keep the job's value.
    pub keep: Vec<String>,
    /// Variables of configuration files about devices, which go over both.
    pub files: Vec<Edit>,
    /// What is known without looking.
    pub also: Edits,
}

impl Wish {
    /// Takes what the layers of an environment say about devices.
    pub fn of(site: &DevicesConfig, layers: &Layers<'_>) -> Self {
        let ours = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let job = layers.job.into_iter().flatten().filter(|(name, _)| ours(name));
        Wish {
            site: site.clone(),
            gpus: None,
            rocm: false,
            granted: None,
            job: job.map(|(name, value)| (name.clone(), value.clone())).collect(),
            image: layers.image.iter().filter(|entry| ours(entry)).cloned().collect(),
            keep: layers.keep.to_vec(),
            files: layers.files.iter().filter(|(name, _)| ours(name)).cloned().collect(),
            also: Edits::default(),
        }
    }

    /// The variables about devices as a task will see them, with `own`, the variables of an image that has them in files.
    pub fn variables(&self, own: &[String]) -> BTreeMap<String, String> {
        let image: Vec<String> = self.image.iter().chain(own).cloned().collect();
        let edits = environment::edits(&Layers {
            job: Some(&self.job),
            image: &image,
            keep: &self.keep,
            files: &self.files,
            ..Layers::default()
        });
        environment::edited(self.job.clone(), &edits)
    }

    /// The same without what the image says, for what is mounted of the host by the value of a variable.
    pub fn of_job(&self) -> BTreeMap<String, String> {
        environment::edited(self.job.clone(), &self.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_wins_unless_the_job_keeps_its_value() {
        let job = [("NVIDIA_VISIBLE_DEVICES", "0"), ("NVIDIA_X", "job"), ("HOME", "/root")];
        let job = job
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let image = ["NVIDIA_VISIBLE_DEVICES=all".to_owned(), "PATH=/bin".to_owned()];
        let layers = Layers {
            job: Some(&job),
            image: &image,
            ..Layers::default()
        };
        let wish = Wish::of(&DevicesConfig::default(), &layers);
        assert!(!wish.job.contains_key("HOME") && wish.image.len() == 1);
        let of = |wish: &Wish, own: &[String]| wish.variables(own).get("NVIDIA_VISIBLE_DEVICES").cloned();
        assert_eq!(of(&wish, &[]).as_deref(), Some("all"));
        assert_eq!(wish.variables(&[]).get("NVIDIA_X").map(String::as_str), Some("job"));
        assert_eq!(
            of(&wish, &["NVIDIA_VISIBLE_DEVICES=3".to_owned()]).as_deref(),
            Some("3")
        );
        let keep = ["NVIDIA_VISIBLE_DEVICES".to_owned()];
        let kept = Wish::of(&DevicesConfig::default(), &Layers { keep: &keep, ..layers });
        assert_eq!(of(&kept, &[]).as_deref(), Some("0"));
    }
}
