//! Hooks: who they are, what they reach, what becomes of what they write, and that nothing of them stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::Error;
use pyxis_runtime::hooks::{Hook, Hooks};
use pyxis_runtime::namespaces::make;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::rootfs::{Base, Writable};
use pyxis_runtime::sys::process;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A plan with these hooks, each a shell script.
fn hooked(clean: &Clean, scripts: &[&str]) -> Plan {
    let place = clean.path("place");
    fs::create_dir(&place).unwrap();
    let programs = scripts.iter().enumerate().map(|(number, script)| {
        let path = clean.path(&format!("hook-{number}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Hook {
            path,
            site: number == 0,
        }
    });
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Plan {
        hooks: Some(Hooks {
            programs: programs.collect(),
            env: [variable("PATH", "/usr/bin:/bin"), variable("MINE", "job")].into(),
            container: vec![variable("FROM_IMAGE", "image")],
            task: None,
            place,
        }),
        mounts: vec![proc_mount(), mount("tmpfs", "/scratch", Default::default())],
        cwd: PathBuf::from("/usr"),
        ..plan()
    }
}

/// The error of a start that must fail, and what was told before.
fn refused(plan: &Plan, packs: &[OwnedFd]) -> (Error, Vec<String>) {
    let mut notes = Vec::new();
    let lowers = lowers(packs, plan).unwrap();
    let base = Base::Layers {
        lowers: &lowers,
        writable: Writable::Scratch,
    };
    let error = make(plan, &base, &Default::default(), &mut |note| notes.push(note)).unwrap_err();
    (error, notes)
}

#[test]
fn what_hooks_write_is_the_containers() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let data = clean.path("data");
    host_dir(&data, (UID, GID), 0o755);
    host_file(&data.join("file"), "hello\n", (UID, GID), 0o644);
    let first = format!(
        "echo from the hook >$ENROOT_ROOTFS/etc/hooked\n\
         grep -q ^FROM_IMAGE=image$ $ENROOT_ENVIRON || exit 3\n\
         echo \"SAW=$MINE $(pwd) $ENROOT_REMAP_ROOT.\" >>$ENROOT_ENVIRON\n\
         echo '{} /data none rbind,x-create=auto' >>$ENROOT_MOUNTS\n\
         echo '{} /scratch/late none rbind,x-create=auto 0 1' >>$ENROOT_MOUNTS",
        text(&data),
        text(&data)
    );
    // The second sees what the first has written; an editor's way of writing works too.
    let second = "cat $ENROOT_ROOTFS/etc/hooked >/dev/null || exit 4\nsed -i s/image/hook/ $ENROOT_ENVIRON";
    let plan = hooked(&clean, &[&first, second]);
    let (made, notes) = build(&plan, &packs).unwrap();
    let edit = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    assert_eq!(made.edits, [edit("FROM_IMAGE", "hook"), edit("SAW", "job /usr .")]);
    assert!(notes.is_empty(), "{notes:?}");
    // The user's own mounts come later, so that one may lie over a hook's.
    let ran = run(&made, &plan, "cat /etc/hooked /data/file; ls /scratch");
    assert_eq!(ran.output, "from the hook\nhello\n");
    assert!(fs::read_dir(clean.path("place")).unwrap().next().is_none());
}

#[test]
fn hooks_are_the_user_and_nothing_more() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let look = "{ id -u; id -g; id -G; grep -E '^(Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs)' /proc/self/status | cut -f2; \
                ls /proc/self/fd | wc -l; umask; } | tr '\\n' ' ' >$ENROOT_ROOTFS/etc/who\n\
                test -d /proc/$ENROOT_PID || exit 5\n\
                touch /etc/hooked 2>/dev/null && exit 6\n\
                cat /etc/shadow >/dev/null 2>&1 && exit 7\n\
                exit 0";
    let who = output(&hooked(&clean, &[look]), &packs, "cat /etc/who");
    let none = "0000000000000000";
    // 0, 1, 2, and the one that ls has open.
    assert_eq!(
        who,
        format!("{UID} {GID} {GID} {GROUP} {none} {none} {none} {none} {none} 1 4 0022 ")
    );
}

