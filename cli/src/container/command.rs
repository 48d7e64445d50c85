//! The last step: this process enters the container and becomes its command.
#![forbid(unsafe_code)]

use super::{Here, started};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use pyxis_runtime::containers::Kind;
use pyxis_runtime::enter;
use pyxis_runtime::environment::edited;
use pyxis_runtime::image::ImageConfig;
use pyxis_runtime::start::Prepared;
use pyxis_runtime::sys::command::become_command;
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;

/// What is executed in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// These words.
    Exactly(Vec<String>),
    /// What the image runs, with these words for it in place of its own.
    Entrypoint(Vec<String>),
    /// The first of these that the image has.
    AnyOf(Vec<Vec<String>>),
}

/// A shell for who has said nothing, in an image that says nothing.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

impl Words {
    /// The first of the usual shells.
    pub fn shell() -> Self {
        Words::AnyOf(SHELLS.iter().map(|shell| vec![(*shell).to_owned()]).collect())
    }

    /// The commands to try, in order.
    fn of(self, image: &ImageConfig) -> Vec<Vec<String>> {
        let words = match self {
            Words::Exactly(words) => words,
            Words::AnyOf(all) => return all,
            Words::Entrypoint(given) => {
                let own = if given.is_empty() { &image.cmd } else { &given };
                [image.entrypoint.as_slice(), own].concat()
            }
        };
        match words.is_empty() {
            true => Words::shell().of(image),
            false => vec![words],
        }
    }
}

/// How a command is started.
#[derive(Debug)]
pub struct Entering {
    /// The variables under what the image and the site say.
    pub env: BTreeMap<String, String>,
    /// Those over it.
    pub over: BTreeMap<String, String>,
    /// What is executed.
    pub words: Words,
}

impl Here {
    /// Becomes the command; returns only when that cannot be.
    pub fn become_command(&self, prepared: &Prepared, entering: Entering) -> Result<Infallible> {
        let mut env = edited(entering.env, &prepared.edits);
        env.extend(entering.over);
        let commands = entering.words.of(&prepared.description.record.config);
        started::note(&self.job.place)?;
        // An unpacked image goes away with its lock, which the command holds from now on.
        if let Some(lock) = prepared.held.get(Kind::Unpacked) {
            fcntl(lock, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|error| Error::sys("keep the unpacked image", "fcntl(F_SETFD)", error))?;
        }
        enter::enter(&prepared.held.join()?, &prepared.how)?;
        execute(commands, &env)
    }
}

/// Becomes the first of the commands that is there.
pub fn execute(commands: Vec<Vec<String>>, env: &BTreeMap<String, String>) -> Result<Infallible> {
    let path = env.get("PATH").map_or("", String::as_str);
    let variables = env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    // One with a NUL in it cannot be one.
    let variables: Vec<CString> = variables.filter_map(std::result::Result::ok).collect();
    let mut missing = Error::Request("there is no command to run".into());
    for command in commands {
        let error = become_command(&command, path, &variables);
        match error.errno() {
            Some(nix::libc::ENOENT) => missing = error,
            _ => return Err(error),
        }
    }
    Err(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_said_takes_the_place_of_what_the_image_says() {
        let image = ImageConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve all"),
            ..ImageConfig::default()
        };
        let none = ImageConfig::default();
        let shells = Words::shell().of(&none);
        for (said, image, expected) in [
            (Words::Entrypoint(vec![]), &image, vec![words("/entry -x serve all")]),
            (Words::Entrypoint(words("a b")), &image, vec![words("/entry -x a b")]),
            (Words::Exactly(words("a b")), &image, vec![words("a b")]),
            (Words::Entrypoint(words("a b")), &none, vec![words("a b")]),
            (Words::Entrypoint(vec![]), &none, shells.clone()),
            (Words::Exactly(vec![]), &image, shells),
        ] {
            assert_eq!(said.clone().of(image), expected, "{said:?}");
        }
    }
}
