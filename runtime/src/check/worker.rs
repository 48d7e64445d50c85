//! Who imports: the worker program, which must be the same as the command, and the service user.
#![forbid(unsafe_code)]

use super::{Finding, Node, Subject};
use crate::config::WorkerConfig;
use crate::error::words;
use crate::import::service_user;
use crate::worker::program::Program;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::Path;

const PROGRAM: Subject = Subject::new("worker.program", "import worker");
const USER: Subject = Subject::new("worker.user", "service user");

/// This program.
const SELF: &str = "/proc/self/exe";

pub fn look(node: &Node<'_>) -> Vec<Finding> {
    let config = &node.config.worker;
    vec![program(config), user(config)]
}

fn program(config: &WorkerConfig) -> Finding {
    let path = config.path.display();
    if let Err(error) = Program::open_trusted(&config.path) {
        return PROGRAM.fail_as(&error);
    }
    let same = content(&config.path).and_then(|worker| Ok(worker == content(Path::new(SELF))?));
    match same {
        Ok(true) => PROGRAM.ok(format!("{path}, the same program as this command")),
        Ok(false) => PROGRAM.warn(
            format!(
                "{path} is another build than this command ({})",
                env!("CARGO_PKG_VERSION")
            ),
            "install all of pyxis again: command, worker and plugin of one build belong together",
        ),
        Err(error) => PROGRAM.skip(format!("{path}: {}", words(error))),
    }
}

/// A digest of a file's bytes.
fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut Hashed(&mut hasher))?;
    Ok(hasher.finalize().to_vec())
}

/// A hasher that can be written to.
struct Hashed<'h>(&'h mut Sha256);

impl std::io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn user(config: &WorkerConfig) -> Finding {
    match service_user(&config.user) {
        Ok(user) => USER.ok(format!("{}, uid {}", config.user, user.uid)),
        Err(error) => USER.fail_as(&error),
    }
}
