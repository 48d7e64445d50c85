//! The two processes that watch over an entrypoint and what it leaves. See the head of the module above for why two.
#![forbid(unsafe_code)]

use super::family::{self, Remains};
use super::launch::Launch;
use super::output::Output;
use super::{Title, Word};
use crate::error::{Error, Result};
use crate::sys::channel;
use crate::sys::process::{self, Child};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::pipe::PipeFlags;
use std::time::{Duration, Instant};

/// How often it is looked for the command while the entrypoint is no longer itself: it may wait for the command, whose
/// stop tells nobody but its parent.
const SOON: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// The same after a while.
const LATER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How long an entrypoint that ended well may have been away before the command is given up.
const GRACE: Duration = Duration::from_secs(1);
/// How long soon is.
const A_WHILE: u64 = 2;

/// How the entrypoint is watched.
pub(super) struct Watch<'a> {
    /// The line to the caller, and then to whoever holds the lifeline.
    pub(super) channel: BorrowedFd<'a>,
    /// The reading end of what it prints; non-blocking.
    pub(super) output: BorrowedFd<'a>,
    /// What it is called.
    pub(super) title: Title,
    /// What it prints is told as it comes.
    pub(super) show: bool,
}

/// The outer guard: ends with the inner one, and with the lifeline.
pub(super) fn outer(watch: &Watch<'_>, launch: &Launch<'_>, keep: &[BorrowedFd<'_>]) {
    if let Err(error) = guard(watch, launch, keep) {
        tell(watch, &Word::Failed(error));
    }
    family::end();
}

fn guard(watch: &Watch<'_>, launch: &Launch<'_>, keep: &[BorrowedFd<'_>]) -> Result<()> {
    adopt_orphans()?;
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Error::sys("start the entrypoint", "pipe2", error))?;
    let mut keep = keep.to_vec();
    keep.push(ours.as_fd());
    let inner = process::fork(&keep, || {
        inner(watch, launch, &ours);
        0
    })?;
    drop(ours);
    let mut fds = [
        PollFd::new(&watch.channel, PollFlags::IN),
        PollFd::from_borrowed_fd(inner.pidfd(), PollFlags::IN),
    ];
    wait(&mut fds, None)?;
    drop(theirs);
    // The inner one is one of the family: dropping it kills it, and what is left comes here.
    drop(inner);
    Ok(())
}

/// The inner guard: starts the entrypoint, and ends with what is left of it, or with the outer guard.
fn inner(watch: &Watch<'_>, launch: &Launch<'_>, outer: &OwnedFd) {
    if let Err(error) = watch_over(watch, launch, outer) {
        family::end();
        tell(watch, &Word::Failed(error));
    }
    family::end();
}

fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Error::sys("start the entrypoint", "prctl(PR_SET_CHILD_SUBREAPER)", error))
}

fn watch_over(watch: &Watch<'_>, launch: &Launch<'_>, outer: &OwnedFd) -> Result<()> {
    adopt_orphans()?;
    // Not killed with the outer guard, but told, so that nothing is left.
    rustix::process::set_parent_process_death_signal(None)
        .map_err(|error| Error::sys("start the entrypoint", "prctl(PR_SET_PDEATHSIG)", error))?;
    let mut ours = Inner {
        watch,
        outer,
        ended: child_signals()?,
        output: Output::new(watch.show),
    };
    let (refusal, child) = start(launch)?;
    let Some(reached) = ours.until_reached(&child, &refusal)? else {
        return Ok(());
    };
    let environment = family::environment(&reached)?;
    // Reaped with the others, unless it is itself what was reached.
    std::mem::forget(child);
    family::end_orphan(reached.pid);
    let remains = family::reap(None).1;
    ours.show_output();
    let word = Word::Reached {
        environment,
        remains: remains == Remains::Something,
    };
    tell(watch, &word);
    ours.linger(remains)
}

/// Starts the entrypoint. The socket tells why it was not executed.
fn start(launch: &Launch<'_>) -> Result<(OwnedFd, Child)> {
    let (ours, theirs) = channel::pair()?;
    let parent = rustix::process::getpid();
    let mut keep = vec![theirs.as_fd(), launch.output, launch.join.mount];
    keep.extend(launch.join.user);
    keep.extend(
        [launch.join.net, launch.join.ipc, launch.join.uts]
            .into_iter()
            .flatten(),
    );
    keep.extend(launch.groups.iter().flat_map(|groups| groups.files()).map(AsFd::as_fd));
    let child = process::fork(&keep, || {
        let Err(error) = launch.run(parent);
        u8::from(channel::send(&theirs, &error, &[]).is_err())
    })?;
    Ok((ours, child))
}

