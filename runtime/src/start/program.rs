//! What the tasks will execute first.
#![forbid(unsafe_code)]

use super::Start;
use crate::environment::Edit;
use crate::error::Error;
use crate::plan::{HEAD, Program};
use crate::privilege::as_user;
use rustix::fs::{FileType, Mode, OFlags};
use std::path::Path;

impl Start<'_> {
    /// The program that the tasks will execute, as far as it can be known before the image is looked at: of a batch script,
    /// which the image does not have, its interpreter.
    pub(super) fn program(&self, edits: &[Edit]) -> Option<Program> {
        let of_image = edits.iter().rev().find(|(name, _)| name == "PATH");
        let path = match of_image {
            Some((_, value)) => value.as_ref(),
            None => self.job.env.get("PATH"),
        };
        let program = Program::new(self.job.program.clone()?, path.map_or("", String::as_str));
        match &self.job.script {
            Some(script) => program.interpreter(&self.head(script)?),
            None => Some(program),
        }
    }

    /// How a file of the user's begins.
    fn head(&self, path: &Path) -> Option<Vec<u8>> {
        let read = || -> rustix::io::Result<Option<Vec<u8>>> {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty())?;
            if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
                return Ok(None);
            }
            let mut head = vec![0; HEAD];
            let read = rustix::io::read(&file, &mut head)?;
            head.truncate(read);
            Ok(Some(head))
        };
        let failed = |error| Error::sys("read the batch script", "read", error);
        as_user(&self.job.identity, || read().map_err(failed)).ok().flatten()
    }
}
