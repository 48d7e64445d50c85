//! The builder: a child of the supervisor that makes the container and ends. It may block, run out of memory, or be
//! killed; the supervisor only sees its socket.
#![forbid(unsafe_code)]

use super::protocol::{Caller, Made, Report};
use crate::container::{Order, Prepare, Prepared};
use crate::step::Job;
use pyxis_runtime::containers::Held;
use pyxis_runtime::sys::channel;
use pyxis_runtime::sys::process::{self, Child, Exit};
use pyxis_runtime::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

/// All that a builder needs.
pub(super) struct Recipe {
    pub(super) order: Order,
    pub(super) job: Job,
    pub(super) prepare: Prepare,
}

/// A builder at work. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Builder {
    child: Child,
    reports: OwnedFd,
}

/// What came from a builder.
pub(super) enum News {
    /// A line for the user.
    Line(String),
    /// The outcome; there is no more to come.
    Outcome(Result<Box<Prepared>>),
    /// It has ended without an outcome.
    Ended,
}

impl Builder {
    /// Starts a builder for the task `pid`, which asked first.
    pub(super) fn start(recipe: &Recipe, caller: Caller, pid: Option<i32>) -> Result<Self> {
        let (reports, theirs) = channel::pair()?;
        let task = pid.map(open_task).transpose()?;
        let mut keep = vec![theirs.as_fd()];
        keep.extend(task.as_ref().map(AsFd::as_fd));
        let child = process::fork(&keep, || {
            let job = Job {
                task: pid,
                env: caller.env,
                cwd: caller.cwd,
                ..recipe.job.clone()
            };
            let outcome = build(recipe, &job, pid.zip(task.as_ref()), &theirs);
            u8::from(send_outcome(&theirs, outcome).is_err())
        })?;
        Ok(Builder { child, reports })
    }

    /// Readable when there is news.
    pub(super) fn reports(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// The next piece of news.
    pub(super) fn news(&self) -> News {
        match channel::recv::<Report>(&self.reports) {
            Ok(Some(received)) => match received.message {
                Report::Line(line) => News::Line(line),
                Report::Done(made) => News::Outcome(take(*made, received.fds)),
                Report::Failed(error) => News::Outcome(Err(error)),
            },
            Ok(None) => News::Ended,
            Err(error) => News::Outcome(Err(error)),
        }
    }

    /// Why the builder ended without an outcome.
    pub(super) fn obituary(self) -> Error {
        match self.child.wait() {
            Ok(Exit::Signal(signal)) => Error::Host(format!(
                "the container's builder was killed by signal {signal}; is the node out of memory?"
            )),
            Ok(exit) => Error::Host(format!("the container's builder ended with {exit} and said nothing")),
            Err(error) => error.context("the container's builder ended"),
        }
    }
}

/// A finished container, as its builder sent it.
fn take(made: Made, mut fds: Vec<OwnedFd>) -> Result<Box<Prepared>> {
    let missing = || Error::Host("the container's builder sent no descriptor".into());
    let listener = fds.pop().ok_or_else(missing)?;
    // Who connects and goes away again must not make the supervisor wait.
    rustix::fs::fcntl_setfl(&listener, OFlags::NONBLOCK)
        .map_err(|error| Error::sys("serve other steps", "fcntl(F_SETFL)", error))?;
    Ok(Box::new(Prepared {
        held: Held::received(made.kinds, fds)?,
        entry: made.entry,
        description: made.description,
        listener,
    }))
}

/// A task, by a handle that cannot come to mean another process.
fn open_task(pid: i32) -> Result<OwnedFd> {
    let failed = |error| Error::sys("look at the task", format!("pidfd_open({pid})"), error);
    let pid = Pid::from_raw(pid).ok_or_else(|| failed(rustix::io::Errno::SRCH))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)
}

fn build(recipe: &Recipe, job: &Job, task: Option<(i32, &OwnedFd)>, reports: &OwnedFd) -> Result<Prepared> {
    // slurmstepd has one. What needs memory for a user, and what he starts himself to get at his passwords, must not.
    process::forget_oom_protection()?;
    if let Some((pid, handle)) = task {
        enter_mounts_of(pid, handle)?;
    }
    (recipe.prepare)(&recipe.order, job, &mut |line: String| {
        // The supervisor has ended when this fails, and we are about to be killed.
        let _ = channel::send(reports, &Report::Line(line), &[]);
    })
}

/// Enters the task's mount namespace: with job_container/tmpfs each job has a /tmp of its own.
fn enter_mounts_of(pid: i32, handle: &OwnedFd) -> Result<()> {
    let doing = "enter the task's mount namespace";
    let theirs = format!("/proc/{pid}/ns/mnt");
    let inode = |path: &str| {
        rustix::fs::statat(CWD, path, AtFlags::empty())
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(|error| Error::sys(doing, format!("stat({path})"), error))
    };
    if inode(&theirs)? == inode("/proc/self/ns/mnt")? {
        return Ok(());
    }
    rustix::thread::move_into_thread_name_spaces(handle.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|error| Error::sys(doing, format!("setns(pidfd of {pid}, CLONE_NEWNS)"), error))
}

fn send_outcome(reports: &OwnedFd, outcome: Result<Prepared>) -> Result<()> {
    let Prepared {
        held,
        entry,
        description,
        listener,
    } = match outcome {
        Ok(prepared) => prepared,
        Err(error) => return channel::send(reports, &Report::Failed(error), &[]),
    };
    let (kinds, mut fds) = held.all();
    fds.push(listener.as_fd());
    let made = Made {
        kinds,
        entry,
        description,
    };
    channel::send(reports, &Report::Done(Box::new(made)), &fds)
}
