//! A specification of the Container Device Interface as data: what a vendor says that a container needs for its devices.
//! See SPEC.md of tags.cncf.io/container-device-interface; versions 0.3 to 1.1.
#![forbid(unsafe_code)]

use super::hooks::Hook;
use super::name::{DeviceClass, is_device};
use super::yaml;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use std::path::{Component, Path, PathBuf};

/// The newest version that is known. What a newer one adds might be what keeps a device from others.
const NEWEST: (u32, u32) = (1, 1);
/// The oldest that has this shape.
const OLDEST: (u32, u32) = (0, 3);

/// What one file says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spec {
    /// What kind of devices these are.
    pub class: DeviceClass,
    /// What a container needs for any of them.
    pub common: ContainerEdits,
    /// The devices.
    pub devices: Vec<Device>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: Ignored,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What a container needs.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerEdits {
    #[serde(default, deserialize_with = "or_none")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "or_none")]
    pub device_nodes: Vec<DeviceNode>,
    #[serde(default, deserialize_with = "or_none")]
    pub mounts: Vec<Mount>,
    #[serde(default, deserialize_with = "or_none")]
    pub hooks: Vec<Hook>,
    #[serde(default, rename = "additionalGids", deserialize_with = "or_none")]
    pub additional_gids: Vec<Number>,
    #[serde(default, deserialize_with = "or_none")]
    pub net_devices: Vec<IgnoredAny>,
    #[serde(default)]
    pub intel_rdt: Option<IgnoredAny>,
}

/// A device node. Its mode and owner are the host's, and the job's control group says who may use it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub path: PathBuf,
    #[serde(default)]
    pub host_path: Option<PathBuf>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub major: Option<Number>,
    #[serde(default)]
    pub minor: Option<Number>,
    #[serde(default, rename = "fileMode")]
    _file_mode: Ignored,
    #[serde(default, rename = "permissions")]
    _permissions: Ignored,
    #[serde(default, rename = "uid")]
    _uid: Ignored,
    #[serde(default, rename = "gid")]
    _gid: Ignored,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    #[serde(default, deserialize_with = "or_none")]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: Ignored,
    #[serde(deserialize_with = "or_none")]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Option<ContainerEdits>,
}

/// Something that means nothing here.
type Ignored = Option<IgnoredAny>;

/// Reads a file, JSON or YAML; or says in words what is wrong with it.
pub(super) fn parse(content: &str, json: bool) -> Result<Spec, String> {
    let file: File = if json {
        serde_json::from_str(content).map_err(|error| error.to_string())?
    } else {
        serde_json::from_value(yaml::parse(content)?).map_err(|error| error.to_string())?
    };
    check_version(&file.cdi_version)?;
    let spec = Spec {
        class: file.kind.parse().map_err(|error: crate::Error| error.to_string())?,
        common: file.container_edits.unwrap_or_default(),
        devices: file.devices,
    };
    for (index, Device { name, .. }) in spec.devices.iter().enumerate() {
        if !is_device(name) {
            return Err(format!("{name:?} is not the name of a device"));
        }
        if spec.devices.iter().skip(index + 1).any(|other| other.name == *name) {
            return Err(format!("device {name:?} comes twice"));
        }
    }
    let edits = spec.devices.iter().map(|device| &device.container_edits);
    edits.chain([&spec.common]).try_for_each(check)?;
    Ok(spec)
}

fn check_version(text: &str) -> Result<(), String> {
    let mut parts = text.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return Err(format!("cdiVersion {text:?} is not a version"));
    };
    if !(OLDEST..=NEWEST).contains(&(major, minor)) {
        let range = format!("{}.{} to {}.{}", OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1);
        return Err(format!(
            "cdiVersion {text:?} is not one that is known, which are {range}"
        ));
    }
    Ok(())
}

/// What types do not say.
fn check(edits: &ContainerEdits) -> Result<(), String> {
    for node in &edits.device_nodes {
        plain(&node.path)?;
        node.host_path.as_deref().map(plain).transpose()?;
        if let Some(kind) = node.kind.as_deref().filter(|kind| !["", "b", "c", "u"].contains(kind)) {
            let path = node.path.display();
            return Err(format!("device node {path}: type {kind:?} is not b, c or u"));
        }
    }
    for mount in &edits.mounts {
        plain(&mount.container_path)?;
        if !mount.is_tmpfs() {
            plain(&mount.host_path)?;
        }
    }
    match edits
        .env
        .iter()
        .find(|entry| entry.find('=').is_none_or(|at| at == 0) || entry.contains('\0'))
    {
        Some(entry) => Err(format!("env {entry:?} is not NAME=VALUE")),
        None => Ok(()),
    }
}

/// Paths start at the root and climb nowhere.
fn plain(path: &Path) -> Result<(), String> {
    let climbs = path.components().any(|component| component == Component::ParentDir);
    if !path.is_absolute() || climbs || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(format!("path {path:?} is not absolute, or has \"..\" in it"));
    }
    Ok(())
}

impl Mount {
    /// It is a new file system, and not something of the host.
    pub fn is_tmpfs(&self) -> bool {
        self.kind.as_deref() == Some("tmpfs")
    }
}

