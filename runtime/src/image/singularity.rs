//! What an image that Singularity or Apptainer has built says of itself, in files below `/.singularity.d`: scripts for the
//! environment, a runscript, labels. Pure: what was found in, words and variables out. The scripts are shell. Those that do
//! no more than assign are understood here ([`scripts`]); others run, in the container only.
#![forbid(unsafe_code)]

mod scripts;

use crate::environment::{self, Edit};
pub use scripts::Script;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Where everything is.
pub const DIRECTORY: &str = ".singularity.d";
/// What `singularity run` runs.
const RUNSCRIPT: &str = "/.singularity.d/runscript";
/// Prefixes of variables that the user wants to have inside without them; the later one counts.
const FORWARDED: [&str; 2] = ["SINGULARITYENV_", "APPTAINERENV_"];
/// These are the runtime's to decide.
const NOT_FORWARDED: [&str; 4] = ["HOME", "PATH", "APPTAINER_SHELL", "SINGULARITY_SHELL"];

/// Sources the scripts as the runtime of Apptainer does, and then executes what it was given. What a script does with the
/// positional parameters, IFS or options must not matter; functions would make what bash declares in them local. Some
/// shells have a prompt of their own also when nobody types.
const SCRIPT: &str = r#"
unset PS1
__pyxis_shell=$0 __pyxis_then=$3
for __pyxis_script in /.singularity.d/env/*.sh; do
    [ -f "$__pyxis_script" ] || continue
    . "$__pyxis_script"
    case $__pyxis_script in
    */10-docker2singularity.sh | */10-docker.sh)
        for __pyxis_directory in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
            case ":${PATH-}:" in
            *":$__pyxis_directory:"*) ;;
            *) PATH="${PATH:+$PATH:}$__pyxis_directory" ;;
            esac
        done
        export PATH
        ;;
    esac
done
set -- "$__pyxis_shell" -c "$__pyxis_then"
unset __pyxis_shell __pyxis_then __pyxis_script __pyxis_directory
exec "$@"
"#;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Singularity {
    /// There are scripts for the environment.
    pub scripts: bool,
    /// These, in the order in which they run; none if not all could be read.
    pub read: Option<Vec<Script>>,
    /// A shell of the image, the one that understands most.
    pub shell: Option<String>,
    /// There is a runscript that can be executed.
    pub runscript: bool,
    /// `labels.json`.
    pub labels: Vec<u8>,
}

impl Singularity {
    /// The words that run the scripts; what is added to them is the shell, `-c` and what is to be run afterwards.
    pub fn words(&self) -> Option<Vec<String>> {
        let shell = self.shell.as_ref().filter(|_| self.scripts)?;
        Some([shell, "-c", SCRIPT, shell].map(str::to_owned).to_vec())
    }

    /// What the scripts change in an environment `given`, if that can be told without running them.
    pub fn changes(&self, given: &BTreeMap<String, String>) -> Option<Vec<Edit>> {
        let left = scripts::environment(self.read.as_ref()?, given)?;
        Some(environment::changes(given, &left))
    }

    /// The words of the runscript.
    pub fn entrypoint(&self) -> Option<Vec<String>> {
        self.runscript.then(|| vec![RUNSCRIPT.to_owned()])
    }

    /// The labels. They decide nothing, so those that cannot be read are none.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let read: Option<BTreeMap<String, serde_json::Value>> = serde_json::from_slice(&self.labels).ok();
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let labels = read.into_iter().flatten();
        labels.map(|(name, value)| (name, text(value))).collect()
    }
}

/// Variables by which scripts and programs know where they are.
pub fn names(file: &Path) -> Vec<String> {
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let both = |of: &str| {
        [
            format!("{of}_CONTAINER={}", file.display()),
            format!("{of}_NAME={name}"),
        ]
    };
    [both("APPTAINER"), both("SINGULARITY")].concat()
}

/// The image's variables: what the scripts have set, and over it what the user wants for this image, by the job's variables.
/// `path` is the image's search path as it was before.
pub fn variables(set: &[Edit], job: &BTreeMap<String, String>, path: &str) -> Vec<String> {
    let mut variables: BTreeMap<&str, String> = set
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.clone()?)))
        .collect();
    let forwarded = forwarded(job);
    let paths = ["PREPEND_PATH", "APPEND_PATH", "PATH"].map(|name| forwarded.get(name).copied());
    if paths.iter().any(Option::is_some) {
        let [before, after, instead] = paths;
        let path = variables.get("PATH").map_or(path, String::as_str);
        let around = [before, Some(path), after].into_iter().flatten();
        let joined = around.collect::<Vec<_>>().join(":");
        variables.insert("PATH", instead.map_or(joined, str::to_owned));
    }
    for (name, value) in forwarded {
        if !NOT_FORWARDED.contains(&name) && !name.ends_with("PEND_PATH") {
            variables.insert(name, value.to_owned());
        }
    }
    variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn forwarded(job: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let with = |prefix| {
        job.iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    };
    FORWARDED
        .iter()
        .flat_map(with)
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn the_users_variables_win_over_the_scripts() {
        let set = [
            ("PATH".to_owned(), Some("/opt/bin:/bin".to_owned())),
            ("A".to_owned(), Some("script".to_owned())),
            ("GONE".to_owned(), None),
        ];
        assert_eq!(
            variables(&set, &job(&[("B", "job")]), "/bin"),
            ["A=script", "PATH=/opt/bin:/bin"]
        );
        let wanted = [
            ("SINGULARITYENV_A", "old"),
            ("APPTAINERENV_A", "new"),
            ("SINGULARITYENV_HOME", "/evil"),
            ("SINGULARITYENV_", "x"),
            ("SINGULARITYENV_PREPEND_PATH", "/first"),
            ("APPTAINERENV_APPEND_PATH", "/last"),
        ];
        let found = variables(&set, &job(&wanted), "/bin");
        assert_eq!(found, ["A=new", "PATH=/first:/opt/bin:/bin:/last"]);
        let instead = job(&[("SINGULARITYENV_PATH", "/only"), ("APPTAINERENV_PREPEND_PATH", "/x")]);
        assert_eq!(variables(&[], &instead, "/bin"), ["PATH=/only"]);
        let before = job(&[("APPTAINERENV_PREPEND_PATH", "/x")]);
        assert_eq!(variables(&[], &before, "/bin"), ["PATH=/x:/bin"]);
    }

    #[test]
    fn names_and_labels() {
        let names = names(Path::new("/images/x.sif"));
        assert_eq!(
            names[..2],
            ["APPTAINER_CONTAINER=/images/x.sif", "APPTAINER_NAME=x.sif"]
        );
        let with = |labels: &[u8]| Singularity {
            labels: labels.to_vec(),
            ..Singularity::default()
        };
        let labels = with(br#"{"a": "b", "n": 1}"#).labels();
        assert_eq!(labels, job(&[("a", "b"), ("n", "1")]));
        assert!(with(b"{").labels().is_empty() && with(b"").labels().is_empty());
    }

    #[test]
    fn nothing_runs_without_scripts_and_a_shell() {
        let found = |scripts, shell: Option<&str>| Singularity {
            scripts,
            shell: shell.map(str::to_owned),
            ..Singularity::default()
        };
        assert!(found(true, None).words().is_none() && found(false, Some("/bin/sh")).words().is_none());
        assert_eq!(found(true, Some("/bin/sh")).words().unwrap()[0], "/bin/sh");
    }
}
