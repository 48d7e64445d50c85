//! `NVIDIA_VISIBLE_DEVICES` and `NVIDIA_DRIVER_CAPABILITIES`: the words, and the devices that they mean. Pure.
#![forbid(unsafe_code)]

use super::driver::Gpu;
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// The variable that says which GPUs are visible.
pub const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// The variable that says which parts of the driver are there.
pub const CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// What `NVIDIA_VISIBLE_DEVICES` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// No driver at all.
    Nothing,
    /// The driver, and none of the GPUs.
    None,
    /// All of them.
    All,
    /// These.
    Some(Vec<String>),
}

impl Visible {
    /// Parses the value; `None` is an unset variable.
    pub fn parse(text: Option<&str>) -> Self {
        let words = text.unwrap_or_default().split(',').map(str::trim);
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let is = |word: &str| words.iter().any(|one| one.eq_ignore_ascii_case(word));
        match words.as_slice() {
            [] => Visible::Nothing,
            [one] if one.eq_ignore_ascii_case("void") => Visible::Nothing,
            [one] if one.eq_ignore_ascii_case("none") => Visible::None,
            _ if is("all") => Visible::All,
            words => Visible::Some(words.iter().map(|word| (*word).to_owned()).collect()),
        }
    }
}

/// Chosen GPUs and parts of GPUs, by their places in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chosen {
    /// GPUs.
    pub gpus: BTreeSet<usize>,
    /// Parts: the GPU, and the part's place in its list.
    pub migs: BTreeSet<(usize, usize)>,
}

/// The devices that are meant. With `granted` only those GPUs are there, for `all` and for the others: a number is that of the
/// machine all the same.
pub fn choose(visible: &Visible, gpus: &[Gpu], granted: Option<&BTreeSet<usize>>) -> Result<Chosen> {
    let may = |gpu: usize| granted.is_none_or(|granted| granted.contains(&gpu));
    let words = match visible {
        Visible::Nothing | Visible::None => return Ok(Chosen::default()),
        Visible::All => {
            let all: BTreeSet<usize> = (0..gpus.len()).filter(|gpu| may(*gpu)).collect();
            let parts = all.iter().flat_map(|gpu| {
                let count = gpus.get(*gpu).map_or(0, |found| found.migs.len());
                (0..count).map(|part| (*gpu, part))
            });
            return Ok(Chosen {
                migs: parts.collect(),
                gpus: all,
            });
        }
        Visible::Some(words) => words,
    };
    let mut chosen = Chosen::default();
    for word in words {
        let (gpu, part) = find(word, gpus)?;
        if !may(gpu) {
            return Err(Error::Request(format!(
                "{VISIBLE}: {word} is a GPU that the job was not given"
            )));
        }
        chosen.gpus.insert(gpu);
        chosen.migs.extend(part.map(|part| (gpu, part)));
    }
    Ok(chosen)
}

/// One word: a number, a UUID, a place on the bus, `GPU:PART`.
fn find(word: &str, gpus: &[Gpu]) -> Result<(usize, Option<usize>)> {
    let unknown = |what: &str| {
        let known: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        Error::Request(format!(
            "{VISIBLE}: {what} {word:?}: this node has {} GPUs{}{}",
            gpus.len(),
            if known.is_empty() { "" } else { ": " },
            known.join(", ")
        ))
    };
    if let Ok(number) = word.parse::<usize>() {
        return match number < gpus.len() {
            true => Ok((number, None)),
            false => Err(unknown("no GPU")),
        };
    }
    if let Some((gpu, part)) = word.split_once(':')
        && let (Ok(gpu), Ok(part)) = (gpu.parse::<usize>(), part.parse::<usize>())
    {
        return match gpus.get(gpu).and_then(|gpu| gpu.migs.get(part)) {
            Some(_) => Ok((gpu, Some(part))),
            None => Err(unknown("no MIG device")),
        };
    }
    let lower = word.to_lowercase();
    if let Some(rest) = lower.strip_prefix("mig-") {
        return find_mig(rest, gpus).ok_or_else(|| unknown("no MIG device"));
    }
    // A UUID whole, or so much of it that only one GPU can be meant.
    if lower.starts_with("gpu-") && lower.len() > "gpu-".len() {
        let mut found = (0..gpus.len()).filter(|gpu| {
            gpus.get(*gpu)
                .is_some_and(|gpu| gpu.uuid.to_lowercase().starts_with(&lower))
        });
        return match (found.next(), found.next()) {
            (Some(gpu), None) => Ok((gpu, None)),
            (Some(_), Some(_)) => Err(unknown("more than one GPU is")),
            _ => Err(unknown("no GPU")),
        };
    }
    let on_bus = |gpu: &Gpu| same_bus(&gpu.bus, &lower);
    gpus.iter()
        .position(on_bus)
        .map(|gpu| (gpu, None))
        .ok_or_else(|| unknown("no GPU"))
}