/// A whole number; in YAML it may have any of its notations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        let wrong = || serde::de::Error::custom("not a number from 0 to 4294967295");
        match Written::deserialize(from).map_err(|_| wrong())? {
            Written::Number(number) => Ok(Number(number)),
            Written::Text(text) => {
                let (digits, radix) = match text.as_bytes() {
                    [b'0', b'x', ..] => (text.get(2..), 16),
                    [b'0', b'o', ..] => (text.get(2..), 8),
                    [b'0', _, ..] => (text.get(1..), 8),
                    _ => (Some(text.as_str()), 10),
                };
                let digits = digits.filter(|digits| !digits.starts_with('+')).ok_or_else(wrong)?;
                u32::from_str_radix(digits, radix).map(Number).map_err(|_| wrong())
            }
        }
    }
}

/// A list, of which there may be none.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `nvidia-ctk cdi generate` writes it, shortened.
    const YAML: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/dri/card1
      hostPath: /dev/dri/card0
      type: c
      major: 0xE2
      minor: 1
      fileMode: 438
      permissions: rw
      uid: 0
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args:
      - nvidia-cdi-hook
      - chmod
      - --mode
      - "755"
      env:
      - NVIDIA_CTK_DEBUG=false
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  additionalGids: [44, 0109]
  mounts:
  - hostPath: /usr/lib/libcuda.so.550.54.14
    containerPath: /usr/lib/libcuda.so.550.54.14
    options:
    - ro
    - nosuid
    - bind
"#;

    fn json() -> String {
        r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/net", "annotations": {"a": "b"}, "containerEdits": null,
            "devices": [{"name": "eth-1", "annotations": {}, "containerEdits": {"deviceNodes": [{"path": "/dev/x"}]}}]}"#
            .to_owned()
    }

    #[test]
    fn yaml_and_json() {
        let spec = parse(&YAML.replace("[44, 0109]", "[44, 0107]"), false).unwrap();
        assert_eq!(spec.class.to_string(), "nvidia.com/gpu");
        let device = &spec.devices[0];
        assert_eq!((device.name.as_str(), device.container_edits.hooks.len()), ("0", 1));
        let card = &device.container_edits.device_nodes[1];
        assert_eq!((card.major, card.minor), (Some(Number(226)), Some(Number(1))));
        assert_eq!(spec.common.additional_gids, [Number(44), Number(0o107)]);
        assert_eq!(spec.common.mounts[0].options, ["ro", "nosuid", "bind"]);
        let spec = parse(&json(), true).unwrap();
        assert_eq!(
            spec.devices[0].container_edits.device_nodes[0].path,
            PathBuf::from("/dev/x")
        );
        // YAML that is JSON.
        assert_eq!(parse(&json(), false).unwrap(), spec);
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        let json = json();
        for (from, to, reason) in [
            (
                "1.0.0",
                "2.0.0",
                "cdiVersion \"2.0.0\" is not one that is known, which are 0.3 to 1.1",
            ),
            ("1.0.0", "0.2.0", "cdiVersion \"0.2.0\" is not one"),
            ("1.0.0", "new", "cdiVersion \"new\" is not a version"),
            ("vendor.com/net", "net", "\"net\" is not a kind of device"),
            ("\"eth-1\"", "\"eth/1\"", "\"eth/1\" is not the name of a device"),
            ("\"eth-1\"", "7", "invalid type: integer `7`"),
            (
                "/dev/x",
                "/dev/../etc/x",
                "path \"/dev/../etc/x\" is not absolute, or has",
            ),
            ("/dev/x", "dev/x", "path \"dev/x\" is not absolute"),
            ("\"path\"", "\"Path\"", "unknown field `Path`"),
            (
                "{\"path\": \"/dev/x\"}",
                "{\"path\": \"/dev/x\", \"type\": \"p\"}",
                "device node /dev/x: type \"p\"",
            ),
            (
                "{\"path\": \"/dev/x\"}",
                "{\"path\": \"/dev/x\", \"major\": -1}",
                "not a number from 0",
            ),
            ("\"deviceNodes\"", "\"env\"", "invalid type: map"),
            (
                "\"deviceNodes\": [{\"path\": \"/dev/x\"}]",
                "\"env\": [\"=x\"]",
                "env \"=x\" is not NAME=VALUE",
            ),
            (
                "\"containerEdits\": null",
                "\"containerEdits\": {\"mounts\": [{\"hostPath\": \"/a\", \"containerPath\": \"/..\"}]}",
                "path \"/..\"",
            ),
            ("}]}}]}", "}]}}]", "EOF while parsing"),
        ] {
            assert!(json.contains(from), "{from}");
            let error = parse(&json.replace(from, to), true).unwrap_err();
            assert!(error.contains(reason) && !error.contains('\n'), "{to}: {error}");
        }
        let twice = json.replace("\"devices\": [", "\"devices\": [{\"name\": \"eth-1\"},");
        assert_eq!(parse(&twice, true).unwrap_err(), "device \"eth-1\" comes twice");
    }

    proptest! {
        #[test]
        fn any_text_is_a_specification_or_an_error(text in "[-a:&*!|>?{}\\[\\],'\" \n\t0#]{0,60}") {
            let _ = parse(&text, false);
        }

        #[test]
        fn a_damaged_specification_is_one_or_an_error(at in 0..YAML.len(), byte in any::<u8>()) {
            let mut bytes = YAML.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&String::from_utf8_lossy(&bytes), false);
        }
    }
}
