//! The driver's files: libraries of exactly its version through the loader's cache, programs, firmware, sockets, and files by
//! which other loaders find it.
#![forbid(unsafe_code)]

use super::driver::Version;
use super::parts::MORE_NAMES;
use super::words::Capabilities;
use crate::devices::host::LOADER_CACHE;
use crate::devices::ldcache::{self, Cache, Entry};
use crate::devices::{Bits, Edits, HostFiles, Library};
use crate::elf;
use crate::error::Result;
use crate::mount::{Create, MountOptions, MountSource, MountSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PROGRAM_DIRECTORIES: [&str; 5] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];
/// Sockets of the driver's daemons.
const SOCKETS: [&str; 2] = ["/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket"];
/// Where the multi-process service has its pipes, and the variable that says another place.
const MPS: (&str, &str) = ("/tmp/nvidia-mps", "CUDA_MPS_PIPE_DIRECTORY");

/// Everything but devices. `job` are variables that no image has a say in.
pub(super) fn edits(
    version: &Version,
    parts: &Capabilities,
    job: &BTreeMap<String, String>,
    host: &HostFiles,
) -> Result<Edits> {
    let mut edits = libraries(version, parts, host)?;
    let first = |paths: &[&str]| -> Result<Option<PathBuf>> {
        for path in paths {
            if host.find(Path::new(path))?.is_some() {
                return Ok(Some(PathBuf::from(path)));
            }
        }
        Ok(None)
    };
    for name in parts.programs() {
        let places = PROGRAM_DIRECTORIES.map(|directory| format!("{directory}/{name}"));
        let found = first(&places.each_ref().map(String::as_str))?;
        edits
            .mounts
            .extend(found.map(|source| bind(source, &format!("/usr/bin/{name}"), true)));
    }
    for files in parts.vendor_files() {
        let found = first(files)?;
        edits.mounts.extend(found.map(|path| same(path, true)));
    }
    let directory = format!("/lib/firmware/nvidia/{version}");
    for name in host.names(Path::new(&directory))? {
        if name.starts_with("gsp") && name.ends_with(".bin") {
            edits
                .mounts
                .push(same(PathBuf::from(format!("{directory}/{name}")), true));
        }
    }
    if parts.utility {
        for socket in SOCKETS {
            edits.mounts.extend(first(&[socket])?.map(|path| same(path, false)));
        }
    }
    if parts.compute {
        edits.user_mounts.push(mps(job));
    }
    Ok(edits)
}

/// The directory of the multi-process service, which any user can have made: opened with the user's rights, if it is there.
/// Another place is the job's to name: an image could name the user's home.
fn mps(job: &BTreeMap<String, String>) -> MountSpec {
    let said = job.get(MPS.1).map(String::as_str);
    let is_plain =
        |path: &&str| path.starts_with('/') && Path::new(path).components().all(|part| part.as_os_str() != "..");
    let path = said.filter(is_plain).unwrap_or(MPS.0);
    let mut spec = same(PathBuf::from(path), false);
    spec.options.nofail = true;
    spec.options.silent = true;
    spec
}

fn same(path: PathBuf, readonly: bool) -> MountSpec {
    let target = path.display().to_string();
    bind(path, &target, readonly)
}

fn bind(source: PathBuf, target: &str, readonly: bool) -> MountSpec {
    MountSpec {
        source: MountSource::Path(source),
        target: PathBuf::from(target),
        options: MountOptions {
            readonly,
            nosuid: true,
            nodev: true,
            // Sockets and pipes are no programs.
            noexec: !readonly,
            create: Create::Auto,
            ..MountOptions::default()
        },
    }
}

/// The libraries of the wanted parts.
fn libraries(version: &Version, parts: &Capabilities, host: &HostFiles) -> Result<Edits> {
    let stems = parts.libraries();
    let mut edits = Edits::default();
    if stems.is_empty() {
        return Ok(edits);
    }
    let cache = host.loader_cache()?;
    let machine = std::env::consts::ARCH;
    let sizes: &[Bits] = if parts.compat32 {
        &[Bits::B64, Bits::B32]
    } else {
        &[Bits::B64]
    };
    for bits in sizes {
        for (stem, names) in by_stem(&cache, &stems, machine, *bits) {
            let found = one(stem, &names, version, machine, *bits, host)?;
            edits.libraries.extend(found);
        }
    }
    let wanted = if parts.compute { "libcuda.so" } else { "libnvidia-ml.so" };
    let has = |library: &Library| library.soname.starts_with(wanted) && library.bits == Bits::B64;
    if stems.contains(&wanted) && !edits.libraries.iter().any(has) {
        edits.warnings.push(format!(
            "no {wanted} of version {version}, the loaded driver's, is in this node's {LOADER_CACHE}: programs will not find the GPUs"
        ));
    }
    Ok(edits)
}

/// The cache's entries for each stem (`libcuda.so`), in one pass.
fn by_stem<'a>(
    cache: &'a Cache,
    stems: &[&'static str],
    machine: &str,
    bits: Bits,
) -> BTreeMap<&'static str, Vec<&'a Entry>> {
    let wanted = ldcache::flags(machine, bits);
    let known: BTreeMap<&str, &'static str> = stems.iter().map(|stem| (*stem, *stem)).collect();
    let mut found: BTreeMap<&'static str, Vec<&Entry>> = BTreeMap::new();
    for entry in cache.entries.iter().filter(|entry| Some(entry.flags) == wanted) {
        let name = std::str::from_utf8(&entry.name).unwrap_or_default();
        let Some(end) = name.find(".so") else { continue };
        let (stem, rest) = name.split_at(end + ".so".len());
        if let Some(stem) = known.get(stem).filter(|_| rest.is_empty() || rest.starts_with('.')) {
            found.entry(stem).or_default().push(entry);
        }
    }
    found
}

/// The library behind these entries that is of the driver's version, and of this machine. The others are of a driver that
/// was there before, or of somebody else.
fn one(
    stem: &str,
    entries: &[&Entry],
    version: &Version,
    machine: &str,
    bits: Bits,
    host: &HostFiles,
) -> Result<Option<Library>> {
    let mut library: Option<Library> = None;
    for entry in entries {
        let (Ok(name), Ok(path)) = (std::str::from_utf8(&entry.name), std::str::from_utf8(&entry.path)) else {
            continue;
        };
        let Some((real, head)) = host.real(Path::new(path), elf::LENGTH as u64)? else {
            continue;
        };
        let file = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let same_version = file
            .strip_suffix(&version.to_string())
            .is_some_and(|rest| rest.ends_with(".so."));
        let identity = elf::identify(&head);
        if !same_version || identity != elf::machine(machine, bits).map(|machine| (bits, machine)) {
            continue;
        }
        match &mut library {
            None => {
                library = Some(Library {
                    source: real,
                    soname: name.to_owned(),
                    links: Vec::new(),
                    bits,
                    unless_there: false,
                });
            }
            Some(known) if known.source == real => known.add_name(name),
            Some(_) => {}
        }
    }
    if let Some(library) = &mut library {
        let more = MORE_NAMES.iter().filter(|(of, ..)| *of == stem);
        for (_, name, target) in more {
            if target.is_none_or(|target| target == library.soname) {
                library.add_name(name);
            }
        }
    }
    Ok(library)
}