/// `MIG-GPU-UUID/GI/CI`, as drivers before 470 name parts. Newer UUIDs of parts are known to the driver's library alone: they
/// are kept in its memory and in no file.
fn find_mig(rest: &str, gpus: &[Gpu]) -> Option<(usize, Option<usize>)> {
    let mut words = rest.split('/');
    let uuid = words.next()?;
    let (gi, ci): (u32, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let gpu = gpus.iter().position(|gpu| gpu.uuid.to_lowercase() == uuid)?;
    let parts = &gpus.get(gpu)?.migs;
    let part = parts.iter().position(|part| part.gi == gi && part.ci == ci)?;
    Some((gpu, Some(part)))
}

/// The same place on the bus (`DOMAIN:BUS:DEVICE.FUNCTION`, hexadecimal); a domain that is not written is 0.
fn same_bus(bus: &str, word: &str) -> bool {
    let place = |text: &str| {
        let mut parts = text.rsplitn(3, ':');
        let device = parts.next().filter(|device| device.contains('.'))?.to_lowercase();
        let bus = u32::from_str_radix(parts.next()?, 16).ok()?;
        let domain = parts.next().map_or(Ok(0), |domain| u32::from_str_radix(domain, 16));
        Some((domain.ok()?, bus, device))
    };
    place(bus).is_some_and(|bus| place(word) == Some(bus))
}

/// Parts of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Capabilities {
    pub compute: bool,
    pub compat32: bool,
    pub display: bool,
    pub graphics: bool,
    pub ngx: bool,
    pub utility: bool,
    pub video: bool,
}

