//! Slurm on this machine: its version, whether it loads the plugin, and whether another plugin of the same name is in the
//! way. Nothing is run but Slurm's own programs at their usual places, when only root can change them.
#![forbid(unsafe_code)]

use super::plugstack::{Line, PLUGIN, SlurmConf, argument, is_named_so, pattern, places, plugstack, slurm_conf};
use super::{Finding, Subject};
use pyxis_runtime::config::POLICY_FILE;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VERSION: Subject = Subject::new("slurm.version", "Slurm");
const PLUGSTACK: Subject = Subject::new("slurm.plugstack", "plugstack.conf");
const PLUGIN_FILE: Subject = Subject::new("slurm.plugin", "Slurm plugin");
const CLASH: Subject = Subject::new("slurm.clash", "other container plugins");

/// Programs that tell Slurm's version.
const PROGRAMS: [&str; 6] = [
    "/usr/sbin/slurmd",
    "/usr/local/sbin/slurmd",
    "/opt/slurm/sbin/slurmd",
    "/usr/bin/srun",
    "/usr/local/bin/srun",
    "/opt/slurm/bin/srun",
];
/// Where slurm.conf is, when the environment does not say; the last is that of nodes without a file of their own.
const CONFIGURATIONS: [&str; 6] = [
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/usr/local/etc/slurm.conf",
    "/usr/local/etc/slurm/slurm.conf",
    "/opt/slurm/etc/slurm.conf",
    "/run/slurm/conf/slurm.conf",
];
/// Where plugins are, when slurm.conf does not say.
const PLUGIN_DIRS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu/slurm-wlm",
    "/usr/lib/x86_64-linux-gnu/slurm",
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
    "/usr/local/lib/slurm",
    "/usr/local/lib64/slurm",
    "/opt/slurm/lib/slurm",
];
/// Files that include one another.
const MOST_FILES: usize = 100;
/// Where running containers are recorded when the plugin is not told.
const RUNTIME_PATH: &str = "/run/pyxis";

/// What was found.
pub struct Slurm {
    pub findings: Vec<Finding>,
    /// Where running containers are recorded.
    pub runtime_path: PathBuf,
}

/// A line of plugstack.conf that names a plugin of our name.
struct Entry {
    file: PathBuf,
    line: usize,
    path: PathBuf,
    arguments: Vec<String>,
}

pub fn look() -> Slurm {
    let mut slurm = Slurm {
        findings: Vec::new(),
        runtime_path: PathBuf::from(RUNTIME_PATH),
    };
    let Some(version) = version() else {
        let why = "there is no Slurm at its usual places";
        slurm.findings = [VERSION, PLUGSTACK, PLUGIN_FILE]
            .map(|subject| subject.skip(why))
            .into();
        return slurm;
    };
    slurm.findings.push(version);
    let Some(path) = configuration() else {
        let why = "there is no slurm.conf at its usual places, and SLURM_CONF names none";
        slurm
            .findings
            .extend([PLUGSTACK, PLUGIN_FILE].map(|subject| subject.skip(why)));
        return slurm;
    };
    let conf = read_configuration(&path);
    let stack = conf.plugstack.clone();
    let stack = stack.unwrap_or_else(|| pattern(&path, "plugstack.conf"));
    let entries = entries(&stack);
    if let Some(runtime_path) = entries
        .first()
        .and_then(|entry| argument(&entry.arguments, "runtime_path"))
    {
        slurm.runtime_path = PathBuf::from(runtime_path);
    }
    slurm.findings.extend(plugin(&stack, &entries, &conf.plugin_dirs));
    slurm
}

/// What a program of Slurm's says of its version.
fn version() -> Option<Finding> {
    let program = PROGRAMS.iter().find(|path| Path::new(path).exists())?;
    let Some(real) = roots_own(Path::new(program)) else {
        return Some(VERSION.skip(format!("{program} was not asked: others than root can change it")));
    };
    let asked = Command::new(real)
        .arg0(program)
        .arg("-V")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    Some(match asked {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            VERSION.ok(format!("{} ({program})", text.trim()))
        }
        Ok(output) => VERSION.skip(format!("{program} -V: {}", output.status)),
        Err(error) => VERSION.skip(format!("{program}: {}", error.kind())),
    })
}

/// The file that a path leads to, if nobody but root can change it, or put another one in its place. The path itself may lead
/// through links that others can exchange, so it is not to be used again.
fn roots_own(path: &Path) -> Option<PathBuf> {
    let only_roots = |part: &Path| {
        part.metadata()
            .is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
    };
    let real = path.canonicalize().ok()?;
    real.ancestors().all(only_roots).then_some(real)
}

fn configuration() -> Option<PathBuf> {
    let said = std::env::var_os("SLURM_CONF").map(PathBuf::from);
    let usual = CONFIGURATIONS.iter().map(PathBuf::from);
    said.into_iter().chain(usual).find(|path| path.is_file())
}

