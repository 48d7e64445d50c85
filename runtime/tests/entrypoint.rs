//! Entrypoints in real namespaces: what they are given and leave, how they fail, and that nothing of them survives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::Result;
use pyxis_runtime::enter::Join;
use pyxis_runtime::entrypoint::{Entrypoint, Left, Purpose};
use pyxis_runtime::environment::{Edit, Layers};
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::report::Report;
use pyxis_runtime::sys::channel;
use pyxis_runtime::sys::process::{self, Exit};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Continues what the entrypoint was given as its command.
const CONTINUE: &str = "for p in /proc/[0-9]*; do \
                          grep -q '[k]ill -STOP' $p/cmdline && kill -CONT ${p#/proc/}; \
                        done 2>/dev/null; true";

/// A container that can show processes, and where one can write.
struct Container {
    plan: Plan,
    made: Namespaces,
    /// Dropped last.
    _clean: Clean,
}

impl Container {
    fn start() -> Self {
        let clean = Clean::start();
        let more = clean.pack("more", |tree| {
            fs::create_dir(tree.join("bin")).unwrap();
            for applet in ["sleep", "seq", "setsid", "head", "tr", "rmdir"] {
                std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).unwrap();
            }
        });
        let packs = [clean.base(), more];
        let mut plan = plan();
        plan.mounts = vec![proc_mount(), system("/dev", "/dev", rbind())];
        let (made, _) = build(&plan, &packs).unwrap();
        Container {
            plan,
            made,
            _clean: clean,
        }
    }

    fn run(&self, words: &[&str], show: bool) -> (Result<Left>, Vec<String>) {
        self.run_with(words, show, &[], None)
    }

    fn run_with(&self, words: &[&str], show: bool, image: &[&str], task: Option<i32>) -> (Result<Left>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (words, image, keep) = (owned(words), owned(image), owned(&["KEPT"]));
        let job: BTreeMap<String, String> = [("KEPT", "job"), ("OTHER", "job"), ("TERM", "vt100")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let layers = Layers {
            job: Some(&job),
            image: &image,
            keep: &keep,
            ..Layers::default()
        };
        let entrypoint = Entrypoint {
            words: &words,
            how: &how(&self.plan),
            identity: &self.plan.identity,
            task,
            show,
            purpose: Purpose::Entrypoint,
        };
        let mut told = Vec::new();
        let left = entrypoint.run(&Join::from(&self.made), &layers, &mut |report| match report {
            Report::Output(line) => told.push(line),
            other => panic!("{other:?}"),
        });
        (left, told)
    }

    /// A shell script as entrypoint; the command that it is given is `"$@"`.
    fn script(&self, script: &str) -> (Result<Left>, Vec<String>) {
        self.run(&["sh", "-c", script, "entry"], false)
    }

    fn leaves(&self, script: &str) -> Left {
        let (left, told) = self.script(script);
        left.unwrap_or_else(|error| panic!("{script}: {error}: {told:?}"))
    }

    /// The error, and what was printed.
    fn fails(&self, words: &[&str]) -> (String, Vec<String>) {
        let (left, told) = self.run(words, false);
        let error = left.expect_err("it should fail").to_string();
        assert!(!error.contains('\n'), "{error}");
        (error, told)
    }
}

fn set(edits: &[Edit], name: &str) -> Option<String> {
    let edit = edits.iter().find(|(found, _)| found == name);
    edit.unwrap_or_else(|| panic!("{name} is not in {edits:?}")).1.clone()
}

#[test]
fn what_it_exports_is_left_and_nothing_runs_on() {
    let container = Container::start();
    let script = "export NEW='a b' KEPT=mine PATH=/x:$PATH; HIDDEN=1; unset GONE; cd /tmp; exec \"$@\"";
    let image = ["GONE=image", "SAME=image", "PATH=/bin"];
    let (left, told) = container.run_with(&["sh", "-c", script, "entry"], false, &image, None);
    let left = left.unwrap();
    let wanted = [
        ("KEPT", Some("mine")),
        ("NEW", Some("a b")),
        ("PATH", Some("/x:/bin")),
        ("GONE", None),
    ];
    let wanted = wanted.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
    assert_eq!((left.edits.as_slice(), told.len()), (wanted.as_slice(), 0));
    assert!(left.lifeline.is_none());
}

