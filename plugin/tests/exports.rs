//! The file that Slurm loads: what it exports, and that it can be loaded anywhere.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::process::Command;

/// The plugin that was built along with this test.
fn plugin() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.with_file_name("libspank_pyxis.so")
}

#[test]
fn exports_what_slurm_looks_for_and_nothing_else() {
    let nm = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(plugin())
        .output()
        .unwrap();
    assert!(nm.status.success(), "{}", String::from_utf8_lossy(&nm.stderr));
    let text = String::from_utf8(nm.stdout).unwrap();
    let mut symbols: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    symbols.sort_unstable();
    let expected = [
        "plugin_name",
        "plugin_type",
        "plugin_version",
        "slurm_spank_exit",
        "slurm_spank_init",
        "slurm_spank_init_failure_mode",
        "slurm_spank_init_post_opt",
        "slurm_spank_job_epilog",
        "slurm_spank_task_exit",
        "slurm_spank_task_init",
        "slurm_spank_task_init_privileged",
    ];
    assert_eq!(symbols, expected);
}

#[test]
fn needs_no_library_of_slurm_and_is_never_unloaded() {
    let readelf = Command::new("readelf")
        .args(["-d", "-W"])
        .arg(plugin())
        .output()
        .unwrap();
    let text = String::from_utf8(readelf.stdout).unwrap();
    assert!(text.contains("NODELETE"), "{text}");
    assert!(!text.contains("slurm"), "{text}");
}

#[test]
fn can_be_loaded_outside_of_slurm() {
    let path = CString::new(plugin().into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: a C string; the plugin's constructor only looks around.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null(), "dlopen({path:?}) fails");
    let symbol = |name: &CStr| {
        // SAFETY: a handle from dlopen and a C string.
        let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?}");
        address
    };
    // SAFETY: both are arrays of char that end with NUL.
    assert_eq!(unsafe { CStr::from_ptr(symbol(c"plugin_name").cast()) }, c"pyxis");
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(symbol(c"plugin_type").cast()) }, c"spank");
    // SAFETY: a 32-bit number.
    let version: u32 = unsafe { symbol(c"plugin_version").cast::<u32>().read() };
    assert_eq!(version, 0x16_05_00, "the default, because nothing here tells a release");
    // SAFETY: an int.
    let mode: libc::c_int = unsafe { symbol(c"slurm_spank_init_failure_mode").cast::<libc::c_int>().read() };
    assert_eq!(mode, 3013);
    type Callback = unsafe extern "C" fn(*mut libc::c_void, libc::c_int, *mut *mut libc::c_char) -> libc::c_int;
    for name in [
        c"slurm_spank_init",
        c"slurm_spank_init_post_opt",
        c"slurm_spank_task_init_privileged",
        c"slurm_spank_task_exit",
        c"slurm_spank_job_epilog",
        c"slurm_spank_exit",
    ] {
        // SAFETY: a function of this type (spank.h).
        let callback: Callback = unsafe { std::mem::transmute(symbol(name)) };
        // SAFETY: no handle and no arguments: outside of Slurm nothing is done with either.
        let code = unsafe { callback(std::ptr::null_mut(), 0, std::ptr::null_mut()) };
        assert_eq!(code, 0, "{name:?}");
    }
}
