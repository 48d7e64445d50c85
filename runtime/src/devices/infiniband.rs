//! The finder for InfiniBand and RoCE adapters, as `MELLANOX_VISIBLE_DEVICES` asks for them. A program that does not find the
//! right adapter does not fail: it is slow, over TCP. So whatever may lead to that is told.
#![forbid(unsafe_code)]

use super::{CoverDirectory, Edits, Expected, HostFiles, Node, NodeKind};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which adapters are wanted: `all`, `none`, `void` or their numbers.
const VISIBLE: &str = "MELLANOX_VISIBLE_DEVICES";
/// Adapters are numbered in the order of these drivers, and of the bus.
const DRIVERS: [&str; 2] = ["mlx4_core", "mlx5_core"];
const PCI: &str = "/sys/bus/pci/drivers";
const VERBS: &str = "/sys/class/infiniband_verbs";
const MAD: &str = "/sys/class/infiniband_mad";
const CM: &str = "/sys/class/infiniband_cm";
const ADAPTERS: &str = "/sys/class/infiniband";
/// By this node programs find one another.
const RDMA_CM: (&str, &str) = ("rdma_cm", "/sys/class/misc/rdma_cm");
/// Nothing that is read here is near this.
const MAX_SIZE: u64 = 4096;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Visible {
    All,
    Numbers(Vec<usize>),
}

/// A character device of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    /// Its name below `/dev/infiniband` and in its class.
    name: String,
    /// The adapter that it is of.
    adapter: String,
    /// Below `/sys`.
    class: &'static str,
}

/// Looks for what the variables ask for. Without a wish for adapters nothing is looked at.
pub(super) fn find(variables: &BTreeMap<String, String>, host: &HostFiles) -> Result<Edits> {
    let Some(visible) = wanted(variables)? else {
        return Ok(Edits::default());
    };
    let mut ports = ports(VERBS, host)?;
    ports.extend(self::ports(MAD, host)?);
    let all: Vec<String> = host.names(Path::new(ADAPTERS))?;
    let chosen = match &visible {
        Visible::All => all,
        Visible::Numbers(numbers) => choose(numbers, &adapters(host)?)?,
    };
    let mut edits = Edits::default();
    if chosen.is_empty() {
        edits.warnings.push(format!(
            "{VISIBLE} asks for InfiniBand, and this node has none (is its driver loaded?): programs will use TCP"
        ));
        return Ok(edits);
    }
    let is_chosen = |port: &&Port| chosen.contains(&port.adapter);
    for port in ports.iter().filter(is_chosen) {
        edits
            .nodes
            .push(node(&port.name, &Path::new(port.class).join(&port.name), host)?);
    }
    if host.find(&device(RDMA_CM.0))?.is_some() {
        edits.nodes.push(node(RDMA_CM.0, Path::new(RDMA_CM.1), host)?);
    }
    if let Visible::Numbers(_) = visible {
        let others = ports.iter().filter(|port| !is_chosen(port));
        edits.hidden.extend(others.map(|port| device(&port.name)));
        let ports: Vec<&Port> = ports.iter().filter(is_chosen).collect();
        edits.directories = classes(&chosen, &ports, host)?;
    }
    edits.warnings.extend(inactive(&chosen, host)?);
    Ok(edits)
}

fn wanted(variables: &BTreeMap<String, String>) -> Result<Option<Visible>> {
    match variables.get(VISIBLE).map(String::as_str) {
        None | Some("" | "none" | "void") => Ok(None),
        Some("all") => Ok(Some(Visible::All)),
        Some(text) => {
            let numbers = text.split(',').filter(|word| !word.is_empty());
            let numbers: std::result::Result<Vec<usize>, _> = numbers.map(str::parse).collect();
            numbers.map(|numbers| Some(Visible::Numbers(numbers))).map_err(|_| {
                Error::Request(format!(
                    "{VISIBLE}={text:?}: take all, none, void, or numbers with commas"
                ))
            })
        }
    }
}

fn choose(numbers: &[usize], adapters: &[String]) -> Result<Vec<String>> {
    let mut chosen: Vec<String> = Vec::new();
    for number in numbers {
        let adapter = adapters.get(*number).ok_or_else(|| unknown(*number, adapters))?;
        if !chosen.contains(adapter) {
            chosen.push(adapter.clone());
        }
    }
    Ok(chosen)
}

fn unknown(number: usize, adapters: &[String]) -> Error {
    let known: Vec<String> = adapters
        .iter()
        .enumerate()
        .map(|(number, name)| format!("{number} ({name})"))
        .collect();
    let known = match known.is_empty() {
        true => "none".to_owned(),
        false => known.join(", "),
    };
    Error::Request(format!("{VISIBLE}: unknown device {number}: this node has {known}"))
}

