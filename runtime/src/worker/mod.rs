//! The worker program: the parts of an import that meet a network, a name service or untrusted bytes, each in a freshly
//! executed process with its own user, an empty environment and a sandbox. The command runs it when it is called by the
//! name `worker`; nobody types it.
//!
//! A worker reads one request, answers in lines ([`protocol`]) and ends. Whoever started it holds everything of value:
//! the store, the locks, the decision.
#![forbid(unsafe_code)]

mod credentials;
mod download;
mod inspect;
mod layer;
mod lookup;
pub mod program;
pub mod protocol;
mod resolve;
pub(crate) mod sandbox;
mod spool;
mod verify;

use crate::error::{Error, Result};
use crate::image::file::signature::OpenPgp;
use protocol::{Line, Role, read_request, write_line};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::process::ExitCode;

/// The name by which the command knows that it is a worker.
pub const PROGRAM: &str = "worker";

/// Runs the role named by `arguments` (without the program's name). Errors are the answer, not the exit code. Signatures
/// are checked by `open_pgp`.
pub fn main(arguments: &[String], open_pgp: OpenPgp) -> ExitCode {
    let answered = match arguments.first().and_then(|name| Role::from_name(name)) {
        Some(Role::Lookup) => answer(request().and_then(|request| lookup::run(&request))),
        // The user's own process, and whatever helper he wants it to start.
        Some(Role::Credentials) => {
            answer(read_request(std::io::stdin()).and_then(|request| credentials::run(&request)))
        }
        Some(Role::Resolve) => answer(request().and_then(resolve::run)),
        Some(Role::Download) => answer(request().and_then(download::run)),
        Some(Role::Inspect) => answer(request().and_then(|request| inspect::run(&request))),
        Some(Role::Layer) => answer(options(arguments).and_then(layer::run)),
        Some(Role::Spool) => answer(options(arguments).and_then(spool::run)),
        Some(Role::Verify) => answer(request().and_then(|request| verify::run(&request, open_pgp))),
        None => return ExitCode::from(2),
    };
    if answered.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The request of a role of the service user. It may hold a password, so nobody may look into this process any more.
fn request<T: DeserializeOwned>() -> Result<T> {
    sandbox::harden()?;
    read_request(std::io::stdin())
}

fn answer<T: Serialize>(result: Result<T>) -> Result<()> {
    write_line(&mut std::io::stdout().lock(), &Line::Done(result))
}

/// What a role is told whose standard input is what it works on.
fn options(arguments: &[String]) -> Result<&str> {
    sandbox::harden()?;
    let options = arguments.get(1).map(String::as_str);
    options.ok_or_else(|| Error::Host("the worker got no options".to_owned()))
}
