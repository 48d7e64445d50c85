//! Tasks that join: what they are and may do inside, and that nothing survives when processes are killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::enter::{Enter, Join, enter};
use pyxis_runtime::mount::MountOptions;
use pyxis_runtime::plan::Unshare;
use pyxis_runtime::sys::exec::{self, Program};
use pyxis_runtime::sys::process::{self, Exit};
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | while read a b; do echo $a$b; done";

fn status(caps: &str) -> String {
    let none = "0000000000000000";
    format!("CapInh:{none}\nCapPrm:{caps}\nCapEff:{caps}\nCapBnd:{caps}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2\n")
}

#[test]
fn a_task_has_no_capability_and_root_inside_a_few() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    assert_eq!(output(&plan, &packs, STATUS), status("0000000000000000"));
    plan.remap_root = true;
    // chown dac_override fowner fsetid kill setgid setuid setpcap sys_chroot mknod setfcap
    assert_eq!(
        output(&plan, &packs, STATUS),
        status("00000000880401fb").replace("880401fb", &small_set())
    );
    plan.identity = pyxis_runtime::plan::Identity {
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    assert_eq!(
        output(&plan, &packs, STATUS),
        status(&format!("00000000{}", small_set()))
    );
}

/// The bits by their numbers in capability.h.
fn small_set() -> String {
    let bits: [u32; 11] = [0, 1, 3, 4, 5, 6, 7, 8, 18, 27, 31];
    format!("{:08x}", bits.iter().fold(0_u64, |set, bit| set | 1 << bit))
}

#[test]
fn package_managers_can_change_owners_without_effect() {
    let clean = Clean::start();
    let packs = [clean.base()];
    for remap_root in [true, false] {
        let mut plan = plan();
        plan.remap_root = remap_root;
        let owner = if remap_root { "0".to_owned() } else { UID.to_string() };
        let script = "chown 42:42 /usr/lib/data && chown -h 7 /bin/sh && chown -R 1:1 /etc && \
                      mkdir /usr/lib/p && chmod 2755 /usr/lib/p && stat -c %u /usr/lib/data";
        assert_eq!(output(&plan, &packs, script), format!("{owner}\n"));
    }
}

/// Daemons and package managers stop when one of these fails, and go on as they are when none does.
#[test]
fn becoming_somebody_else_succeeds_without_effect() {
    use nix::unistd::{self, Gid, Uid};
    let clean = Clean::start();
    let packs = [clean.base()];
    for remap_root in [true, false] {
        let mut plan = plan();
        plan.remap_root = remap_root;
        let (made, _) = build(&plan, &packs).unwrap();
        let child = process::fork(&[made.user.as_ref().unwrap().as_fd(), made.mount.as_fd()], || {
            pyxis_runtime::privilege::irrevocably_become_user(&plan.identity, 0).unwrap();
            enter(&Join::from(&made), &how(&plan)).unwrap();
            let before = (unistd::getresuid(), unistd::getresgid(), unistd::getgroups());
            let (uid, gid) = (Uid::from_raw(42), Gid::from_raw(43));
            let none_failed = [
                unistd::setgroups(&[]),
                unistd::setgroups(&[gid]),
                unistd::setgid(gid),
                unistd::setegid(gid),
                unistd::setresgid(gid, gid, gid),
                unistd::setuid(uid),
                unistd::seteuid(uid),
                unistd::setresuid(uid, uid, uid),
                unistd::chown("/usr/lib/data", Some(uid), Some(gid)),
            ]
            .iter()
            .all(Result::is_ok);
            let (fsuid, fsgid) = (unistd::getuid(), unistd::getgid());
            unistd::setfsuid(uid);
            unistd::setfsgid(gid);
            let query = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
            let same_files = unistd::setfsuid(query.0) == fsuid && unistd::setfsgid(query.1) == fsgid;
            let after = (unistd::getresuid(), unistd::getresgid(), unistd::getgroups());
            u8::from(!none_failed) | u8::from(!same_files) << 1 | u8::from(before != after) << 2
        })
        .unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Code(0), "remap_root {remap_root}");
    }
}

