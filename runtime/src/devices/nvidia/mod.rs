//! The finder for NVIDIA: which GPUs a container sees, and what of the host's driver comes with them. It reads what the
//! driver and the loader's cache say; nothing of the driver is executed.
#![forbid(unsafe_code)]

mod driver;
mod files;
mod nodes;
mod parts;
mod require;
mod words;

use super::{Edits, HostFiles, LoaderDirectory, Wish};
use crate::error::{Error, Result};
use driver::{Gpu, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use words::{CAPABILITIES, Capabilities, VISIBLE, Visible};

/// No file of the driver below `/proc` is near this.
const MAX_SIZE: u64 = 1 << 20;
/// Where CUDA images have libraries of newer drivers.
const COMPAT: &str = "/usr/local/cuda/compat";

/// What is wanted, when something is.
struct Wanted {
    visible: Visible,
    capabilities: Capabilities,
    /// Whoever wants it will miss it.
    needed: bool,
}

/// The machine's driver and GPUs.
struct Machine {
    version: Version,
    gpus: Vec<Gpu>,
}

/// Looks for what is wanted. Without a wish for GPUs nothing is looked at.
pub(super) fn find(wish: &Wish, variables: &BTreeMap<String, String>, host: &HostFiles) -> Result<Edits> {
    let Some(wanted) = wanted(wish, variables)? else {
        return Ok(Edits::default());
    };
    let Some(version) = version(host)? else {
        return match wanted.needed {
            true => Err(Error::Host(
                "GPUs were asked for, and the NVIDIA driver is not loaded on this node".to_owned(),
            )),
            false => Ok(Edits::default()),
        };
    };
    let gpus = nodes::gpus(host)?;
    let granted = granted(wish.granted.as_deref(), &gpus);
    let chosen = words::choose(&wanted.visible, &gpus, granted.as_ref())?;
    let seen: Vec<&Gpu> = chosen.gpus.iter().filter_map(|gpu| gpus.get(*gpu)).collect();
    let mut edits = Edits {
        warnings: require::check(variables, &version, &seen)?,
        ..Edits::default()
    };
    let machine = Machine { version, gpus };
    edits.add(nodes::edits(&machine, &chosen, &wanted.capabilities, host)?);
    edits.add(files::edits(
        &machine.version,
        &wanted.capabilities,
        &wish.of_job(),
        host,
    )?);
    if wanted.capabilities.compute {
        edits.loader_directories.push(LoaderDirectory {
            path: COMPAT.into(),
            newer_than: Some(("libcuda".to_owned(), machine.version.numbers())),
            mounted: Vec::new(),
        });
    }
    Ok(edits)
}

/// Who wants what: the variables as the container has them; else the option and the site.
fn wanted(wish: &Wish, variables: &BTreeMap<String, String>) -> Result<Option<Wanted>> {
    let value = |name: &str| variables.get(name).map(String::as_str);
    let by_variable = Visible::parse(value(VISIBLE));
    let has_gpus = wish.granted.as_ref().is_some_and(|granted| !granted.is_empty());
    let by_job = wish.gpus.unwrap_or(wish.site.job_gpus && has_gpus);
    let capabilities = || Capabilities::parse(value(CAPABILITIES));
    Ok(match (by_variable, wish.gpus) {
        (_, Some(false)) => None,
        (Visible::Nothing, _) if !by_job => None,
        (Visible::Nothing, _) => Some(Wanted {
            visible: Visible::All,
            capabilities: match value(CAPABILITIES) {
                None => Capabilities::of_an_image_that_says_nothing(),
                Some(_) => capabilities()?,
            },
            needed: true,
        }),
        (visible, gpus) => Some(Wanted {
            visible,
            capabilities: capabilities()?,
            needed: has_gpus || gpus == Some(true) || wish.job.contains_key(VISIBLE),
        }),
    })
}

/// The driver's version; `None` when it is not loaded.
fn version(host: &HostFiles) -> Result<Option<Version>> {
    if let Some(text) = host.read_text(Path::new("/proc/driver/nvidia/version"), MAX_SIZE)?
        && let Some(version) = Version::of_proc(&text)
    {
        return Ok(Some(version));
    }
    let text = host.read_text(Path::new("/sys/module/nvidia/version"), MAX_SIZE)?;
    Ok(text.and_then(|text| Version::of_module(&text)))
}

/// The GPUs that the job was given, by their places in the list; `None`: nobody has said.
///
/// Parts of divided GPUs are counted by the workload manager in a way of its own. There its control groups alone decide.
fn granted(minors: Option<&[u32]>, gpus: &[Gpu]) -> Option<BTreeSet<usize>> {
    let minors = minors?;
    if gpus.iter().any(|gpu| !gpu.migs.is_empty()) {
        return None;
    }
    let given = gpus.iter().enumerate().filter(|(_, gpu)| minors.contains(&gpu.minor));
    Some(given.map(|(place, _)| place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(wish: Wish, variables: &[(&str, &str)]) -> Option<(Visible, bool)> {
        let variables: BTreeMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        wanted(&wish, &variables)
            .unwrap()
            .map(|wanted| (wanted.visible, wanted.needed))
    }

    #[test]
    fn who_asks_for_gpus() {
        let wish = |gpus: Option<bool>, job_gpus: bool, granted: Option<&[u32]>| {
            let mut wish = Wish {
                gpus,
                granted: granted.map(<[u32]>::to_vec),
                ..Wish::default()
            };
            wish.site.job_gpus = job_gpus;
            wish
        };
        let image = [(VISIBLE, "all")];
        assert_eq!(who(wish(None, false, None), &[]), None);
        assert_eq!(who(wish(None, false, Some(&[0])), &[]), None);
        assert_eq!(who(wish(None, false, None), &[(VISIBLE, "void")]), None);
        assert_eq!(who(wish(None, false, None), &image), Some((Visible::All, false)));
        assert_eq!(who(wish(None, false, Some(&[0])), &image), Some((Visible::All, true)));
        assert_eq!(who(wish(Some(false), true, Some(&[0])), &image), None);
        assert_eq!(who(wish(Some(true), false, None), &[]), Some((Visible::All, true)));
        assert_eq!(who(wish(None, true, Some(&[0])), &[]), Some((Visible::All, true)));
        assert_eq!(who(wish(None, true, None), &[]), None);
        assert_eq!(who(wish(None, true, Some(&[])), &[]), None);
        let some = Visible::Some(vec!["0".to_owned()]);
        assert_eq!(who(wish(Some(true), true, None), &[(VISIBLE, "0")]), Some((some, true)));
    }
}
