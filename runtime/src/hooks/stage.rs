//! Where hooks run: a mount namespace in which the runtime's directory is covered by a small tmpfs with the two files and
//! the root file system, and a PID namespace that ends with them.
#![forbid(unsafe_code)]

use super::Hooks;
use crate::bounded;
use crate::config::environ::is_variable;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::privilege::irrevocably_become_user;
use crate::sys::cgroup::Groups;
use crate::sys::channel;
use crate::sys::credentials::set_no_new_privs;
use crate::sys::mount::{FsContext, move_mount, open_tree_clone};
use crate::sys::process::{self, Exit};
use nix::sched::CloneFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name of the root file system's directory.
const ROOTFS: &str = "rootfs";
/// The two files together are smaller.
const MAX_SIZE: u64 = 4 << 20;

/// What is told of the hooks while they run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// This one was started.
    Started(PathBuf),
    /// All have ended well.
    Done,
    /// One has not.
    Ended {
        /// Which.
        hook: usize,
        /// How.
        exit: String,
    },
    /// They could not be run.
    Failed(Error),
}

/// Two mounts that are attached nowhere yet.
#[derive(Debug)]
pub(super) struct Stage {
    desk: OwnedFd,
    root: OwnedFd,
}

impl Stage {
    /// Makes the files, and a copy of the root's mount.
    pub(super) fn set(hooks: &Hooks, plan: &Plan, root: &OwnedFd) -> Result<Self> {
        let context = FsContext::open("tmpfs")?;
        let (uid, gid) = (plan.identity.uid.to_string(), plan.identity.gid.to_string());
        for (key, value) in [
            ("mode", "0700"),
            ("uid", &uid),
            ("gid", &gid),
            ("size", "16m"),
            ("nr_inodes", "1000"),
        ] {
            context.set_string(key, value)?;
        }
        let restrictions = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let desk = context.mount(restrictions)?;
        rustix::fs::mkdirat(&desk, ROOTFS, Mode::from_raw_mode(0o755))
            .map_err(|error| failed("mkdirat(rootfs)", error))?;
        let stage = Stage {
            desk,
            root: open_tree_clone(root, false)?,
        };
        stage.write("environ", &hooks.environ(), plan)?;
        stage.write("fstab", "", plan)?;
        Ok(stage)
    }

    fn write(&self, name: &str, text: &str, plan: &Plan) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.desk, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed("openat(O_CREAT)", error))?;
        crate::rootfs::chown(&fd, plan.identity.uid, plan.identity.gid)?;
        File::from(fd)
            .write_all(text.as_bytes())
            .map_err(|error| failed("write", error))
    }

    /// Reads one of the files after the hooks, which may have put anything in its place.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        let wrong = |reason: &str| Error::Request(format!("the hooks' file {name}: {reason}"));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = rustix::fs::openat2(&self.desk, name, flags, Mode::empty(), resolve)
            .map_err(|error| wrong(&std::io::Error::from(error).kind().to_string()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed("fstat", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(wrong("not a regular file"));
        }
        let bytes = bounded::read(File::from(fd), MAX_SIZE)
            .map_err(|error| failed("read", error))?
            .ok_or_else(|| wrong(&format!("larger than {MAX_SIZE} bytes")))?;
        String::from_utf8(bytes).map_err(|_| wrong("not UTF-8 text"))
    }

    /// What the process that runs the hooks needs.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.desk.as_fd(), self.root.as_fd()]
    }

    /// In that process: becomes the user for good, then runs one hook after the other.
    pub(super) fn play(
        &self,
        hooks: &Hooks,
        plan: &Plan,
        groups: &Groups,
        words: &OwnedFd,
        output: &OwnedFd,
        parent: BorrowedFd<'_>,
    ) -> Result<Word> {
        groups.enter()?;
        self.attach(&hooks.place)?;
        irrevocably_become_user(&plan.identity, 0)?;
        process::die_with_process(parent)?;
        set_no_new_privs()?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        for (number, hook) in hooks.programs.iter().enumerate() {
            channel::send(words, &Word::Started(hook.path.clone()), &[])?;
            let command = command(hooks, plan, &hook.path)?;
            let child = process::fork(&[output.as_fd()], || execute(command, output))?;
            match child.wait()? {
                Exit::Code(0) => {}
                exit => {
                    let exit = exit.to_string();
                    return Ok(Word::Ended { hook: number, exit });
                }
            }
        }
        Ok(Word::Done)
    }

    /// Attaches both mounts in a mount namespace of the calling process's own.
    fn attach(&self, place: &Path) -> Result<()> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("unshare(CLONE_NEWNS)", error))?;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|error| failed("mount(/, MS_PRIVATE)", error))?;
        move_mount(&self.desk, open_directory(place)?)?;
        move_mount(&self.root, open_directory(&place.join(ROOTFS))?)
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(&format!("open({})", path.display()), error))
}

fn failed(call: &str, error: impl Into<std::io::Error>) -> Error {
    Error::sys("run hooks", call, error)
}

/// The hook with its environment. It is run where the job is, if that can be.
fn command(hooks: &Hooks, plan: &Plan, path: &Path) -> Result<Command> {
    // The process ids of this namespace are not those that /proc shows.
    let pid = std::fs::read_link("/proc/self").map_err(|error| failed("readlink(/proc/self)", error))?;
    let mut command = Command::new(path);
    command.env_clear();
    command.envs(
        hooks
            .env
            .iter()
            .filter(|(name, value)| is_variable(name) && !value.contains('\0')),
    );
    for (name, on) in [
        ("ENROOT_REMAP_ROOT", plan.remap_root),
        ("ENROOT_ROOTFS_WRITABLE", plan.writable),
        ("ENROOT_RESTRICT_DEV", plan.restrict_dev),
    ] {
        match on {
            true => command.env(name, "y"),
            false => command.env_remove(name),
        };
    }
    command.env("ENROOT_PID", pid);
    command.env("ENROOT_ROOTFS", hooks.place.join(ROOTFS));
    command.env("ENROOT_ENVIRON", hooks.place.join("environ"));
    command.env("ENROOT_MOUNTS", hooks.place.join("fstab"));
    let cwd =
        open_directory(&plan.cwd).and_then(|cwd| rustix::process::fchdir(cwd).map_err(|error| failed("fchdir", error)));
    if cwd.is_err() {
        rustix::process::chdir("/").map_err(|error| failed("chdir(/)", error))?;
    }
    Ok(command)
}

/// Becomes the hook; comes back when that is not possible, and says why where its output goes.
fn execute(mut command: Command, output: &OwnedFd) -> u8 {
    if let (Ok(out), Ok(error)) = (output.try_clone(), output.try_clone()) {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(error));
        let error = command.exec();
        // Nobody can be told that nobody can be told.
        let _ = rustix::io::write(output, format!("cannot be executed: {error}\n").as_bytes());
    }
    126
}