#[test]
fn a_failing_hook_is_told_with_what_it_printed() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let plan = hooked(
        &clean,
        &[
            "true",
            "echo first; printf 'second\\033[31m\\n' >&2; exit 3",
            "touch $ENROOT_ROOTFS/never",
        ],
    );
    let (error, notes) = refused(&plan, &packs);
    let path = text(&clean.path("hook-1"));
    assert_eq!(error, Error::Request(format!("hook {path} ended with exit code 3")));
    assert_eq!(notes, ["hook: first", "hook: second [31m"]);
}

#[test]
fn the_sites_hooks_are_the_administrators_to_mend() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let plan = hooked(&clean, &["kill -9 $$"]);
    let error = build(&plan, &packs).unwrap_err();
    assert_eq!(
        error,
        Error::Host(format!("hook {} ended with signal 9", text(&clean.path("hook-0"))))
    );
    fs::write(clean.path("hook-0"), "#!/no/such/shell\n").unwrap();
    let (error, notes) = refused(&plan, &packs);
    assert!(error.to_string().ends_with("ended with exit code 126"), "{error}");
    assert!(
        notes[0].starts_with("hook: cannot be executed: No such file or directory"),
        "{notes:?}"
    );
}

#[test]
fn what_hooks_put_in_place_of_their_files_is_not_followed() {
    for (script, reason) in [
        ("ln -sf /etc/shadow $ENROOT_ENVIRON", "environ: "),
        ("rm $ENROOT_MOUNTS; mkfifo $ENROOT_MOUNTS", "fstab: not a regular file"),
        ("rm $ENROOT_MOUNTS; mkdir $ENROOT_MOUNTS", "fstab: not a regular file"),
        ("rm $ENROOT_ENVIRON", "environ: entity not found"),
        ("head -c 5000000 /dev/zero >$ENROOT_ENVIRON", "environ: larger than"),
        ("printf '\\377\\n' >>$ENROOT_MOUNTS", "fstab: not UTF-8"),
        (
            "echo '/a /b ext4 ro' >>$ENROOT_MOUNTS",
            "ENROOT_MOUNTS after the hooks, line 1: type",
        ),
        ("echo '/../etc /b none bind' >>$ENROOT_MOUNTS", "no .. is possible"),
        (
            "echo '/etc/shadow /b none bind,x-create=auto' >>$ENROOT_MOUNTS",
            "Permission denied",
        ),
    ] {
        let clean = Clean::start();
        let packs = [clean.base()];
        let error = fails(&hooked(&clean, &[script]), &packs);
        assert!(error.contains(reason), "{script}: {error}");
    }
}

#[test]
fn nothing_that_a_hook_started_stays() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let plan = hooked(
        &clean,
        &["setsid sleep 47110815 >/dev/null 2>&1 </dev/null &\n(sleep 47110815 &)\nexit 0"],
    );
    build(&plan, &packs).unwrap();
    eventually("what the hook left behind has ended", || alive("sleep 47110815") == 0);
}

#[test]
fn hooks_end_with_the_builder() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let mark = clean.path("mark");
    host_dir(&mark, (UID, GID), 0o755);
    let plan = hooked(
        &clean,
        &[&format!(
            "setsid sleep 47110816 & touch {}/started; sleep 47110816",
            text(&mark)
        )],
    );
    let keep: Vec<_> = packs.iter().map(std::os::fd::AsFd::as_fd).collect();
    let child = process::fork(&keep, || u8::from(build(&plan, &packs).is_ok())).unwrap();
    eventually("the hook is started", || {
        mark.join("started").exists() && alive("sleep 47110816") > 1
    });
    drop(child);
    eventually("the hook and what it started have ended", || {
        alive("sleep 47110816") == 0
    });
}
