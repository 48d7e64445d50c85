//! Which processes are in containers: each writes itself down before it becomes the container's command. The kernel takes no
//! note of names.
//!
//! ```text
//! RUNTIME/started/<pid>    the container's id, and when the process began
//! ```
#![forbid(unsafe_code)]

use nix::unistd::geteuid;
use pyxis_runtime::containers::Place;
use pyxis_runtime::{Error, Result};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Below the runtime path.
const DIRECTORY: &str = "started";
/// The place of the start among the fields behind the name.
const STARTTIME: usize = 19;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    pub pid: u32,
    pub id: String,
}

/// The directory, if it is the caller's alone: it may be in a place where others make directories of any name.
fn directory(runtime_path: &Path) -> Option<PathBuf> {
    let own = |path: &Path| {
        let found = std::fs::symlink_metadata(path).ok();
        found.is_some_and(|found| found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0)
    };
    let directory = runtime_path.join(DIRECTORY);
    (own(runtime_path) && own(&directory)).then_some(directory)
}

/// Writes the calling process down, and forgets those that have ended.
pub fn note(place: &Place) -> Result<()> {
    all(&place.runtime_path);
    let shown = place.runtime_path.join(DIRECTORY);
    let shown = shown.display();
    let failed = |call: &str, error| Error::sys("write down what runs", format!("{call}({shown})"), error);
    let pid = std::process::id();
    let began = began(pid).ok_or_else(|| Error::Host(format!("/proc/{pid}/stat cannot be read")))?;
    let made = DirBuilder::new().mode(0o700).create(place.runtime_path.join(DIRECTORY));
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("mkdir", error)),
        _ => {}
    }
    let directory = directory(&place.runtime_path)
        .ok_or_else(|| Error::Host(format!("{shown} must belong to you, and nobody else may write to it")))?;
    let path = directory.join(pid.to_string());
    // What is left of another process of this number.
    let _ = std::fs::remove_file(&path);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| failed("open", error))?;
    file.write_all(format!("{began} {}", place.id).as_bytes())
        .map_err(|error| failed("write", error))
}

/// All that run. What is left of those that do not is removed.
pub fn all(runtime_path: &Path) -> Vec<Started> {
    let entries = directory(runtime_path).map(std::fs::read_dir);
    let entries = entries.into_iter().flatten().flatten().flatten();
    let mut all: Vec<Started> = entries
        .filter_map(|entry| {
            let started = read(&entry.path());
            if started.is_none() {
                // Somebody else may have.
                let _ = std::fs::remove_file(entry.path());
            }
            started
        })
        .collect();
    all.sort_by(|a, b| (&a.id, a.pid).cmp(&(&b.id, b.pid)));
    all
}

fn read(path: &Path) -> Option<Started> {
    let pid = path.file_name()?.to_str()?.parse().ok()?;
    let text = std::fs::read_to_string(path).ok()?;
    let (since, id) = text.split_once(' ')?;
    (since == began(pid)?).then(|| Started { pid, id: id.to_owned() })
}

/// When a process began, in the kernel's ticks since the machine did (proc_pid_stat(5)). It is not the same for two
/// processes that have had one number.
fn began(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split_whitespace().nth(STARTTIME).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn who_runs_is_found_and_who_does_not_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            runtime_path: directory.path().to_owned(),
            uid: 0,
            id: "my container".into(),
            member: String::new(),
        };
        note(&place).unwrap();
        let left = directory.path().join("started/1");
        std::fs::write(&left, "0 x").unwrap();
        let expected = Started {
            pid: std::process::id(),
            id: "my container".into(),
        };
        assert_eq!((all(directory.path()), left.exists()), (vec![expected], false));
        // What others could have put there is not looked at, and not removed.
        std::fs::write(&left, "0 x").unwrap();
        let closed = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), closed).unwrap();
        assert_eq!((all(directory.path()), left.exists()), (vec![], true));
        assert!(note(&place).unwrap_err().to_string().contains("must belong to you"));
    }
}
