//! The process that saves. It gives up rights as it goes; see the module's head.
#![forbid(unsafe_code)]

use super::target::{Target, remove};
use super::{Save, Saved, marks, write};
use crate::error::{Error, Result};
use crate::privilege::{as_user, irrevocably_become_user, mask};
use crate::sys::channel;
use crate::sys::process::{self, Child, Exit};
use caps::Capability;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// It has made the file, which comes along behind its directory; this is its name meanwhile, if it has one.
    Begun(Vec<u8>),
    /// It is done.
    Done(Saved),
    /// It failed.
    Failed(Error),
}

/// A container being saved. Dropping it ends that, and nothing is left.
#[derive(Debug)]
pub struct Saver {
    child: Option<Child>,
    words: OwnedFd,
    identity: crate::plan::Identity,
    temporary: Option<(OwnedFd, OsString)>,
    file: Option<OwnedFd>,
}

/// How far it is.
#[derive(Debug)]
pub enum Progress {
    /// There is more to come.
    Working,
    /// The file is complete and in its place, or it is not and nothing was left.
    Ended(Result<Saved>),
}

impl Saver {
    /// Starts to save. The caller is root and single-threaded.
    pub fn start(save: &Save) -> Result<Self> {
        let (words, theirs) = channel::pair()?;
        let parent = rustix::process::getpid();
        let mut keep: Vec<BorrowedFd<'_>> = save.layers.iter().map(|layer| layer.file.as_fd()).collect();
        keep.extend(save.groups.files().iter().map(AsFd::as_fd));
        keep.extend([save.upper.as_fd(), theirs.as_fd()]);
        keep.extend(save.mounts.as_ref().map(AsFd::as_fd));
        let child = process::fork(&keep, || {
            let word = match run(save, parent, &theirs) {
                Ok(saved) => Word::Done(saved),
                Err(error) => Word::Failed(error),
            };
            u8::from(channel::send(&theirs, &word, &[]).is_err())
        })?;
        Ok(Saver {
            child: Some(child),
            words,
            identity: save.identity.clone(),
            temporary: None,
            file: None,
        })
    }

    /// Readable when there is progress.
    pub fn news(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }

    /// Takes the next piece of news; waits for it.
    pub fn progress(&mut self) -> Progress {
        match channel::recv::<Word>(&self.words) {
            Ok(Some(received)) => match received.message {
                Word::Begun(name) => {
                    let mut fds = received.fds.into_iter();
                    self.temporary = fds.next().map(|directory| (directory, OsString::from_vec(name)));
                    self.file = fds.next();
                    Progress::Working
                }
                Word::Done(saved) => {
                    self.temporary = None;
                    Progress::Ended(Ok(saved))
                }
                Word::Failed(error) => Progress::Ended(Err(error)),
            },
            Ok(None) => Progress::Ended(Err(self.obituary())),
            Err(error) => Progress::Ended(Err(error)),
        }
    }

    /// Bytes of the file so far; none before it is made.
    pub fn written(&self) -> u64 {
        let stat = self.file.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
        stat.map_or(0, |stat| stat.st_size.unsigned_abs())
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Result<Saved> {
        loop {
            if let Progress::Ended(outcome) = self.progress() {
                return outcome;
            }
        }
    }

    fn obituary(&mut self) -> Error {
        match self.child.take().map(Child::wait) {
            Some(Ok(Exit::Signal(signal))) => Error::Host(format!(
                "the process that saves was killed by signal {signal}; is the node out of memory?"
            )),
            _ => Error::Host("the process that saves ended and said nothing".into()),
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Killed and reaped first, so that it makes no name afterwards.
        self.child = None;
        if let Some((directory, name)) = self.temporary.take() {
            let removed = as_user(&self.identity, || {
                remove(&directory, &name);
                Ok(())
            });
            // Nobody can be told, and the file is the user's own.
            let _ = removed;
        }
    }
}

fn run(save: &Save, parent: Pid, channel: &OwnedFd) -> Result<Saved> {
    // What needs memory for a user must not be spared when memory is short.
    process::forget_oom_protection()?;
    raise_file_limit()?;
    // A group that is gone meanwhile has no limits to keep.
    let _ = save.groups.enter();
    if let Some(mounts) = &save.mounts {
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|error| Error::sys("enter the job's mounts", "setns(CLONE_NEWNS)", error))?;
    }
    let unique = format!(
        "{}-{}",
        parent.as_raw_nonzero(),
        rustix::process::getpid().as_raw_nonzero()
    );
    let target = as_user(&save.identity, || Target::create(&save.target, save.mode, &unique))?;
    let name = target.temporary.clone().into_vec();
    channel::send(
        channel,
        &Word::Begun(name),
        &[target.directory.as_fd(), target.file().as_fd()],
    )?;
    let marks = marks::read(&save.upper, save.user_marks)?;
    irrevocably_become_user(&save.identity, mask(&[Capability::CAP_DAC_READ_SEARCH]))?;
    process::die_with_parent(parent)?;
    let saved = write(save, &marks, target.file())?;
    target.publish()?;
    Ok(saved)
}

/// One directory stays open for each level of the tree.
pub(crate) fn raise_file_limit() -> Result<()> {
    let failed = |call: &str, error| Error::sys("start to save", call, error);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| failed("getrlimit", error))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| failed("setrlimit", error))
}
