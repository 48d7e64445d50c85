//! A process that outlives the one that starts it and is no relative of it: nobody who walks process trees, kills
//! process groups or waits for children meets it.

use super::check;
use super::process::{close_all_but, exit_now, reset_signals};
use crate::error::{Error, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body` in a process of its own session, whose parent is the reaper of orphans. It has default signal
/// dispositions, no blocked signal, `/dev/null` as descriptors 0, 1 and 2, of the others only `keep`, `/` as working
/// directory, and is called `name`. It ends when `body` returns.
///
/// The caller may have threads: the process sees one, and glibc keeps its allocator usable across fork(2). `body` must
/// not use anything of the caller's that a thread may have locked.
pub fn fork_daemon(name: &CStr, keep: &[BorrowedFd<'_>], body: impl FnOnce()) -> Result<()> {
    let failed = |error| Error::sys("start a daemon", "open(/dev/null)", error);
    // By the caller: who is to become a daemon may find itself in another root directory soon.
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    // SAFETY: the child runs on a copy of this memory and leaves by _exit, so nothing of the caller's stack is unwound
    // or dropped twice.
    let answer = unsafe { libc::fork() };
    let pid = check(libc::c_long::from(answer)).map_err(|error| Error::sys("start a daemon", "fork", error))?;
    if pid == 0 {
        // SAFETY: as above; the child is single-threaded.
        let code = match unsafe { libc::fork() } {
            0 => become_daemon(name, &null, keep, body),
            -1 => 1,
            _ => 0,
        };
        exit_now(code);
    }
    wait_for(pid)
}

/// Waits for the process in the middle, which only forks.
fn wait_for(pid: libc::c_long) -> Result<()> {
    let failed = |error: rustix::io::Errno| Error::sys("start a daemon", "waitpid", error);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    loop {
        match rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            // The host waits for any child in another thread; the socket will tell whether the daemon lives.
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(failed(error)),
            Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
            Ok(_) => return Err(failed(rustix::io::Errno::AGAIN)),
        }
    }
}

fn become_daemon(name: &CStr, null: &OwnedFd, keep: &[BorrowedFd<'_>], body: impl FnOnce()) -> u8 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        leave_the_caller(name, null, keep)?;
        body();
        rustix::io::Result::Ok(())
    }));
    match outcome {
        Ok(Ok(())) => 0,
        _ => 1,
    }
}

fn leave_the_caller(name: &CStr, null: &OwnedFd, keep: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    reset_signals();
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)?;
    close_all_but(keep).map_err(|_| rustix::io::Errno::BADF)?;
    rustix::process::chdir(c"/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // For people who look at a list of processes; nothing depends on it.
    let _ = rustix::thread::set_name(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::channel;
    use rustix::fd::AsFd;

    #[test]
    fn a_daemon_is_no_relative() {
        let (ours, theirs) = channel::pair().unwrap();
        let (other, _unused) = channel::pair().unwrap();
        let foreign = rustix::fd::AsRawFd::as_raw_fd(&other);
        fork_daemon(c"test-daemon", &[theirs.as_fd()], || {
            let session = rustix::process::getsid(None).unwrap() == rustix::process::getpid();
            let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
            let name = std::fs::read_to_string("/proc/self/comm").unwrap();
            let open = std::fs::exists(format!("/proc/self/fd/{foreign}")).unwrap();
            let cwd = std::env::current_dir().unwrap();
            channel::send(&theirs, &(session, parent, name, open, cwd), &[]).unwrap();
        })
        .unwrap();
        drop(theirs);
        type Facts = (bool, Option<i32>, String, bool, std::path::PathBuf);
        let got = channel::recv::<Facts>(&ours).unwrap().unwrap().message;
        let (session, parent, name, open, cwd) = got;
        assert!(session && !open);
        assert_ne!(parent, Some(std::process::id().cast_signed()));
        assert_eq!(name, "test-daemon\n");
        assert_eq!(cwd, std::path::PathBuf::from("/"));
        assert!(channel::recv::<Facts>(&ours).unwrap().is_none(), "it has ended");
    }
}
