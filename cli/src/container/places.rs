//! Where a caller's containers are, and where it is written down which ones run.
#![forbid(unsafe_code)]

use pyxis_runtime::plan::Identity;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Below the caller's store, where the site's settings give him no directory of his own.
pub const CONTAINERS: &str = "containers";

/// `$XDG_RUNTIME_DIR/pyxis`, else a directory in `/tmp` that must be the caller's alone.
pub fn runtime(identity: &Identity, env: &BTreeMap<String, String>) -> PathBuf {
    if identity.uid == 0 {
        return PathBuf::from("/run/pyxis");
    }
    let given = env.get("XDG_RUNTIME_DIR").map(Path::new);
    match given.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(path) => path.join("pyxis"),
        None => PathBuf::from(format!("/tmp/pyxis-{}", identity.uid)),
    }
}
