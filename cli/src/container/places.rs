//! Where a caller's containers and images are, and where it is written down which ones run. The site's settings, and those of
//! enroot, decide; else they are below the caller's home directory.
#![forbid(unsafe_code)]

use crate::settings;
use pyxis_runtime::config::Config;
use pyxis_runtime::plan::Identity;
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

type Variables = BTreeMap<String, String>;

/// Containers, below the caller's store.
const CONTAINERS: &str = "containers";
/// The store, in a directory that others may use too.
const STORE: &str = "pyxis";

/// The directory of what runs: `$ENROOT_RUNTIME_PATH`, else one in `$XDG_RUNTIME_DIR`, else one in `/tmp`, that must be the
/// caller's alone.
pub fn runtime(identity: &Identity, env: &Variables) -> Result<PathBuf> {
    if identity.uid == 0 {
        return Ok(PathBuf::from("/run/pyxis"));
    }
    if let Some(path) = said(env, "ENROOT_RUNTIME_PATH")? {
        return Ok(path);
    }
    let usual = said(env, "XDG_RUNTIME_DIR")?.filter(|path| path.is_dir());
    Ok(match usual {
        Some(path) => path.join("pyxis"),
        None => PathBuf::from(format!("/tmp/pyxis-{}", identity.uid)),
    })
}

/// Puts the caller's directories in place of the node's. Gives the one where the plugin keeps his containers, if that is
/// another.
pub fn of_caller(config: &mut Config, env: &Variables) -> Result<Option<PathBuf>> {
    config.store.path = match (said(env, "PYXIS_STORE")?, said(env, "ENROOT_CACHE_PATH")?) {
        (Some(path), _) => path,
        (None, Some(path)) => path.join(STORE),
        (None, None) => settings::users_store()?,
    };
    let own = match said(env, "ENROOT_DATA_PATH")? {
        Some(path) => path,
        None if config.container.data_path_is_users => return Ok(None),
        None => settings::users_store()?.join(CONTAINERS),
    };
    config.container.data_path_is_users = true;
    Ok(Some(std::mem::replace(&mut config.container.data_path, own)))
}

/// A path that a variable says.
fn said(env: &Variables, name: &str) -> Result<Option<PathBuf>> {
    match env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(Error::Request(format!(
            "{name}={}: not an absolute path",
            path.display()
        ))),
        path => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_enroot_say_where() {
        let env = |name: &str, value: &str| Variables::from([(name.to_owned(), value.to_owned())]);
        let caller = Identity {
            uid: 1000,
            gid: 1000,
            groups: Vec::new(),
        };
        let run = |env: Variables| runtime(&caller, &env).unwrap();
        assert_eq!(run(Variables::new()), PathBuf::from("/tmp/pyxis-1000"));
        assert_eq!(run(env("XDG_RUNTIME_DIR", "/usr")), PathBuf::from("/usr/pyxis"));
        assert_eq!(run(env("ENROOT_RUNTIME_PATH", "/a")), PathBuf::from("/a"));
        assert!(runtime(&caller, &env("ENROOT_RUNTIME_PATH", "a")).is_err());
        let mut config = Config::default();
        let node = config.container.data_path.clone();
        let env = Variables::from([
            ("ENROOT_DATA_PATH".to_owned(), "/data".to_owned()),
            ("ENROOT_CACHE_PATH".to_owned(), "/cache".to_owned()),
        ]);
        assert_eq!(of_caller(&mut config, &env).unwrap(), Some(node));
        let paths = (config.container.data_path.as_path(), config.store.path.as_path());
        assert_eq!(paths, ("/data".as_ref(), "/cache/pyxis".as_ref()));
    }
}
