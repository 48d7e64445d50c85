//! Programs of `hooks.d`: run on the host before the container's mounts are made, as the job's user and with no right of
//! the runtime's. What they add to two files becomes variables and mounts of the container; the root file system is
//! where they can reach it. All they start ends with them.
#![forbid(unsafe_code)]

mod stage;

use crate::config::ContainerConfig;
use crate::config::enroot::Owner;
use crate::config::files::TextFile;
use crate::config::{environ, fstab};
use crate::environment::{self, Edit};
use crate::error::{Error, Result};
use crate::image::printable;
use crate::mount::{MountSource, MountSpec};
use crate::plan::{Origin, Plan, PlannedMount};
use crate::report::PATIENCE;
use crate::sys::cgroup::Groups;
use crate::sys::channel;
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stage::{Stage, Word};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Where hooks find the root file system and the two files: the runtime's directory, covered for them alone.
pub const PLACE: &str = "/run/pyxis";
/// Lines of what hooks print that are shown when one fails.
const SHOWN: usize = 20;
/// Bytes of it that are kept meanwhile.
const KEPT: usize = 16 << 10;

/// A program of `hooks.d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Where it is.
    pub path: PathBuf,
    /// It is the site's: its failure is the administrator's to mend.
    pub site: bool,
}

/// The hooks of one container, and what they are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// The programs, in order.
    pub programs: Vec<Hook>,
    /// Their environment: the job's, as it would be on the host.
    pub env: BTreeMap<String, String>,
    /// Variables of the container so far.
    pub container: Vec<(String, String)>,
    /// A process of the job: hooks are in its control groups.
    pub task: Option<i32>,
    /// The directory that is covered ([`PLACE`]).
    pub place: PathBuf,
}

/// What hooks made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Variables that they added or changed.
    pub edits: Vec<Edit>,
    /// Mounts that they added.
    pub mounts: Vec<PlannedMount>,
}

impl Hooks {
    /// The hooks of the configuration, if there are some, for a job with this environment. `edits` make it the container's.
    pub fn of(
        site: &ContainerConfig,
        env: &BTreeMap<String, String>,
        edits: &[Edit],
        task: Option<i32>,
    ) -> Option<Self> {
        if site.hook_files.is_empty() {
            return None;
        }
        let container = environment::edited(env.clone(), edits);
        Some(Hooks {
            programs: site.hook_files.clone(),
            env: env.clone(),
            container: container.into_iter().collect(),
            task,
            place: PathBuf::from(PLACE),
        })
    }

