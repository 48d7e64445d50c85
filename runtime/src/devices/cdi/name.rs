//! Names of devices: `vendor.com/class=name`, as the Container Device Interface defines them (SPEC.md, "Kind" and
//! "CDI Devices").
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The vendor and class of a device: `vendor.com/class`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceClass {
    vendor: String,
    class: String,
}

/// A device's full name: `vendor.com/class=name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName {
    /// Vendor and class.
    pub class: DeviceClass,
    /// Which of them.
    pub name: String,
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.class, self.name)
    }
}

impl FromStr for DeviceClass {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((vendor, class)) if is_word(vendor, "_-.") && is_word(class, "_-.") => Ok(DeviceClass {
                vendor: vendor.to_owned(),
                class: class.to_owned(),
            }),
            _ => Err(Error::Request(format!(
                "{text:?} is not a kind of device: write vendor.com/class"
            ))),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Request(format!("{text:?} is not a device: write vendor.com/class=name"));
        let (class, name) = text.split_once('=').ok_or_else(wrong)?;
        if !is_device(name) {
            return Err(wrong());
        }
        Ok(DeviceName {
            class: class.parse().map_err(|_| wrong())?,
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for DeviceClass {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for DeviceName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DeviceClass> for String {
    fn from(class: DeviceClass) -> Self {
        class.to_string()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

/// The last part of a device's name.
pub(super) fn is_device(name: &str) -> bool {
    made_of(name, "_-.:") && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// A vendor or a class.
fn is_word(word: &str, marks: &str) -> bool {
    made_of(word, marks) && word.starts_with(|first: char| first.is_ascii_alphabetic())
}

/// Letters, digits and these marks, a letter or a digit last.
fn made_of(word: &str, marks: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        && word.ends_with(|last: char| last.is_ascii_alphanumeric())
}

/// Full names, separated by commas.
pub fn parse_names(text: &str) -> Result<Vec<DeviceName>> {
    let mut names: Vec<DeviceName> = Vec::new();
    for word in text.split(',') {
        let name: DeviceName = word.parse()?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names() {
        let names =
            parse_names("nvidia.com/gpu=0,intel.com/gpu=card1,nvidia.com/gpu=0,vendor.com/a_b-c.d=GPU-1:2.3").unwrap();
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "nvidia.com/gpu=0",
                "intel.com/gpu=card1",
                "vendor.com/a_b-c.d=GPU-1:2.3"
            ]
        );
    }

    #[test]
    fn what_is_no_full_name_is_refused() {
        for text in [
            "",
            "gpu0",
            "nvidia.com/gpu",
            "nvidia.com=0",
            "nvidia.com/gpu=",
            "/gpu=0",
            "nvidia.com/=0",
            "1.com/gpu=0",
            "nvidia.com/gpu=-0",
            "nvidia.com/gpu=0-",
            "nvidia.com/gpu/x=0",
            "nvidia.com/gpu=a=b",
            "nvidia.com/g pu=0",
            "nvidia.com/gpu=../x",
            "nvidia.com/gpu=0,",
            "nvidia.com-/gpu=0",
            "a/b=\n",
        ] {
            let error = parse_names(text).unwrap_err().to_string();
            assert!(
                error.contains("is not a device: write vendor.com/class=name"),
                "{text:?}: {error}"
            );
        }
    }
}
