//! `enroot start` and `enroot exec`.
#![forbid(unsafe_code)]

use super::args::{Exec, Start};
use super::here;
use crate::container::{Containers, Entering, Here, Running, Words, execute, first_of};
use crate::settings;
use pyxis_runtime::config;
use pyxis_runtime::mount::{Create, MountOptions, MountSource, MountSpec};
use pyxis_runtime::request::{ContainerName, NameMode, Request};
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a command gets of the caller's variables when nothing else sets them.
const ALWAYS: [&str; 4] = ["HOME", "LOGNAME", "TERM", "USER"];
/// Where images keep the script that runs their command.
const RC: &str = "/etc/rc";
/// Runs one function of a script, if it has it.
const FUNCTION: &str = r#". "$1" || exit; if [ "$(type -t "$2")" = function ]; then "$2"; fi"#;

pub fn start(args: Start) -> Result<Infallible> {
    let (what, command) = first_of(args.words, "NAME")?;
    let here = here()?;
    let env = here.env.clone();
    let mut over = variables(&args.env, &env)?;
    let mut mounts = Vec::new();
    if let Some(script) = &args.conf {
        let script = here.absolute(script);
        for line in run_function(&script, "environ")?.lines() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            over.insert(name.trim().to_owned(), value.to_owned());
        }
        mounts.extend(config::mounts_of_lines(
            &run_function(&script, "mounts")?,
            "mounts() of --conf",
            &env,
        )?);
    }
    for text in &args.mount {
        mounts.extend(config::mounts_of_lines(&text.replace(':', " "), "--mount", &env)?);
    }
    let mut words = Words::Entrypoint(command.clone());
    if let Some(script) = &args.rc {
        mounts.push(script_mount(&here, script));
        let own = ["/bin/sh", RC].map(str::to_owned);
        words = Words::Exactly(own.into_iter().chain(command).collect());
    }
    let mut request = Request {
        mounts,
        remap_root: args.root.then_some(true),
        writable: args.rw.then_some(true),
        ..Request::default()
    };
    let id = choose(&here, &what, &mut request)?;
    let mut here = here.in_own_namespaces()?;
    let prepared = here.prepare(&request, &id, false)?;
    let base = env.into_iter().filter(|(name, _)| ALWAYS.contains(&name.as_str()));
    let entering = Entering {
        env: base.collect(),
        over,
        words,
    };
    here.become_command(&prepared, entering)
}

/// A path is an image file, and a word a container; a file of that name in the working directory is the file.
fn choose(here: &Here, what: &str, request: &mut Request) -> Result<String> {
    let path = here.absolute(Path::new(what));
    if what.contains('/') || path.is_file() {
        request.image = Some(path.display().to_string());
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        // An id that begins with a dot would be a leftover's.
        return Ok(stem.trim_start_matches('.').to_owned());
    }
    let name: ContainerName = what.parse()?;
    Containers::open(here)?.check_own(&name.name)?;
    let id = name.name.clone();
    request.name = Some(ContainerName {
        mode: NameMode::NoExec,
        ..name
    });
    Ok(id)
}

/// The caller's own script in place of the image's.
fn script_mount(here: &Here, script: &Path) -> MountSpec {
    MountSpec {
        source: MountSource::Path(here.absolute(script)),
        target: RC.into(),
        options: MountOptions {
            readonly: true,
            create: Create::File,
            ..MountOptions::default()
        },
    }
}

/// `NAME=VALUE`, or `NAME` for what it is here.
fn variables(words: &[String], env: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), env.get(word).cloned()),
        };
        if name.is_empty() {
            return Err(Error::Request(format!("--env {word:?} has no name of a variable")));
        }
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(variables)
}

/// What a function of the caller's script prints. It is run with his rights, which is all that this process has.
fn run_function(script: &Path, function: &str) -> Result<String> {
    let shown = script.display();
    let output = Command::new("bash")
        .args(["-c", FUNCTION, "bash"])
        .arg(script)
        .arg(function)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Error::Host(format!("{shown}: bash cannot be run, which it is for: {error}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Request(format!("{shown}: {function} failed: {}", output.status))),
    }
}

pub fn exec(args: Exec) -> Result<Infallible> {
    let (pid, command) = first_of(args.words, "PID")?;
    let pid = pid
        .parse()
        .map_err(|_| Error::Request(format!("{pid} is no number of a process")))?;
    let running = Running::of(pid)?;
    let mut env = running.environment()?;
    env.extend(variables(&args.env, &settings::environment())?);
    running.enter()?;
    execute(vec![command], &env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_or_taken_from_here() {
        let env = [("A".to_owned(), "1".to_owned())].into();
        let words = ["A", "B=2=3", "NONE", "C="].map(str::to_owned);
        let expected = [("A", "1"), ("B", "2=3"), ("C", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables(&words, &env).unwrap(), expected.into());
        assert!(variables(&["=x".to_owned()], &env).is_err());
    }
}
