//! Which images run on a machine: operating system, architecture and variant in Go's words, as image indexes use them
//! (OCI image specification, image-index.md), and which entry of an index is the best one.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A platform. It prints as `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system: `linux`.
    pub os: String,
    /// The architecture: `amd64`, `arm64`, `arm`, `ppc64le`, `riscv64`, `s390x`, `386`, ...
    pub architecture: String,
    /// The variant, where an architecture has some: `v7` of arm, `v3` of amd64.
    pub variant: Option<String>,
}

impl Platform {
    /// A platform from what an index or an image configuration says, in its usual spelling: uname's names are understood,
    /// and the variants that are meant when none is written are left out.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "i386" | "i686" | "x86" => ("386".to_owned(), None),
            "armhf" | "armv7l" => ("arm".to_owned(), Some("v7")),
            "armel" | "armv6l" => ("arm".to_owned(), Some("v6")),
            other => (other.to_owned(), None),
        };
        let variant = variant
            .filter(|variant| !variant.is_empty())
            .or(implied)
            .map(str::to_ascii_lowercase);
        let default = default_variant(&architecture);
        Platform {
            os: os.to_ascii_lowercase(),
            variant: variant.filter(|variant| Some(variant.as_str()) != default),
            architecture,
        }
    }

    /// The machine that this runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Platform::new("linux", architecture, host_variant())
    }

    /// How well an image for `image` runs here: `None` is not at all, more is better.
    pub fn fit(&self, image: &Platform) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        match (self.level(), image.level()) {
            (Some(here), Some(there)) => (there <= here).then_some(there + 1),
            _ => (self.variant == image.variant).then_some(0),
        }
    }

    /// The variant as a number: each includes the ones below it.
    fn level(&self) -> Option<u32> {
        let variant = self
            .variant
            .as_deref()
            .or_else(|| default_variant(&self.architecture))?;
        // arm64 variants may have a minor version (v8.2, v9.0).
        let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
            Some((major, minor)) => (major, minor.parse::<u32>().ok()?),
            None => (variant.strip_prefix('v')?, 0),
        };
        major.parse::<u32>().ok()?.checked_mul(100)?.checked_add(minor.min(99))
    }
}

/// The variant that is meant when an entry has none (as containerd's platform package reads it).
fn default_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("v1"),
        "arm" => Some("v7"),
        "arm64" => Some("v8"),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2 && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("f16c") && has!("lzcnt");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v4, v3, v2) {
        (true, ..) => Some("v4"),
        (_, true, _) => Some("v3"),
        (_, _, true) => Some("v2"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<&'static str> {
    None
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `amd64`, `x86_64`, `linux/arm64`, `linux/arm/v7`.
    fn from_str(text: &str) -> Result<Self> {
        let word = |word: &&str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            parts if !parts.iter().all(word) => None,
            [architecture] => Some(Platform::new("linux", architecture, None)),
            [os, architecture] => Some(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Some(Platform::new(os, architecture, Some(variant))),
            _ => None,
        }
        .ok_or_else(|| Error::Request(format!("{text:?} is not a platform (amd64, linux/arm64, linux/arm/v7)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_normalised() {
        for (text, expected) in [
            ("x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm"),
            ("armel", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("windows/amd64", "windows/amd64"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).to_string(), expected, "{text}");
        }
        for text in ["", "/", "a/b/c/d", "a b", "linux/", "linux/\n"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_fits() {
        for (host, image, fits) in [
            ("amd64", "amd64", true),
            ("amd64", "arm64", false),
            ("amd64", "386", false),
            ("amd64", "windows/amd64", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64/v4", false),
            ("amd64", "linux/amd64/v2", false),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm", false),
            ("arm64", "linux/arm64/v8", true),
            ("arm64", "linux/arm64/v9", false),
            ("linux/arm64/v9.0", "linux/arm64/v8.2", true),
            ("s390x", "s390x", true),
            ("s390x", "linux/s390x/z15", false),
        ] {
            assert_eq!(platform(host).fit(&platform(image)).is_some(), fits, "{host} {image}");
        }
    }

    #[test]
    fn the_better_variant_wins() {
        let host = platform("linux/arm/v7");
        assert!(host.fit(&platform("linux/arm/v7")) > host.fit(&platform("linux/arm/v6")));
        let host = platform("linux/amd64/v3");
        assert!(host.fit(&platform("linux/amd64/v3")) > host.fit(&platform("linux/amd64")));
    }

    #[test]
    fn the_host_runs_its_own_images() {
        let host = Platform::host();
        assert_eq!(host.os, "linux");
        let plain = Platform::new("linux", std::env::consts::ARCH, None);
        assert!(host.fit(&plain).is_some(), "{host}");
    }
}
