//! What the NVIDIA driver says about itself and its GPUs below `/proc` and `/sys`, parsed. Pure: text in, values out.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;

/// A version of the driver: numbers with dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// A word that is one.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split('.');
        let is = text.contains('.') && text.len() <= 32 && numbers.clone().all(|part| part.parse::<u32>().is_ok());
        is.then(|| Version(text.to_owned()))
    }

    /// Out of `/sys/module/nvidia/version`.
    pub fn of_module(text: &str) -> Option<Self> {
        Version::parse(text.trim())
    }

    /// Out of `/proc/driver/nvidia/version`: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...`.
    pub fn of_proc(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
        line.split_whitespace().find_map(Version::parse)
    }

    /// Its numbers.
    pub fn numbers(&self) -> Vec<u32> {
        numbers(&self.0)
    }

    /// The branch.
    pub fn major(&self) -> u32 {
        self.numbers().first().copied().unwrap_or(0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The numbers of a version.
pub fn numbers(text: &str) -> Vec<u32> {
    text.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// Compares versions; what is missing at the end is 0.
pub fn compare(left: &[u32], right: &[u32]) -> Ordering {
    let length = left.len().max(right.len());
    let at = |numbers: &[u32], index: usize| numbers.get(index).copied().unwrap_or(0);
    let different = (0..length).map(|index| at(left, index).cmp(&at(right, index)));
    different.fold(Ordering::Equal, Ordering::then)
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpu {
    /// The name of its directory below `/proc/driver/nvidia/gpus`: where it is on the PCI bus.
    pub bus: String,
    /// `NVIDIA A100-SXM4-40GB`.
    pub model: String,
    /// `GPU-xxxxxxxx-...`; it says question marks before the GPU has been used.
    pub uuid: String,
    /// The number in the name of its device node.
    pub minor: u32,
    /// Its parts, if it is divided.
    pub migs: Vec<Mig>,
}

/// A MIG device: a compute instance of a GPU instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mig {
    /// The GPU instance.
    pub gi: u32,
    /// The compute instance.
    pub ci: u32,
    /// Minor number of the node that opens the GPU instance.
    pub gi_minor: u32,
    /// Minor number of the node that opens the compute instance.
    pub ci_minor: u32,
}

impl Gpu {
    /// Out of `gpus/BUS/information`. `index` is the GPU's place in the order of the bus, which is its minor number where the
    /// driver does not say it.
    pub fn parse(bus: &str, index: u32, text: &str) -> Self {
        let value = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
            pairs
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        Gpu {
            bus: bus.to_owned(),
            model: value("Model").unwrap_or_default(),
            uuid: value("GPU UUID").unwrap_or_default(),
            minor: value("Device Minor")
                .and_then(|text| text.parse().ok())
                .unwrap_or(index),
            migs: Vec::new(),
        }
    }

    /// The driver's brand of the model. NVML has a function for it; this reads the name.
    pub fn brand(&self) -> &'static str {
        const BRANDS: [(&str, &str); 10] = [
            ("geforce rtx", "geforcertx"),
            ("geforce", "geforce"),
            ("quadro rtx", "quadrortx"),
            ("quadro", "quadro"),
            ("titan rtx", "titanrtx"),
            ("titan", "titan"),
            ("tesla", "tesla"),
            ("grid", "grid"),
            ("nvidia rtx", "nvidiartx"),
            ("nvidia", "nvidia"),
        ];
        let model = self.model.to_lowercase();
        let found = BRANDS.iter().find(|(words, _)| model.contains(words));
        found.map_or("unknown", |(_, brand)| brand)
    }

    /// The compute capability of the model, for those that clusters have. NVML would know of others too.
    pub fn architecture(&self) -> Option<&'static str> {
        const MODELS: [(&str, &str); 20] = [
            ("K80", "3.7"),
            ("M40", "5.2"),
            ("P100", "6.0"),
            ("P40", "6.1"),
            ("V100", "7.0"),
            ("T4", "7.5"),
            ("A100", "8.0"),
            ("A800", "8.0"),
            ("A30", "8.0"),
            ("A10", "8.6"),
            ("A16", "8.6"),
            ("A40", "8.6"),
            ("L4", "8.9"),
            ("L40", "8.9"),
            ("L40S", "8.9"),
            ("H100", "9.0"),
            ("H200", "9.0"),
            ("GH200", "9.0"),
            ("B200", "10.0"),
            ("GB200", "10.0"),
        ];
        let words = self.model.split([' ', '-']);
        let known = |word: &str| MODELS.iter().find(|(model, _)| *model == word);
        words.filter_map(known).map(|(_, architecture)| *architecture).next()
    }
}

/// The minor number in a file below `/proc/driver/nvidia/capabilities`: `DeviceFileMinor: 3`.
pub fn capability_minor(text: &str) -> Option<u32> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix("DeviceFileMinor:"));
    values.next()?.trim().parse().ok()
}

