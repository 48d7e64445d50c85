//! A container that runs, found through one of its processes, which is the caller's.
#![forbid(unsafe_code)]

use pyxis_runtime::containers::{Held, Kind};
use pyxis_runtime::enter::{self, Enter};
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The namespaces of a container, by their names in `/proc/PID/ns`.
const NAMESPACES: [(&str, Kind); 5] = [
    ("user", Kind::User),
    ("mnt", Kind::Mount),
    ("net", Kind::Net),
    ("ipc", Kind::Ipc),
    ("uts", Kind::Uts),
];

/// The container of a process.
pub struct Running {
    process: PathBuf,
    held: Held,
    how: Enter,
}

impl Running {
    /// Finds the container of the process `pid`.
    pub fn of(pid: u32) -> Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let wrong = |what: &str| {
            Error::Request(format!(
                "process {pid} {what}: see the processes in the list of containers"
            ))
        };
        let mut held = Held::default();
        for (name, kind) in NAMESPACES {
            let (theirs, ours) = (process.join("ns").join(name), format!("/proc/self/ns/{name}"));
            let file = File::open(&theirs).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => wrong("does not exist"),
                std::io::ErrorKind::PermissionDenied => wrong("is not yours"),
                _ => Error::sys("find the container", format!("open({})", theirs.display()), error),
            })?;
            let failed = |error| Error::sys("find the container", format!("stat({ours})"), error);
            let inode = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
            if inode(file.metadata().map_err(failed)?) != inode(std::fs::metadata(&ours).map_err(failed)?) {
                held.push(kind, OwnedFd::from(file));
            }
        }
        if held.get(Kind::User).is_none() || held.get(Kind::Mount).is_none() {
            return Err(wrong("is in no container"));
        }
        let map = std::fs::read_to_string(process.join("uid_map"))
            .map_err(|error| Error::sys("find the container", "read(uid_map)", error))?;
        let workdir = std::fs::read_link(process.join("cwd")).unwrap_or_else(|_| "/".into());
        let how = Enter {
            remap_root: map.split_whitespace().next() == Some("0"),
            workdir,
            explicit_workdir: false,
        };
        Ok(Running { process, held, how })
    }

    /// The variables of the process.
    pub fn environment(&self) -> Result<BTreeMap<String, String>> {
        let bytes = std::fs::read(self.process.join("environ"))
            .map_err(|error| Error::sys("find the container", "read(environ)", error))?;
        let text = String::from_utf8_lossy(&bytes);
        let variables = text.split('\0').filter_map(|entry| entry.split_once('='));
        Ok(variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Brings this process into it.
    pub fn enter(&self) -> Result<()> {
        enter::enter(&self.held.join()?, &self.how)
    }
}
