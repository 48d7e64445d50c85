//! The program that tasks will execute is in the page cache before they do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::Program;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, openat};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The same content as one of the image's programs, that nobody executes.
const OTHER: &str = "usr/lib/other";

fn container(clean: &Clean, word: &str) -> Namespaces {
    let pack = clean.pack("programs", |tree| {
        fill_base(tree);
        fs::copy("/bin/busybox", tree.join(OTHER)).unwrap();
        fs::write(tree.join("bin/script"), "#!/usr/bin/env linked\n").unwrap();
        symlink("/bin/endless", tree.join("bin/endless")).unwrap();
        mknodat(CWD, tree.join("bin/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        linked(tree);
    });
    let mut plan = plan();
    plan.program = Some(Program::new(word.to_owned(), "/nowhere:/bin"));
    build(&plan, &[pack]).unwrap().0
}

/// A program of this host with its loader and its libraries.
fn linked(tree: &Path) {
    let program = tree.join("bin/linked");
    fs::copy("/usr/bin/env", &program).unwrap();
    let said = Command::new("ldd").arg(&program).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths {
        // Where the loader looks, whichever of its directories are links here.
        let place = match path.contains("ld-linux") {
            true => path.to_owned(),
            false => path.replace("/lib/", "/usr/lib/").replace("/usr/usr/", "/usr/"),
        };
        let place = tree.join(place.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(path, place).unwrap();
    }
}

/// Bytes of a file in the page cache, and bytes that it has.
fn cached(made: &Namespaces, path: &str) -> (u64, u64) {
    let file = openat(&made.root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let shown = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let said = Command::new("fincore")
        .args(["--raw", "--noheadings", "--bytes", "--output", "RES,SIZE", &shown])
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).unwrap();
    let numbers: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    (numbers[0], numbers[1])
}

fn is_read(made: &Namespaces, path: &str) -> bool {
    let (resident, size) = cached(made, path);
    resident >= size
}

#[test]
fn the_program_and_nothing_else() {
    let clean = Clean::start();
    let made = container(&clean, "true");
    eventually("the program is read", || is_read(&made, "bin/busybox"));
    assert_eq!(cached(&made, OTHER).0, 0);
}

#[test]
fn the_interpreter_of_a_script_with_its_loader_and_libraries() {
    let clean = Clean::start();
    let made = container(&clean, "/bin/script");
    let loader = if cfg!(target_arch = "aarch64") {
        "lib/ld-linux-aarch64.so.1"
    } else {
        "lib64/ld-linux-x86-64.so.2"
    };
    let libc = format!("usr/lib/{}-linux-gnu/libc.so.6", std::env::consts::ARCH);
    for file in ["bin/linked", loader, &libc] {
        eventually(&format!("{file} is read"), || is_read(&made, file));
    }
    assert_eq!(cached(&made, OTHER).0, 0);
}

/// That these containers start, and that nothing stays behind, is all.
#[test]
fn what_is_no_program_is_left_alone() {
    for word in [
        "",
        "/",
        "endless",
        "/bin/fifo",
        "missing",
        "../../etc/passwd",
        "/etc/passwd",
    ] {
        let clean = Clean::start();
        drop(container(&clean, word));
    }
}
