//! The environment of srun, sbatch and salloc themselves, which they hand on to the job. SPANK's own calls for variables
//! work in slurmstepd only.

/// Sets a variable of this process, or removes it.
///
/// To be called from a callback of srun, sbatch or salloc that runs before they start threads (`init_post_opt`).
pub fn set_local_env(name: &str, value: Option<&str>) {
    match value {
        // SAFETY: these programs parse their options on their only thread, so nobody reads the environment meanwhile.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}
