//! Starts a program that was opened before, in a process that inherits nothing but what is listed: arguments,
//! environment, descriptors, limits and, if asked, an unprivileged user. This is how import workers start.

use super::process::{self, Child};
use super::{cgroup, channel, check};
use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::privilege;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use std::convert::Infallible;
use std::ffi::{CStr, CString};

/// `CLOSE_RANGE_CLOEXEC` (Linux 5.11).
const CLOSE_RANGE_CLOEXEC: u32 = 4;
/// Descriptors of the new program are numbered below this.
pub const MAX_TARGET: RawFd = 64;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// The opened executable; a binary, as a script's interpreter could not open it again.
    pub file: BorrowedFd<'a>,
    /// The arguments, its own name first.
    pub arguments: &'a [&'a CStr],
    /// The whole environment.
    pub environment: &'a [CString],
    /// Descriptors and the numbers they get. Of 0, 1 and 2 those that are not listed are `/dev/null`.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// Resource limits, soft and hard the same.
    pub limits: &'a [(Resource, u64)],
    /// Enter these control groups first.
    pub groups: Option<&'a cgroup::Groups>,
    /// Become this user for good, without any capability and (but for [`spawn_as_task`]) with no_new_privs, before the program
    /// starts.
    pub user: Option<&'a Identity>,
    /// Restrict what the program can do, with its descriptors in place. Called last, before it is executed.
    pub cage: Option<fn() -> Result<()>>,
    /// Lead a process group of its own, so that a terminal's interrupt does not reach it.
    pub own_group: bool,
}

/// Starts the program; it is killed when the calling thread ends. Returns when the program runs, or with the error
/// that kept it from running.
pub fn spawn(program: &Program<'_>) -> Result<Child> {
    start(program, Life::WithCaller)
}

/// The same for a file that may be a script: its interpreter finds it open, as `/dev/fd/N`.
pub fn spawn_script(program: &Program<'_>) -> Result<Child> {
    start(program, Life::Script)
}

/// The same with the rights of the user's tasks: it has no capability, and set-user-id programs work for it.
pub fn spawn_as_task(program: &Program<'_>) -> Result<Child> {
    start(program, Life::ScriptAsTask)
}

/// Starts the program as a child of nobody here: it lives as long as it likes, and its parent is the reaper of orphans.
/// Gives a handle (pidfd_open(2)) by which its end can be seen.
pub fn spawn_orphan(program: &Program<'_>) -> Result<OwnedFd> {
    let (ours, theirs) = channel::pair()?;
    let mut keep = kept(program);
    keep.push(theirs.as_fd());
    let middle = process::fork(&keep, || {
        let told = match start(program, Life::OfItsOwn) {
            Ok(child) => {
                let told = channel::send(&theirs, &Ok::<(), Error>(()), &[child.pidfd()]);
                // It must not be ended here, which dropping would do.
                std::mem::forget(child);
                told
            }
            Err(error) => channel::send(&theirs, &Err::<(), Error>(error), &[]),
        };
        u8::from(told.is_err())
    })?;
    drop(theirs);
    let received = channel::recv::<std::result::Result<(), Error>>(&ours)?;
    middle.wait()?;
    let received =
        received.ok_or_else(|| Error::Host("start a program: the process that starts it was killed".into()))?;
    received.message?;
    let mut fds = received.fds.into_iter();
    fds.next()
        .ok_or_else(|| Error::Host("start a program: no handle of it came".into()))
}

/// When a program is ended, and what it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// With the thread that starts it.
    WithCaller,
    /// The same, and its file stays open in it.
    Script,
    /// The same, and it may run programs that have rights of their own.
    ScriptAsTask,
    /// When it ends itself.
    OfItsOwn,
}

/// What the process that becomes the program needs.
fn kept<'a>(program: &Program<'a>) -> Vec<BorrowedFd<'a>> {
    let groups = program.groups.into_iter().flat_map(cgroup::Groups::files);
    let descriptors = program.descriptors.iter().map(|(fd, _)| *fd);
    descriptors
        .chain([program.file])
        .chain(groups.map(AsFd::as_fd))
        .collect()
}

fn start(program: &Program<'_>, life: Life) -> Result<Child> {
    let (ours, theirs) = channel::pair()?;
    let mut keep = kept(program);
    keep.push(theirs.as_fd());
    let parent = rustix::process::getpid();
    let child = process::fork(&keep, || {
        let error = match become_program(program, (life, parent), &theirs) {
            Ok(never) => match never {},
            Err((error, report)) => (error, report),
        };
        let told = error.1.as_ref().map_or(theirs.as_fd(), AsFd::as_fd);
        let _ = channel::send(told, &error.0, &[]);
        127
    })?;
    drop(theirs);
    match channel::recv::<Error>(&ours)? {
        None => Ok(child),
        Some(received) => Err(received.message),
    }
}

type Failure = (Error, Option<OwnedFd>);

