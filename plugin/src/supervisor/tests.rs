//! The supervisor with real forks and real sockets. The fake is the container: its preparation makes a memfd, fails,
//! dies or hangs.

use super::*;
use crate::arguments::Arguments;
use crate::container::{Entry, Prepared};
use pyxis_runtime::containers::{Description, Ending, Held, Kind, Record, Running};
use pyxis_runtime::enter::Enter;
use pyxis_runtime::plan::Identity;
use pyxis_runtime::request::Request;
use pyxis_runtime::sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, getppid, kill_process};
use std::path::PathBuf;
use std::sync::mpsc;

fn getuid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn job() -> Job {
    Job {
        identity: Identity {
            uid: getuid(),
            gid: 1000,
            groups: vec![1000],
        },
        job_id: 7,
        step_id: 0,
        node_id: 0,
        nodes: 1,
        local_tasks: 16,
        total_tasks: 16,
        batch_script: None,
        program: None,
        gpus: None,
        task: None,
        env: Vec::new(),
        cwd: "/".into(),
    }
}

fn start_with(prepare: Prepare) -> Control {
    start(order(), job(), prepare).unwrap()
}

/// Each test process has a directory of running containers of its own: tests run in processes of their own.
fn order() -> Order {
    let runtime_path = std::env::temp_dir().join(format!("pyxis-test-{}", std::process::id()));
    Order {
        request: Request {
            image: Some("image".into()),
            ..Request::default()
        },
        arguments: Arguments {
            runtime_path,
            ..Arguments::default()
        },
    }
}

/// Removes that directory at the end.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn cleared() -> Cleared {
    Cleared(order().arguments.runtime_path)
}

fn an_ask() -> Caller {
    Caller {
        env: vec![("FROM".into(), "the task".into())],
        cwd: "/usr".into(),
    }
}

type Outcome = (std::result::Result<Ready, Refusal>, Vec<String>);

fn ask_and_listen(control: &Control) -> Outcome {
    let mut lines = Vec::new();
    let outcome = ask(control, an_ask(), |line| lines.push(line.to_owned()));
    (outcome, lines)
}

/// Sixteen tasks at once, as threads: each has its own socket.
fn sixteen(control: &Control) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..16).map(|_| scope.spawn(|| ask_and_listen(control))).collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    })
}

fn pidfd(pid: &str) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid.parse().unwrap()).unwrap(), PidfdFlags::empty()).unwrap()
}

/// Returns when the process has ended; a test that waits for ever is ended by the test runner.
fn wait_for_end(process: &OwnedFd) {
    poll(&mut [PollFd::new(process, PollFlags::IN)], None).unwrap();
}

fn makes_a_memfd(order: &Order, job: &Job, report: &mut dyn FnMut(String)) -> Result<Prepared> {
    report("importing docker image: image".to_owned());
    let builder = getpid().as_raw_nonzero().to_string();
    let mut held = Held::default();
    for kind in [Kind::Mount, Kind::Upper] {
        held.push(
            kind,
            rustix::fs::memfd_create("container", MemfdFlags::CLOEXEC).unwrap(),
        );
    }
    let place = order.place(job);
    let listener = Running::open(&place.runtime_path, getuid()).unwrap().listen(&place)?;
    Ok(Prepared {
        held,
        entry: Entry {
            env: vec![
                ("BUILDER".into(), Some(builder)),
                ("IMAGE".into(), order.request.image.clone()),
                (job.env[0].0.clone(), Some(job.env[0].1.clone())),
            ],
            how: Enter {
                remap_root: false,
                workdir: job.cwd.clone(),
                explicit_workdir: true,
            },
        },
        description: Description {
            id: place.id,
            record: Record {
                image: "image".into(),
                manifest: None,
                config: Default::default(),
                layers: Vec::new(),
                user_marks: false,
            },
            gid: 1000,
            remap_root: false,
            writable: false,
            mount_home: false,
            unshare: Default::default(),
            env: Vec::new(),
            entrypoint: Vec::new(),
            data: Vec::new(),
            part: None,
        },
        listener,
    })
}

