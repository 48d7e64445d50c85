//! The corpus of the fuzz targets, through the same functions (see CONTRIBUTING.md). Its files are inputs that reach some
//! code which no other one reaches, and inputs that were once wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::path::Path;

fn each(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 10, "{} has {} files", directory.display(), files.len());
    for file in files {
        let content = std::fs::read(&file).unwrap();
        let checked = std::panic::catch_unwind(|| check(&content));
        assert!(checked.is_ok(), "{}", file.display());
    }
}

#[test]
fn sif_files() {
    each("sif", checks::sif);
}

#[test]
fn squashfs_superblocks() {
    each("squashfs", checks::squashfs);
}

#[test]
fn references() {
    each("reference", checks::reference);
}