#[test]
fn nothing_mounted_can_be_taken_off_or_opened_up() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.remap_root = true;
    plan.mounts = vec![
        proc_mount(),
        mount(
            "tmpfs",
            "/usr/lib",
            MountOptions {
                readonly: true,
                ..MountOptions::default()
            },
        ),
    ];
    let (made, _) = build(&plan, &packs).unwrap();
    for script in [
        "umount /usr/lib",
        "umount -l /usr/lib",
        "mount -o remount,rw,bind /usr/lib",
        "umount -l /proc",
    ] {
        let ran = run(&made, &plan, script);
        assert_ne!(ran.exit, Exit::Code(0), "{script}: {}", ran.output);
    }
    // Nor with capabilities in a namespace of its own.
    let nested = "unshare -U -r -m sh -c 'umount /usr/lib || umount -l /usr/lib || mount -o remount,rw,bind /usr/lib'; \
                  test ! -e /usr/lib/data";
    let ran = run(&made, &plan, nested);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
}

#[test]
fn the_owner_of_the_namespaces_cannot_uncover_the_host() {
    use nix::sched::{CloneFlags, setns};
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![proc_mount(), mount("tmpfs", "/usr/lib", MountOptions::default())];
    let (made, _) = build(&plan, &packs).unwrap();
    // A process of the user that joins without `enter` has all capabilities there, as he owns the user namespace.
    let child = process::fork(&[made.user.as_ref().unwrap().as_fd(), made.mount.as_fd()], || {
        pyxis_runtime::privilege::irrevocably_become_user(&plan.identity, 0).unwrap();
        setns(made.user.as_ref().unwrap(), CloneFlags::CLONE_NEWUSER).unwrap();
        setns(&made.mount, CloneFlags::CLONE_NEWNS).unwrap();
        let caps = pyxis_runtime::sys::credentials::capget().unwrap();
        let locked = ["/usr/lib", "/proc", "/"].into_iter().all(|path| {
            let detach = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(path, detach) == Err(rustix::io::Errno::INVAL)
        });
        u8::from(!(locked && caps.effective.count_ones() > 30))
    })
    .unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

#[test]
fn all_tasks_see_the_same_container() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![proc_mount()];
    let (made, _) = build(&plan, &packs).unwrap();
    let script = |n: usize| {
        format!("echo {n} > /tmp/{n}; readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; cat /proc/self/cgroup")
    };
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let (made, plan) = (&made, &plan);
        let tasks: Vec<_> = (0..16)
            .map(|n| scope.spawn(move || run(made, plan, &script(n)).output))
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
    assert!(
        outputs[0].lines().skip(2).all(|line| line.ends_with(":/")),
        "{}",
        outputs[0]
    );
    assert_eq!(run(&made, &plan, "ls /tmp | grep -c .").output, "16\n");
}

#[test]
fn working_directories() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let plan = plan();
    let (made, _) = build(&plan, &packs).unwrap();
    let at = |workdir: &str, explicit_workdir| {
        let how = Enter {
            remap_root: false,
            workdir: workdir.into(),
            explicit_workdir,
        };
        run_with(&made, &plan.identity, &how, "pwd").output
    };
    assert_eq!(at("/usr/lib", true), "/usr/lib\n");
    assert_eq!(at("usr/lib", true), "/usr/lib\n");
    assert_eq!(at("/missing", false), "/\n");
    assert_eq!(at("/missing", true), "enter: /missing: No such file or directory");
    assert_eq!(at("/../../usr/../..", true), "/\n");
    assert_eq!(at("/usr/lib/data", true), "enter: /usr/lib/data: Not a directory");
}

#[test]
fn new_network_ipc_and_host_name() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![proc_mount(), system("/dev", "/dev", rbind())];
    plan.unshare = Unshare {
        net: true,
        ipc: true,
        uts: true,
    };
    fs::write("/dev/shm/pyxis-test-host", "").unwrap();
    let (made, _) = build(&plan, &packs).unwrap();
    let script = "grep -c : /proc/net/dev; ip link show lo | grep -c LOOPBACK,UP; ls -a /dev/shm; \
                  echo x > /dev/shm/y && cat /dev/shm/y; for n in net ipc uts; do readlink /proc/self/ns/$n; done";
    let ran = run(&made, &plan, script);
    fs::remove_file("/dev/shm/pyxis-test-host").unwrap();
    assert!(ran.output.starts_with("1\n1\n.\n..\nx\n"), "{}", ran.output);
    for name in ["net", "ipc", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(!ran.output.contains(host.to_str().unwrap()), "{name}: {}", ran.output);
        assert!(ran.output.contains(&format!("{name}:[")), "{name}: {}", ran.output);
    }
}

