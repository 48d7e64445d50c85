//! The processes below the calling one, as /proc shows them: looking for one, and ending all.
#![forbid(unsafe_code)]

use super::SENTINEL;
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::time::Duration;

/// Largest environment that is taken, in bytes. It travels to each task.
const LARGEST: u64 = 1 << 20;

/// The command behind the entrypoint.
pub(super) struct Command {
    pub(super) pid: i32,
    /// Its directory in /proc, which never comes to mean another process.
    directory: OwnedFd,
}

/// The command behind the entrypoint, when it has stopped itself.
pub(super) fn reached() -> Option<Command> {
    descendants().into_iter().find_map(|pid| {
        let directory = directory(pid)?;
        // Looked at again, as the number may have been another's when the directory was opened.
        (is_sentinel(&directory) && descendants().contains(&pid)).then_some(Command { pid, directory })
    })
}

fn directory(pid: i32) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()
}

/// Opens a file of a process.
fn open(directory: &OwnedFd, name: &str) -> rustix::io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map(fs::File::from)
}

fn is_sentinel(directory: &OwnedFd) -> bool {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        open(directory, name).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let stopped = read("stat").is_some_and(|stat| state(&String::from_utf8_lossy(&stat)) == Some("T"));
    let line = if stopped { read("cmdline") } else { None };
    line.is_some_and(|line| line.strip_suffix(b"\0").unwrap_or(&line).ends_with(SENTINEL.as_bytes()))
}

/// The state in a text like `/proc/PID/stat`; the name before it may hold anything.
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').next()
}

fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The environment that a process was started with; entries that are not text are left out.
pub(super) fn environment(command: &Command) -> Result<BTreeMap<String, String>> {
    let failed = |call: &str, error| {
        let call = format!("{call}(/proc/{}/environ)", command.pid);
        Error::sys("see what the entrypoint set", call, error)
    };
    let mut bytes = Vec::new();
    let file = open(&command.directory, "environ").map_err(|error| failed("open", error.into()))?;
    let size = file
        .take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| failed("read", error))?;
    if size as u64 == LARGEST {
        let mib = LARGEST >> 20;
        return Err(Error::Image(format!(
            "the image's entrypoint has set more than {mib} MiB of variables"
        )));
    }
    Ok(parse_environment(&bytes))
}

fn parse_environment(bytes: &[u8]) -> BTreeMap<String, String> {
    let entries = bytes
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok());
    let pairs = entries
        .filter_map(|entry| entry.split_once('='))
        .filter(|(name, _)| !name.is_empty());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// All processes below this one.
fn descendants() -> BTreeSet<i32> {
    let children: Box<dyn Fn(i32) -> Vec<i32>> = if fs::exists("/proc/thread-self/children").unwrap_or(false) {
        Box::new(children)
    } else {
        // A kernel without CONFIG_PROC_CHILDREN.
        let parents = parents();
        Box::new(move |pid| {
            parents
                .iter()
                .filter(|(_, of)| *of == pid)
                .map(|(pid, _)| *pid)
                .collect()
        })
    };
    let mut found = BTreeSet::new();
    let mut open = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        open.extend(children(pid).into_iter().filter(|child| found.insert(*child)));
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers = |list: String| {
        list.split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect::<Vec<_>>()
    };
    lists.flat_map(numbers).collect()
}

/// Every process and its parent.
fn parents() -> Vec<(i32, i32)> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    let parent_of = |pid: i32| parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

/// Reaps what has ended. Tells how `child` has, and whether any process is left.
pub(super) fn reap(child: Option<i32>) -> (Option<WaitStatus>, Remains) {
    let mut of_child = None;
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Err(Errno::EINTR) => {}
            Err(_) => return (of_child, Remains::Nothing),
            Ok(status) => match status.pid().map(nix::unistd::Pid::as_raw) {
                None => return (of_child, Remains::Something),
                Some(pid) if Some(pid) == child => of_child = Some(status),
                Some(_) => {}
            },
        }
    }
}

/// Whether there are children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    Something,
    Nothing,
}

/// Kills all processes below this one, which adopts orphans, and waits until they are gone. Whatever forks meanwhile is
/// met in the next round.
pub(super) fn end() {
    let mut pause = Duration::from_micros(200);
    while reap(None).1 == Remains::Something {
        for pid in descendants() {
            kill(pid);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Kills a process that nobody but this one waits for: the entrypoint itself, which has become the command, or the
/// command alone. Where something waits for it, that may look after something else meanwhile, and it stays.
pub(super) fn end_orphan(pid: i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    if parent(&stat) != Some(own) {
        return;
    }
    kill(pid);
    // A child that is not reaped keeps its number.
    let _ = waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), WaitPidFlag::WEXITED);
}

/// A number of a process that has ended may be another's now: the handle is taken first, then looked at.
fn kill(pid: i32) {
    let Some(raw) = Pid::from_raw(pid) else { return };
    let Ok(handle) = rustix::process::pidfd_open(raw, PidfdFlags::empty()) else {
        return;
    };
    if descendants().contains(&pid) {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Exit, exit_now, fork};

    #[test]
    fn texts_of_the_kernel() {
        let stat = "71 (a) b (T) 9) T 7 71 71 0 -1";
        assert_eq!((state(stat), parent(stat)), (Some("T"), Some(7)));
        assert_eq!((state("nothing"), parent("")), (None, None));
        let env = parse_environment(b"A=1\0B=a=b\0=x\0none\0C=\xff\0D=\0A=2");
        let wanted = [("A", "2"), ("B", "a=b"), ("D", "")];
        assert_eq!(env, wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    /// Whoever has its number by now is somebody else.
    #[test]
    fn a_process_that_has_ended_has_no_environment() {
        let child = fork(&[], || {
            nix::unistd::pause();
            0
        })
        .unwrap();
        let pid = child.pid();
        let command = Command {
            pid,
            directory: directory(pid).unwrap(),
        };
        environment(&command).unwrap();
        child.kill();
        child.wait().unwrap();
        assert!(environment(&command).is_err());
        assert!(!is_sentinel(&command.directory));
    }

    /// In a process of its own: the test's has threads, and children of other tests.
    #[test]
    fn orphans_that_hide_are_found_and_ended() {
        let child = fork(&[], || {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
            let (read, write) = rustix::pipe::pipe().unwrap();
            // A daemon with a child: two processes whose parent has gone.
            crate::sys::daemon::fork_daemon(c"hidden", &[rustix::fd::AsFd::as_fd(&write)], || {
                let _second = fork(&[rustix::fd::AsFd::as_fd(&write)], || {
                    nix::unistd::pause();
                    0
                })
                .unwrap();
                rustix::io::write(&write, b"x").unwrap();
                nix::unistd::pause();
            })
            .unwrap();
            drop(write);
            rustix::io::read(&read, &mut [0]).unwrap();
            let found = descendants();
            let scanned = parents();
            let all = found.len() == 2 && found.iter().all(|pid| scanned.iter().any(|(other, _)| other == pid));
            end();
            let ended = rustix::io::read(&read, &mut [0]) == Ok(0) && descendants().is_empty();
            exit_now(u8::from(!(all && ended)));
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    }
}