    /// The container's variables as lines; those that do not fit a line are left out.
    fn environ(&self) -> String {
        let fitting = self.container.iter();
        let fitting = fitting.filter(|(name, value)| environ::is_variable(name) && !value.contains('\n'));
        fitting.map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// What is new in the two files.
    fn outcome(&self, environ: String, fstab: String) -> Result<Outcome> {
        let owner = match self.programs.iter().all(|hook| hook.site) {
            true => Owner::Site,
            false => Owner::User,
        };
        let file = |name: &str, text| TextFile {
            path: format!("{name} after the hooks"),
            text,
        };
        // The last line that sets a variable counts; the first ones are those that we wrote.
        let variables = |text: String| -> BTreeMap<_, _> {
            let lines = environ::parse(&file("ENROOT_ENVIRON", text), None, &mut Vec::new());
            lines.into_iter().collect()
        };
        let before = variables(self.environ());
        let mut edits: Vec<Edit> = variables(environ).into_iter().collect();
        edits.retain(|(name, value)| before.get(name) != Some(value));
        let mounts = fstab::in_order(fstab::parse(&file("ENROOT_MOUNTS", fstab), None, |text| {
            owner.error(text)
        })?);
        let mounts = mounts.into_iter().map(|spec| planned(spec, owner));
        Ok(Outcome {
            edits,
            mounts: mounts.collect::<Result<_>>()?,
        })
    }
}

/// A hook's mount is the user's. Its source is opened when the container's root lies over the host's already, where a
/// `..` at the top would lead to the container's.
fn planned(spec: MountSpec, owner: Owner) -> Result<PlannedMount> {
    if let MountSource::Path(path) = &spec.source
        && path.components().any(|component| component == Component::ParentDir)
    {
        let text = format!(
            "ENROOT_MOUNTS after the hooks: source {}: no .. is possible here",
            path.display()
        );
        return Err(owner.error(text));
    }
    Ok(PlannedMount {
        spec,
        origin: Origin::User,
        judged: true,
    })
}

/// Runs the hooks of the plan. `root` is the container's root file system, attached in the caller's mount namespace. The
/// caller is root and single-threaded.
pub fn run(hooks: &Hooks, plan: &Plan, root: &OwnedFd, report: &mut dyn FnMut(String)) -> Result<Outcome> {
    let stage = Stage::set(hooks, plan, root)?;
    let groups = Groups::of_task(hooks.task, plan.identity.uid)?;
    let (ours, theirs) = channel::pair()?;
    let (output, printed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Error::sys("run hooks", "pipe2", error))?;
    let mut keep = stage.fds();
    keep.extend([theirs.as_fd(), printed.as_fd()]);
    keep.extend(groups.files().iter().map(AsFd::as_fd));
    let child = process::fork_init(&keep, |parent| {
        let word = match stage.play(hooks, plan, &groups, &theirs, &printed, parent) {
            Ok(word) => word,
            Err(error) => Word::Failed(error),
        };
        u8::from(channel::send(&theirs, &word, &[]).is_err())
    })?;
    drop((theirs, printed));
    let mut heard = Heard::default();
    heard.listen(&ours, &output, PATIENCE, report)?;
    let exit = child.wait()?;
    match heard.last.take() {
        Some(Word::Done) => hooks.outcome(stage.read("environ")?, stage.read("fstab")?),
        Some(Word::Ended { hook, exit }) => {
            heard.show(report);
            Err(blame(hooks, hook, &exit))
        }
        Some(Word::Failed(error)) => Err(error),
        Some(Word::Started(_)) | None => Err(Error::Host(format!(
            "run hooks: the process that runs them ended with {exit}"
        ))),
    }
}

fn blame(hooks: &Hooks, number: usize, exit: &str) -> Error {
    let hook = hooks.programs.get(number);
    let path = hook.map_or(Path::new("?"), |hook| &hook.path);
    let text = format!("hook {} ended with {exit}", path.display());
    match hook.is_none_or(|hook| hook.site) {
        true => Error::Host(text),
        false => Error::Request(text),
    }
}

/// What was heard of the hooks so far.
#[derive(Debug, Default)]
struct Heard {
    last: Option<Word>,
    waiting_for: Option<PathBuf>,
    printed: Vec<u8>,
}

impl Heard {
    /// Listens until all of them have ended. Whenever nothing is heard for `patience`, the user is told who is waited for.
    fn listen(
        &mut self,
        words: &OwnedFd,
        output: &OwnedFd,
        patience: Timespec,
        report: &mut dyn FnMut(String),
    ) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(words, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
            let count = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)))
                .map_err(|error| Error::sys("run hooks", "poll", error))?;
            if count == 0 {
                let path = self.waiting_for.as_deref().unwrap_or(Path::new("the hooks"));
                report(format!("waiting for hook {}", path.display()));
            }
            let [told, printed] = fds.map(|fd| !fd.revents().is_empty());
            if printed {
                self.take(output)?;
            }
            if told && !self.hear(words)? {
                break;
            }
        }
        // Who runs them has ended, and so have, or will at once, all others.
        while self.take(output)? {}
        Ok(())
    }

    /// One word; false when there will be no more.
    fn hear(&mut self, words: &OwnedFd) -> Result<bool> {
        let Some(received) = channel::recv::<Word>(words)? else {
            return Ok(false);
        };
        if let Word::Started(path) = &received.message {
            self.waiting_for = Some(path.clone());
        }
        self.last = Some(received.message);
        Ok(true)
    }

    /// Some of what is printed; false when there will be no more.
    fn take(&mut self, output: &OwnedFd) -> Result<bool> {
        let mut buffer = [0; 4096];
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.printed.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let excess = self.printed.len().saturating_sub(KEPT);
                self.printed.drain(..excess);
                Ok(true)
            }
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(Error::sys("run hooks", "read", error)),
        }
    }

    /// The last lines of what was printed.
    fn show(&self, report: &mut dyn FnMut(String)) {
        let text = String::from_utf8_lossy(&self.printed);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
            report(format!("hook: {}", printable(line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(site: bool) -> Hooks {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Hooks {
            programs: vec![Hook {
                path: "/x".into(),
                site,
            }],
            env: BTreeMap::new(),
            container: vec![
                variable("A", "1"),
                variable("B", "two words"),
                variable("LINES", "a\nb"),
                variable("%", "x"),
                variable("QUOTED", "'x' "),
            ],
            task: None,
            place: PLACE.into(),
        }
    }

    #[test]
    fn only_what_is_new_counts() {
        let hooks = hooks(true);
        let start = hooks.environ();
        assert_eq!(start, "A=1\nB=two words\nQUOTED='x' \n");
        let after = format!("{start}A=2\nC=${{HOME}}\nC=3\nnonsense\nENROOT_X=1\n");
        let outcome = hooks.outcome(after, "/a /b none bind 0 1\ntmpfs /c\n".into()).unwrap();
        let edit = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(outcome.edits, [edit("A", "2"), edit("C", "3")]);
        let targets: Vec<_> = outcome
            .mounts
            .iter()
            .map(|mount| mount.spec.target.to_str().unwrap())
            .collect();
        assert_eq!(targets, ["/c", "/b"]);
        assert!(outcome.mounts.iter().all(|mount| mount.origin == Origin::User));
        assert_eq!(hooks.outcome(start, String::new()).unwrap(), Outcome::default());
    }

    #[test]
    fn who_must_mend_a_wrong_mount() {
        let wrong = |site, line: &str| hooks(site).outcome(String::new(), line.to_owned()).unwrap_err();
        assert!(matches!(wrong(true, "/a"), Error::Host(_)));
        assert!(matches!(wrong(false, "/a"), Error::Request(_)));
        assert!(
            wrong(false, "/../a /a none bind")
                .to_string()
                .contains("no .. is possible")
        );
    }

    #[test]
    fn a_hook_that_hangs_is_named() {
        let (ours, theirs) = channel::pair().unwrap();
        let (output, printed) = rustix::pipe::pipe().unwrap();
        channel::send(&theirs, &Word::Started("/etc/enroot/hooks.d/x".into()), &[]).unwrap();
        let mut ends = Some((theirs, printed));
        let mut told = Vec::new();
        let mut heard = Heard::default();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut report = |line| {
            told.push(line);
            if told.len() == 2 {
                drop(ends.take());
            }
        };
        heard.listen(&ours, &output, now, &mut report).unwrap();
        assert_eq!(told, ["waiting for hook /etc/enroot/hooks.d/x"; 2]);
    }
}