fn become_program(
    program: &Program<'_>,
    parent: (Life, rustix::process::Pid),
    report: &OwnedFd,
) -> std::result::Result<Infallible, Failure> {
    let early = |error| (error, None);
    // What runs for a user, or is his own, must not be spared when memory is short as a daemon is, nor may what it starts.
    process::forget_oom_protection().map_err(early)?;
    program.groups.map_or(Ok(()), cgroup::Groups::enter).map_err(early)?;
    if program.own_group {
        rustix::process::setpgid(None, None).map_err(|error| early(failed("setpgid", error)))?;
    }
    for (resource, most) in program.limits {
        lower_limit(*resource, *most).map_err(early)?;
    }
    let file = above(program.file).map_err(early)?;
    let report = above(report.as_fd()).map_err(early)?;
    match enter_program(program, parent, &file) {
        Ok(never) => match never {},
        Err(error) => Err((error, Some(report))),
    }
}

/// A process may have less already than it is to get at most; more is the host's to give.
fn lower_limit(resource: Resource, most: u64) -> Result<()> {
    let value = rustix::process::getrlimit(resource)
        .maximum
        .map_or(most, |hard| hard.min(most));
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::setrlimit(resource, limit)
        .map_err(|error| failed(&format!("setrlimit({resource:?}, {value})"), error))
}

fn enter_program(
    program: &Program<'_>,
    (life, parent): (Life, rustix::process::Pid),
    file: &OwnedFd,
) -> Result<Infallible> {
    place(program.descriptors)?;
    if let Some(user) = program.user {
        if life == Life::ScriptAsTask {
            privilege::irrevocably_become_user_as_tasks_are(user)?;
        } else {
            privilege::irrevocably_become_user(user, 0)?;
            super::credentials::set_no_new_privs()?;
        }
        process::die_with_parent(parent)?;
    }
    if life == Life::OfItsOwn {
        rustix::process::set_parent_process_death_signal(None)
            .map_err(|error| failed("prctl(PR_SET_PDEATHSIG)", error))?;
        // No directory is kept busy.
        rustix::process::chdir("/").map_err(|error| failed("chdir(/)", error))?;
    }
    if matches!(life, Life::Script | Life::ScriptAsTask) {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).map_err(|error| failed("fcntl(F_SETFD)", error))?;
    }
    program.cage.map_or(Ok(()), |enter| enter())?;
    execveat(file, program.arguments, program.environment)
}

fn failed(call: &str, error: impl Into<std::io::Error>) -> Error {
    Error::sys("start a program", call, error)
}

/// A copy of the descriptor out of the way of the program's own numbers.
fn above(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, MAX_TARGET).map_err(|error| failed("fcntl(F_DUPFD_CLOEXEC)", error))
}

/// Puts the descriptors on their numbers; all others are closed, or will be by the exec.
fn place(descriptors: &[(BorrowedFd<'_>, RawFd)]) -> Result<()> {
    let mut high = Vec::with_capacity(descriptors.len());
    for (fd, target) in descriptors {
        if !(0..MAX_TARGET).contains(target) {
            return Err(Error::Host(format!(
                "start a program: no descriptor can be number {target}"
            )));
        }
        high.push((above(*fd)?, *target));
    }
    let low = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open(/dev/null)", error))?;
    let null = above(low.as_fd())?;
    // Its number may be closed or given to another below.
    drop(low);
    for number in 0..MAX_TARGET {
        let source = high.iter().find(|(_, target)| *target == number).map(|(fd, _)| fd);
        match source.or((number <= 2).then_some(&null)) {
            Some(fd) => dup2(fd, number)?,
            None => {
                let number = number.unsigned_abs();
                process::close_range(number, number, 0).map_err(|error| failed("close_range", error))?;
            }
        }
    }
    process::close_range(MAX_TARGET.unsigned_abs(), u32::MAX, CLOSE_RANGE_CLOEXEC)
        .map_err(|error| failed("close_range(CLOSE_RANGE_CLOEXEC)", error))
}

fn dup2(fd: &OwnedFd, number: RawFd) -> Result<()> {
    // SAFETY: what has this number in the child is a copy that nothing in it uses any more.
    let answer = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    check(libc::c_long::from(answer))
        .map(|_| ())
        .map_err(|error| failed("dup2", error))
}

fn execveat(file: &OwnedFd, arguments: &[&CStr], environment: &[CString]) -> Result<Infallible> {
    let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    argv.push(std::ptr::null());
    let mut envp: Vec<*const libc::c_char> = environment.iter().map(|text| text.as_ptr()).collect();
    envp.push(std::ptr::null());
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    match check(answer) {
        Err(error) => Err(failed("execveat", error)),
        Ok(_) => Err(Error::Host("start a program: execveat returned".into())),
    }
}

/// Takes over a descriptor that the process was started with, by its number, and marks it close-on-exec: the other
/// side of [`Program::descriptors`], for the program that was started.
///
/// # Errors
/// When no such descriptor is open.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd> {
    let failed = |error: std::io::Error| Error::sys("take a descriptor over", format!("fcntl({number})"), error);
    // SAFETY: F_SETFD on a number is harmless whatever it refers to.
    let answer = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    check(libc::c_long::from(answer)).map_err(failed)?;
    // SAFETY: the descriptor is open, as fcntl said; a program calls this once for each number it was started with,
    // before it opens anything else, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