/// The number at the end of a directory's name: `gi7`, `ci0`.
pub fn instance(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// The major number of a character device, out of `/proc/devices`.
pub fn major_of(devices: &str, name: &str) -> Option<u32> {
    let characters = devices.split("Block devices:").next()?;
    let mut pairs = characters.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(_, found)| *found == name)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n\
                 GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n",
                Some("550.54.15"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  535.161.07  Release Build\n",
                Some("535.161.07"),
            ),
            ("GCC version:  gcc version 11.4.0\n", None),
            ("NVRM version: none\n", None),
            ("", None),
        ] {
            let found = Version::of_proc(text).map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert_eq!(Version::of_module("550.54.15\n").unwrap().major(), 550);
        for bad in ["", "550", "550.a", "../../etc.1", "1.2/3"] {
            assert_eq!(Version::of_module(bad), None, "{bad}");
        }
        for (left, right, expected) in [
            ("550.54.15", "550.54", Ordering::Greater),
            ("550.54.0", "550.54", Ordering::Equal),
            ("12.4", "12.10", Ordering::Less),
        ] {
            assert_eq!(compare(&numbers(left), &numbers(right)), expected, "{left} {right}");
        }
    }

    #[test]
    fn gpus() {
        let text = "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 0\nGPU UUID: \t GPU-aaaa-b\nBus Location: \t 0000:07:00.0\n\
                    Device Minor: \t 3\nGPU Excluded:\t No\n";
        let gpu = Gpu::parse("0000:07:00.0", 0, text);
        assert_eq!(
            (gpu.minor, gpu.uuid.as_str(), gpu.bus.as_str()),
            (3, "GPU-aaaa-b", "0000:07:00.0")
        );
        assert_eq!((gpu.brand(), gpu.architecture()), ("nvidia", Some("8.0")));
        let other = Gpu::parse("0000:08:00.0", 7, "Model: Tesla V100-SXM2-32GB\n");
        assert_eq!(
            (other.minor, other.brand(), other.architecture()),
            (7, "tesla", Some("7.0"))
        );
        assert_eq!(Gpu::parse("x", 0, "").brand(), "unknown");
        assert_eq!(
            Gpu::parse("x", 0, "Model: NVIDIA GeForce RTX 4090").brand(),
            "geforcertx"
        );
    }

    #[test]
    fn numbers_of_devices() {
        assert_eq!(capability_minor("DeviceFileMinor: 12\nDeviceFileMode: 292\n"), Some(12));
        assert_eq!(capability_minor("nothing"), None);
        let devices = "Character devices:\n  1 mem\n195 nvidia-frontend\n234 nvidia-caps\n\nBlock devices:\n  8 sd\n";
        assert_eq!(major_of(devices, "nvidia-caps"), Some(234));
        assert_eq!(major_of(devices, "mem"), Some(1));
        assert_eq!((major_of(devices, "sd"), major_of("", "x")), (None, None));
        assert_eq!(
            (instance("gi7", "gi"), instance("gi", "gi"), instance("x", "gi")),
            (Some(7), None, None)
        );
    }
}
