//! `NVIDIA_REQUIRE_*`: what an image requires of driver and GPUs. Spaces separate alternatives, commas join conditions. Pure.
#![forbid(unsafe_code)]

use super::driver::{Gpu, Version, compare, numbers};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Variables that begin so are requirements.
const PREFIX: &str = "NVIDIA_REQUIRE_";
/// A variable that switches them off.
const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";

/// CUDA's version by the driver's branch ("CUDA Toolkit and Corresponding Driver Versions" in the CUDA release notes). The
/// driver's library would tell, but it is not run here.
const CUDA: [(u32, &str); 33] = [
    (346, "7.0"),
    (352, "7.5"),
    (367, "8.0"),
    (375, "8.0"),
    (384, "9.0"),
    (387, "9.1"),
    (396, "9.2"),
    (410, "10.0"),
    (418, "10.1"),
    (430, "10.1"),
    (440, "10.2"),
    (450, "11.0"),
    (455, "11.1"),
    (460, "11.2"),
    (465, "11.3"),
    (470, "11.4"),
    (495, "11.5"),
    (510, "11.6"),
    (515, "11.7"),
    (520, "11.8"),
    (525, "12.0"),
    (530, "12.1"),
    (535, "12.2"),
    (545, "12.3"),
    (550, "12.4"),
    (555, "12.5"),
    (560, "12.6"),
    (565, "12.7"),
    (570, "12.8"),
    (575, "12.9"),
    (580, "13.0"),
    (585, "13.0"),
    (590, "13.1"),
];

/// CUDA's version of a driver: that of the newest branch which is not newer. The second value: the driver is of a branch that
/// was not known when this was written, so its version is that one or a later one.
pub fn cuda_of(driver: &Version) -> (&'static str, bool) {
    let known = CUDA.iter().rev().find(|(branch, _)| *branch <= driver.major());
    let newest = CUDA.last().is_some_and(|(branch, _)| driver.major() > *branch);
    (known.map_or("0", |(_, cuda)| cuda), newest)
}

/// Judges all requirements against the driver and the chosen GPUs. Gives lines for the user about what cannot be judged.
pub fn check(variables: &BTreeMap<String, String>, driver: &Version, gpus: &[&Gpu]) -> Result<Vec<String>> {
    let switched_off = variables.get(DISABLE).is_some_and(|value| !value.is_empty());
    let wanted = variables.iter().filter(|(name, _)| name.starts_with(PREFIX));
    let mut unknown = Vec::new();
    for (name, value) in wanted.filter(|_| !switched_off) {
        let all: Vec<Option<&Gpu>> = match gpus {
            [] => vec![None],
            gpus => gpus.iter().copied().map(Some).collect(),
        };
        for gpu in all {
            match met(name, value, driver, gpu)? {
                Verdict::Met => {}
                Verdict::Failed => return Err(failed(name, value, driver, gpu)),
                Verdict::Unknown => unknown.push(format!(
                    "{name}={value}: what {} can do is not known here: not checked",
                    gpu.map_or("this driver", |gpu| &gpu.model)
                )),
            }
        }
    }
    unknown.dedup();
    Ok(unknown)
}

fn failed(name: &str, value: &str, driver: &Version, gpu: Option<&Gpu>) -> Error {
    let (cuda, _) = cuda_of(driver);
    let gpu = gpu.map_or("no GPU".to_owned(), |gpu| {
        let architecture = gpu.architecture().unwrap_or("unknown");
        format!("{} (brand {}, arch {architecture})", gpu.model, gpu.brand())
    });
    Error::Request(format!(
        "the image requires {value} ({name}), and this node has driver {driver}, cuda {cuda}, {gpu}: use another image or node, \
         or set {DISABLE}=1"
    ))
}

/// What comes out of a condition, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Failed,
    Unknown,
    Met,
}

/// One requirement: one of its alternatives holds, and all conditions of that.
fn met(name: &str, value: &str, driver: &Version, gpu: Option<&Gpu>) -> Result<Verdict> {
    let mut best = None;
    for alternative in value.split(' ').filter(|alternative| !alternative.is_empty()) {
        let mut worst = Verdict::Met;
        for condition in alternative.split(',').filter(|condition| !condition.is_empty()) {
            let verdict = judge(condition, driver, gpu)
                .ok_or_else(|| Error::Image(format!("{name}={value}: {condition:?} is no condition")))?;
            worst = worst.min(verdict);
        }
        best = best.max(Some(worst));
    }
    Ok(best.unwrap_or(Verdict::Met))
}

