//! What `check` finds on a machine as it is, and on one where something is made to fail as it does elsewhere. Everything is
//! in real namespaces; nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod common;

use common::*;
use pyxis_runtime::check::{Node, look};
use pyxis_runtime::config::Config;
use pyxis_runtime::plan::Identity;
use pyxis_runtime::privilege;
use pyxis_runtime::sys::process::{self, Exit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

const ROOT: Identity = Identity {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};
const LOOP_CTL_GET_FREE: u64 = 0x4C82;

/// The findings of one look, by their ids.
struct Found(BTreeMap<String, Value>);

impl Found {
    fn status(&self, id: &str) -> &str {
        self.0[id]["status"].as_str().unwrap()
    }

    fn text(&self, id: &str) -> String {
        let finding = &self.0[id];
        format!("{}; {}", finding["fact"], finding["advice"])
    }

    fn all(&self, status: &str) -> Vec<&str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|id| self.status(id) == status)
            .collect()
    }

    #[track_caller]
    fn says(&self, id: &str, status: &str, words: &str) {
        let text = self.text(id);
        assert!(
            self.status(id) == status && text.contains(words),
            "{id}: {} {text}",
            self.status(id)
        );
    }
}

/// A site whose files are all in the test's directory: the worker is this test itself, the service user nobody.
fn site(clean: &Clean) -> Config {
    let mut config = Config::default();
    config.worker.path = clean.path("worker");
    config.worker.user = "nobody".to_owned();
    config.store.path = clean.path("store");
    config.container.data_path = clean.path("data");
    fs::copy("/proc/self/exe", &config.worker.path).unwrap();
    fs::set_permissions(&config.worker.path, Permissions::from_mode(0o755)).unwrap();
    for (path, mode) in [(&config.store.path, 0o700), (&config.container.data_path, 0o755)] {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    config
}

/// Looks in a process that `prepare` has changed.
fn look_after(clean: &Clean, config: &Config, caller: &Identity, prepare: impl FnOnce()) -> Found {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let runtime_path = clean.path("run");
    let child = process::fork(&[write.as_fd()], || {
        prepare();
        let findings = look(&Node {
            caller,
            config,
            runtime_path: &runtime_path,
        });
        let text = serde_json::to_vec(&findings).unwrap();
        std::io::Write::write_all(&mut fs::File::from(write.try_clone().unwrap()), &text).unwrap();
        0
    })
    .unwrap();
    drop(write);
    let text = std::io::read_to_string(fs::File::from(read)).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{text}");
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let named = findings
        .into_iter()
        .map(|finding| (finding["id"].as_str().unwrap().to_owned(), finding));
    Found(named.collect())
}

fn look_at(clean: &Clean, config: &Config) -> Found {
    look_after(clean, config, &ROOT, || ())
}

/// From now on this call, with this second argument if one is given, fails.
fn refuse(call: libc::c_long, second: Option<u64>, error: i32) {
    let rules = second.map(|value| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    });
    let rules = BTreeMap::from([(call, rules.into_iter().collect())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let answer = SeccompAction::Errno(error.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    pyxis_runtime::sys::seccomp::set_mode_filter(&program).unwrap();
}

#[test]
fn a_machine_that_can_do_all() {
    let clean = Clean::start();
    let config = site(&clean);
    let found = look_at(&clean, &config);
    assert_eq!((found.all("fail"), found.all("skip")), (vec![], vec![]));
    for id in [
        "container.kernel",
        "container.fuse",
        "container.unpack",
        "images.registry",
        "images.user_files",
        "worker.program",
    ] {
        assert_eq!(found.status(id), "ok", "{}", found.text(id));
    }
    // Nothing was made in the directories that are there, and none that is not.
    for path in [&config.store.path, &config.container.data_path] {
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }
    assert!(!clean.path("run").exists());
}

#[test]
fn calls_that_a_kernel_lacks_are_named() {
    let clean = Clean::start();
    let config = site(&clean);
    for (call, id, words) in [
        (
            libc::SYS_openat2,
            "kernel.openat2",
            "openat2(RESOLVE_IN_ROOT): Function not implemented",
        ),
        (libc::SYS_mount_setattr, "kernel.mounts", "mount_setattr"),
        (
            libc::SYS_fsopen,
            "kernel.mounts",
            "fsopen(tmpfs): Function not implemented",
        ),
        (libc::SYS_pidfd_open, "kernel.pidfd", "pidfd_open"),
    ] {
        let found = look_after(&clean, &config, &ROOT, || refuse(call, None, libc::ENOSYS));
        found.says(id, "fail", words);
        found.says(id, "fail", "use Linux 5.12 or newer");
    }
}

#[test]
fn without_landlock_containers_start() {
    let clean = Clean::start();
    let without = || refuse(libc::SYS_landlock_create_ruleset, None, libc::ENOSYS);
    let found = look_after(&clean, &site(&clean), &ROOT, without);
    found.says("kernel.landlock", "warn", "not there");
    assert_eq!(found.all("fail"), Vec::<&str>::new());
}

#[test]
fn without_loop_devices_fuse_is_what_is_left() {
    let clean = Clean::start();
    let without = || refuse(libc::SYS_ioctl, Some(LOOP_CTL_GET_FREE), libc::ENODEV);
    let found = look_after(&clean, &site(&clean), &ROOT, without);
    found.says("squashfs.loop", "warn", "LOOP_CTL_GET_FREE");
    found.says("squashfs.zstd", "skip", "there is no loop device");
    found.says("container.kernel", "warn", "LOOP_CTL_GET_FREE");
    found.says("images.registry", "warn", "squashfuse_ll");
    found.says("images.user_files", "ok", "squashfuse_ll");
}

#[test]
fn who_may_make_no_namespace_makes_no_container() {
    let clean = Clean::start();
    let without = || refuse(libc::SYS_unshare, None, libc::EPERM);
    let found = look_after(&clean, &site(&clean), &ROOT, without);
    found.says("namespaces.node", "fail", "user namespaces are not permitted here");
    found.says("overlay.user", "skip", "no user namespace");
}

#[test]
fn a_host_without_device_nodes_is_no_obstacle() {
    let clean = Clean::start();
    let empty = || rustix::mount::mount("none", "/dev", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let hide = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        empty();
        // Programs are started with it.
        let null = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            "/dev/null",
            rustix::fs::FileType::CharacterDevice,
            mode,
            null,
        )
        .unwrap();
    };
    let found = look_after(&clean, &site(&clean), &ROOT, hide);
    found.says("squashfs.loop", "ok", "");
    found.says("fuse.mount", "ok", "");
}

#[test]
fn a_reader_that_is_missing_or_somebody_elses() {
    let clean = Clean::start();
    let mut config = site(&clean);
    config.images.reader = clean.path("reader");
    let missing = look_at(&clean, &config);
    missing.says("fuse.reader", "warn", "install the package squashfuse");
    missing.says("images.user_files", "warn", "see container.fuse");
    missing.says("images.registry", "ok", "");
    fs::copy("/usr/bin/squashfuse_ll", &config.images.reader).unwrap();
    fs::set_permissions(&config.images.reader, Permissions::from_mode(0o777)).unwrap();
    look_at(&clean, &config).says("fuse.reader", "warn", "belongs to root");
}

#[test]
fn a_worker_that_is_missing_others_or_old() {
    let clean = Clean::start();
    let mut config = site(&clean);
    let path = config.worker.path.clone();
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"))
        .unwrap();
    look_at(&clean, &config).says("worker.program", "warn", "another build");
    fs::set_permissions(&path, Permissions::from_mode(0o775)).unwrap();
    look_at(&clean, &config).says("worker.program", "fail", "nobody else can write");
    fs::remove_file(&path).unwrap();
    config.worker.user = "no-such-user".to_owned();
    let found = look_at(&clean, &config);
    found.says("worker.program", "fail", "install pyxis again");
    found.says("worker.user", "fail", "systemd-sysusers");
}

#[test]
fn a_store_of_somebody_else_and_a_full_one() {
    let clean = Clean::start();
    let config = site(&clean);
    let store = &config.store.path;
    chown(store, Some(UID), None).unwrap();
    look_at(&clean, &config).says("store.directory", "fail", "it must belong to uid 0 with mode 0700");
    fs::remove_dir(store).unwrap();
    look_at(&clean, &config).says("store.directory", "ok", "does not exist yet");
    assert!(!store.exists());
    fs::create_dir(store).unwrap();
    let small = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let options = c"size=1m,mode=0700";
        rustix::mount::mount("none", store, "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
    };
    let found = look_after(&clean, &config, &ROOT, small);
    found.says("store.space", "fail", "1 MiB of 1 MiB are free");
    found.says("store.directory", "ok", "on tmpfs");
}

#[test]
fn a_data_path_that_overlays_cannot_write_to() {
    let clean = Clean::start();
    let config = site(&clean);
    let data = config.container.data_path.clone();
    // An overlay takes no other overlay's files.
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| clean.path(name));
    for path in [&lower, &upper, &work] {
        fs::create_dir(path).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let options = CString::new(options).unwrap();
    let other = |path: &Path| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", path, "overlay", flags, options.as_c_str()).unwrap();
    };
    let found = look_after(&clean, &config, &ROOT, || other(&data));
    found.says("data.directory", "warn", "set container.data_path");
    assert_eq!(found.all("fail"), Vec::<&str>::new());
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    look_at(&clean, &config).says("data.directory", "skip", "others than root can write");
}

#[test]
fn an_ordinary_user_is_told_what_he_cannot_see() {
    let clean = Clean::start();
    let mut config = site(&clean);
    config.store.path = clean.path("users");
    fs::create_dir(&config.store.path).unwrap();
    fs::set_permissions(&config.store.path, Permissions::from_mode(0o700)).unwrap();
    chown(&config.store.path, Some(UID), Some(GID)).unwrap();
    let user = user();
    let found = look_after(&clean, &config, &user, || {
        privilege::irrevocably_become_user(&user, 0).unwrap();
        // As after the start of a program.
        nix::sys::prctl::set_dumpable(true).unwrap();
    });
    assert_eq!(found.all("fail"), Vec::<&str>::new());
    for id in [
        "squashfs.loop",
        "container.kernel",
        "images.registry",
        "data.directory",
        "overlay.root",
    ] {
        found.says(id, "skip", "only root can");
    }
    for id in ["kernel.mounts", "overlay.user", "store.directory", "worker.user"] {
        assert_eq!(found.status(id), "ok", "{}", found.text(id));
    }
}
