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

/// A process that says that it is of another release of Slurm, loads the plugin and calls its first callback as slurmd would, or
/// srun, and then says what came of it.
const HOST: &str = r#"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
static int context;
long slurm_api_version(void) { return atol(getenv("API")) << 16; }
int spank_context(void) { return context; }
int spank_option_register(void *spank, void *option) { return 0; }
void slurm_error(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    puts("");
}
int main(int count, char **words) {
    void *plugin = dlopen(words[1], RTLD_NOW);
    if (!plugin) { puts(dlerror()); return 1; }
    context = atoi(words[2]);
    int (*init)(void *, int, char **) = (int (*)(void *, int, char **))dlsym(plugin, "slurm_spank_init");
    int code = init(0, count - 3, words + 3);
    printf("%x %d\n", *(unsigned *)dlsym(plugin, "plugin_version"), code);
    return 0;
}
"#;
/// Numbers of contexts (spank.h).
const SRUN: &str = "1";
const SLURMD: &str = "4";

#[test]
fn a_release_that_nobody_has_tested_is_told_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (source, host) = (directory.path().join("host.c"), directory.path().join("host"));
    std::fs::write(&source, HOST).unwrap();
    let cc = Command::new("cc")
        .args(["-rdynamic", "-o"])
        .args([&host, &source])
        .status();
    assert!(cc.unwrap().success());
    let run = |api: &str, context: &str, arguments: &[&str]| {
        let mut command = Command::new(&host);
        let output = command
            .arg(plugin())
            .arg(context)
            .args(arguments)
            .env("API", api)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let newer =
        "pyxis: Slurm 26.11 is newer than 26.05, the newest that this plugin was tested with: look for a newer pyxis";
    let strict = ["PYXIS_SLURM_STRICT=1"];
    for (api, context, arguments, expected) in [
        ("38", SLURMD, &strict[..], "160500 0\n".to_owned()),
        ("45", SLURMD, &strict, "1a0500 0\n".to_owned()),
        ("46", SRUN, &[], "1a0b00 0\n".to_owned()),
        ("46", SLURMD, &[], format!("{newer}\n1a0b00 0\n")),
        (
            "46",
            SRUN,
            &strict,
            format!("{newer} (PYXIS_SLURM_STRICT in plugstack.conf)\n1a0b00 -1\n"),
        ),
    ] {
        assert_eq!(run(api, context, arguments), expected, "{api} {context} {arguments:?}");
    }
}