#[test]
fn a_task_of_somebody_else_does_not_get_in() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let plan = plan();
    let (made, _) = build(&plan, &packs).unwrap();
    let mut other = user();
    other.uid += 7;
    let ran = run_with(&made, &other, &how(&plan), "id");
    assert!(
        ran.output.starts_with("enter: enter the container: setns(user)"),
        "{}",
        ran.output
    );
    let mut group = user();
    group.gid += 7;
    let ran = run_with(&made, &group, &how(&plan), "id");
    assert!(
        ran.output.contains("not started as the container's user"),
        "{}",
        ran.output
    );
}

#[test]
fn a_killed_start_leaves_nothing() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![proc_mount(), system("/dev", "/dev", rbind())];
    let mut before_end = 0;
    for round in 0..40 {
        let keep = [packs[0].as_fd()];
        let starter = process::fork(&keep, || {
            let made = build(&plan, &packs);
            // Holds what it made until it is killed.
            if made.is_ok() {
                nix::unistd::pause();
            }
            1
        })
        .unwrap();
        let started = std::time::Instant::now();
        // Points spread over the whole start, without sleeping.
        while started.elapsed() < Duration::from_micros(250 * round) {
            std::hint::spin_loop();
        }
        before_end += usize::from(!children_of(starter.pid().unsigned_abs()).is_empty());
        starter.kill();
        assert_eq!(starter.wait().unwrap(), Exit::Signal(9));
        eventually("no process is left", || children_of(std::process::id()).is_empty());
    }
    assert!(
        before_end > 5,
        "only {before_end} of 40 were killed while they were building"
    );
}

#[test]
fn start_timings() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mut plan = plan();
    plan.mounts = vec![
        proc_mount(),
        system("/sys", "/sys", rbind()),
        system("/dev", "/dev", rbind()),
    ];
    let mut phases: std::collections::BTreeMap<String, Vec<Duration>> = std::collections::BTreeMap::new();
    for _ in 0..50 {
        let (made, _) = build(&plan, &packs).unwrap();
        phases.entry("TOTAL".into()).or_default().push(made.timings.total());
        for (name, duration) in &made.timings.0 {
            phases.entry(name.clone()).or_default().push(*duration);
        }
    }
    for (name, list) in &mut phases {
        list.sort_unstable();
        println!("TIMING {name:16} min {:?} median {:?}", list[0], list[list.len() / 2]);
    }
    // Far above what it takes; a start that waits for something it should not is caught.
    assert!(phases["TOTAL"][25] < Duration::from_secs(2), "{phases:?}");
}

#[test]
fn programs_start_with_nothing_but_what_is_listed() {
    let clean = Clean::start();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let busybox: std::os::fd::OwnedFd = fs::File::open("/bin/busybox").unwrap().into();
    let open: std::os::fd::OwnedFd = fs::File::open("/etc/passwd").unwrap().into();
    let leaked = rustix::io::dup(&open).unwrap();
    let script = c"ls /proc/self/fd; id -u; id -G; cat <&9 >/dev/null && env; ulimit -n; \
                   grep -E '^(Cap|NoNew)' /proc/self/status";
    let (environment, user) = ([c"A=b".to_owned()], user());
    let program = Program {
        file: busybox.as_fd(),
        arguments: &[c"busybox", c"sh", c"-c", script],
        environment: &environment,
        descriptors: &[(write.as_fd(), 1), (write.as_fd(), 2), (open.as_fd(), 9)],
        limits: &[(rustix::process::Resource::Nofile, 77)],
        groups: None,
        user: Some(&user),
        cage: None,
        own_group: true,
    };
    let child = exec::spawn(&program).unwrap();
    drop((write, leaked));
    let mut output = String::new();
    fs::File::from(read).read_to_string(&mut output).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{output}");
    let expected = format!("0\n1\n2\n3\n9\n{UID}\n{GID} {GROUP}\n");
    assert!(output.starts_with(&expected), "{output}");
    assert!(
        output.contains("A=b\n") && output.contains("\n77\n") && output.contains("NoNewPrivs:\t1"),
        "{output}"
    );
    assert_eq!(output.matches("0000000000000000").count(), 5, "{output}");
    let text = clean.path("text");
    host_file(&text, "not a program", (0, 0), 0o755);
    let text: std::os::fd::OwnedFd = fs::File::open(text).unwrap().into();
    let broken = Program {
        file: text.as_fd(),
        arguments: &[c"x"],
        environment: &[],
        descriptors: &[],
        limits: &[],
        groups: None,
        user: None,
        cage: None,
        own_group: false,
    };
    let error = exec::spawn(&broken).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOEXEC), "{error}");
}