impl Capabilities {
    /// Parses the value; unset and empty are `utility`.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let mut found = Capabilities::default();
        let words = text.unwrap_or_default().split([',', ' ']).map(str::trim);
        let mut any = false;
        for word in words.filter(|word| !word.is_empty()) {
            any = true;
            match word {
                "all" => found = Capabilities::all(),
                "compute" => found.compute = true,
                "compat32" => found.compat32 = true,
                "display" => found.display = true,
                "graphics" => found.graphics = true,
                "ngx" => found.ngx = true,
                "utility" => found.utility = true,
                "video" => found.video = true,
                other => {
                    return Err(Error::Request(format!(
                        "{CAPABILITIES}: unknown word {other:?}: known are all, compute, compat32, display, graphics, ngx, \
                         utility, video"
                    )));
                }
            }
        }
        found.utility |= !any;
        Ok(found)
    }

    /// What a program may use whose image does not say what it uses.
    pub fn of_an_image_that_says_nothing() -> Self {
        Capabilities {
            compat32: false,
            ..Capabilities::all()
        }
    }

    fn all() -> Self {
        Capabilities {
            compute: true,
            compat32: true,
            display: true,
            graphics: true,
            ngx: true,
            utility: true,
            video: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::Mig;
    use super::*;

    fn gpus() -> Vec<Gpu> {
        let gpu = |minor: u32, uuid: &str| Gpu {
            bus: format!("0000:0{minor}:00.0"),
            uuid: uuid.to_owned(),
            minor,
            ..Gpu::default()
        };
        let mut all = vec![gpu(0, "GPU-aa11-0"), gpu(1, "GPU-aa22-1"), gpu(2, "GPU-bb33-2")];
        let part = |gi, ci| Mig {
            gi,
            ci,
            gi_minor: gi * 9,
            ci_minor: gi * 9 + ci + 1,
        };
        all[2].migs = vec![part(1, 0), part(5, 1)];
        all
    }

    fn of(text: &str, granted: Option<&[usize]>) -> Result<Chosen> {
        let granted = granted.map(|granted| granted.iter().copied().collect());
        choose(&Visible::parse(Some(text)), &gpus(), granted.as_ref())
    }

    #[test]
    fn what_the_words_mean() {
        assert_eq!(Visible::parse(None), Visible::Nothing);
        for (text, expected) in [
            ("", Visible::Nothing),
            ("void", Visible::Nothing),
            (",,", Visible::Nothing),
            ("none", Visible::None),
            ("all", Visible::All),
            ("ALL", Visible::All),
            ("0,all", Visible::All),
        ] {
            assert_eq!(Visible::parse(Some(text)), expected, "{text}");
        }
    }

    #[test]
    fn devices_that_are_meant() {
        let all_parts = [(2, 0), (2, 1)];
        for (text, gpus, parts) in [
            ("all", &[0, 1, 2][..], &all_parts[..]),
            ("none", &[], &[]),
            ("0", &[0], &[]),
            ("2,0", &[0, 2], &[]),
            ("1,1,", &[1], &[]),
            ("GPU-aa22-1", &[1], &[]),
            ("gpu-BB", &[2], &[]),
            ("2:1", &[2], &[(2, 1)]),
            ("MIG-GPU-bb33-2/5/1", &[2], &[(2, 1)]),
            ("00000000:01:00.0", &[1], &[]),
            ("01:00.0", &[1], &[]),
        ] {
            let chosen = of(text, None).unwrap();
            assert_eq!(chosen.gpus.into_iter().collect::<Vec<_>>(), gpus, "{text}");
            assert_eq!(chosen.migs.into_iter().collect::<Vec<_>>(), parts, "{text}");
        }
    }

    #[test]
    fn unknown_devices_are_errors_that_say_what_there_is() {
        for (text, says) in [
            (
                "3",
                "no GPU \"3\": this node has 3 GPUs: GPU-aa11-0, GPU-aa22-1, GPU-bb33-2",
            ),
            ("-1", "no GPU"),
            ("GPU-", "no GPU"),
            ("GPU-cc", "no GPU"),
            ("GPU-aa", "more than one GPU is \"GPU-aa\""),
            ("0:0", "no MIG device"),
            ("2:2", "no MIG device"),
            ("MIG-GPU-bb33-2/9/9", "no MIG device"),
            ("MIG-11111111-2222", "no MIG device"),
            ("nonsense", "no GPU"),
            ("0,nonsense", "no GPU"),
        ] {
            let error = of(text, None).unwrap_err().to_string();
            assert!(
                error.starts_with("NVIDIA_VISIBLE_DEVICES: ") && error.contains(says),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_is_more_than_the_job_was_given() {
        let chosen = of("all", Some(&[1, 2])).unwrap();
        assert_eq!(chosen.gpus.into_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(of("all", Some(&[])).unwrap(), Chosen::default());
        assert!(of("2:0", Some(&[2])).is_ok());
        for text in ["0", "GPU-aa11-0", "1,0"] {
            let error = of(text, Some(&[1])).unwrap_err().to_string();
            assert!(error.contains("the job was not given"), "{error}");
        }
    }

    #[test]
    fn parts_of_the_driver() {
        let utility = Capabilities {
            utility: true,
            ..Capabilities::default()
        };
        assert_eq!(Capabilities::parse(None).unwrap(), utility);
        assert_eq!(Capabilities::parse(Some(" ")).unwrap(), utility);
        assert_eq!(Capabilities::parse(Some("all")).unwrap(), Capabilities::all());
        let some = Capabilities::parse(Some("compute, utility,video")).unwrap();
        assert!(some.compute && some.utility && some.video && !some.graphics);
        let error = Capabilities::parse(Some("compute,magic")).unwrap_err().to_string();
        assert!(
            error.contains("unknown word \"magic\"") && error.contains("compat32"),
            "{error}"
        );
    }
}
