//! A child process that ends with its parent: fork(2) with everything a fresh process should not have inherited put
//! away (signals, descriptors), and a pidfd to watch it.

use super::check;
use crate::error::{Error, Result};
use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The exit code of a child whose body panicked.
pub const PANICKED: u8 = 101;

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Child {
    /// The process id; it stays this child's until it is reaped.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Becomes readable when the child has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        // ESRCH: it has ended already, which is what was wanted.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Result<Exit> {
        self.reap()
    }

    fn reap(&mut self) -> Result<Exit> {
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(|error| Error::sys("wait for a child", "waitid(P_PIDFD)", error))?,
            }
        };
        self.reaped = true;
        let status = status.ok_or_else(|| Error::Host("wait for a child: it did not end".into()))?;
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.reap();
        }
    }
}

/// Runs `body` in a child process. The child has default signal dispositions, no blocked signal, of the descriptors
/// only 0, 1, 2 and `keep`, and is killed when the calling thread ends. It never returns from here: it exits with what
/// `body` returns, without running exit handlers.
///
/// The caller should be single-threaded; where it is not (tests), the child sees one thread, and glibc keeps its
/// allocator usable across fork.
pub fn fork(keep: &[BorrowedFd<'_>], body: impl FnOnce() -> u8) -> Result<Child> {
    let parent = rustix::process::getpid();
    fork_prepared(|| die_with_parent(parent), keep, body)
}

/// As [`fork`], as the first process of a PID namespace: when it ends, the kernel kills everything that it has started,
/// also what has left its group or its session. `body` gets a handle of the parent for [`die_with_process`].
///
/// The caller needs CAP_SYS_ADMIN.
pub fn fork_init(keep: &[BorrowedFd<'_>], body: impl FnOnce(BorrowedFd<'_>) -> u8) -> Result<Child> {
    let failed = |call: &str, error: std::io::Error| Error::sys("start a child", call, error);
    let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|error| failed("pidfd_open(self)", error.into()))?;
    let ours = std::fs::File::open("/proc/self/ns/pid").map_err(|error| failed("open(/proc/self/ns/pid)", error))?;
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).map_err(|error| failed("unshare(CLONE_NEWPID)", error.into()))?;
    let mut all = keep.to_vec();
    all.push(parent.as_fd());
    let child = fork_prepared(|| die_with_process(parent.as_fd()), &all, || body(parent.as_fd()));
    // Later children are ours again.
    nix::sched::setns(ours, CloneFlags::CLONE_NEWPID).map_err(|error| failed("setns(CLONE_NEWPID)", error.into()))?;
    child
}

fn fork_prepared(
    die: impl FnOnce() -> Result<()>,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce() -> u8,
) -> Result<Child> {
    // SAFETY: the child runs `body` on a copy of this memory and leaves by _exit, so nothing of the caller's stack is
    // unwound or dropped twice.
    let answer = unsafe { libc::fork() };
    let pid = check(libc::c_long::from(answer)).map_err(|error| Error::sys("start a child", "fork", error))?;
    if pid == 0 {
        // Nothing of the caller's may be dropped in the child: `body` is moved into the closure and the process ends.
        let code = catch_unwind(AssertUnwindSafe(|| {
            if die().and_then(|()| prepare_child(keep)).is_err() {
                PANICKED
            } else {
                body()
            }
        }));
        exit_now(code.unwrap_or(PANICKED));
    }
    let failed = |error| Error::sys("start a child", "pidfd_open", error);
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| failed(rustix::io::Errno::SRCH))?;
    // The child cannot be reaped by anyone else meanwhile, so the number is still its own.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    Ok(Child {
        pid,
        pidfd,
        reaped: false,
    })
}

fn prepare_child(keep: &[BorrowedFd<'_>]) -> Result<()> {
    reset_signals();
    close_all_but(keep)
}

/// Ends the process at once: no exit handlers, no buffers.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// The calling process is killed when the thread that forked it ends. The kernel forgets this when the user changes,
/// so it is called again then.
pub fn die_with_parent(parent: Pid) -> Result<()> {
    arm_parent_death()?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(orphaned())
    }
}

/// As [`die_with_parent`], for a child that cannot see its parent because it is in another PID namespace.
pub fn die_with_process(parent: BorrowedFd<'_>) -> Result<()> {
    arm_parent_death()?;
    let mut ended = [PollFd::from_borrowed_fd(parent, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) => Ok(()),
        Ok(_) => Err(orphaned()),
        Err(error) => Err(Error::sys("start a child", "poll(pidfd)", error)),
    }
}

fn arm_parent_death() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::sys("start a child", "prctl(PR_SET_PDEATHSIG)", error))
}

fn orphaned() -> Error {
    Error::Host("start a child: its parent has ended meanwhile".into())
}

/// Where a process has its bias for the kernel's choice of what to kill when memory is short (proc_pid_oom_score_adj(5)).
const OOM_BIAS: &str = "/proc/self/oom_score_adj";

