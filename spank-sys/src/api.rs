//! Slurm's functions, looked up in the host process. A cdylib is linked with immediate binding, so an undefined symbol
//! that one release lacks would keep the plugin from being loaded there: hence a table instead of declarations.

use crate::bindings::{spank_context_t, spank_err_t, spank_item_t, spank_option, spank_t};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

pub(crate) type GetItem = unsafe extern "C" fn(spank_t, spank_item_t, ...) -> spank_err_t;
pub(crate) type Setenv = unsafe extern "C" fn(spank_t, *const c_char, *const c_char, c_int) -> spank_err_t;
pub(crate) type Unsetenv = unsafe extern "C" fn(spank_t, *const c_char) -> spank_err_t;
pub(crate) type OptionRegister = unsafe extern "C" fn(spank_t, *mut spank_option) -> spank_err_t;
pub(crate) type GetContext = unsafe extern "C" fn() -> spank_context_t;
pub(crate) type Remote = unsafe extern "C" fn(spank_t) -> c_int;
pub(crate) type Strerror = unsafe extern "C" fn(spank_err_t) -> *const c_char;
pub(crate) type Log = unsafe extern "C" fn(*const c_char, ...);
/// Not in spank.h but exported by every process that loads plugins: the number of the library interface.
pub(crate) type ApiVersion = unsafe extern "C" fn() -> std::ffi::c_long;

/// The functions that this process has. Outside of Slurm: none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Api {
    pub(crate) get_item: Option<GetItem>,
    pub(crate) setenv: Option<Setenv>,
    pub(crate) unsetenv: Option<Unsetenv>,
    pub(crate) option_register: Option<OptionRegister>,
    pub(crate) context: Option<GetContext>,
    pub(crate) remote: Option<Remote>,
    pub(crate) strerror: Option<Strerror>,
    pub(crate) error: Option<Log>,
    pub(crate) info: Option<Log>,
    pub(crate) verbose: Option<Log>,
    pub(crate) debug: Option<Log>,
    pub(crate) spank_log: Option<Log>,
    pub(crate) api_version: Option<ApiVersion>,
}

/// The table, filled when first asked for.
pub(crate) fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| Api {
        get_item: lookup(c"spank_get_item"),
        setenv: lookup(c"spank_setenv"),
        unsetenv: lookup(c"spank_unsetenv"),
        option_register: lookup(c"spank_option_register"),
        context: lookup(c"spank_context"),
        remote: lookup(c"spank_remote"),
        strerror: lookup(c"spank_strerror"),
        error: lookup(c"slurm_error"),
        info: lookup(c"slurm_info"),
        verbose: lookup(c"slurm_verbose"),
        debug: lookup(c"slurm_debug"),
        spank_log: lookup(c"slurm_spank_log"),
        api_version: lookup(c"slurm_api_version"),
    })
}

/// The function or object called `name` in the global scope of the process, as the pointer type that the field has.
pub(crate) fn lookup<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: dlsym only reads the name; RTLD_DEFAULT is a valid handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return None;
    }
    // SAFETY: F is a function pointer type (same size, checked above) and `name` has that type in spank.h, which the
    // generic function below lets the compiler compare.
    Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
}

/// Never called and never instantiated, so nothing is linked; but the compiler checks that the types above are those of
/// the generated declarations.
#[allow(dead_code, clippy::extra_unused_type_parameters)]
fn types_are_those_of_the_header<T>() {
    use crate::bindings as c;
    let _: GetItem = c::spank_get_item;
    let _: Setenv = c::spank_setenv;
    let _: Unsetenv = c::spank_unsetenv;
    let _: OptionRegister = c::spank_option_register;
    let _: GetContext = c::spank_context;
    let _: Remote = c::spank_remote;
    let _: Strerror = c::spank_strerror;
    let _: [Log; 5] = [
        c::slurm_error,
        c::slurm_info,
        c::slurm_verbose,
        c::slurm_debug,
        c::slurm_spank_log,
    ];
}
