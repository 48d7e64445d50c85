//! The value of `plugin_version`. Slurm loads a plugin, and with it runs its constructors, before it compares that
//! number with its own release; so a constructor can write the release of the process that it finds itself in, and one
//! file serves several releases.

use crate::api::api;
use crate::guard::hook_panics;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where nothing tells: the oldest release that is tested.
const DEFAULT: u32 = packed(22, 5, 0);

/// What was found.
static FOUND: AtomicU32 = AtomicU32::new(DEFAULT);

/// The host's release, in Slurm's form, as [`init_plugin_version`] has found it.
pub fn release() -> u32 {
    FOUND.load(Ordering::Relaxed)
}

/// Writes the host's release to `version`, in Slurm's form (`0x160508` is 22.05.8). Three sources, best first: another
/// plugin of Slurm that is loaded already, the number of the library's interface, a default.
pub fn init_plugin_version(version: &'static AtomicU32) {
    hook_panics();
    let own: *const AtomicU32 = version;
    let found = catch_unwind(|| sibling_version(own.cast()).or_else(interface_version))
        .ok()
        .flatten();
    let found = found.unwrap_or(DEFAULT);
    FOUND.store(found, Ordering::Relaxed);
    version.store(found, Ordering::Relaxed);
}

const fn packed(year: u32, month: u32, micro: u32) -> u32 {
    year << 16 | month << 8 | micro
}

/// The release that a number of the library's interface stands for. Slurm counts it up once for each release; from 24.05
/// on there are two a year.
fn release_of_interface(number: u32) -> Option<u32> {
    match number {
        37 => Some(packed(21, 8, 0)),
        38 => Some(packed(22, 5, 0)),
        39 => Some(packed(23, 2, 0)),
        40 => Some(packed(23, 11, 0)),
        41..=99 => {
            let step = number - 41;
            Some(packed(24 + step / 2, if step.is_multiple_of(2) { 5 } else { 11 }, 0))
        }
        _ => None,
    }
}

fn interface_version() -> Option<u32> {
    let function = api().api_version?;
    // SAFETY: takes nothing, returns a number.
    let version = unsafe { function() };
    release_of_interface(u32::try_from(version >> 16).ok()?)
}

/// The version of a plugin of Slurm that the process has loaded before. It was checked by the host, so it is the host's
/// own. Other SPANK plugins do not count: they may say what they like.
fn sibling_version(own: *const c_void) -> Option<u32> {
    let mut search = Search { own, found: None };
    // SAFETY: the callback gets the pointer to `search`, which lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

struct Search {
    own: *const c_void,
    found: Option<u32>,
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: the pointer that sibling_version() passed; nothing else uses it meanwhile.
    let search = unsafe { &mut *data.cast::<Search>() };
    // SAFETY: the loader passes a valid structure.
    let name = unsafe { (*info).dlpi_name };
    if name.is_null() {
        return 0;
    }
    // SAFETY: a C string of the loader.
    let path = unsafe { CStr::from_ptr(name) };
    search.found = version_of_plugin(path, search.own);
    c_int::from(search.found.is_some())
}

/// The version of the loaded object `path`, when it is a plugin of Slurm, but not of type spank and not this one.
fn version_of_plugin(path: &CStr, own: *const c_void) -> Option<u32> {
    // Libraries are asked by name first: dlsym also searches what an object depends on.
    if path.is_empty() || !path.to_bytes().ends_with(b".so") {
        return None;
    }
    // SAFETY: a C string; RTLD_NOLOAD loads nothing, so no foreign code runs.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    let version = versions_of(handle, own);
    // SAFETY: the handle from above; the object stays loaded, because its first owner still holds it.
    unsafe { libc::dlclose(handle) };
    version
}

fn versions_of(handle: *mut c_void, own: *const c_void) -> Option<u32> {
    let kind: *const c_char = symbol(handle, c"plugin_type").cast();
    let version: *const u32 = symbol(handle, c"plugin_version").cast();
    if kind.is_null() || version.is_null() || version.cast() == own {
        return None;
    }
    // SAFETY: Slurm's plugins define plugin_type as an array of char that ends with NUL.
    let kind = unsafe { CStr::from_ptr(kind) };
    // Slurm's types look like "select/cons_tres".
    if !kind.to_bytes().contains(&b'/') {
        return None;
    }
    // SAFETY: Slurm's plugins define plugin_version as a 32-bit number; the loader relocated it aligned.
    let version = unsafe { version.read() };
    (version >> 16 != 0).then_some(version)
}

fn symbol(handle: *mut c_void, name: &CStr) -> *const c_void {
    // SAFETY: a handle from dlopen and a C string.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_numbers_stand_for_releases() {
        for (number, version) in [
            (37, Some(0x15_08_00)),
            (38, Some(0x16_05_00)),
            (39, Some(0x17_02_00)),
            (40, Some(0x17_0b_00)),
            (41, Some(0x18_05_00)),
            (42, Some(0x18_0b_00)),
            (43, Some(0x19_05_00)),
            (45, Some(0x1a_05_00)),
            (36, None),
            (0, None),
        ] {
            assert_eq!(release_of_interface(number), version, "{number}");
        }
    }

    #[test]
    fn outside_of_slurm_the_default_is_written() {
        static VERSION: AtomicU32 = AtomicU32::new(0);
        init_plugin_version(&VERSION);
        assert_eq!(VERSION.load(Ordering::Relaxed), DEFAULT);
    }
}
