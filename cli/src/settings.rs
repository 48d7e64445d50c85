//! Where a command's store is and what the site says.
#![forbid(unsafe_code)]

use crate::args::Global;
use pyxis_runtime::config::Config;
use pyxis_runtime::config::load::{Owned, Sources, load_site};
use pyxis_runtime::import::Workers;
use pyxis_runtime::privilege::caller;
use pyxis_runtime::start::load_config;
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// The site's configuration with the caller's store in it. What is odd in the site's files is told.
pub fn load(global: &Global) -> Result<Config> {
    let mut config = site(global, &mut |warning| {
        // Nobody can be told that nobody can be told.
        let _ = writeln!(std::io::stderr(), "pyxis: {warning}");
    })?;
    if let Some(store) = store(global)? {
        config.store.path = store;
    }
    Ok(config)
}

/// The site's configuration.
pub fn site(global: &Global, warn: &mut dyn FnMut(String)) -> Result<Config> {
    match &global.config {
        None => site_files(warn),
        // What was asked for must be there.
        Some(path) if !path.exists() => Err(Error::Request(format!("--config: {} does not exist", path.display()))),
        Some(path) => load_config(path),
    }
}

/// The caller's store, where it is not the site's.
pub fn store(global: &Global) -> Result<Option<PathBuf>> {
    match (&global.store, nix::unistd::geteuid().is_root()) {
        (Some(store), _) => Ok(Some(store.clone())),
        (None, true) => Ok(None),
        (None, false) => users_store().map(Some),
    }
}

/// The site's files, enroot's among them.
fn site_files(warn: &mut dyn FnMut(String)) -> Result<Config> {
    let identity = caller();
    let owned = Owned {
        identity: &identity,
        env: &environment(),
    };
    let loaded = load_site(&Sources::default(), &owned, &mut |worker| {
        let workers = Workers::of_this_program(worker)?;
        workers.start_lookup(&identity)?.finish(&mut |_| ())
    })?;
    loaded.warnings.into_iter().for_each(warn);
    Ok(loaded.config)
}

/// The caller's variables; neither settings nor credentials are in one that is not text.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// `$XDG_DATA_HOME/pyxis`, else `~/.local/share/pyxis`.
pub fn users_store() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("pyxis"))
        .ok_or_else(|| {
            Error::Request("neither HOME nor XDG_DATA_HOME is set: set one of them, or PYXIS_STORE".to_owned())
        })
}

/// Where relative paths begin.
pub fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|error| Error::sys("find the working directory", "getcwd", error))
}

/// What new files are closed to.
pub fn umask() -> u32 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    mask.bits()
}
