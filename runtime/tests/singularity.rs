//! Images that Singularity has built, in real namespaces: what their scripts for the environment leave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::enter::Join;
use pyxis_runtime::entrypoint::{Entrypoint, Purpose};
use pyxis_runtime::environment::Layers;
use pyxis_runtime::image::singularity::{Singularity, variables};
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::rootfs::{Base, Lowers, Writable};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A container with scripts of these names and texts.
fn container(clean: &Clean, scripts: &[(&str, &str)]) -> (Plan, Namespaces) {
    let more = clean.pack("more", |tree| {
        let env = tree.join(".singularity.d/env");
        fs::create_dir_all(&env).unwrap();
        for (name, text) in scripts {
            fs::write(env.join(name), text).unwrap();
        }
        let runscript = tree.join(".singularity.d/runscript");
        fs::write(&runscript, "#!/bin/sh\nexec \"$@\"\n").unwrap();
        fs::set_permissions(&runscript, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(tree.join(".singularity.d/labels.json"), "{\"colour\": \"blue\"}").unwrap();
    });
    let mut plan = plan();
    plan.mounts = vec![proc_mount(), system("/dev", "/dev", rbind())];
    let layers = Lowers {
        own_files: Some(BTreeMap::new()),
        ..lowers(&[clean.base(), more], &plan).unwrap()
    };
    let writable = Writable::Scratch;
    let base = Base::Layers {
        lowers: &layers,
        writable,
    };
    let made = build_over(&plan, &base).unwrap().0;
    (plan, made)
}

fn found(made: &Namespaces) -> &Singularity {
    made.own_files.as_ref().unwrap().singularity.as_ref().unwrap()
}

/// The image's variables after the scripts, or the error.
fn run_scripts(plan: &Plan, made: &Namespaces) -> Result<Vec<String>, String> {
    let job: BTreeMap<String, String> = [("FOO", "job"), ("HOME", "/home/alice"), ("APPTAINERENV_WANTED", "yes")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let layers = Layers {
        job: Some(&job),
        ..Layers::default()
    };
    let scripts = Entrypoint {
        words: &found(made).words().unwrap(),
        how: &how(plan),
        identity: &plan.identity,
        task: None,
        show: false,
        purpose: Purpose::Scripts,
    };
    let left = scripts
        .run(&Join::from(made), &layers, &mut |_| ())
        .map_err(|error| error.to_string())?;
    assert!(left.lifeline.is_none());
    Ok(variables(&left.edits, &job, "/bin"))
}

#[test]
fn scripts_run_in_order_and_see_nothing_of_the_job() {
    let clean = Clean::start();
    let (plan, made) = container(
        &clean,
        &[
            ("01-base.sh", "#!/bin/sh\nexport FIRST=1\n"),
            (
                "10-docker2singularity.sh",
                "export PATH=\"/opt/image:/bin\"\nexport FOO=\"${FOO:-\"image\"}\"\n",
            ),
            (
                "90-environment.sh",
                "export SECOND=$FIRST$FIRST\nexport PATH=/mine:$PATH\nset -- lost; IFS=x; cd /\n",
            ),
            (
                "99-base.sh",
                "LD_LIBRARY_PATH=/.singularity.d/libs\n[ -n \"${PS1:-}\" ] || PS1='Apptainer> '\nexport LD_LIBRARY_PATH PS1\n",
            ),
            ("README", "exit 1"),
        ],
    );
    assert_eq!(
        run_scripts(&plan, &made).unwrap(),
        [
            "FIRST=1",
            "FOO=image",
            "LD_LIBRARY_PATH=/.singularity.d/libs",
            "PATH=/mine:/opt/image:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin",
            "PS1=Apptainer> ",
            "SECOND=11",
            "WANTED=yes",
        ]
    );
    let config = made.own_files.as_ref().unwrap().config(&BTreeMap::new()).unwrap();
    assert_eq!(config.entrypoint, ["/.singularity.d/runscript"]);
    assert_eq!(config.labels["colour"], "blue");
}

#[test]
fn scripts_that_only_assign_need_no_run() {
    let clean = Clean::start();
    let scripts = [
        (
            "10-docker2singularity.sh",
            "export PATH=\"/opt/image:/bin\"\nexport FOO=\"${FOO:-\"image\"}\"\n",
        ),
        (
            "99-base.sh",
            "if [ -z \"${PS1:-}\" ]; then\n    PS1=\"Apptainer> \"\nfi\nexport PS1\n",
        ),
    ];
    let (plan, made) = container(&clean, &scripts);
    let run = run_scripts(&plan, &made).unwrap();
    let given = pyxis_runtime::environment::for_entrypoint(&Layers::default());
    let told = found(&made).changes(&given).unwrap();
    let job = [("APPTAINERENV_WANTED".to_owned(), "yes".to_owned())].into();
    assert_eq!(variables(&told, &job, "/bin"), run);
}

#[test]
fn a_script_that_asks_a_program_is_run() {
    let clean = Clean::start();
    let (plan, made) = container(&clean, &[("90-environment.sh", "export NODE=$(echo asked)\n")]);
    assert_eq!(found(&made).changes(&BTreeMap::new()), None);
    assert!(run_scripts(&plan, &made).unwrap().contains(&"NODE=asked".to_owned()));
}

#[test]
fn a_script_that_fails_is_named() {
    let clean = Clean::start();
    let (plan, made) = container(&clean, &[("90-environment.sh", "exit 7\n")]);
    let error = run_scripts(&plan, &made).unwrap_err();
    assert_eq!(error, "the image's scripts /.singularity.d/env failed with exit code 7");
}

#[test]
fn an_image_of_others_has_none() {
    let clean = Clean::start();
    let plan = plan();
    let layers = Lowers {
        own_files: Some(BTreeMap::new()),
        ..lowers(&[clean.base()], &plan).unwrap()
    };
    let writable = Writable::Scratch;
    let base = Base::Layers {
        lowers: &layers,
        writable,
    };
    let made = build_over(&plan, &base).unwrap().0;
    assert!(made.own_files.unwrap().singularity.is_none());
}
