//! GPUs and their device nodes, and what of them `/proc/driver/nvidia` shows.
#![forbid(unsafe_code)]

use super::driver::{Gpu, Mig, capability_minor, instance, major_of};
use super::words::{Capabilities, Chosen};
use super::{MAX_SIZE, Machine};
use crate::devices::{CoverFile, Edits, Expected, HostFiles, Node, NodeKind};
use crate::error::Result;
use std::path::{Path, PathBuf};

const DRIVER: &str = "/proc/driver/nvidia";
/// The driver's major number (`NV_MAJOR_DEVICE_NUMBER` in nv.h).
const MAJOR: u32 = 195;
const CONTROL: u32 = 255;
const MODESET: u32 = 254;
/// A machine has fewer.
const MOST_CHANNELS: usize = 4096;

/// The machine's GPUs, in the order of the bus, as the driver's library counts them.
pub(super) fn gpus(host: &HostFiles) -> Result<Vec<Gpu>> {
    let directory = Path::new(DRIVER).join("gpus");
    let mut found = Vec::new();
    for bus in host.names(&directory)? {
        let text = host.read_text(&directory.join(&bus).join("information"), MAX_SIZE)?;
        let index = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let mut gpu = Gpu::parse(&bus, index, &text.unwrap_or_default());
        gpu.migs = migs(host, gpu.minor)?;
        found.push(gpu);
    }
    Ok(found)
}

/// The parts of a GPU.
fn migs(host: &HostFiles, gpu: u32) -> Result<Vec<Mig>> {
    let directory = capabilities().join(format!("gpu{gpu}/mig"));
    let mut parts = Vec::new();
    let instances = |path: &Path, prefix: &str| -> Result<Vec<u32>> {
        let names = host.names(path)?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| instance(name, prefix)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    };
    let access = |path: &Path| -> Result<Option<u32>> {
        let text = host.read_text(&path.join("access"), MAX_SIZE)?;
        Ok(text.and_then(|text| capability_minor(&text)))
    };
    for gi in instances(&directory, "gi")? {
        let of_gi = directory.join(format!("gi{gi}"));
        let Some(gi_minor) = access(&of_gi)? else { continue };
        for ci in instances(&of_gi, "ci")? {
            let ci_minor = access(&of_gi.join(format!("ci{ci}")))?;
            parts.extend(ci_minor.map(|ci_minor| Mig {
                gi,
                ci,
                gi_minor,
                ci_minor,
            }));
        }
    }
    Ok(parts)
}

fn capabilities() -> PathBuf {
    Path::new(DRIVER).join("capabilities")
}

/// The nodes of the chosen devices and of the driver, and what hides the others.
pub(super) fn edits(machine: &Machine, chosen: &Chosen, parts: &Capabilities, host: &HostFiles) -> Result<Edits> {
    let devices = host
        .read_text(Path::new("/proc/devices"), MAX_SIZE)?
        .unwrap_or_default();
    let mut edits = Edits::default();
    edits.nodes.push(node("/dev/nvidiactl", Some(MAJOR), Some(CONTROL)));
    if parts.display {
        optional(
            &mut edits,
            host,
            node("/dev/nvidia-modeset", Some(MAJOR), Some(MODESET)),
        )?;
    }
    if parts.compute {
        let uvm = major_of(&devices, "nvidia-uvm");
        optional(&mut edits, host, node("/dev/nvidia-uvm", uvm, None))?;
        optional(&mut edits, host, node("/dev/nvidia-uvm-tools", uvm, None))?;
        optional(
            &mut edits,
            host,
            node("/dev/gdrdrv", major_of(&devices, "gdrdrv"), None),
        )?;
        channels(&mut edits, host, major_of(&devices, "nvidia-caps-imex-channels"))?;
    }
    let caps = major_of(&devices, "nvidia-caps");
    for (place, gpu) in machine.gpus.iter().enumerate() {
        let path = format!("/dev/nvidia{}", gpu.minor);
        let directory = Path::new(DRIVER).join("gpus").join(&gpu.bus);
        if !chosen.gpus.contains(&place) {
            edits.hidden.extend([PathBuf::from(path), directory]);
            continue;
        }
        edits.nodes.push(node(&path, Some(MAJOR), Some(gpu.minor)));
        for (number, part) in gpu.migs.iter().enumerate() {
            let is_chosen = chosen.migs.contains(&(place, number));
            mig(&mut edits, gpu, part, caps, is_chosen);
        }
    }
    edits.files.extend(params(host)?);
    Ok(edits)
}

/// A part's two nodes; those of a part that is not chosen are hidden.
fn mig(edits: &mut Edits, gpu: &Gpu, part: &Mig, major: Option<u32>, chosen: bool) {
    let path = |minor: u32| format!("/dev/nvidia-caps/nvidia-cap{minor}");
    if chosen {
        for minor in [part.gi_minor, part.ci_minor] {
            let new = node(&path(minor), major, Some(minor));
            if !edits.nodes.contains(&new) {
                edits.nodes.push(new);
            }
        }
        return;
    }
    // The node of the GPU instance may serve another part of it.
    let instance = format!("gpu{}/mig/gi{}/ci{}", gpu.minor, part.gi, part.ci);
    edits.hidden.push(PathBuf::from(path(part.ci_minor)));
    edits.hidden.push(capabilities().join(instance));
}

/// The channels by which GPUs of several machines share memory: those that the host has opened.
fn channels(edits: &mut Edits, host: &HostFiles, major: Option<u32>) -> Result<()> {
    let directory = "/dev/nvidia-caps-imex-channels";
    let names = host.names(Path::new(directory))?;
    for number in names
        .iter()
        .filter_map(|name| instance(name, "channel"))
        .take(MOST_CHANNELS)
    {
        edits
            .nodes
            .push(node(&format!("{directory}/channel{number}"), major, Some(number)));
    }
    Ok(())
}

/// The driver's settings, with the one changed by which its library would make device nodes.
fn params(host: &HostFiles) -> Result<Option<CoverFile>> {
    let path = Path::new(DRIVER).join("params");
    let text = host.read_text(&path, MAX_SIZE)?;
    Ok(text.map(|text| CoverFile {
        bytes: text
            .replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
            .into_bytes(),
        path,
    }))
}

fn optional(edits: &mut Edits, host: &HostFiles, node: Node) -> Result<()> {
    if host.find(&node.source)?.is_some() {
        edits.nodes.push(node);
    }
    Ok(())
}

fn node(path: &str, major: Option<u32>, minor: Option<u32>) -> Node {
    Node {
        source: path.into(),
        target: path.into(),
        expected: Expected {
            kind: NodeKind::Character,
            major,
            minor,
        },
    }
}