/// The adapters in the order of their numbers.
fn adapters(host: &HostFiles) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for driver in DRIVERS {
        let devices = Path::new(PCI).join(driver);
        for device in host.names(&devices)? {
            found.extend(host.names(&devices.join(device).join("infiniband"))?);
        }
    }
    Ok(found)
}

/// The character devices of a class that belong to an adapter.
fn ports(class: &'static str, host: &HostFiles) -> Result<Vec<Port>> {
    let mut found = Vec::new();
    for name in host.names(Path::new(class))? {
        let file = Path::new(class).join(&name).join("ibdev");
        if let Some(adapter) = host.read_text(&file, MAX_SIZE)? {
            let adapter = adapter.trim().to_owned();
            found.push(Port { name, adapter, class });
        }
    }
    Ok(found)
}

fn device(name: &str) -> PathBuf {
    Path::new("/dev/infiniband").join(name)
}

/// The node that the kernel has for what is at `path` of `/sys`.
fn node(name: &str, path: &Path, host: &HostFiles) -> Result<Node> {
    let text = host.read_text(&path.join("dev"), MAX_SIZE)?.unwrap_or_default();
    let (major, minor) = text.trim().split_once(':').unwrap_or_default();
    Ok(Node {
        source: device(name),
        target: device(name),
        expected: Expected {
            kind: NodeKind::Character,
            major: major.parse().ok(),
            minor: minor.parse().ok(),
        },
    })
}

/// The four classes, with what is chosen alone: libraries look there for what there is.
fn classes(chosen: &[String], ports: &[&Port], host: &HostFiles) -> Result<Vec<CoverDirectory>> {
    let of = |class: &str| -> Vec<String> {
        let ports = ports.iter().filter(|port| port.class == class);
        ports.map(|port| port.name.clone()).collect()
    };
    let all = [
        (ADAPTERS, chosen.to_vec()),
        (VERBS, of(VERBS)),
        (MAD, of(MAD)),
        (CM, Vec::new()),
    ];
    all.into_iter()
        .map(|(class, names)| cover(class, &names, host))
        .collect()
}

fn cover(class: &str, names: &[String], host: &HostFiles) -> Result<CoverDirectory> {
    let path = PathBuf::from(class);
    let mut links = Vec::new();
    for name in names {
        if let Some(target) = host.link(&path.join(name))? {
            links.push((name.clone(), target));
        }
    }
    let version = "abi_version".to_owned();
    let content = host.read(&path.join(&version), MAX_SIZE)?;
    Ok(CoverDirectory {
        path,
        links,
        files: content.map(|bytes| (version, bytes)).into_iter().collect(),
    })
}

/// A word to the user, if none of the adapters is connected.
fn inactive(chosen: &[String], host: &HostFiles) -> Result<Option<String>> {
    for adapter in chosen {
        let ports = Path::new(ADAPTERS).join(adapter).join("ports");
        for port in host.names(&ports)? {
            let state = host.read_text(&ports.join(port).join("state"), MAX_SIZE)?;
            if state.is_some_and(|state| state.trim().ends_with("ACTIVE")) {
                return Ok(None);
            }
        }
    }
    Ok(Some(format!(
        "no port of {} is active: programs may use TCP in place of InfiniBand",
        chosen.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Option<Visible>> {
        wanted(&[(VISIBLE.to_owned(), text.to_owned())].into())
    }

    #[test]
    fn words_and_numbers() {
        assert_eq!(wanted(&BTreeMap::new()).unwrap(), None);
        for text in ["", "none", "void"] {
            assert_eq!(said(text).unwrap(), None, "{text}");
        }
        assert_eq!(said("all").unwrap(), Some(Visible::All));
        assert_eq!(said("1,0,").unwrap(), Some(Visible::Numbers(vec![1, 0])));
        for text in ["mlx5_0", "-1", "0 1", "99999999999999999999", "all,0"] {
            let error = said(text).unwrap_err().to_string();
            assert!(error.starts_with("MELLANOX_VISIBLE_DEVICES=\""), "{error}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_node() {
        let adapters = ["mlx5_0".to_owned(), "mlx5_bond".to_owned()];
        assert_eq!(choose(&[1, 1, 0], &adapters).unwrap(), ["mlx5_bond", "mlx5_0"]);
        assert_eq!(
            choose(&[0, 7], &adapters).unwrap_err().to_string(),
            "MELLANOX_VISIBLE_DEVICES: unknown device 7: this node has 0 (mlx5_0), 1 (mlx5_bond)"
        );
        let error = choose(&[0], &[]).unwrap_err().to_string();
        assert!(error.ends_with("this node has none"), "{error}");
    }
}