fn fails(_: &Order, _: &Job, _: &mut dyn FnMut(String)) -> Result<Prepared> {
    Err(Error::Image("failed to import docker image: image".into()))
}

fn kills_itself(_: &Order, _: &Job, _: &mut dyn FnMut(String)) -> Result<Prepared> {
    kill_process(getpid(), Signal::KILL).unwrap();
    Err(Error::Image("still alive".into()))
}

fn panics(_: &Order, _: &Job, _: &mut dyn FnMut(String)) -> Result<Prepared> {
    panic!("on purpose")
}

/// Reports the builder's and the supervisor's process and waits for ever.
fn hangs(_: &Order, _: &Job, report: &mut dyn FnMut(String)) -> Result<Prepared> {
    report(format!(
        "{} {}",
        getpid().as_raw_nonzero(),
        getppid().unwrap().as_raw_nonzero()
    ));
    loop {
        poll(&mut [], None).unwrap();
    }
}

#[test]
fn all_tasks_get_the_same_container_and_one_hears_of_it() {
    let _cleared = cleared();
    let control = start_with(makes_a_memfd);
    let mut outcomes = sixteen(&control);
    // One that comes late.
    outcomes.push(ask_and_listen(&control));
    let mut seen = Vec::new();
    let mut lines = Vec::new();
    for (outcome, told) in outcomes {
        let ready = outcome.unwrap();
        // The other descriptor is not for tasks.
        let (kinds, fds) = ready.held.all();
        assert_eq!(kinds, [Kind::Mount]);
        let stat = rustix::fs::fstat(fds[0]).unwrap();
        seen.push((stat.st_dev, stat.st_ino, ready.entry));
        lines.extend(told);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    assert_eq!(lines, ["importing docker image: image"]);
    let entry = &seen[0].2;
    assert_eq!(entry.how.workdir.to_str(), Some("/usr"));
    assert_eq!(entry.env[1], ("IMAGE".into(), Some("image".into())));
    assert_eq!(entry.env[2], ("FROM".into(), Some("the task".into())));
}

#[test]
fn one_task_is_told_why_and_the_others_fail_quietly() {
    let control = start_with(fails);
    let mut told = 0;
    for (outcome, _) in sixteen(&control) {
        match outcome.unwrap_err() {
            Refusal::Told(error) => {
                assert_eq!(error, Error::Image("failed to import docker image: image".into()));
                told += 1;
            }
            Refusal::Quiet => {}
        }
    }
    assert_eq!(told, 1);
    assert_eq!(ask_and_listen(&control).0.unwrap_err(), Refusal::Quiet);
}

#[test]
fn a_killed_builder_is_an_error_that_names_the_signal() {
    let control = start_with(kills_itself);
    let Refusal::Told(error) = ask_and_listen(&control).0.unwrap_err() else {
        panic!("nobody was told")
    };
    assert!(error.to_string().contains("builder was killed by signal 9"), "{error}");
}

#[test]
fn a_panicking_builder_is_an_error() {
    let control = start_with(panics);
    let Refusal::Told(error) = ask_and_listen(&control).0.unwrap_err() else {
        panic!("nobody was told")
    };
    assert!(
        error.to_string().contains("builder ended with exit code 101"),
        "{error}"
    );
}

#[test]
fn nonsense_on_the_shared_socket_is_dropped() {
    let _cleared = cleared();
    let control = start_with(makes_a_memfd);
    channel::send(control.socket().unwrap(), "nonsense", &[]).unwrap();
    channel::send(control.socket().unwrap(), &protocol::Ask::Container(an_ask()), &[]).unwrap();
    assert!(ask_and_listen(&control).0.is_ok());
}

/// Asks as a task does, and gives the end that the answers come to.
fn ask_only(control: &Control) -> OwnedFd {
    let (ours, theirs) = channel::pair().unwrap();
    let ask = protocol::Ask::Container(an_ask());
    channel::send(control.socket().unwrap(), &ask, &[theirs.as_fd()]).unwrap();
    ours
}

fn told(answers: &OwnedFd) -> protocol::Answer {
    channel::recv::<protocol::Answer>(answers).unwrap().unwrap().message
}

fn builder_of(answers: &OwnedFd) -> OwnedFd {
    match told(answers) {
        protocol::Answer::Line(number) => pidfd(&number),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_that_was_told_but_is_gone_passes_the_word_on() {
    let control = start_with(hangs_and_tells_its_number);
    // The first task asks, hears something and goes away.
    let first = ask_only(&control);
    let builder = builder_of(&first);
    let second = ask_only(&control);
    drop(first);
    rustix::process::pidfd_send_signal(&builder, Signal::TERM).unwrap();
    let protocol::Answer::Refused(error) = told(&second) else {
        panic!("nobody was told")
    };
    assert!(error.to_string().contains("signal 15"), "{error}");
}

#[test]
fn when_nobody_waits_any_more_nobody_works_and_the_next_task_starts_anew() {
    let control = start_with(hangs_and_tells_its_number);
    let first = ask_only(&control);
    let builder = builder_of(&first);
    drop(first);
    wait_for_end(&builder);
    let next = ask_only(&control);
    rustix::process::pidfd_send_signal(builder_of(&next), Signal::TERM).unwrap();
    assert!(matches!(told(&next), protocol::Answer::Refused(_)));
}

fn hangs_and_tells_its_number(_: &Order, _: &Job, report: &mut dyn FnMut(String)) -> Result<Prepared> {
    report(getpid().as_raw_nonzero().to_string());
    loop {
        poll(&mut [], None).unwrap();
    }
}

/// Starts a container that hangs, and calls `then` with its builder and its supervisor once it does.
fn while_it_hangs(control: &Control, then: impl FnOnce(&OwnedFd, &OwnedFd)) -> Refusal {
    let (say, hear) = mpsc::channel();
    std::thread::scope(|scope| {
        let task = scope.spawn(move || ask(control, an_ask(), |line| say.send(line.to_owned()).unwrap()));
        let line = hear.recv().unwrap();
        let (builder, supervisor) = line.split_once(' ').unwrap();
        then(&pidfd(builder), &pidfd(supervisor));
        task.join().unwrap().unwrap_err()
    })
}

#[test]
fn the_end_of_the_step_ends_supervisor_and_builder() {
    let control = start_with(hangs);
    let refusal = while_it_hangs(&control, |builder, supervisor| {
        rustix::net::shutdown(control.socket().unwrap(), rustix::net::Shutdown::Both).unwrap();
        wait_for_end(supervisor);
        wait_for_end(builder);
    });
    assert!(matches!(refusal, Refusal::Told(_)));
}

#[test]
fn a_killed_supervisor_takes_its_builder_along_and_every_task_gets_an_error() {
    let control = start_with(hangs);
    let refusal = while_it_hangs(&control, |builder, supervisor| {
        rustix::process::pidfd_send_signal(supervisor, Signal::KILL).unwrap();
        wait_for_end(supervisor);
        wait_for_end(builder);
    });
    let Refusal::Told(error) = refusal else {
        panic!("nobody was told")
    };
    assert!(
        error.to_string().contains("supervisor has ended unexpectedly"),
        "{error}"
    );
    assert_eq!(ask_and_listen(&control).0.unwrap_err(), Refusal::Told(error));
}

#[test]
fn the_end_of_slurmstepd_ends_the_supervisor_though_others_hold_the_socket() {
    let (ours, theirs) = channel::pair().unwrap();
    let owner = process::fork(&[theirs.as_fd()], || {
        let control = start_with(hangs);
        channel::send(&theirs, "started", &[control.socket().unwrap()]).unwrap();
        0
    })
    .unwrap();
    drop(theirs);
    let started = channel::recv::<String>(&ours).unwrap().unwrap();
    owner.wait().unwrap();
    // The other end of the shared socket is closed: the supervisor has ended.
    assert!(channel::recv::<String>(&started.fds[0]).unwrap().is_none());
}

/// What another step gets that asks for the container by its name.
fn found() -> Option<Vec<Kind>> {
    let place = order().place(&job());
    let running = Running::open(&place.runtime_path, place.uid).unwrap();
    running.find(&place.id).unwrap().map(|found| found.held.all().0)
}

#[test]
fn another_step_finds_the_container_until_the_last_task_has_ended() {
    let _cleared = cleared();
    let control = start_with(makes_a_memfd);
    assert!(found().is_none());
    assert!(ask_and_listen(&control).0.is_ok());
    for _ in 0..3 {
        assert_eq!(found(), Some(vec![Kind::Mount, Kind::Upper]));
    }
    let place = order().place(&job());
    ended(&control, &place, Ending { killed: false }, |_| (), |_| ()).unwrap();
    assert!(found().is_none());
    assert!(!place.runtime_path.join(place.uid.to_string()).join(&place.id).exists());
    // A second time there is nothing to do, and that is no mistake.
    ended(&control, &place, Ending { killed: false }, |_| (), |_| ()).unwrap();
}

#[test]
fn without_the_steps_own_socket_the_end_is_told_at_the_containers() {
    let _cleared = cleared();
    let mut control = start_with(makes_a_memfd);
    assert!(ask_and_listen(&control).0.is_ok());
    let place = order().place(&job());
    let real = control.exchange(channel::pair().unwrap().0);
    ended(&control, &place, Ending { killed: false }, |_| (), |_| ()).unwrap();
    assert!(found().is_none());
    drop(real);
}

#[test]
fn fifty_steps_ask_at_once_and_some_go_away() {
    let _cleared = cleared();
    let control = start_with(makes_a_memfd);
    assert!(ask_and_listen(&control).0.is_ok());
    let place = order().place(&job());
    std::thread::scope(|scope| {
        for number in 0..50 {
            let place = &place;
            scope.spawn(move || {
                let running = Running::open(&place.runtime_path, place.uid).unwrap();
                if number % 5 == 0 {
                    drop(running.connect(place).unwrap().unwrap());
                } else if number % 5 == 1 {
                    let socket = running.connect(place).unwrap().unwrap();
                    channel::send(&socket, "nonsense", &[]).unwrap();
                    assert!(channel::recv::<String>(&socket).unwrap().is_none());
                } else {
                    assert!(running.find(&place.id).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(found(), Some(vec![Kind::Mount, Kind::Upper]));
}

#[test]
fn the_socket_of_a_killed_supervisor_is_no_container_and_is_cleared() {
    let _cleared = cleared();
    let control = start_with(makes_a_memfd);
    assert!(ask_and_listen(&control).0.is_ok());
    let place = order().place(&job());
    let running = Running::open(&place.runtime_path, place.uid).unwrap();
    let socket = place
        .runtime_path
        .join(place.uid.to_string())
        .join(&place.id)
        .join(&place.member);
    rustix::net::shutdown(control.socket().unwrap(), rustix::net::Shutdown::Both).unwrap();
    while running.find(&place.id).unwrap().is_some() {
        std::thread::yield_now();
    }
    // Now one that nobody has taken away.
    drop(running.listen(&place).unwrap());
    assert!(socket.exists() && running.find(&place.id).unwrap().is_none());
    running.clear(&place.id, |member| member == "another").unwrap();
    assert!(socket.exists());
    running.clear(&place.id, |member| member == place.member).unwrap();
    assert!(!socket.parent().unwrap().exists());
}

fn talks_a_lot(_: &Order, _: &Job, report: &mut dyn FnMut(String)) -> Result<Prepared> {
    for number in 0..5000 {
        report(format!("line {number}"));
    }
    Err(Error::Image("the last word".into()))
}

#[test]
fn a_task_that_reads_slowly_hears_everything() {
    let control = start_with(talks_a_lot);
    let mut lines = 0;
    let outcome = ask(&control, an_ask(), |line| {
        // Slower than the builder, so that the socket is full before all is said.
        for _ in 0..20 {
            std::thread::yield_now();
        }
        assert_eq!(line, format!("line {lines}"));
        lines += 1;
    });
    assert_eq!(
        outcome.unwrap_err(),
        Refusal::Told(Error::Image("the last word".into()))
    );
    assert_eq!(lines, 5000);
}
