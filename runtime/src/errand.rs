//! A program that is run for a user, as him, until it ends: the site's importer, a client of Docker's or podman's. What it prints
//! is taken up to a bound, and while it is silent the user is told.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::image::printable;
use crate::plan::Identity;
use crate::privilege::only_root_can_write;
use crate::sys::cgroup::Groups;
use crate::sys::exec::{self, Program};
use crate::sys::process::{Child, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// What of its output is kept: the first bytes; of its errors the last ones.
const MAX_OUTPUT: usize = 64 << 10;

/// A program with everything that starting it needs.
#[derive(Debug)]
pub struct Errand<'a> {
    /// What it is, for messages: `importer`.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// The opened program.
    pub program: OwnedFd,
    /// Its environment, whole.
    pub env: &'a [(String, String)],
    /// Where it runs.
    pub groups: Option<Groups>,
    /// Who runs it, if not who calls.
    pub user: Option<&'a Identity>,
    /// What it may do.
    pub rights: Rights,
}

/// What a program of the user's may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Nothing that the user cannot do himself, nor by another program.
    NoNew,
    /// What the user's tasks may do: set-user-id programs work for it.
    OfTasks,
}

/// What to do when nothing happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Wait on.
    Go,
    /// End it.
    Stop,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// How.
    pub exit: Exit,
    /// What it printed.
    pub output: Vec<u8>,
    errors: Vec<u8>,
}

impl Outcome {
    /// The last line of what it complained about.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.errors);
        let last = text.lines().rev().map(printable).find(|line| !line.is_empty());
        last.unwrap_or_else(|| "it said nothing".to_owned())
    }
}

/// Opens an executable that only root can change. `what` it is stands in front of errors.
pub fn open_trusted(what: &str, path: &Path) -> Result<OwnedFd> {
    let wrong = |why: &str| Error::Host(format!("the {what} {}: {why}", path.display()));
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| wrong(std::io::Error::from(error).kind().to_string().as_str()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Error::sys(format!("look at the {what}"), "fstat", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 {
        return Err(wrong("it is not an executable file"));
    }
    if !only_root_can_write(&stat) {
        return Err(wrong("it must belong to root, and nobody else may write it"));
    }
    Ok(file)
}

impl Errand<'_> {
    /// Runs it with these arguments. What it prints goes to `output`, or is kept. `silent` is called whenever nothing has
    /// happened for as long as `patience`.
    pub fn run(
        &self,
        words: &[&str],
        output: Option<OwnedFd>,
        patience: Timespec,
        silent: impl FnMut() -> Patience,
    ) -> Result<Outcome> {
        let doing = || format!("start the {}", self.what);
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|error| Error::sys(doing(), "pipe2", error));
        let ((printed, stdout), (errors, stderr)) = (pipe()?, pipe()?);
        // The program expects pipes on which writing waits.
        for end in [&stdout, &stderr] {
            rustix::fs::fcntl_setfl(end, OFlags::empty())
                .map_err(|error| Error::sys(doing(), "fcntl(F_SETFL)", error))?;
        }
        let stdout = output.unwrap_or(stdout);
        let text = |text: &str| CString::new(text).map_err(|_| Error::Request("a NUL character".to_owned()));
        let name = self.path.display().to_string();
        let arguments = [name.as_str()].into_iter().chain(words.iter().copied()).map(text);
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let borrowed: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
        let variables = self.env.iter().map(|(name, value)| text(&format!("{name}={value}")));
        let program = Program {
            file: self.program.as_fd(),
            arguments: &borrowed,
            environment: &variables.collect::<Result<Vec<_>>>()?,
            descriptors: &[(stdout.as_fd(), 1), (stderr.as_fd(), 2)],
            limits: &[],
            groups: self.groups.as_ref(),
            user: self.user,
            cage: None,
            own_group: true,
        };
        let child = match self.rights {
            Rights::NoNew => exec::spawn_script(&program),
            Rights::OfTasks => exec::spawn_as_task(&program),
        };
        let child = child.map_err(|error| error.context(&name))?;
        drop((stdout, stderr));
        self.watch(child, [printed, errors], patience, silent)
    }

    /// Waits for the end of the program, and takes what it writes until then.
    fn watch(
        &self,
        child: Child,
        pipes: [OwnedFd; 2],
        patience: Timespec,
        mut silent: impl FnMut() -> Patience,
    ) -> Result<Outcome> {
        let [mut output, mut errors] = [Vec::new(), Vec::new()];
        let mut open = [true, true];
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(child.pidfd(), PollFlags::IN)];
            let opened = pipes.iter().zip(open).filter(|(_, open)| *open);
            fds.extend(opened.map(|(pipe, _)| PollFd::new(pipe, PollFlags::IN)));
            let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)))
                .map_err(|error| Error::sys(format!("wait for the {}", self.what), "poll", error))?;
            let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            let [printed, complained] = &pipes;
            let [prints, complains] = &mut open;
            *prints = *prints && take(printed, &mut output, keep_first);
            *complains = *complains && take(complained, &mut errors, keep_last);
            if ended || (ready == 0 && silent() == Patience::Stop) {
                break;
            }
        }
        child.kill();
        Ok(Outcome {
            exit: child.wait()?,
            output,
            errors,
        })
    }
}

fn keep_first(text: &mut Vec<u8>, piece: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(text.len()).min(piece.len());
    text.extend_from_slice(piece.get(..room).unwrap_or_default());
}

fn keep_last(text: &mut Vec<u8>, piece: &[u8]) {
    text.extend_from_slice(piece);
    text.drain(..text.len().saturating_sub(MAX_OUTPUT));
}

/// Takes what is there. More than enough is read and forgotten, so that the writer does not hang.
fn take(pipe: &OwnedFd, text: &mut Vec<u8>, keep: fn(&mut Vec<u8>, &[u8])) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return false,
            Ok(count) => keep(text, buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return error == Errno::AGAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::fork;

    /// Slurm's daemons have such a protection. To take one needs a right that root may lack in a container.
    #[test]
    fn a_program_does_not_inherit_a_protection_from_the_out_of_memory_killer() {
        let child = fork(&[], || {
            let _ = std::fs::write("/proc/self/oom_score_adj", "-7");
            let path = PathBuf::from("/bin/cat");
            let errand = Errand {
                what: "test",
                program: open_trusted("test", &path).unwrap(),
                path,
                env: &[],
                groups: None,
                user: None,
                rights: Rights::NoNew,
            };
            let long = Timespec { tv_sec: 60, tv_nsec: 0 };
            let outcome = errand.run(&["/proc/self/oom_score_adj"], None, long, || Patience::Stop);
            let bias = String::from_utf8(outcome.unwrap().output).unwrap();
            u8::from(bias.trim().parse::<i32>().unwrap() < 0)
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    }
}