#[test]
fn it_is_given_its_own_environment_and_is_what_a_task_is() {
    let container = Container::start();
    let facts = "pwd; id -u; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; \
                 readlink /proc/self/fd/0; ls /proc/self/fd | wc -l; echo $KEPT ${OTHER-no} $TERM $PATH; \
                 readlink /proc/self/ns/mnt; echo again >/dev/stderr; exec \"$@\"";
    let (left, told) = container.run(&["sh", "-c", facts, "entry"], true);
    left.unwrap();
    let mount = run(&container.made, &container.plan, "readlink /proc/self/ns/mnt").output;
    let uid = UID.to_string();
    let wanted = [
        "/",
        uid.as_str(),
        "CapEff:0000000000000000",
        "NoNewPrivs:1",
        "Seccomp:2",
        "/dev/null",
        "4",
        "job no vt100 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        mount.trim(),
        "again",
    ];
    assert_eq!(told, wanted.map(|line| format!("entrypoint: {line}")));
}

#[test]
fn it_is_found_as_programs_are() {
    let container = Container::start();
    let make =
        "mkdir /opt; echo 'export RAN=script-without-a-first-line; exec \"$@\"' >/opt/entry; chmod 755 /opt/entry";
    assert_eq!(run(&container.made, &container.plan, make).exit, Exit::Code(0));
    for words in [&["/opt/entry"][..], &["opt/entry", "ignored-by-it"]] {
        let (left, told) = container.run(words, false);
        match words.len() {
            1 => assert_eq!(set(&left.unwrap().edits, "RAN").unwrap(), "script-without-a-first-line"),
            // Its own words come before ours.
            _ => assert!(
                left.is_err() && told.iter().any(|line| line.contains("ignored-by-it")),
                "{told:?}"
            ),
        }
    }
    let (left, _) = container.run_with(&["entry"], false, &["PATH=/nowhere:/opt:/bin"], None);
    assert_eq!(set(&left.unwrap().edits, "RAN").unwrap(), "script-without-a-first-line");
}

#[test]
fn entrypoints_that_do_strange_things() {
    let container = Container::start();
    for (script, what) in [
        (
            "export A=1; exec 0<&- 1>&- 2>&- 3>&- 7>&- 9>&-; exec \"$@\"",
            "closes everything",
        ),
        (
            "export A=1; exec 3>&1 7>/dev/null 9>/tmp/x; exec \"$@\"",
            "uses the numbers of descriptors",
        ),
        ("export A=1; exec setsid \"$@\"", "another session"),
        (
            "export A=1; trap '' TERM INT HUP TSTP CHLD; exec \"$@\"",
            "ignores signals",
        ),
        (
            "export A=1; head -c 300000 /dev/zero; seq 1 9999; exec \"$@\"",
            "prints more than a pipe holds",
        ),
        (
            "export A=1; cd /tmp && mkdir gone && cd gone && rmdir ../gone; exec \"$@\"",
            "a directory that is gone",
        ),
    ] {
        let left = container.leaves(script);
        assert_eq!(set(&left.edits, "A").as_deref(), Some("1"), "{what}");
        assert!(left.lifeline.is_none(), "{what}");
    }
}

#[test]
fn one_that_waits_for_its_command_goes_on_until_the_lifeline_is_closed() {
    let container = Container::start();
    for script in [
        "export A=1; \"$@\"; sleep 55501",
        "export A=1; (setsid \"$@\" &) ; sleep 55501",
        "export A=1; sleep 55501 & exec \"$@\"",
        "export A=1; (setsid sleep 55501 </dev/null >/dev/null 2>&1 &) ; exec \"$@\"",
    ] {
        let left = container.leaves(script);
        assert_eq!(set(&left.edits, "A").as_deref(), Some("1"), "{script}");
        assert!(left.lifeline.is_some(), "{script}");
        // Whoever continues it: the command does not end, and what waits for it goes on waiting.
        run(&container.made, &container.plan, CONTINUE);
        if script.contains("; \"$@\";") {
            // The command, and what has it among its own words.
            assert_eq!(alive("sh -c while kill -STOP"), 2, "{script}");
        }
        if script.ends_with("exec \"$@\"") {
            eventually("it has started", || alive("sleep 55501") == 1);
        }
        drop(left);
        eventually("all of it has ended", || {
            alive("sleep 55501") + alive("kill -STOP") == 0
        });
    }
}

