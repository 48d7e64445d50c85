//! Slurm's SPANK plugin interface (`slurm/spank.h`) for plugins written in Rust.
//!
//! Nothing of Slurm is linked: the functions are looked up in the host process (srun, sbatch, salloc, slurmd,
//! slurmstepd) when the first one is needed, so that one file can serve several Slurm releases, and the crate loads
//! outside of Slurm too, in tests. [`Spank`] is the safe handle, [`log`] speaks through Slurm's log with a fixed
//! format, [`guard`] stops panics at the C border, and [`export_plugin!`] makes the symbols that Slurm looks for.
//! Containers are not known here.

mod api;
#[rustfmt::skip]
mod bindings;
mod guard;
mod handle;
mod local_env;
pub mod log;
mod options;
mod settings;
mod version;

pub use guard::{Verdict, guard, guard_option};
pub use handle::{Context, Error, Spank};
pub use local_env::set_local_env;
pub use options::{OptionCallback, SpankOption};
pub use settings::setting;
pub use version::{init_plugin_version, release};

/// What [`export_plugin!`] needs by name.
#[doc(hidden)]
pub mod raw {
    pub use crate::bindings::spank_t;
}

/// Makes the C symbols of a plugin: its name, its type, its version (found when the file is loaded, see
/// [`init_plugin_version`]) and one function for each callback, which runs the given Rust function under [`guard`].
///
/// A callback is `fn(&Spank<'_>, &[String]) -> Verdict`; the strings are the plugin's arguments in plugstack.conf.
#[macro_export]
macro_rules! export_plugin {
    (name: $name:literal, callbacks: { $($symbol:ident => $callback:path),+ $(,)? }) => {
        /// The plugin's name, as Slurm shows it.
        // SAFETY: Slurm asks for this symbol by this name; no other object of the process is meant.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static plugin_name: [u8; $name.len() + 1] = $crate::c_bytes($name);

        /// The plugin's type: Slurm refuses anything but "spank" in plugstack.conf.
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static plugin_type: [u8; 6] = *b"spank\0";

        /// The Slurm release that this plugin says to be made for: written by the constructor below, before Slurm reads it.
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static plugin_version: ::std::sync::atomic::AtomicU32 = ::std::sync::atomic::AtomicU32::new(0);

        /// From Slurm 25.05 on a failing `slurm_spank_init` drains the node unless the plugin says that only the job is
        /// at fault (`ESPANK_JOB_FAILURE`). Older releases ignore it.
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static slurm_spank_init_failure_mode: ::std::ffi::c_int = 3013;

        extern "C" fn write_plugin_version() {
            $crate::init_plugin_version(&plugin_version);
        }

        // SAFETY: the loader calls the functions of this section once the object is relocated; this one takes no
        // argument and never unwinds.
        #[unsafe(link_section = ".init_array")]
        #[used]
        static WRITE_PLUGIN_VERSION: extern "C" fn() = write_plugin_version;

        $(
            #[doc = concat!("The callback `", stringify!($symbol), "` (see spank(7)).")]
            ///
            /// # Safety
            /// `spank` is the handle that Slurm passes to a callback, `argv` has `argc` C strings.
            // SAFETY: as above.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $symbol(
                spank: $crate::raw::spank_t,
                argc: ::std::ffi::c_int,
                argv: *mut *mut ::std::ffi::c_char,
            ) -> ::std::ffi::c_int {
                // SAFETY: Slurm's promise about its callbacks' arguments is ours to guard().
                unsafe { $crate::guard(stringify!($symbol), spank, argc, argv, $callback) }
            }
        )+
    };
}

/// `text` with a NUL byte at its end, for a C symbol that is an array of char.
#[doc(hidden)]
#[must_use]
pub const fn c_bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let (head, _) = bytes.split_at_mut(text.len());
    head.copy_from_slice(text.as_bytes());
    bytes
}
