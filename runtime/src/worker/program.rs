//! The worker program from the outside: opened once, started by descriptor, heard over pipes.
#![forbid(unsafe_code)]

use super::protocol::Role;
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::privilege::only_root_can_write;
use crate::sys::cgroup::Groups;
use crate::sys::exec;
use crate::sys::process::{Child, Exit};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The opened worker program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// How a worker is started.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// An argument beside the role.
    pub argument: Option<&'a str>,
    /// Descriptors beside standard input and output, and their numbers.
    pub files: Vec<(BorrowedFd<'a>, i32)>,
    /// What is its standard input, in place of a pipe.
    pub input: Option<BorrowedFd<'a>>,
    /// The environment; empty but for the role that reads the user's credentials.
    pub environment: Option<&'a BTreeMap<String, String>>,
    /// Control groups that it enters.
    pub groups: Option<&'a Groups>,
    /// Whom the worker becomes; without one it stays the caller.
    pub user: Option<&'a Identity>,
}

/// A started worker.
#[derive(Debug)]
pub struct Started {
    /// The process; it is killed when this is dropped.
    pub child: Child,
    /// Its standard input.
    pub input: File,
    /// Its standard output.
    pub output: File,
}

impl Program {
    /// Opens the program at `path`, which must be root's alone: root starts it.
    pub fn open_trusted(path: &Path) -> Result<Self> {
        let bad = |what: &str| {
            Error::Host(format!(
                "the worker program {} {what}: install pyxis again or set worker.path",
                path.display()
            ))
        };
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| bad(&format!("cannot be opened: {}", std::io::Error::from(error).kind())))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| Error::sys("open the worker program", "fstat", error))?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || !only_root_can_write(&stat) {
            return Err(bad(
                "must be a regular file that belongs to root and that nobody else can write",
            ));
        }
        Ok(Program(file))
    }

    /// The program that is running.
    pub fn current() -> Result<Self> {
        rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map(Program)
            .map_err(|error| Error::sys("open this program", "open(/proc/self/exe)", error))
    }

    /// Starts the program in a role.
    pub fn start(&self, role: Role, start: &Start<'_>) -> Result<Started> {
        let (stdin, input) = new_pipe()?;
        let (output, stdout) = new_pipe()?;
        let words = [Some(super::PROGRAM), Some(role.name()), start.argument];
        let arguments = words
            .iter()
            .flatten()
            .map(|word| c_string(word))
            .collect::<Result<Vec<_>>>()?;
        let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
        let environment = start.environment.into_iter().flatten();
        let environment = environment
            .map(|(name, value)| c_string(&format!("{name}={value}")))
            .collect::<Result<Vec<_>>>()?;
        let mut descriptors = start.files.clone();
        descriptors.extend([(start.input.unwrap_or(stdin.as_fd()), 0), (stdout.as_fd(), 1)]);
        let child = exec::spawn(&exec::Program {
            file: self.0.as_fd(),
            arguments: &arguments,
            environment: &environment,
            descriptors: &descriptors,
            limits: &[],
            groups: start.groups,
            user: start.user,
            cage: None,
            own_group: true,
        })?;
        Ok(Started {
            child,
            input: File::from(input),
            output: File::from(output),
        })
    }
}

/// The error for a worker that ended without an answer.
pub fn obituary(role: Role, child: Child) -> Error {
    let role = role.name();
    match child.wait() {
        Ok(Exit::Signal(libc::SIGKILL)) => Error::Host(format!(
            "the {role} worker was killed; is it out of memory? The memory limit of the job holds for its imports"
        )),
        Ok(status) => Error::Host(format!("the {role} worker ended without an answer: {status}")),
        Err(error) => error,
    }
}

/// The reading end and the writing end of a new pipe.
fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::sys("start a worker", "pipe2", error))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Host("start a worker: an argument has a NUL byte".to_owned()))
}
