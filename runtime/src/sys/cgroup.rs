//! Control groups of another process (cgroups(7)). What a user has run beside his tasks must be where the tasks are: it
//! would have neither their limits nor their end otherwise.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::{File, OpenOptions, read_to_string};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where a process enters the groups of another one.
#[derive(Debug, Default)]
pub struct Groups(Vec<File>);

impl Groups {
    /// The groups of a task, if there is one: see [`Groups::of`].
    pub fn of_task(task: Option<i32>, uid: u32) -> Result<Self> {
        task.map_or_else(|| Ok(Groups::default()), |task| Groups::of(task, uid))
    }

    /// The groups of the process `pid` of the user `uid` that the caller is not in.
    pub fn of(pid: i32, uid: u32) -> Result<Self> {
        let read = |path: &str| {
            read_to_string(path).map_err(|error| Error::sys("find the task's cgroups", format!("read({path})"), error))
        };
        // One process, whatever its number comes to mean; and if that has happened already, then one of this user.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let gone = |error| Error::sys("find the task's cgroups", format!("open(/proc/{pid})"), error);
        let process = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(gone)?;
        if rustix::fs::fstat(&process).map_err(gone)?.st_uid != uid {
            return Err(gone(rustix::io::Errno::SRCH));
        }
        let theirs = read(&format!("/proc/self/fd/{}/cgroup", process.as_raw_fd()))?;
        let (ours, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let others = theirs.lines().filter(|line| !ours.lines().any(|own| own == *line));
        let open = |line: &str| {
            let directory = directory(line, &mounts)
                .ok_or_else(|| Error::Host(format!("the task's cgroup {line} is on no mounted hierarchy")))?;
            let path = directory.join("cgroup.procs");
            let opened = OpenOptions::new().write(true).open(&path);
            opened.map_err(|error| Error::sys("find the task's cgroups", format!("open({})", path.display()), error))
        };
        others.map(open).collect::<Result<_>>().map(Groups)
    }

    /// The calling process enters them.
    pub fn enter(&self) -> Result<()> {
        for mut group in &self.0 {
            group
                .write_all(b"0")
                .map_err(|error| Error::sys("enter the task's cgroups", "write(cgroup.procs)", error))?;
        }
        Ok(())
    }

    /// The open files.
    pub fn files(&self) -> &[File] {
        &self.0
    }
}

/// The directory of a line of `/proc/PID/cgroup`: `ID:CONTROLLERS:PATH`, with no controllers for version 2.
fn directory(line: &str, mountinfo: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    mountinfo.lines().find_map(|mount| {
        let (before, after) = mount.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, place) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let has = |wanted: &str| options.split(',').any(|option| option == wanted);
        let right = match controllers {
            "" => kind == "cgroup2",
            list => kind == "cgroup" && list.split(',').all(has),
        };
        let below = Path::new(path).strip_prefix(root).ok()?;
        right.then(|| Path::new(place).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Exit, fork};
    use std::os::fd::AsFd;

    const MOUNTS: &str = "30 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                          31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                          32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
                          33 30 0:30 /slice /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn lines_and_their_directories() {
        for (line, expected) in [
            (
                "4:cpu,cpuacct:/job_1/step",
                Some("/sys/fs/cgroup/cpu,cpuacct/job_1/step"),
            ),
            ("4:cpuacct:/", Some("/sys/fs/cgroup/cpu,cpuacct")),
            ("1:name=systemd:/x:y", Some("/sys/fs/cgroup/systemd/x:y")),
            ("0::/slice/job", Some("/sys/fs/cgroup/unified/job")),
            ("0::/elsewhere", None),
            ("5:memory:/job", None),
            ("nonsense", None),
        ] {
            assert_eq!(directory(line, MOUNTS), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn a_process_enters_the_groups_of_another() {
        let mounts = read_to_string("/proc/self/mountinfo").unwrap();
        let own = read_to_string("/proc/self/cgroup").unwrap();
        // Any hierarchy in which a group can be made; the machine has one.
        let name = format!("pyxis-test-{}", std::process::id());
        let group = own
            .lines()
            .filter_map(|line| directory(line, &mounts))
            .map(|directory| directory.join(&name))
            .find(|path| !path.to_string_lossy().contains("cpuset") && std::fs::create_dir(path).is_ok())
            .unwrap();
        let (ours, theirs) = crate::sys::channel::pair().unwrap();
        let other = fork(&[theirs.as_fd()], || {
            let procs = std::fs::write(group.join("cgroup.procs"), "0");
            crate::sys::channel::send(&theirs, &procs.is_ok(), &[]).unwrap();
            u8::from(crate::sys::channel::recv::<()>(&theirs).is_err())
        })
        .unwrap();
        drop(theirs);
        assert!(crate::sys::channel::recv::<bool>(&ours).unwrap().unwrap().message);
        let me = rustix::process::geteuid().as_raw();
        assert!(Groups::of(other.pid(), me + 1).is_err());
        let groups = Groups::of(other.pid(), me).unwrap();
        assert_eq!(groups.files().len(), 1);
        let keep: Vec<_> = groups.files().iter().map(AsFd::as_fd).collect();
        let child = fork(&keep, || {
            groups.enter().unwrap();
            let now = read_to_string("/proc/self/cgroup").unwrap();
            u8::from(now.lines().filter(|line| line.ends_with(&name)).count() == 1)
        });
        let exit = child.unwrap().wait().unwrap();
        drop((ours, other));
        std::fs::remove_dir(&group).unwrap();
        assert_eq!(exit, Exit::Code(1));
    }
}
