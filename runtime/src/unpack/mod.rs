//! The third rung: the layers of an image become a directory of the user's, which is then the root file system itself.
//! It needs nothing of the kernel but files, and costs the time and the room that they take; see docs/adr/0017.
//!
//! ```text
//! layers (squashfs) -> one tree, as overlayfs would show it -> files below one directory, made by the user
//! ```
//!
//! A process of its own does it. It is the user for good, in the job's control groups, before it reads the first byte of
//! a layer, and can then make files below that one directory and nothing else.
#![forbid(unsafe_code)]

mod extract;

use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::privilege::{irrevocably_become_user, surrender_thread};
use crate::rootfs::Lower;
use crate::save::{LayerFile, raise_file_limit};
use crate::sys::cgroup::Groups;
use crate::sys::channel;
use crate::sys::process;
use crate::worker::sandbox;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::fs::File;

/// Who unpacks, and what.
#[derive(Debug)]
pub struct Unpacker {
    groups: Groups,
    user: Identity,
    image: String,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Bytes of files that are written.
    pub done: u64,
    /// Bytes of all files.
    pub all: u64,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Progress(Amount),
    Done(Result<()>),
}

impl Unpacker {
    /// It will be `user`, in `groups`, and unpack `image`.
    pub fn new(groups: Groups, user: &Identity, image: &str) -> Self {
        Unpacker {
            groups,
            user: user.clone(),
            image: image.to_owned(),
        }
    }

    /// Unpacks layers, bottom first, to the empty directory `target` of the user. `tell` hears how far it is, now and then.
    pub fn unpack(&self, layers: &[Lower], target: &OwnedFd, mut tell: impl FnMut(String)) -> Result<()> {
        let doing = |error: Error| error.context(&format!("unpack {}", self.image));
        let files = layers.iter().map(layer_file).collect::<Result<Vec<_>>>()?;
        let (words, theirs) = channel::pair()?;
        let parent = rustix::process::getpid();
        let mut keep: Vec<BorrowedFd<'_>> = files.iter().map(|layer| layer.file.as_fd()).collect();
        keep.extend(self.groups.files().iter().map(AsFd::as_fd));
        keep.extend([target.as_fd(), theirs.as_fd()]);
        let child = process::fork(&keep, || {
            let made = self.confine(target, parent).and_then(|()| {
                extract::extract(&files, target, &mut |amount| {
                    channel::send(&theirs, &Word::Progress(amount), &[])
                })
            });
            u8::from(channel::send(&theirs, &Word::Done(made), &[]).is_err())
        })?;
        drop(theirs);
        loop {
            match channel::recv::<Word>(&words)?.map(|received| received.message) {
                Some(Word::Progress(Amount { done, all })) => {
                    tell(format!("unpacking {}: {} of {} MiB", self.image, done >> 20, all >> 20))
                }
                Some(Word::Done(outcome)) => {
                    child.wait()?;
                    return outcome.map_err(doing);
                }
                None => {
                    let exit = child.wait()?;
                    let text = format!("the process that does it was killed ({exit}); is the node out of memory?");
                    return Err(doing(Error::Host(text)));
                }
            }
        }
    }

    /// Gives up everything but what is needed to make files below `target`.
    fn confine(&self, target: &OwnedFd, parent: rustix::process::Pid) -> Result<()> {
        // What needs memory for a user must not be spared when memory is short.
        process::forget_oom_protection()?;
        raise_file_limit()?;
        // A group that is gone meanwhile has no limits to keep.
        let _ = self.groups.enter();
        rustix::process::umask(Mode::empty());
        irrevocably_become_user(&self.user, 0)?;
        process::die_with_parent(parent)?;
        surrender_thread()?;
        sandbox::for_unpacking(target.as_fd())
    }
}

fn layer_file(layer: &Lower) -> Result<LayerFile> {
    let file = layer
        .file
        .try_clone()
        .map_err(|error| Error::sys("unpack the image", "fcntl(F_DUPFD_CLOEXEC)", error))?;
    Ok(LayerFile {
        file: File::from(file),
        part: layer.part.map(|part| (part.offset, part.size)),
    })
}