#[test]
fn a_daemon_may_print_for_ever() {
    let container = Container::start();
    // It would stop at 64 KiB if nobody read, and write no mark.
    let script = "(head -c 1000000 /dev/zero | tr '\\0' x; echo; touch /tmp/mark; exec sleep 55502) & exec \"$@\"";
    let left = container.leaves(script);
    eventually("it is not blocked", || {
        run(&container.made, &container.plan, "test -e /tmp/mark").exit == Exit::Code(0)
    });
    drop(left);
    eventually("it has ended", || alive("sleep 55502") == 0);
}

#[test]
fn failures_say_what_and_what_to_do() {
    let container = Container::start();
    let ran = |script| container.fails(&["sh", "-c", script, "entry"]);
    let (error, told) = ran("echo one; echo '\x1b[2Jtwo' >&2; sleep 55503 & exit 7");
    assert_eq!(
        error,
        "the image's entrypoint sh failed with exit code 7: try --no-container-entrypoint"
    );
    assert_eq!(told, ["entrypoint: one", "entrypoint: [2Jtwo"]);
    assert_eq!(alive("sleep 55503"), 0, "what it started ends with it");
    let (error, _) = ran("kill -SEGV $$");
    assert!(error.contains("was killed by SIGSEGV"), "{error}");
    // The shell form, and programs that are the application.
    let (error, told) = ran("echo hello");
    assert!(error.contains("ended without running the command"), "{error}");
    assert_eq!(told, ["entrypoint: hello"]);
    let (error, _) = container.fails(&["/missing", "x"]);
    assert!(error.contains("/missing: No such file or directory: try"), "{error}");
    let (error, _) = container.fails(&["missing"]);
    assert!(error.contains("missing: No such file or directory"), "{error}");
    let (error, _) = container.fails(&["/etc"]);
    assert!(error.contains("/etc: Permission denied"), "{error}");
    let (error, _) = container.fails(&[]);
    assert!(error.contains("No such file"), "{error}");
    let (error, told) = ran("seq 1 100000; exit 3");
    assert!(
        error.contains("exit code 3") && told.len() < 60,
        "{error}: {}",
        told.len()
    );
    assert_eq!(told.last().unwrap(), "entrypoint: 100000");
}

#[test]
fn a_container_without_a_shell_says_so() {
    let container = Container::start();
    let (left, _) = container.run_with(&["/bin/busybox", "true"], false, &["PATH=/nowhere"], None);
    let error = left.unwrap_err().to_string();
    assert!(
        error.contains("has an entrypoint but no sh") && error.contains("--no-container-entrypoint"),
        "{error}"
    );
}

#[test]
fn a_working_directory_that_is_missing_is_an_error_as_for_a_task() {
    let container = Container::start();
    let words = ["true".to_owned()];
    let how = pyxis_runtime::enter::Enter {
        workdir: "/missing".into(),
        explicit_workdir: true,
        ..how(&container.plan)
    };
    let entrypoint = Entrypoint {
        words: &words,
        how: &how,
        identity: &container.plan.identity,
        task: None,
        show: false,
        purpose: Purpose::Entrypoint,
    };
    let error = entrypoint
        .run(&Join::from(&container.made), &Layers::default(), &mut |_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "/missing: No such file or directory");
}

#[test]
fn it_has_the_limits_and_the_mask_of_the_task() {
    let container = Container::start();
    let (ours, theirs) = channel::pair().unwrap();
    let identity = &container.plan.identity;
    let task = process::fork(&[theirs.as_fd()], || {
        let limit = |value| rustix::process::Rlimit {
            current: Some(value),
            maximum: Some(value + 1),
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit(123)).unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
        pyxis_runtime::privilege::irrevocably_become_user(identity, 0).unwrap();
        channel::send(&theirs, &true, &[]).unwrap();
        u8::from(channel::recv::<()>(&theirs).is_err())
    })
    .unwrap();
    drop(theirs);
    channel::recv::<bool>(&ours).unwrap().unwrap();
    let script = "ulimit -Sn; ulimit -Hn; umask; exec \"$@\"";
    let (left, told) = container.run_with(&["sh", "-c", script, "entry"], true, &[], Some(task.pid()));
    left.unwrap();
    assert_eq!(told, ["123", "124", "0027"].map(|line| format!("entrypoint: {line}")));
}

