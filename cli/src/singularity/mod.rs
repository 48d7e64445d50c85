//! The command under the names `singularity` and `apptainer`: the same words, and what they mean, by this runtime.
#![forbid(unsafe_code)]

pub mod args;
mod how;
mod inspect;
mod pull;

use crate::args::Global;
use crate::container::{Entering, Here, Words, exit_code, first_of};
use crate::tell::{self, SINGULARITY};
use crate::verify;
use args::{Args, Command, Exec, How, Run, Shell};
use clap::{CommandFactory, FromArgMatches};
use pyxis_runtime::Result;
use std::convert::Infallible;
use std::process::ExitCode;

pub fn main(name: &'static str) -> ExitCode {
    let matches = Args::command().name(name).bin_name(name).get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell::line(SINGULARITY.error, &error.to_string());
            match exit_code(&error) {
                // Its own failures have this code.
                code if code == ExitCode::FAILURE => ExitCode::from(255),
                code => code,
            }
        }
    }
}

fn run(args: Args) -> Result<()> {
    let quiet = args.quiet;
    match args.command {
        Command::Exec(Exec { how, words }) => start(&how, words, Words::Exactly, quiet).map(|never| match never {}),
        Command::Run(Run { how, words }) => start(&how, words, Words::Entrypoint, quiet).map(|never| match never {}),
        Command::Shell(Shell { how, shell, words }) => {
            start(&how, words, |words| shell_words(shell, &words), quiet).map(|never| match never {})
        }
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Pull(args) => pull::pull(&args, quiet),
        Command::Verify(args) => verify::run(&args, &Global::default()),
    }
}

fn here() -> Result<Here> {
    Here::read(SINGULARITY)?.in_own_namespaces()
}

/// Starts a container of the image that is the first of `words`, and becomes its command, which the others say.
fn start(how: &How, words: Vec<String>, command: impl FnOnce(Vec<String>) -> Words, quiet: bool) -> Result<Infallible> {
    let (image, words) = first_of(words, "IMAGE")?;
    let here = Here::read(SINGULARITY)?;
    let wanted = how::understand(how, &image, &here)?;
    let mut here = here.in_own_namespaces()?;
    for warning in &wanted.warnings {
        tell::line(SINGULARITY.warning, warning);
    }
    let prepared = here.prepare(&wanted.request, &wanted.id, quiet)?;
    here.become_command(
        &prepared,
        Entering {
            env: wanted.env,
            over: wanted.over,
            words: command(words),
        },
    )
}

/// A shell that reads no files of the user's, which are about another machine's programs.
fn shell_words(shell: Option<String>, arguments: &[String]) -> Words {
    let with = |words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned());
        words.chain(arguments.iter().cloned()).collect::<Vec<_>>()
    };
    match shell {
        Some(shell) => Words::Exactly(with(&[&shell])),
        None => Words::AnyOf(vec![with(&["/bin/bash", "--norc"]), with(&["/bin/sh"])]),
    }
}
