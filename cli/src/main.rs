//! The `pyxis` command. Called by the name `worker` it is the import worker of the plugin and of itself; by the names `enroot`,
//! `singularity` and `apptainer` it understands the words of those.
#![forbid(unsafe_code)]

mod args;
mod check;
mod container;
mod enroot;
mod images;
#[cfg(test)]
mod manual;
mod openpgp;
mod pull;
mod settings;
mod singularity;
mod tell;
mod verify;

use args::{Args, Command};
use clap::Parser;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let name = arguments.first().and_then(|path| Path::new(path).file_name()?.to_str());
    if name == Some(pyxis_runtime::worker::PROGRAM) {
        return pyxis_runtime::worker::main(arguments.get(1..).unwrap_or_default(), openpgp::check);
    }
    match name {
        Some("enroot") => return enroot::main(),
        Some("singularity") => return singularity::main("singularity"),
        Some("apptainer") => return singularity::main("apptainer"),
        _ => {}
    }
    let args = Args::parse();
    let done = |()| ExitCode::SUCCESS;
    let result = match &args.command {
        Command::Pull(pull) => pull::run(pull, &args.global).map(done),
        Command::Images(images) => images::run(images, &args.global).map(done),
        Command::Check(check) => check::run(check, &args.global),
        Command::Verify(verify) => verify::run(verify, &args.global).map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "pyxis: {error}");
            ExitCode::FAILURE
        }
    }
}
