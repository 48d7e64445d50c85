//! The entrypoint's own process, up to exec: it becomes what a task is.
#![forbid(unsafe_code)]

use super::likeness::Likeness;
use super::{SENTINEL, Title};
use crate::enter::{Enter, Join, enter};
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::privilege::{TO_ENTER, irrevocably_become_user, mask};
use crate::sys::cgroup::Groups;
use crate::sys::process::die_with_parent;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use rustix::fd::BorrowedFd;
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, NulError};

/// All that the process needs. It shares the memory of who made this, until exec.
pub(super) struct Launch<'a> {
    pub(super) words: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) how: &'a Enter,
    pub(super) identity: &'a Identity,
    pub(super) join: Join<'a>,
    pub(super) groups: Option<&'a Groups>,
    pub(super) likeness: Option<&'a Likeness>,
    pub(super) output: BorrowedFd<'a>,
    pub(super) title: Title,
}

impl Launch<'_> {
    /// Becomes the entrypoint. The caller is a fork of `parent`, with `/dev/null` as its input.
    pub(super) fn run(&self, parent: Pid) -> Result<Infallible> {
        let failed = |call: &str, error: rustix::io::Errno| Error::sys("start the entrypoint", call, error);
        self.groups.map_or(Ok(()), Groups::enter)?;
        self.likeness.map_or(Ok(()), Likeness::apply)?;
        rustix::process::setsid().map_err(|error| failed("setsid", error))?;
        let keep = match self.join.user {
            Some(_) => 0,
            None => mask(&TO_ENTER),
        };
        irrevocably_become_user(self.identity, keep)?;
        enter(&self.join, self.how)?;
        die_with_parent(parent)?;
        rustix::stdio::dup2_stdout(self.output).map_err(|error| failed("dup2(1)", error))?;
        rustix::stdio::dup2_stderr(self.output).map_err(|error| failed("dup2(2)", error))?;
        self.exec()
    }

    /// Looks the program up where the container has programs, as a shell would.
    fn exec(&self) -> Result<Infallible> {
        let name = self.words.first().map(String::as_str).unwrap_or_default();
        let path = self.env.get("PATH").map(String::as_str).unwrap_or_default();
        if !candidates("sh", path).any(|shell| access(shell.as_str(), AccessFlags::X_OK).is_ok()) {
            return Err(Error::Image(format!(
                "the image has an entrypoint but no sh, which is needed to see what it sets{}",
                self.title.advice
            )));
        }
        let mut reason = Errno::ENOENT;
        for program in candidates(name, path) {
            match self.exec_program(&program).map_err(has_nul)? {
                Errno::ENOENT | Errno::ENOTDIR => {}
                error => reason = error,
            }
        }
        let Title { long, advice, .. } = &self.title;
        Err(Error::Image(format!("{long}: {}{advice}", reason.desc())))
    }

    /// Gives the reason why it was not executed. A text without a first line that names its interpreter is a script of
    /// the shell, as for execvp(3).
    fn exec_program(&self, program: &str) -> std::result::Result<Errno, NulError> {
        let words = |first: &[&str], rest: &[String]| -> std::result::Result<Vec<CString>, NulError> {
            let first = first.iter().copied();
            let all = first
                .chain(rest.iter().map(String::as_str))
                .chain(["sh", "-c", SENTINEL]);
            all.map(CString::new).collect()
        };
        let env: Vec<CString> = self
            .env
            .iter()
            .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
            .collect();
        let Err(error) = execve(&CString::new(program)?, &words(&[], self.words)?, &env);
        if error != Errno::ENOEXEC {
            return Ok(error);
        }
        let rest = self.words.get(1..).unwrap_or_default();
        let Err(error) = execve(c"/bin/sh", &words(&["sh", program], rest)?, &env);
        Ok(error)
    }
}

fn has_nul(_: NulError) -> Error {
    Error::Image("the image's entrypoint has a NUL byte".to_owned())
}

/// Where a program of this name may be: itself, if it is a path, else in each directory of `path`.
fn candidates<'a>(name: &'a str, path: &'a str) -> impl Iterator<Item = String> + 'a {
    let own = (name.contains('/')).then(|| name.to_owned());
    let searched = !(name.contains('/') || name.is_empty());
    let directories = path.split(':').filter(move |_| searched);
    own.into_iter().chain(directories.map(move |directory| match directory {
        "" => format!("./{name}"),
        directory => format!("{directory}/{name}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_programs_are_looked_for() {
        let of = |name: &str| candidates(name, "/a:/b/:").collect::<Vec<_>>();
        assert_eq!(of("x"), ["/a/x", "/b//x", "./x"]);
        assert_eq!(of("/x/y"), ["/x/y"]);
        assert_eq!(of("./y"), ["./y"]);
        assert!(of("").is_empty());
    }
}
