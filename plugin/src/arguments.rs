//! The plugin's arguments in plugstack.conf: `required spank_pyxis.so key=value ...`.
#![forbid(unsafe_code)]

use crate::release::STRICT;
use pyxis_runtime::{Error, Result};
use std::path::PathBuf;

/// All arguments, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// `runtime_path`: where running containers are recorded.
    pub(crate) runtime_path: PathBuf,
    /// `execute_entrypoint`: run the image's entrypoint unless the user says otherwise.
    pub(crate) execute_entrypoint: bool,
    /// `container_scope`: how long named containers stay.
    pub(crate) container_scope: Scope,
    /// `sbatch_support`: sbatch and salloc have the options too.
    pub(crate) sbatch_support: bool,
    /// `importer`: an executable that is asked for images.
    pub(crate) importer: Option<PathBuf>,
    /// `PYXIS_SLURM_STRICT`: only with releases of Slurm that were tested.
    pub(crate) slurm_strict: bool,
}

/// How long named containers stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Until they are removed.
    Global,
    /// Until the job ends.
    Job,
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments {
            runtime_path: PathBuf::from("/run/pyxis"),
            execute_entrypoint: false,
            container_scope: Scope::Global,
            sbatch_support: true,
            importer: None,
            slurm_strict: false,
        }
    }
}

/// Parses the words after the plugin's name.
pub(crate) fn parse(words: &[String]) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    for word in words {
        take(&mut arguments, word).map_err(|error| error.context("plugstack.conf"))?;
    }
    Ok(arguments)
}

fn take(arguments: &mut Arguments, word: &str) -> Result<()> {
    let (key, value) = word
        .split_once('=')
        .ok_or_else(|| Error::Host(format!("{word:?} is not of the form key=value")))?;
    match key {
        "runtime_path" => arguments.runtime_path = absolute(key, value)?,
        "execute_entrypoint" => arguments.execute_entrypoint = boolean(key, value)?,
        "container_scope" => arguments.container_scope = scope(value)?,
        "sbatch_support" => arguments.sbatch_support = boolean(key, value)?,
        // Images are always mounted without being unpacked: both only choose what is the default here.
        "use_enroot_load" | "use_squashfuse" => {
            boolean(key, value)?;
        }
        STRICT => arguments.slurm_strict = boolean(key, value)?,
        "importer" => arguments.importer = Some(absolute(key, value)?),
        _ => return Err(Error::Host(format!("unknown key {key:?}"))),
    }
    Ok(())
}

fn absolute(key: &str, value: &str) -> Result<PathBuf> {
    if value.starts_with('/') {
        Ok(PathBuf::from(value))
    } else {
        Err(Error::Host(format!("{key}={value:?} is not an absolute path")))
    }
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" => Ok(true),
        "0" | "false" | "no" | "n" => Ok(false),
        _ => Err(Error::Host(format!("{key}={value:?} is not a boolean: take 0 or 1"))),
    }
}

fn scope(value: &str) -> Result<Scope> {
    match value {
        "global" => Ok(Scope::Global),
        "job" => Ok(Scope::Job),
        _ => Err(Error::Host(format!("container_scope={value:?}: take global or job"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Arguments> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&words)
    }

    const PAGE: &str = include_str!("../../docs/man/pyxis.conf.5");

    #[test]
    fn all_keys() {
        assert_eq!(parse_words(&[]).unwrap(), Arguments::default());
        let words = [
            "runtime_path=/run/x",
            "execute_entrypoint=1",
            "container_scope=job",
            "sbatch_support=0",
            "use_enroot_load=1",
            "use_squashfuse=0",
            "importer=/usr/bin/importer",
            "PYXIS_SLURM_STRICT=1",
        ];
        for (key, _) in words.iter().filter_map(|word| word.split_once('=')) {
            assert!(
                PAGE.contains(&format!("Ic {key} Ns = Ns Ar")),
                "{key} is not in pyxis.conf(5)"
            );
        }
        let all = parse_words(&words);
        let expected = Arguments {
            runtime_path: "/run/x".into(),
            execute_entrypoint: true,
            container_scope: Scope::Job,
            sbatch_support: false,
            importer: Some("/usr/bin/importer".into()),
            slurm_strict: true,
        };
        assert_eq!(all.unwrap(), expected);
    }

    #[test]
    fn what_is_refused_and_why() {
        for (word, reason) in [
            ("colour=red", "unknown key \"colour\""),
            ("runtime_path", "not of the form key=value"),
            ("", "not of the form key=value"),
            ("runtime_path=run", "not an absolute path"),
            ("importer=", "not an absolute path"),
            ("sbatch_support=maybe", "not a boolean"),
            ("use_squashfuse=", "not a boolean"),
            ("PYXIS_SLURM_STRICT=", "not a boolean"),
            ("container_scope=node", "take global or job"),
        ] {
            let told = parse_words(&[word]).unwrap_err().to_string();
            assert!(
                told.contains(reason) && told.starts_with("plugstack.conf: "),
                "{word}: {told}"
            );
        }
    }
}