/// Gives up a protection from the kernel's out-of-memory killer that a daemon's child has inherited. A worker whose cage keeps
/// it from looking has none: it was executed, and so gave it up, before it went in.
pub fn forget_oom_protection() -> Result<()> {
    let failed = |call: &str, error| Error::sys("start a child", format!("{call}({OOM_BIAS})"), error);
    let bias = match std::fs::read_to_string(OOM_BIAS) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
        read => read.map_err(|error| failed("read", error))?,
    };
    if is_protected(&bias) {
        std::fs::write(OOM_BIAS, "0").map_err(|error| failed("write", error))?;
    }
    Ok(())
}

fn is_protected(bias: &str) -> bool {
    bias.starts_with('-')
}

/// Default dispositions for all signals, and none blocked.
pub fn reset_signals() {
    // SAFETY: all zeroes is a valid struct sigaction: SIG_DFL, no flags, empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: `default` outlives the call; for signals that cannot be changed it fails, which is fine.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    // SAFETY: all zeroes is a valid, empty sigset_t on Linux.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `empty` outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
}

/// Runs `work` in a process that is yet to become a program. The signals that mean something to that program only (SIGUSR1,
/// SIGUSR2) are ignored: they would end the process. Those that end a program end it, whatever handlers its maker has for
/// himself.
pub fn before_the_program<T>(work: impl FnOnce() -> T) -> T {
    let ignored = USER_SIGNALS.map(|signal| (signal, replace_action(signal, &action(libc::SIG_IGN))));
    let caught = ENDING_SIGNALS.map(|signal| (signal, release(signal)));
    let result = work();
    for (signal, before) in ignored.iter().chain(&caught) {
        replace_action(*signal, before);
    }
    result
}

const USER_SIGNALS: [libc::c_int; 2] = [libc::SIGUSR1, libc::SIGUSR2];
const ENDING_SIGNALS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Takes a signal's handler away; one that is ignored stays so. Gives what it did before.
fn release(signal: libc::c_int) -> libc::sigaction {
    let before = replace_action(signal, &action(libc::SIG_DFL));
    if before.sa_sigaction == libc::SIG_IGN {
        replace_action(signal, &before);
    }
    before
}

/// What a signal does that has no flags and blocks no others.
pub(super) fn action(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zeroes is a valid sigaction: the default, without flags, with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action
}

/// Sets what a signal does, and gives what it did before.
pub(super) fn replace_action(signal: libc::c_int, with: &libc::sigaction) -> libc::sigaction {
    let mut before = action(libc::SIG_DFL);
    // SAFETY: both outlive the call; the handlers are SIG_IGN, SIG_DFL and what the process itself had before. It fails for
    // signals alone that cannot be changed, and none of those is given.
    unsafe { libc::sigaction(signal, with, &raw mut before) };
    before
}

/// Makes a descriptor of this process mean what `with` means, closed when it executes.
pub fn replace_descriptor(fd: RawFd, with: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a descriptor stays one, whatever owns it; it means another file.
    let answer = unsafe { libc::dup3(with.as_raw_fd(), fd, libc::O_CLOEXEC) };
    check(libc::c_long::from(answer))
        .map(|_| ())
        .map_err(|error| Error::sys("replace a descriptor", format!("dup3({fd})"), error))
}

/// close_range(2) with its three arguments (Linux 5.9).
pub(super) fn close_range(first: u32, last: u32, flags: u32) -> std::io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: closes descriptors that the callers of this module own no more: they are the child's unused copies.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    check(answer).map(|_| ())
}

pub(super) fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok())
        .collect();
    keep.sort_unstable();
    let failed = |error| Error::sys("start a child", "close_range", error);
    let mut next = 3;
    for fd in keep {
        if fd >= next {
            close_range(next, fd.saturating_sub(1), 0).map_err(failed)?;
            next = fd.saturating_add(1);
        }
    }
    close_range(next, u32::MAX, 0).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_signals_are_harmless_for_a_while() {
        use rustix::process::{getpid, kill_process};
        let child = fork(&[], || {
            let answer = before_the_program(|| {
                kill_process(getpid(), Signal::USR1).unwrap();
                kill_process(getpid(), Signal::USR2).unwrap();
                7
            });
            if answer == 7 {
                kill_process(getpid(), Signal::USR1).unwrap();
            }
            0
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Signal(libc::SIGUSR1));
    }

    extern "C" fn handler(_: libc::c_int) {}

    #[test]
    fn handlers_of_the_maker_do_not_keep_it_from_being_ended() {
        use rustix::process::{getpid, kill_process};
        let caught = handler as *const () as libc::sighandler_t;
        let child = fork(&[], || {
            replace_action(libc::SIGTERM, &action(caught));
            replace_action(libc::SIGINT, &action(libc::SIG_IGN));
            before_the_program(|| kill_process(getpid(), Signal::INT)).unwrap();
            // The handler is back.
            kill_process(getpid(), Signal::TERM).unwrap();
            before_the_program(|| kill_process(getpid(), Signal::TERM)).unwrap();
            0
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Signal(libc::SIGTERM));
    }

    /// To make oneself protected needs a right that root may lack in a container.
    #[test]
    fn only_a_protection_is_given_up() {
        assert!(is_protected("-1000\n") && !is_protected("0\n"));
        let child = fork(&[], || {
            std::fs::write(OOM_BIAS, "300").unwrap();
            forget_oom_protection().unwrap();
            u8::from(std::fs::read_to_string(OOM_BIAS).unwrap() == "300\n")
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(1));
    }
}
