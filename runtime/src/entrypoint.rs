//! The image's entrypoint: run once, in the finished container, before anything else, for the environment that it
//! leaves to the command behind it. That command is a shell of ours, which stops itself; what it sees is what the tasks
//! get.
//!
//! ```text
//! caller ── (init) ── outer guard ── inner guard ── entrypoint ── ... ── sh, stopped
//! ```
//!
//! What an entrypoint leaves running on purpose (a daemon, or itself, when it waits for the command) stays as long as
//! somebody holds the lifeline. Both guards adopt orphans, so nothing can leave the family; each kills it when the other
//! has been killed, and the outer one also when the lifeline is closed, by whoever's death.
#![forbid(unsafe_code)]

mod family;
mod guard;
mod launch;
mod likeness;
mod output;

use crate::enter::{Enter, Join};
use crate::environment::{self, Edit, Layers};
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::report::{PATIENCE, Report, wait_readable};
use crate::sys::cgroup::Groups;
use crate::sys::{channel, daemon};
use likeness::Likeness;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the shell behind the entrypoint does: it stops itself, whoever continues it, until it is killed.
const SENTINEL: &str = "while kill -STOP $$; do :; done";

/// An entrypoint to run.
#[derive(Debug)]
pub struct Entrypoint<'a> {
    /// The image's words.
    pub words: &'a [String],
    /// How a task enters.
    pub how: &'a Enter,
    /// Whom it runs as.
    pub identity: &'a Identity,
    /// A task: it gets that one's control groups, limits, file mode mask and processors.
    pub task: Option<i32>,
    /// Everything that it prints is shown, and not only when it fails.
    pub show: bool,
    /// What it is.
    pub purpose: Purpose,
}

/// What a program is that runs before the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The image's entrypoint.
    Entrypoint,
    /// What sources the image's scripts for the environment.
    Scripts,
}

/// What a program is called, and what to do when it fails.
#[derive(Debug, Clone)]
struct Title {
    /// Its name and more.
    long: String,
    /// In front of what it prints.
    short: &'static str,
    /// Ends errors.
    advice: &'static str,
}

/// What an entrypoint has left.
#[derive(Debug, Default)]
pub struct Left {
    /// Its changes to the environment.
    pub edits: Vec<Edit>,
    /// When the last copy of this is closed, what it left running is killed. Without one nothing runs any more.
    pub lifeline: Option<OwnedFd>,
}

/// What the guards say to the caller.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// The entrypoint has printed this.
    Output(String),
    /// The command was reached, with this environment; processes remain, or none.
    Reached {
        environment: BTreeMap<String, String>,
        remains: bool,
    },
    /// It was not.
    Failed(Error),
}

impl Entrypoint<'_> {
    /// Runs it in the namespaces of `join`. `layers` are those of the tasks' environment.
    ///
    /// The caller is root and single-threaded. Its death before this returns ends the entrypoint too.
    pub fn run(&self, join: &Join<'_>, layers: &Layers<'_>, report: &mut dyn FnMut(Report)) -> Result<Left> {
        let given = environment::for_entrypoint(layers);
        let (ours, theirs) = channel::pair()?;
        let limits = layers.job.map(environment::soft_limits).unwrap_or_default();
        self.start(join, &given, &limits, theirs)?;
        let title = self.title();
        let waiting = format!("waiting for {}", title.long);
        loop {
            wait_readable(&ours, PATIENCE, || report(Report::Progress(waiting.clone())))
                .map_err(|error| Error::sys("wait for the entrypoint", "poll", error))?;
            match channel::recv::<Word>(&ours)?.map(|received| received.message) {
                Some(Word::Output(line)) => report(Report::Output(format!("{}: {line}", title.short))),
                Some(Word::Reached { environment, remains }) => {
                    return Ok(Left {
                        edits: environment::changes(&given, &environment),
                        lifeline: remains.then_some(ours),
                    });
                }
                Some(Word::Failed(error)) => return Err(error),
                None => return Err(Error::Host("the guard of the entrypoint was killed".to_owned())),
            }
        }
    }

    fn title(&self) -> Title {
        let name = self.words.first().map(|word| output::harmless(word));
        match self.purpose {
            Purpose::Entrypoint => Title {
                long: format!("the image's entrypoint {}", name.unwrap_or_default()),
                short: "entrypoint",
                advice: ": try --no-container-entrypoint",
            },
            Purpose::Scripts => Title {
                long: "the image's scripts /.singularity.d/env".to_owned(),
                short: "/.singularity.d/env",
                advice: "",
            },
        }
    }

    /// Starts the guards, which start it.
    fn start(
        &self,
        join: &Join<'_>,
        env: &BTreeMap<String, String>,
        limits: &[(String, u64)],
        channel: OwnedFd,
    ) -> Result<()> {
        let groups = self.task.map(|task| Groups::of(task, self.identity.uid)).transpose()?;
        let likeness = self.task.map(Likeness::of).transpose()?;
        let likeness = likeness.map(|likeness| likeness.with_soft_limits(limits));
        let (read, write) = output_pipe(self.identity)?;
        let mut keep = vec![channel.as_fd(), read.as_fd(), write.as_fd(), join.mount];
        keep.extend(join.user);
        keep.extend([join.net, join.ipc, join.uts].into_iter().flatten());
        keep.extend(groups.iter().flat_map(Groups::files).map(AsFd::as_fd));
        let launch = launch::Launch {
            words: self.words,
            env,
            how: self.how,
            identity: self.identity,
            join: *join,
            groups: groups.as_ref(),
            likeness: likeness.as_ref(),
            output: write.as_fd(),
            title: self.title(),
        };
        let watch = guard::Watch {
            channel: channel.as_fd(),
            output: read.as_fd(),
            title: self.title(),
            show: self.show,
        };
        let keep: Vec<BorrowedFd<'_>> = keep;
        daemon::fork_daemon(c"pyxis-entry", &keep, || guard::outer(&watch, &launch, &keep))
    }
}

/// A pipe for what it prints. It belongs to the user, who may want to open it again as `/dev/stderr`.
fn output_pipe(identity: &Identity) -> Result<(OwnedFd, OwnedFd)> {
    let failed = |call: &str, error| Error::sys("start the entrypoint", call, error);
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("pipe2", error))?;
    let (user, group) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(&write, Some(user), Some(group)).map_err(|error| failed("fchown(pipe)", error))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|error| failed("ioctl(FIONBIO)", error))?;
    Ok((read, write))
}
