//! `--container-save`: when the last task of this node has ended, the container is written to a file, and slurmstepd,
//! and with it srun, waits for that.
#![forbid(unsafe_code)]

use super::protocol::{Answer, Caller};
use crate::container::{self, Prepared};
use crate::step::Job;
use pyxis_runtime::containers::Ending;
use pyxis_runtime::request::Request;
use pyxis_runtime::save::{Destination, Progress, Saver};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::{Error, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::PathBuf;

/// The job's umask, in octal.
const UMASK: &str = "SLURM_UMASK";

/// Where to save, known when the first task asks for its container: afterwards there may be no process left that has
/// the job's mounts and control groups.
#[derive(Debug)]
pub(super) struct Wish {
    /// The path as it was given, for messages.
    shown: PathBuf,
    destination: Destination,
}

impl Wish {
    /// What the request and the first task say, if anything is to be saved.
    pub(super) fn of(request: &Request, job: &Job, caller: &Caller, task: Option<i32>) -> Result<Option<Self>> {
        let Some(path) = &request.save else {
            return Ok(None);
        };
        let umask = caller.env.iter().find(|(name, _)| name == UMASK);
        let umask = umask.and_then(|(_, value)| u32::from_str_radix(value, 8).ok());
        let groups = Groups::of_task(task, job.identity.uid)?;
        let destination = Destination {
            target: caller.cwd.join(path),
            mode: 0o666 & !umask.unwrap_or(0o022),
            mounts: task.map(mounts_of).transpose()?,
            groups,
        };
        Ok(Some(Wish {
            shown: path.clone(),
            destination,
        }))
    }

    /// Begins to save the container, for `asker`, who waits.
    pub(super) fn begin(self, prepared: &Prepared, job: &Job, ending: Ending, asker: OwnedFd) -> Outcome {
        let (id, path) = (prepared.description.id.clone(), self.shown.display().to_string());
        let failed = format!("failed to export container {id} to {path}");
        if ending.killed {
            let error = Error::Request("a task was killed, so the step has to end now".to_owned());
            return Outcome::Failed(asker, error.context(&failed));
        }
        match container::save(prepared, job, self.destination) {
            Ok(saver) => Outcome::Begun(Saving {
                saver,
                asker,
                doing: format!("saving container {id} to {path}"),
                done: format!("exported container {id} to {path}"),
                failed,
            }),
            Err(error) => Outcome::Failed(asker, error.context(&failed)),
        }
    }
}

/// What became of the wish.
pub(super) enum Outcome {
    /// It is under way.
    Begun(Saving),
    /// It will not be, and this one waits to hear of it.
    Failed(OwnedFd, Error),
}

/// A container being saved.
#[derive(Debug)]
pub(super) struct Saving {
    saver: Saver,
    asker: OwnedFd,
    doing: String,
    done: String,
    failed: String,
}

impl Saving {
    /// Readable when there is progress.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.saver.news()
    }

    /// Takes one piece of news in; at the end, what to answer, and to whom.
    pub(super) fn progress(&mut self) -> Option<Vec<Answer>> {
        match self.saver.progress() {
            Progress::Working => None,
            Progress::Ended(Ok(_)) => Some(vec![Answer::Line(self.done.clone()), Answer::Done]),
            Progress::Ended(Err(error)) => Some(vec![Answer::Refused(error.context(&self.failed))]),
        }
    }

    /// What to tell when nothing has happened for a while.
    pub(super) fn so_far(&self) -> Answer {
        let size = self.saver.written() >> 20;
        Answer::Line(format!("{}: {size} MiB written", self.doing))
    }

    /// Who waits.
    pub(super) fn asker(&self) -> &OwnedFd {
        &self.asker
    }
}

/// The task's mount namespace: with job_container/tmpfs each job has a /tmp of its own.
fn mounts_of(task: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{task}/ns/mnt");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::sys("look at the task's mounts", format!("open({path})"), error))
}
