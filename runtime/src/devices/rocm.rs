//! The finder for AMD's GPUs (`--container-rocm`): the driver's nodes, and the host's ROCm for images that have none. It reads
//! what the kernel says of them below `/sys/class/kfd`; nothing of the host is executed.
#![forbid(unsafe_code)]

use super::ldcache::{self, Entry};
use super::{Bits, Edits, Expected, HostFiles, Library, Node, NodeKind, Wish};
use crate::elf;
use crate::error::{Error, Result};
use crate::mount::{Create, MountOptions, MountSource, MountSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// By this node programs use all GPUs.
const KFD: &str = "/dev/kfd";
const TOPOLOGY: &str = "/sys/class/kfd/kfd/topology/nodes";
const DRM: &str = "/sys/class/drm";
/// The major number of `/dev/dri` (`DRM_MAJOR`); its first render node.
const DRM_MAJOR: u32 = 226;
const FIRST_RENDER: u32 = 128;
/// Nothing that is read here is near this.
const MAX_SIZE: u64 = 64 << 10;
/// Where AMD's packages have everything.
const ROCM: &str = "/opt/rocm";
const PROGRAMS: [&str; 2] = ["rocm-smi", "rocminfo"];
const PROGRAM_DIRECTORIES: [&str; 2] = ["/opt/rocm/bin", "/usr/bin"];
/// Libraries of ROCm where a distribution has packaged it, and what it is linked with.
const LIBRARIES: [&str; 26] = [
    "libMIOpen.so",
    "libOpenCL.so",
    "libamd_comgr.so",
    "libamdhip64.so",
    "libamdocl64.so",
    "libdrm.so",
    "libdrm_amdgpu.so",
    "libelf.so",
    "libhipblas.so",
    "libhipfft.so",
    "libhiprand.so",
    "libhiprtc.so",
    "libhipsolver.so",
    "libhipsparse.so",
    "libhsa-runtime64.so",
    "libhsakmt.so",
    "libnuma.so",
    "librccl.so",
    "librocblas.so",
    "librocfft.so",
    "librocm_smi64.so",
    "librocrand.so",
    "librocsolver.so",
    "librocsparse.so",
    "libroctracer64.so",
    "libroctx64.so",
];

/// A GPU by its nodes below `/dev/dri`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gpu {
    render: u32,
    card: Option<u32>,
}

/// Looks for what the option asks for. Without it nothing is looked at.
pub(super) fn find(wish: &Wish, host: &HostFiles) -> Result<Edits> {
    if !wish.rocm {
        return Ok(Edits::default());
    }
    if host.find(Path::new(KFD))?.is_none() {
        return Err(Error::Host(format!(
            "--container-rocm: {KFD} does not exist on this node: its driver amdgpu is not loaded"
        )));
    }
    let gpus = gpus(host)?;
    let mut edits = Edits::default();
    edits.nodes.push(node(KFD.to_owned(), None, None));
    for (place, gpu) in gpus.iter().enumerate() {
        let names = gpu.nodes();
        if is_granted(wish.granted.as_deref(), place, gpu) {
            let nodes = names
                .into_iter()
                .map(|(path, minor)| node(path, Some(DRM_MAJOR), Some(minor)));
            edits.nodes.extend(nodes);
        } else {
            edits.hidden.extend(names.into_iter().map(|(path, _)| path.into()));
        }
    }
    if gpus.is_empty() {
        edits.warnings.push(format!(
            "--container-rocm: {TOPOLOGY} names no GPU of this node: programs will not find one"
        ));
    }
    for name in PROGRAMS {
        edits.mounts.extend(program(name, host)?);
    }
    edits.libraries = libraries(host)?;
    Ok(edits)
}

impl Gpu {
    fn nodes(&self) -> Vec<(String, u32)> {
        let card = self.card.map(|card| (format!("/dev/dri/card{card}"), card));
        let render = (format!("/dev/dri/renderD{}", self.render), self.render);
        std::iter::once(render).chain(card).collect()
    }
}

/// The GPUs, in the order in which ROCm counts them.
fn gpus(host: &HostFiles) -> Result<Vec<Gpu>> {
    let names = host.names(Path::new(TOPOLOGY))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let mut gpus = Vec::new();
    for number in numbers {
        let path = Path::new(TOPOLOGY).join(number.to_string()).join("properties");
        let text = host.read_text(&path, MAX_SIZE)?.unwrap_or_default();
        if let Some(render) = render_minor(&text) {
            let card = card(host, render)?;
            gpus.push(Gpu { render, card });
        }
    }
    Ok(gpus)
}

/// What the properties of a node of the topology say; processors have none.
fn render_minor(properties: &str) -> Option<u32> {
    let value = properties
        .lines()
        .find_map(|line| line.strip_prefix("drm_render_minor "))?;
    value.trim().parse().ok().filter(|minor| *minor >= FIRST_RENDER)
}

