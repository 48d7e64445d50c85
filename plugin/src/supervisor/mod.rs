//! The supervisor: one process for each step and node that has a container. slurmstepd forks it before the tasks; it is
//! root, single-threaded, no relative of slurmstepd, and waits. When the first task asks, it forks a builder, which does
//! everything that takes time; every task gets the same answer: the container's namespaces, or the same refusal, told in
//! full to one task only. It ends with slurmstepd.
//!
//! Beside that it answers at the container's own socket, where other steps of the user ask to join, until the last task
//! of its own step on this node has ended.
//!
//! Nothing is shared with slurmstepd but one socket. A task makes a pair of sockets of its own, sends one end over the
//! shared one, and reads its answer from the other end, so that tasks cannot take each other's answers.
#![forbid(unsafe_code)]

mod ask;
mod builder;
mod control;
mod protocol;
mod saving;
mod watch;

#[cfg(test)]
mod tests;

use crate::container::{Order, Prepare};
use crate::step::Job;
pub(crate) use ask::{Ready, Refusal, ask, ended};
pub(crate) use control::Control;
pub(crate) use protocol::Caller;
use pyxis_runtime::sys::{channel, daemon};
use pyxis_runtime::{Error, Result};
use rustix::fd::AsFd;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// Starts the supervisor of a step. The calling process is the one whose end it waits for.
pub(crate) fn start(order: Order, job: Job, prepare: Prepare) -> Result<Control> {
    let (ours, theirs) = channel::pair()?;
    channel::pass_credentials(&theirs)?;
    let owner = pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(|error| Error::sys("start the supervisor", "pidfd_open(self)", error))?;
    daemon::fork_daemon(c"pyxis", &[theirs.as_fd(), owner.as_fd()], || {
        // Slurm's log may have been locked by a thread that does not exist here.
        spank_sys::log::silence();
        watch::run(&theirs, &owner, builder::Recipe { order, job, prepare });
    })?;
    Control::new(ours)
}
