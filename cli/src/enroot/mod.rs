//! The command under the name `enroot`: the same words, and what they mean, by this runtime.
#![forbid(unsafe_code)]

pub mod args;
mod images;
mod list;
mod start;

use crate::container::Here;
use crate::tell::{self, ENROOT};
use args::{Args, Command};
use clap::Parser;
use pyxis_runtime::{Error, Result};
use std::io::Write;
use std::process::ExitCode;

/// The version whose command line this is.
const SPOKEN: &str = "4.1.0";

pub fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell::line(ENROOT.error, &error.to_string());
            crate::container::exit_code(&error)
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Create(args) => images::create(&args),
        Command::Digest(args) => images::digest(&args),
        Command::Exec(args) => start::exec(args).map(|never| match never {}),
        Command::Export(args) => images::export(&args),
        Command::Import(args) => images::import(&args),
        Command::List(args) => list::list(&args),
        Command::Load(args) => images::load(&args),
        Command::Remove(args) => list::remove(&args),
        Command::Start(args) => start::start(args).map(|never| match never {}),
        Command::Version => print(&format!("{SPOKEN} (pyxis {})\n", env!("CARGO_PKG_VERSION"))),
    }
}

fn here() -> Result<Here> {
    Here::read(ENROOT)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::sys("print", "write", error))
}
