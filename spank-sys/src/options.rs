//! Options that a plugin adds to srun, sbatch and salloc.

use std::ffi::{c_char, c_int};

/// The C function that Slurm calls with an option: its number, its argument, and whether this is slurmstepd.
pub type OptionCallback = unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int;

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct SpankOption<'a> {
    /// Long name, without dashes (at most 75 bytes).
    pub name: &'a str,
    /// What the argument is, for the help text; no argument is taken without it.
    pub argument: Option<&'a str>,
    /// Help text.
    pub usage: &'a str,
    /// Handed back to the callback.
    pub number: c_int,
    /// Called for each use of the option, in every process that loads the plugin.
    pub callback: OptionCallback,
}
