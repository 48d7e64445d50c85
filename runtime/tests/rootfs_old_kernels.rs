//! The fallbacks for other hosts, each tried by making the better way fail as it does there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::mount::MountOptions;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::sys::process::{self, Exit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const FSCONFIG_SET_FD: u64 = 5;

/// From now on this call, with this second argument if one is given, fails with EINVAL.
fn refuse(call: libc::c_long, second: Option<u64>) {
    refuse_with(libc::EINVAL, call, second);
}

fn refuse_with(errno: libc::c_int, call: libc::c_long, second: Option<u64>) {
    let rules = second.map(|value| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    });
    let rules = BTreeMap::from([(call, rules.into_iter().collect())]);
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)
        .unwrap()
        .try_into()
        .unwrap();
    pyxis_runtime::sys::seccomp::set_mode_filter(&program).unwrap();
}

/// Builds and runs in a process that `prepare` has changed; gives the output of the script or the error.
fn in_a_changed_process(plan: &Plan, packs: &[OwnedFd], prepare: impl FnOnce(), script: &str) -> String {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut keep: Vec<BorrowedFd<'_>> = packs.iter().map(AsFd::as_fd).collect();
    keep.push(write.as_fd());
    let child = process::fork(&keep, || {
        prepare();
        let output = match build(plan, packs) {
            Ok((made, _)) => run(&made, plan, script).output,
            Err(error) => error.to_string(),
        };
        rustix::io::write(&write, output.as_bytes()).unwrap();
        0
    })
    .unwrap();
    drop(write);
    let output = std::io::read_to_string(fs::File::from(read)).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{output}");
    output
}

fn layers(clean: &Clean, count: usize) -> Vec<OwnedFd> {
    let mut packs = vec![clean.base()];
    for number in 1..count {
        packs.push(clean.pack(&format!("l{number}"), |tree| {
            fs::write(tree.join("last"), format!("{number}\n")).unwrap();
        }));
    }
    packs
}

#[test]
fn overlays_by_name() {
    let clean = Clean::start();
    let packs = layers(&clean, 12);
    // As they are opened with O_PATH, the kernel sees none.
    let no_descriptors = || refuse_with(libc::EBADF, libc::SYS_fsconfig, Some(FSCONFIG_SET_FD));
    let script = "cat /last /usr/lib/data; echo x > /usr/lib/new; cat /usr/lib/new";
    assert_eq!(
        in_a_changed_process(&plan(), &packs, no_descriptors, script),
        "11\nfrom the image\nx\n"
    );
}

#[test]
fn hosts_that_run_from_their_initramfs() {
    let clean = Clean::start();
    let packs = layers(&clean, 1);
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    let script = "ls -d /bin/busybox /..; test ! -e /../../usr/bin/env && cat /proc/self/mountinfo | grep -c ' / / '";
    let output = in_a_changed_process(&plan, &packs, || refuse(libc::SYS_pivot_root, None), script);
    assert!(output.starts_with("/..\n/bin/busybox\n"), "{output}");
}

#[test]
fn kernels_that_cannot_map_owners_say_so() {
    let clean = Clean::start();
    let packs = layers(&clean, 1);
    // Linux before 5.12 has no mount_setattr at all, before 6.2 not for squashfs: both are EINVAL or ENOSYS.
    let output = in_a_changed_process(&plan(), &packs, || refuse(libc::SYS_mount_setattr, None), "true");
    assert!(
        output.contains("Linux 6.2") && output.contains("mount layer 1 of 1"),
        "{output}"
    );
}

#[test]
fn hosts_without_user_namespaces_say_what_to_switch_on() {
    let clean = Clean::start();
    let packs = layers(&clean, 1);
    for (errno, advice) in [
        (libc::ENOSPC, "raise /proc/sys/user/max_user_namespaces"),
        (libc::EPERM, "user namespaces are not permitted here: allow them"),
    ] {
        let without = || refuse_with(errno, libc::SYS_unshare, None);
        let output = in_a_changed_process(&plan(), &packs, without, "true");
        assert!(output.contains(advice) && !output.contains('\n'), "{output}");
    }
}

#[test]
fn a_dev_without_loop_devices() {
    let clean = Clean::start();
    let packs = layers(&clean, 3);
    let hide = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("none", "/dev", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write("/dev/loop-control", "not a device").unwrap();
    };
    assert_eq!(in_a_changed_process(&plan(), &packs, hide, "cat /last"), "2\n");
}

#[test]
fn running_out_of_descriptors_is_an_error() {
    let clean = Clean::start();
    let packs = layers(&clean, 1);
    let mut plan = plan();
    // More mounts than the builder may have open.
    plan.mounts = (0..200)
        .map(|n| mount("tmpfs", &format!("/t{n}"), MountOptions::default()))
        .collect();
    let few = || {
        let limit = rustix::process::Rlimit {
            current: Some(128),
            maximum: Some(128),
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    };
    let output = in_a_changed_process(&plan, &packs, few, "true");
    assert!(output.contains("Too many open files"), "{output}");
}