/// Readable when a child has stopped or ended.
fn child_signals() -> Result<SignalFd> {
    let failed = |call: &str, error: nix::Error| Error::sys("watch the entrypoint", call, error);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().map_err(|error| failed("sigprocmask", error))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| failed("signalfd", error))
}

/// What the inner guard looks at.
struct Inner<'a> {
    watch: &'a Watch<'a>,
    outer: &'a OwnedFd,
    ended: SignalFd,
    output: Output,
}

impl Inner<'_> {
    /// Waits until the command behind the entrypoint is there; `None` when nobody wants it any more.
    fn until_reached(&mut self, child: &Child, refusal: &OwnedFd) -> Result<Option<family::Command>> {
        let started = Instant::now();
        let mut ended: Option<(WaitStatus, Instant)> = None;
        loop {
            let often = match started.elapsed().as_secs() < A_WHILE {
                true => SOON,
                false => LATER,
            };
            if self.wait(Some(often))? == Outer::Ended {
                return Ok(None);
            }
            self.show_output();
            let (status, remains) = family::reap(Some(child.pid()));
            if let Some(command) = family::reached() {
                return Ok(Some(command));
            }
            ended = ended.or(status.map(|status| (status, Instant::now())));
            if let Some((status, when)) = ended {
                // It may have handed the command to a process that has not come to it.
                let hopeless = remains == Remains::Nothing || !matches!(status, WaitStatus::Exited(_, 0));
                if hopeless || when.elapsed() > GRACE {
                    return Err(self.failure(status, refusal));
                }
            }
        }
    }

    /// Lives as long as anything of the entrypoint does. What it prints is read, so that it does not block.
    fn linger(&mut self, mut remains: Remains) -> Result<()> {
        while remains == Remains::Something {
            if self.wait(None)? == Outer::Ended {
                return Ok(());
            }
            self.read_output();
            remains = family::reap(None).1;
        }
        Ok(())
    }

    fn wait(&mut self, patience: Option<Timespec>) -> Result<Outer> {
        let mut fds = [
            PollFd::new(&self.outer, PollFlags::IN),
            PollFd::new(&self.ended, PollFlags::IN),
            PollFd::new(&self.watch.output, PollFlags::IN),
        ];
        wait(&mut fds, patience.as_ref())?;
        let [outer, ended, _] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            while let Ok(Some(_)) = self.ended.read_signal() {}
        }
        Ok(if outer { Outer::Ended } else { Outer::Alive })
    }

    /// What it has printed since the last time.
    fn read_output(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 1 << 13];
        // One pipe full at a time: a program that never stops printing is no reason not to look at anything else.
        for _ in 0..8 {
            match rustix::io::read(self.watch.output, &mut buffer) {
                Ok(count) if count > 0 => lines.extend(self.output.take(buffer.get(..count).unwrap_or_default())),
                _ => break,
            }
        }
        lines
    }

    fn show_output(&mut self) {
        for line in self.read_output() {
            tell(self.watch, &Word::Output(line));
        }
    }

    /// The error for an entrypoint that has ended before the command, after its last words.
    fn failure(&mut self, status: WaitStatus, refusal: &OwnedFd) -> Error {
        // Nobody of it writes after this.
        family::end();
        if let Ok(Some(received)) = channel::recv::<Error>(refusal) {
            return received.message;
        }
        self.show_output();
        let output = std::mem::replace(&mut self.output, Output::new(false));
        for line in output.rest() {
            tell(self.watch, &Word::Output(line));
        }
        let Title { long, advice, .. } = &self.watch.title;
        Error::Image(match status {
            WaitStatus::Exited(_, 0) => {
                format!("{long} ended without running the command that it was given{advice}")
            }
            WaitStatus::Exited(_, code) => {
                format!("{long} failed with exit code {code}{advice}")
            }
            WaitStatus::Signaled(_, signal, _) => {
                format!("{long} was killed by {signal}{advice}")
            }
            other => format!("{long} ended with {other:?}{advice}"),
        })
    }
}

/// Whether the outer guard is there.
#[derive(PartialEq, Eq)]
enum Outer {
    Alive,
    Ended,
}

fn wait(fds: &mut [PollFd<'_>], patience: Option<&Timespec>) -> Result<()> {
    rustix::io::retry_on_intr(|| poll(fds, patience))
        .map(drop)
        .map_err(|error| Error::sys("watch the entrypoint", "poll", error))
}

/// Says a word to the caller. One who is gone does not want to know.
fn tell(watch: &Watch<'_>, word: &Word) {
    let _ = channel::send(watch.channel, word, &[]);
}
