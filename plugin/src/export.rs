//! The symbols that Slurm looks for, and nothing else: no logic here. The one file of this crate with unsafe code.
#![allow(unsafe_code)]

use crate::callbacks;
use std::ffi::{c_char, c_int};

spank_sys::export_plugin! {
    name: "pyxis",
    callbacks: {
        slurm_spank_init => callbacks::init,
        slurm_spank_init_post_opt => callbacks::init_post_opt,
        slurm_spank_task_init_privileged => callbacks::task_init_privileged,
        slurm_spank_task_init => callbacks::task_init,
        slurm_spank_task_exit => callbacks::task_exit,
        slurm_spank_job_epilog => callbacks::job_epilog,
        slurm_spank_exit => callbacks::exit,
    }
}

/// Called by Slurm for each use of one of our options.
pub(crate) unsafe extern "C" fn option(number: c_int, argument: *const c_char, _remote: c_int) -> c_int {
    // SAFETY: Slurm passes null or a C string.
    unsafe { spank_sys::guard_option("option", argument, |text| callbacks::option(number, text)) }
}
