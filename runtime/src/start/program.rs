//! What the tasks will execute first.
#![forbid(unsafe_code)]

use super::Start;
use crate::bounded;
use crate::environment::Edit;
use crate::plan::Program;
use crate::privilege::as_user;
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
        let read = || bounded::at(&bounded::open(path)?)(0, Program::HEAD);
        as_user(&self.job.identity, || Ok(read())).ok().flatten()
    }
}
