//! A program in the place of others that somebody will start inside (`crate::stand_in`). It is mounted, never written to the
//! container: one that is kept or saved does not have it.
#![forbid(unsafe_code)]

use super::mounts::Mounter;
use super::small_file;
use super::tree::{Missing, Tree};
use crate::error::{Error, Result};
use crate::plan::{Origin, Plan};
use crate::stand_in;
use crate::sys::mount::open_tree_clone;
use rustix::fd::OwnedFd;
use std::path::Path;

/// Covers every path that wants it with the program, whatever the image and the mounts have there. Where that fails, whoever
/// starts what is there will say so.
pub fn cover(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, plan: &Plan, report: &mut dyn FnMut(String)) {
    let Some(program) = stand_in::program().filter(|_| !plan.stand_ins.is_empty()) else {
        return;
    };
    let file = small_file::mount(&program, 0o755);
    for path in &plan.stand_ins {
        let covered = file.as_ref().map_err(Error::clone);
        if let Err(error) = covered.and_then(|file| cover_one(mounter, tree, path, file)) {
            report(format!(
                "put a stand-in in the place of {}: {error}, ignoring",
                path.display()
            ));
        }
    }
}

fn cover_one(mounter: &mut Mounter<'_, '_>, tree: &Tree<'_>, path: &Path, program: &OwnedFd) -> Result<()> {
    let target = tree.resolve(path, Missing::File, Origin::System)?;
    mounter.attach(&open_tree_clone(program, false)?, &target)
}
