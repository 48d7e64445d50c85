//! Slurm's TaskProlog, with a container. slurmstepd starts it after `task_init`, when the task is in the container already,
//! where the site's program, its interpreter and what it looks at are not. So it is run here, on the host, before the
//! task enters; inside, a program that does nothing is in its place (`start::Job::stand_ins`).
#![forbid(unsafe_code)]

use pyxis_runtime::privilege;
use pyxis_runtime::sys::process::{self, Exit};
use pyxis_runtime::{Error, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// No TaskProlog that means well says more.
const MAX_OUTPUT: u64 = 16 << 20;
/// The exit code for a program that cannot be executed.
const CANNOT_EXECUTE: u8 = 127;

/// The site's TaskProlog, if it has one.
pub(crate) fn path() -> Option<PathBuf> {
    spank_sys::setting("TaskProlog")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// The programs that slurmstepd, of this release, executes by their paths for the site's TaskProlog.
pub(crate) fn executed(release: u32) -> Vec<PathBuf> {
    let Some(program) = path() else {
        return Vec::new();
    };
    let launchers = (release >= EXECUTES_ITSELF).then(own_paths).into_iter().flatten();
    std::iter::once(program).chain(launchers).collect()
}

/// The first release of Slurm that starts programs by way of slurmstepd: 23.11.
const EXECUTES_ITSELF: u32 = 0x17_0b_00;

/// This program, by the path it was called by and by the one that the kernel has found.
fn own_paths() -> Vec<PathBuf> {
    let called = std::env::args_os().next().map(PathBuf::from);
    let mut paths: Vec<_> = called.into_iter().chain(std::env::current_exe()).collect();
    paths.retain(|path| path.is_absolute());
    paths.dedup();
    paths
}

/// What a line of the output asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// `export NAME=VALUE`
    Export(String, String),
    /// `unset NAME`
    Unset(String),
    /// `print TEXT`: a line of the task's output.
    Print(String),
}

/// Why a task must not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The task's exit code.
    pub(crate) code: u8,
    /// What to say.
    pub(crate) error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { code: 1, error }
    }
}

/// Runs the program as Slurm does: as the task, in its directory and environment, in a process group of its own that ends
/// with it. Gives what its output asks for.
pub(crate) fn run(program: &Path, env: &[(String, String)]) -> std::result::Result<Vec<Order>, Failed> {
    let (output, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed_call(program, "pipe2", error))?;
    let child = process::fork(&[theirs.as_fd()], || execute(program, env, &theirs))?;
    drop(theirs);
    let text =
        read(output).map_err(|error| Error::Host(format!("read from TaskProlog {}: {error}", program.display())))?;
    match finish(child)? {
        Exit::Code(0) => Ok(orders(&text)),
        Exit::Code(code) => Err(Failed {
            code: u8::try_from(code).unwrap_or(1),
            error: Error::Host(format!(
                "TaskProlog {} failed with exit code {code}{}",
                program.display(),
                last_line(&text)
            )),
        }),
        Exit::Signal(signal) => Err(Failed {
            code: u8::try_from(128 + signal).unwrap_or(1),
            error: Error::Host(format!("TaskProlog {} was ended by signal {signal}", program.display())),
        }),
    }
}

fn failed_call(program: &Path, call: &str, error: rustix::io::Errno) -> Error {
    Error::sys(format!("run TaskProlog {}", program.display()), call, error)
}

/// In the child: becomes the program.
fn execute(program: &Path, env: &[(String, String)], output: &OwnedFd) -> u8 {
    let copies = (output.try_clone(), output.try_clone(), output.try_clone());
    let (Ok(stdout), Ok(stderr), Ok(last_words)) = copies else {
        return CANNOT_EXECUTE;
    };
    if let Err(error) = privilege::give_up_what_was_kept() {
        let _ = writeln!(File::from(last_words), "{error}");
        return CANNOT_EXECUTE;
    }
    let error = Command::new(program)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .exec();
    // The reader takes the last line for the reason.
    let _ = writeln!(File::from(last_words), "{error}");
    CANNOT_EXECUTE
}

fn read(output: OwnedFd) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::from(output).take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for the end, and ends what the program left behind in its group.
fn finish(child: process::Child) -> Result<Exit> {
    let group = rustix::process::Pid::from_raw(child.pid());
    let exit = child.wait()?;
    if let Some(group) = group {
        // Mostly there is nothing left.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    Ok(exit)
}

fn last_line(text: &str) -> String {
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!(": {}", line.trim()))
}

/// The lines that mean something (slurm.conf(5), TaskProlog); the others are dropped.
fn orders(text: &str) -> Vec<Order> {
    text.lines().filter_map(order).collect()
}

fn order(line: &str) -> Option<Order> {
    let (word, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    match word {
        "export" => {
            let (name, value) = rest.split_once('=')?;
            let name = name.trim_end();
            (!name.is_empty()).then(|| Order::Export(name.to_owned(), value.to_owned()))
        }
        "unset" => {
            let name = rest.trim_end();
            (!name.is_empty() && !name.contains('=')).then(|| Order::Unset(name.to_owned()))
        }
        "print" => Some(Order::Print(rest.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prolog");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    fn env() -> Vec<(String, String)> {
        vec![("PATH".into(), "/usr/bin:/bin".into()), ("JOB".into(), "7".into())]
    }

    #[test]
    fn lines_and_what_they_ask_for() {
        let export = |name: &str, value: &str| Some(Order::Export(name.into(), value.into()));
        for (line, expected) in [
            ("export A=b", export("A", "b")),
            ("export  A =b c=d ", export("A", "b c=d ")),
            ("export A=", export("A", "")),
            ("export A", None),
            ("export =b", None),
            ("unset A", Some(Order::Unset("A".into()))),
            ("unset  A ", Some(Order::Unset("A".into()))),
            ("unset", None),
            ("unset A=b", None),
            ("print some  words", Some(Order::Print("some  words".into()))),
            ("print ", Some(Order::Print(String::new()))),
            ("printing", None),
            (" export A=b", None),
            ("", None),
        ] {
            assert_eq!(order(line), expected, "{line:?}");
        }
    }

    #[test]
    fn it_runs_as_the_task_would_and_is_heard() {
        let (_directory, path) =
            script("echo export HOST=$(test -e /proc/self && echo yes); echo noise; echo print $JOB >&2; cat");
        let expected = [Order::Export("HOST".into(), "yes".into()), Order::Print("7".into())];
        assert_eq!(run(&path, &env()).unwrap(), expected);
    }

    #[test]
    fn failures_have_a_code_and_a_reason() {
        let (_directory, path) = script("echo the disk is full; exit 9");
        let failed = run(&path, &env()).unwrap_err();
        let text = failed.error.to_string();
        assert!(
            failed.code == 9 && text.contains("exit code 9: the disk is full"),
            "{text}"
        );
        let (_directory, path) = script("kill -9 $$");
        assert_eq!(run(&path, &env()).unwrap_err().code, 137);
        let failed = run(Path::new("/no/such/prolog"), &env()).unwrap_err();
        assert!(
            failed.code == 127 && failed.error.to_string().contains("No such file"),
            "{failed:?}"
        );
    }

    #[test]
    fn what_it_leaves_behind_is_ended() {
        let (_directory, path) = script("sleep 600 >/dev/null 2>&1 & echo export PID=$!");
        let orders = run(&path, &env()).unwrap();
        let [Order::Export(_, pid)] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Killed at once; whoever inherits it reaps it.
        while !state().is_empty() && !state().contains(") Z ") {
            std::thread::yield_now();
        }
    }
}
