//! Which processes are in containers: each writes itself down before it becomes the container's command. The kernel takes no
//! note of names.
//!
//! ```text
//! RUNTIME/started/<pid>    the container's id, and when the process began
//! ```
#![forbid(unsafe_code)]

use pyxis_runtime::containers::Place;
use pyxis_runtime::{Error, Result};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The place of the start among the fields behind the name.
const STARTTIME: usize = 19;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    pub pid: u32,
    pub id: String,
}

fn directory(runtime_path: &Path) -> PathBuf {
    runtime_path.join("started")
}

/// Writes the calling process down, and forgets those that have ended.
pub fn note(place: &Place) -> Result<()> {
    all(&place.runtime_path);
    let directory = directory(&place.runtime_path);
    let failed = |call: &str, error| {
        Error::sys(
            "write down what runs",
            format!("{call}({})", directory.display()),
            error,
        )
    };
    let pid = std::process::id();
    let began = began(pid).ok_or_else(|| Error::Host(format!("/proc/{pid}/stat cannot be read")))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| failed("mkdir", error))?;
    let path = directory.join(pid.to_string());
    // What is left of another process of this number.
    let _ = std::fs::remove_file(&path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("open", error))?;
    file.write_all(format!("{began} {}", place.id).as_bytes())
        .map_err(|error| failed("write", error))
}

/// All that run. What is left of those that do not is removed.
pub fn all(runtime_path: &Path) -> Vec<Started> {
    let entries = std::fs::read_dir(directory(runtime_path))
        .into_iter()
        .flatten()
        .flatten();
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
    }
}
