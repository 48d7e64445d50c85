//! FUSE, by which image files are read that users can change, and the program that reads them.
#![forbid(unsafe_code)]

use super::{Finding, NO_NAMESPACE, Node, Subject, probe};
use crate::error::{Error, Result, words};
use crate::image::file::UserImages;
use crate::rootfs::trial;
use crate::sys::exec;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::Read;

const MOUNT: Subject = Subject::new("fuse.mount", "FUSE in a user namespace");
const READER: Subject = Subject::new("fuse.reader", "reader of image files");

/// What the program may have to say.
const MAX_WORDS: u64 = 4096;

pub fn look(node: &Node<'_>, namespaces: bool) -> Vec<Finding> {
    vec![MOUNT.look_if(namespaces, NO_NAMESPACE, || mount(node)), reader(node)]
}

fn mount(node: &Node<'_>) -> Finding {
    let device = match node.is_root() {
        // Containers have a node of their own: the host's may be missing or closed.
        true => trial::fuse_node(),
        false => host_node(),
    };
    let tried = device.and_then(|device| {
        probe::attempt(&[device.as_fd()], || {
            probe::users_mounts()?;
            trial::fuse_mount(&device)
        })
    });
    match tried {
        Ok(()) => MOUNT.ok("can be mounted"),
        // What a user cannot open is no obstacle to his jobs.
        Err(error) if !node.is_root() => MOUNT.skip(error.to_string()),
        Err(error) => MOUNT.warn(
            error.to_string(),
            "load the module fuse, and allow its device (character 10:229) to this service or pod",
        ),
    }
}

fn host_node() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|error| Error::Host(format!("/dev/fuse: {}", words(error))))
}

fn reader(node: &Node<'_>) -> Finding {
    let images = &node.config.images;
    let shown = images.reader.display();
    match trial::reader_program(&images.reader) {
        Ok(program) => match version(&program, node) {
            Ok(Some(version)) => READER.ok(format!("{shown}, squashfuse {version}")),
            Ok(None) => READER.ok(format!("{shown}, a program that does not tell its version")),
            Err(error) => READER.warn(
                format!("{shown} cannot be run: {error}"),
                "install the package squashfuse again",
            ),
        },
        Err(error) if matches!(images.user_images, UserImages::Deny | UserImages::Kernel) => READER.ok(format!(
            "{error} (images.user_images in pyxis.toml says that no process reads image files)"
        )),
        Err(error) => READER.warn(
            error.to_string(),
            "install the package squashfuse: without it image files that users can change do not start",
        ),
    }
}

/// Runs the program without arguments, as somebody without rights: it says who it is.
fn version(program: &OwnedFd, node: &Node<'_>) -> Result<Option<String>> {
    let user = node.somebody();
    let (words, stderr) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::sys("ask a program for its version", "pipe2", error))?;
    let child = exec::spawn(&exec::Program {
        file: program.as_fd(),
        arguments: &[c"squashfuse_ll"],
        environment: &[],
        descriptors: &[(stderr.as_fd(), 1), (stderr.as_fd(), 2)],
        limits: &[],
        groups: None,
        user: node.is_root().then_some(&user),
        cage: None,
        own_group: true,
    })?;
    drop(stderr);
    let mut text = Vec::new();
    File::from(words)
        .take(MAX_WORDS)
        .read_to_end(&mut text)
        .map_err(|error| Error::sys("ask a program for its version", "read", error))?;
    child.wait()?;
    Ok(version_in(&String::from_utf8_lossy(&text)))
}

/// The version in `squashfuse 0.1.104 (c) 2012 ...`.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.lines().next()?.split_whitespace();
    let name = words.next()?;
    let version = words.next()?;
    let good = |c: char| c.is_ascii_alphanumeric() || ".-+~_".contains(c);
    (name.starts_with("squashfuse") && version.chars().all(good)).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_where_it_is_said() {
        let said = "squashfuse 0.1.104 (c) 2012 Dave Vasilevsky\n\nUsage: ...\n";
        assert_eq!(version_in(said).as_deref(), Some("0.1.104"));
        for other in ["", "\n", "error", "squashfuse", "usage: x y", "squashfuse \x1b[31m"] {
            assert_eq!(version_in(other), None, "{other:?}");
        }
    }
}