/// `None`: it is no condition.
fn judge(condition: &str, driver: &Version, gpu: Option<&Gpu>) -> Option<Verdict> {
    let start = condition.find(['<', '>', '=', '!'])?;
    let (name, rest) = condition.split_at(start);
    let length = rest.find(|letter| !['<', '>', '=', '!'].contains(&letter))?;
    let (operator, value) = rest.split_at(length);
    let of = |holds: bool| if holds { Verdict::Met } else { Verdict::Failed };
    match name.to_lowercase().as_str() {
        "cuda" => {
            let (cuda, or_later) = cuda_of(driver);
            let holds = by_number(cuda, operator, value)?;
            Some(if or_later && !holds {
                Verdict::Unknown
            } else {
                of(holds)
            })
        }
        "driver" => by_number(&driver.to_string(), operator, value).map(of),
        "arch" => match gpu.map(Gpu::architecture) {
            None => Some(Verdict::Failed),
            Some(None) => by_number("0", operator, value).map(|_| Verdict::Unknown),
            Some(Some(architecture)) => by_number(architecture, operator, value).map(of),
        },
        "brand" => {
            let same = gpu.is_some_and(|gpu| gpu.brand().eq_ignore_ascii_case(value));
            match operator {
                "=" => Some(of(same)),
                "!=" => Some(of(gpu.is_some() && !same)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn by_number(have: &str, operator: &str, value: &str) -> Option<bool> {
    let is_version = value.split('.').all(|part| part.parse::<u32>().is_ok());
    let order = is_version.then(|| compare(&numbers(have), &numbers(value)))?;
    match operator {
        "=" => Some(order == Ordering::Equal),
        "!=" => Some(order != Ordering::Equal),
        "<" => Some(order == Ordering::Less),
        "<=" => Some(order != Ordering::Greater),
        ">" => Some(order == Ordering::Greater),
        ">=" => Some(order != Ordering::Less),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(model: &str) -> Gpu {
        Gpu {
            model: model.to_owned(),
            ..Gpu::default()
        }
    }

    fn of(value: &str, driver: &str, model: Option<&str>) -> Result<Vec<String>> {
        let variables = [("NVIDIA_REQUIRE_CUDA".to_owned(), value.to_owned())].into();
        let gpu = model.map(gpu);
        let gpus: Vec<&Gpu> = gpu.iter().collect();
        check(&variables, &Version::parse(driver).unwrap(), &gpus)
    }

    #[test]
    fn what_holds() {
        for value in [
            "cuda>=12.4",
            "cuda<=12.4",
            "cuda=12.4",
            "cuda>=11.8 brand=tesla",
            "driver>=550,driver<551",
            "arch>=8.0",
            "brand=NVIDIA",
            "brand!=tesla",
            "CUDA>=1",
            "cuda>=99 brand=tesla,driver>=535 brand=nvidia,driver>=550,driver<551",
            "",
        ] {
            assert_eq!(
                of(value, "550.54.15", Some("NVIDIA A100-SXM4-40GB")).unwrap(),
                Vec::<String>::new(),
                "{value}"
            );
        }
    }

    #[test]
    fn a_failed_one_names_the_requirement_and_what_there_is() {
        for value in [
            "cuda>=12.5",
            "driver<550",
            "arch>8.0",
            "brand=tesla",
            "brand=nvidia,cuda>=13 brand=tesla",
        ] {
            let error = of(value, "550.54.15", Some("NVIDIA A100-SXM4-40GB"))
                .unwrap_err()
                .to_string();
            assert_eq!(
                error,
                format!(
                    "the image requires {value} (NVIDIA_REQUIRE_CUDA), and this node has driver 550.54.15, cuda 12.4, NVIDIA \
                     A100-SXM4-40GB (brand nvidia, arch 8.0): use another image or node, or set NVIDIA_DISABLE_REQUIRE=1"
                )
            );
        }
        assert!(
            of("brand=tesla", "550.54.15", None)
                .unwrap_err()
                .to_string()
                .contains("no GPU")
        );
        assert!(of("brand!=tesla", "550.54.15", None).is_err() && of("arch>=1", "550.54.15", None).is_err());
        assert!(of("cuda>=12", "550.54.15", None).is_ok());
    }

    #[test]
    fn what_is_not_known_is_told_and_let_pass() {
        let newer = of("cuda>=14.0", "999.1", Some("NVIDIA A100")).unwrap();
        assert!(
            newer[0].contains("cuda>=14.0") && newer[0].contains("not checked"),
            "{newer:?}"
        );
        let model = of("arch>=9.0", "550.54", Some("NVIDIA Z9")).unwrap();
        assert!(model[0].contains("NVIDIA Z9"), "{model:?}");
        assert_eq!(cuda_of(&Version::parse("300.1").unwrap()), ("0", false));
        assert_eq!(cuda_of(&Version::parse("552.10").unwrap()), ("12.4", false));
    }

    #[test]
    fn nonsense_is_an_error_and_the_switch_works() {
        for value in ["cuda", ">=1", "cuda>=", "cuda>=x", "cuda=>1", "brand>x", "magic=1"] {
            let error = of(value, "550.54", Some("x")).unwrap_err();
            assert!(matches!(error, Error::Image(_)), "{value}: {error}");
        }
        let mut variables: BTreeMap<String, String> = [("NVIDIA_REQUIRE_X".into(), "cuda>=99".into())].into();
        let driver = Version::parse("550.54").unwrap();
        assert!(check(&variables, &driver, &[]).is_err());
        variables.insert(DISABLE.into(), "1".into());
        assert!(check(&variables, &driver, &[]).is_ok());
    }
}