/// Runs an entrypoint that leaves a daemon in a child, which keeps the lifeline until it is killed.
fn holder(container: &Container, script: &str) -> process::Child {
    let (ours, theirs) = channel::pair().unwrap();
    let mut keep = vec![
        theirs.as_fd(),
        container.made.user.as_ref().unwrap().as_fd(),
        container.made.mount.as_fd(),
    ];
    keep.extend([&container.made.net].into_iter().flatten().map(AsFd::as_fd));
    let child = process::fork(&keep, || {
        let left = container.leaves(script);
        channel::send(&theirs, &left.lifeline.is_some(), &[]).unwrap();
        nix::unistd::pause();
        0
    })
    .unwrap();
    drop(theirs);
    assert!(channel::recv::<bool>(&ours).unwrap().unwrap().message);
    child
}

fn guards() -> Vec<(i32, String)> {
    let own = std::process::id().to_string();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (comm == "pyxis-entry\n" && !stat.contains(&own)).then_some((pid, stat))
    });
    all.collect()
}

#[test]
fn nothing_survives_the_death_of_anybody() {
    let container = Container::start();
    let script = "(setsid sleep 55504 </dev/null >/dev/null 2>&1 &) ; sleep 55504 & \"$@\"";
    let ended = || eventually("all have ended", || alive("sleep 55504") + alive("kill -STOP") == 0);
    // Whoever holds the lifeline.
    let child = holder(&container, script);
    eventually("both run", || alive("sleep 55504") == 2);
    drop(child);
    ended();
    // One guard, then the other: the first is the child of nobody here, the second is the first's.
    for inner in [false, true] {
        let child = holder(&container, script);
        let family = guards_of(&container);
        assert_eq!(family.len(), 2);
        let pid = rustix::process::Pid::from_raw(family[usize::from(inner)]).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        ended();
        drop(child);
    }
}

/// The two guards of the only entrypoint of this process's container, the outer one first.
fn guards_of(container: &Container) -> Vec<i32> {
    let mark = fs::read_link(format!(
        "/proc/self/fd/{}",
        rustix::fd::AsRawFd::as_raw_fd(&container.made.mount)
    ))
    .unwrap();
    let holds = |pid: i32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == mark))
        })
    };
    let mut found: Vec<(i32, i32)> = guards()
        .into_iter()
        .filter(|(pid, _)| holds(*pid))
        .map(|(pid, stat)| {
            (
                stat.rsplit_once(") ")
                    .unwrap()
                    .1
                    .split(' ')
                    .nth(1)
                    .unwrap()
                    .parse()
                    .unwrap(),
                pid,
            )
        })
        .collect();
    // The inner one's parent is the outer one.
    found.sort_by_key(|(parent, _)| fs::read_to_string(format!("/proc/{parent}/comm")).unwrap() == "pyxis-entry\n");
    found.into_iter().map(|(_, pid)| pid).collect()
}

#[test]
fn a_caller_that_is_killed_meanwhile_ends_it() {
    let container = Container::start();
    for round in 0..10 {
        let mut keep: Vec<_> = vec![
            container.made.user.as_ref().unwrap().as_fd(),
            container.made.mount.as_fd(),
        ];
        keep.extend([&container.made.net].into_iter().flatten().map(AsFd::as_fd));
        let child = process::fork(&keep, || {
            drop(container.script("sleep 55505 & sleep 55505"));
            0
        })
        .unwrap();
        let deadline = Instant::now() + Duration::from_millis(2 * round);
        while Instant::now() < deadline {
            std::hint::spin_loop();
        }
        if round == 9 {
            eventually("it runs", || alive("sleep 55505") >= 2);
        }
        child.kill();
        child.wait().unwrap();
    }
    eventually("all have ended", || {
        alive("sleep 55505") == 0 && guards_of(&container).is_empty()
    });
}

#[test]
fn how_long_it_takes() {
    let container = Container::start();
    let mut times: Vec<Duration> = (0..30)
        .map(|_| {
            let started = Instant::now();
            container.leaves("exec \"$@\"");
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("TIMING entrypoint min {:?} median {:?}", times[0], times[15]);
    // Far above what it takes; one that waits for something it should not is caught.
    assert!(times[15] < Duration::from_secs(2), "{times:?}");
}