/// The other node of the same device.
fn card(host: &HostFiles, render: u32) -> Result<Option<u32>> {
    let siblings = host.names(&Path::new(DRM).join(format!("renderD{render}/device/drm")))?;
    Ok(siblings.iter().find_map(|name| name.strip_prefix("card")?.parse().ok()))
}

/// Whether the job has it. The workload manager knows a GPU by the number in the name of the node that the site gave for it:
/// a render node's, a card's, or else its place.
fn is_granted(granted: Option<&[u32]>, place: usize, gpu: &Gpu) -> bool {
    let Some(granted) = granted else { return true };
    match granted.iter().any(|number| *number >= FIRST_RENDER) {
        true => granted.contains(&gpu.render),
        false => granted.iter().any(|number| {
            gpu.card
                .map_or(usize::try_from(*number) == Ok(place), |card| card == *number)
        }),
    }
}

fn node(path: String, major: Option<u32>, minor: Option<u32>) -> Node {
    Node {
        source: PathBuf::from(&path),
        target: PathBuf::from(path),
        expected: Expected {
            kind: NodeKind::Character,
            major,
            minor,
        },
    }
}

fn program(name: &str, host: &HostFiles) -> Result<Option<MountSpec>> {
    for directory in PROGRAM_DIRECTORIES {
        let source = Path::new(directory).join(name);
        if host.find(&source)?.is_some() {
            return Ok(Some(MountSpec {
                source: MountSource::Path(source),
                target: Path::new("/usr/bin").join(name),
                options: MountOptions {
                    readonly: true,
                    nosuid: true,
                    nodev: true,
                    create: Create::Auto,
                    ..MountOptions::default()
                },
            }));
        }
    }
    Ok(None)
}

/// ROCm's libraries for 64-bit programs, by the loader's cache. One that the image has too stays the image's.
fn libraries(host: &HostFiles) -> Result<Vec<Library>> {
    let cache = host.loader_cache()?;
    let machine = std::env::consts::ARCH;
    let wanted = ldcache::flags(machine, Bits::B64);
    let mut found: BTreeMap<PathBuf, Library> = BTreeMap::new();
    for entry in cache.entries.iter().filter(|entry| Some(entry.flags) == wanted) {
        let Some((name, path)) = words(entry).filter(|(name, path)| is_rocms(name, path)) else {
            continue;
        };
        let Some((real, head)) = host.real(Path::new(path), elf::LENGTH as u64)? else {
            continue;
        };
        if elf::identify(&head) != elf::machine(machine, Bits::B64).map(|machine| (Bits::B64, machine)) {
            continue;
        }
        let new = |source: PathBuf| Library {
            source,
            soname: name.to_owned(),
            links: Vec::new(),
            bits: Bits::B64,
            unless_there: true,
        };
        found
            .entry(real.clone())
            .and_modify(|library| library.add_name(name))
            .or_insert_with(|| new(real));
    }
    Ok(found.into_values().collect())
}

fn words(entry: &Entry) -> Option<(&str, &str)> {
    let name = std::str::from_utf8(&entry.name).ok()?;
    Some((name, std::str::from_utf8(&entry.path).ok()?))
}

fn is_rocms(name: &str, path: &str) -> bool {
    let stem = name.find(".so").and_then(|end| name.get(..end + ".so".len()));
    path.starts_with(ROCM) || stem.is_some_and(|stem| LIBRARIES.contains(&stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_no_gpus() {
        assert_eq!(render_minor("cpu_cores_count 8\ndrm_render_minor 0\n"), None);
        assert_eq!(render_minor("simd_count 256\ndrm_render_minor 129\n"), Some(129));
        assert_eq!(render_minor("drm_render_minor x\n"), None);
        assert_eq!(render_minor(""), None);
    }

    #[test]
    fn the_job_has_what_it_was_given() {
        let gpu = Gpu {
            render: 129,
            card: Some(2),
        };
        let bare = Gpu {
            card: None,
            ..gpu.clone()
        };
        assert!(is_granted(None, 0, &gpu));
        assert!(is_granted(Some(&[129]), 0, &gpu) && !is_granted(Some(&[128]), 1, &gpu));
        assert!(is_granted(Some(&[2]), 0, &gpu) && !is_granted(Some(&[1]), 1, &gpu));
        assert!(is_granted(Some(&[1]), 1, &bare) && !is_granted(Some(&[1]), 2, &bare));
        assert!(!is_granted(Some(&[]), 0, &gpu));
    }

    #[test]
    fn which_libraries_are_rocms() {
        assert!(is_rocms("libanything.so.1", "/opt/rocm-6.1.0/lib/libanything.so.1"));
        assert!(is_rocms("libamdhip64.so.6", "/usr/lib64/libamdhip64.so.6"));
        assert!(!is_rocms("libc.so.6", "/lib64/libc.so.6") && !is_rocms("libelfx.so.1", "/lib/libelfx.so.1"));
    }
}