/// slurm.conf with what it includes; what is said last counts.
fn read_configuration(path: &Path) -> SlurmConf {
    let mut all = SlurmConf::default();
    let mut pending = vec![path.to_owned()];
    for _ in 0..MOST_FILES {
        let Some(file) = pending.pop() else {
            break;
        };
        let conf = slurm_conf(&std::fs::read_to_string(&file).unwrap_or_default());
        pending.extend(conf.includes.iter().map(|include| pattern(&file, include)));
        all.plugstack = conf.plugstack.or(all.plugstack);
        if !conf.plugin_dirs.is_empty() {
            all.plugin_dirs = conf.plugin_dirs;
        }
    }
    if all.plugin_dirs.is_empty() {
        let there = PLUGIN_DIRS.iter().map(PathBuf::from).filter(|dir| dir.is_dir());
        all.plugin_dirs = there.collect();
    }
    all
}

/// The lines of plugstack.conf, and of what it includes, that name a plugin of our name.
fn entries(stack: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut pending = vec![stack.to_owned()];
    for _ in 0..MOST_FILES {
        let Some(file) = pending.pop() else {
            break;
        };
        for (line, said) in plugstack(&std::fs::read_to_string(&file).unwrap_or_default()) {
            match said {
                Line::Include(include) => pending.extend(matching(&pattern(&file, &include))),
                Line::Plugin { path, arguments } if is_named_so(&path) => {
                    found.push(Entry {
                        file: file.clone(),
                        line,
                        path,
                        arguments,
                    });
                }
                Line::Plugin { .. } => {}
            }
        }
    }
    found
}

fn matching(pattern: &Path) -> Vec<PathBuf> {
    let paths = pattern.to_str().and_then(|pattern| glob::glob(pattern).ok());
    paths.into_iter().flatten().flatten().collect()
}

/// Whether the plugin is named, is there, is ours, and is the only one.
fn plugin(stack: &Path, entries: &[Entry], dirs: &[PathBuf]) -> Vec<Finding> {
    let installed = places(Path::new(PLUGIN), dirs).into_iter().find(|path| path.is_file());
    let Some(first) = entries.first() else {
        let advice = "add \"include /usr/share/pyxis/*\" to it, here and on all other nodes";
        let named = match stack.is_file() {
            true => PLUGSTACK.fail(format!("{} does not name {PLUGIN}", stack.display()), advice),
            false => PLUGSTACK.fail(format!("{} does not exist", stack.display()), advice),
        };
        return vec![named, file(installed.as_deref(), Path::new(PLUGIN))];
    };
    let place = |entry: &Entry| format!("{}, line {}", entry.file.display(), entry.line);
    let mut findings = vec![PLUGSTACK.ok(format!("{} names {}", place(first), first.path.display()))];
    let found = places(&first.path, dirs).into_iter().find(|path| path.is_file());
    findings.push(file(found.as_deref(), &first.path));
    findings.extend(entries.iter().skip(1).map(|other| {
        CLASH.fail(
            format!(
                "{} names {} too: the options would be there twice",
                place(other),
                other.path.display()
            ),
            "remove one of the two lines",
        )
    }));
    findings
}

/// The file of the plugin, which must be ours: NVIDIA's has the same name.
fn file(found: Option<&Path>, named: &Path) -> Finding {
    let Some(path) = found else {
        return PLUGIN_FILE.fail(
            format!("{} is not in Slurm's plugin directory", named.display()),
            "run make install, or set PluginDir in slurm.conf",
        );
    };
    let shown = path.display();
    match std::fs::read(path) {
        Ok(bytes) if is_ours(&bytes) => PLUGIN_FILE.ok(shown.to_string()),
        Ok(_) => PLUGIN_FILE.fail(
            format!("{shown} is another plugin of this name; NVIDIA's pyxis has it"),
            "remove that one, or name this project's file with its whole path in plugstack.conf",
        ),
        Err(error) => PLUGIN_FILE.skip(format!("{shown}: {}", error.kind())),
    }
}

/// Our plugin has the name of our settings in it.
fn is_ours(plugin: &[u8]) -> bool {
    let mark = POLICY_FILE.as_bytes();
    plugin.windows(mark.len()).any(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_link_of_others_leads_to_is_run_and_not_the_link() {
        let theirs = tempfile::tempdir().unwrap();
        let (link, own) = (theirs.path().join("slurmd"), theirs.path().join("own"));
        symlink("/usr/bin/env", &link).unwrap();
        std::fs::copy("/usr/bin/env", &own).unwrap();
        assert_eq!(roots_own(&link), Path::new("/usr/bin/env").canonicalize().ok());
        // The directory for temporary files is everybody's.
        assert_eq!(roots_own(&own), None);
        assert_eq!(roots_own(&theirs.path().join("none")), None);
    }
}
