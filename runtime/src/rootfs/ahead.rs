//! Reads the program that tasks will execute, its loader and its libraries, while the container is still being made: what the
//! kernel or a reader has decompressed lies in the page cache then (`docs/adr/0024-programs-are-read-ahead.md`).
#![forbid(unsafe_code)]

use super::own_files::open;
use crate::bounded;
use crate::elf;
use crate::plan::{Plan, Program};
use crate::privilege::irrevocably_become_user;
use crate::sys::daemon::fork_daemon;
use rustix::fd::{AsFd, OwnedFd};
use std::fs::File;
use std::path::Path;

/// All files together: Python and its libraries are 10 MiB. The rest of a larger program is read when it is needed.
const MOST: u64 = 16 << 20;
/// At once: a block of squashfs at its usual size.
const BLOCK: usize = 128 << 10;
/// An interpreter may be a script itself, but hardly that one's.
const MOST_INTERPRETERS: usize = 2;
/// Where the libraries of every program are.
const LIBRARIES: [&str; 4] = [MULTIARCH, "/lib64", "/usr/lib64", "/usr/lib"];
const MULTIARCH: &str = if cfg!(target_arch = "aarch64") {
    "/usr/lib/aarch64-linux-gnu"
} else {
    "/usr/lib/x86_64-linux-gnu"
};

/// Starts a process of the user that reads below `root`, and ends by itself.
pub fn start(root: &OwnedFd, plan: &Plan) {
    let Some(program) = plan.program.clone() else {
        return;
    };
    // Without it a start takes longer, and nothing else.
    let _ = fork_daemon(c"pyxis-ahead", &[root.as_fd()], || {
        if irrevocably_become_user(&plan.identity, 0).is_ok() {
            Ahead { root, left: MOST }.read(program);
        }
    });
}

struct Ahead<'a> {
    root: &'a OwnedFd,
    /// Bytes that may still be read.
    left: u64,
}

impl Ahead<'_> {
    /// Reads a program, or what interprets it.
    fn read(&mut self, mut program: Program) {
        for _ in 0..=MOST_INTERPRETERS {
            let Some(file) = self.first(program.places()) else {
                return;
            };
            let head = bounded::at(&file)(0, Program::HEAD).unwrap_or_default();
            match program.interpreter(&head) {
                Some(interpreter) => program = interpreter,
                None => return self.read_linked(&file),
            }
        }
    }

    /// Reads a program, then its loader, then its libraries.
    fn read_linked(&mut self, program: &File) {
        self.read_file(program);
        let Some(linking) = elf::linking(bounded::at(program)) else {
            return;
        };
        let loader = self.first(linking.interpreter);
        let libraries = linking.needed.iter().filter_map(|name| {
            let places = LIBRARIES.map(|directory| Path::new(directory).join(name));
            self.first(places)
        });
        let files: Vec<File> = loader.into_iter().chain(libraries).collect();
        files.iter().for_each(|file| self.read_file(file));
    }

    fn first(&self, places: impl IntoIterator<Item = impl AsRef<Path>>) -> Option<File> {
        places.into_iter().find_map(|place| open(self.root, place.as_ref()))
    }

    fn read_file(&mut self, file: &File) {
        let piece = bounded::at(file);
        let mut at = 0;
        while self.left > 0 {
            let Some(read) = piece(at, BLOCK)
                .map(|bytes| bytes.len() as u64)
                .filter(|read| *read > 0)
            else {
                return;
            };
            at += read;
            self.left = self.left.saturating_sub(read);
        }
    }
}
