//! Generated files (`/etc/passwd` and its like) in the container's private layer, never in a shared image.
#![forbid(unsafe_code)]

use super::tree::{Missing, Tree, kind, stat};
use crate::directory::unlink;
use crate::error::{Error, Result};
use crate::plan::{AccountLine, FileContent, Identity, Origin, PlannedFile};
use crate::privilege::owned_by_user;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// No passwd file that is worth editing is larger.
const MAX_SIZE: u64 = 16 << 20;

/// Makes one file.
pub fn write(tree: &Tree<'_>, file: &PlannedFile, identity: &Identity) -> Result<()> {
    let doing = |error: Error| error.context(&format!("write {} in the container", file.path.display()));
    if file
        .only_with
        .as_ref()
        .is_some_and(|directory| !has_directory(tree, directory))
    {
        return Ok(());
    }
    let made = match &file.content {
        FileContent::Replace { bytes, mode } => replace(tree, &file.path, bytes, *mode, identity),
        FileContent::Prepend { lines, drop } => image_file(tree, &file.path, identity).and_then(|content| {
            let lines: Vec<String> = lines.iter().map(|line| with_shell(tree, line)).collect();
            let bytes = prepend(&lines, drop, &content);
            replace(tree, &file.path, &bytes, 0o644, identity)
        }),
    };
    made.map_err(doing)
}

fn has_directory(tree: &Tree<'_>, path: &Path) -> bool {
    let found = tree.resolve(path, Missing::Fail, Origin::System);
    found.is_ok_and(|found| kind(&found).is_ok_and(|kind| kind == FileType::Directory))
}

/// The whole line: a shell that the image does not have becomes `/bin/sh`.
fn with_shell(tree: &Tree<'_>, line: &AccountLine) -> String {
    let Some(shell) = &line.shell else {
        return line.text.clone();
    };
    let found = tree.resolve(shell, Missing::Fail, Origin::System);
    let usable = found.is_ok_and(|found| kind(&found).is_ok_and(|kind| kind == FileType::RegularFile));
    format!(
        "{}{}",
        line.text,
        if usable {
            shell.display().to_string()
        } else {
            "/bin/sh".to_owned()
        }
    )
}

/// The owner of files of an image that belong to nobody here (user_namespaces(7), "overflow" ids).
const NOBODY: u32 = 65534;

/// The image's file; empty when it is missing, or is nothing that can be read like a file. Links are followed inside
/// the image. Nor is it one when it belongs to somebody else: a user can put hard links into the upper directory of a
/// container that he keeps, and we read with more rights than his.
pub fn image_file(tree: &Tree<'_>, path: &Path, identity: &Identity) -> Result<Vec<u8>> {
    let Ok(found) = tree.resolve(path, Missing::Fail, Origin::System) else {
        return Ok(Vec::new());
    };
    if kind(&found)? != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let stat = stat(&found)?;
    if ![identity.uid, NOBODY].contains(&stat.st_uid) {
        return Ok(Vec::new());
    }
    if stat.st_size.unsigned_abs() > MAX_SIZE {
        return Err(Error::Image(format!(
            "the image's file is larger than {MAX_SIZE} bytes"
        )));
    }
    read(&found)
}

/// The content of an open regular file, so that this cannot block.
fn read(found: &OwnedFd) -> Result<Vec<u8>> {
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let fd = rustix::fs::open(&again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::sys("read the image's file", "open", error))?;
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_SIZE)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::sys("read the image's file", "read", error))?;
    Ok(bytes)
}

/// The planned lines, then the image's own without those whose first field is taken or unwanted.
fn prepend(lines: &[String], drop: &[String], content: &[u8]) -> Vec<u8> {
    let field = |line: &[u8]| line.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
    let mut taken: Vec<Vec<u8>> = lines.iter().map(|line| field(line.as_bytes())).collect();
    taken.extend(drop.iter().map(|name| name.as_bytes().to_vec()));
    let mut bytes = Vec::with_capacity(content.len() + 256);
    let kept = content
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && !taken.contains(&field(line)));
    for line in lines.iter().map(String::as_bytes).chain(kept) {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes
}

/// Puts a new file in the place of whatever has this name. A link is replaced, never followed: what it points to is
/// the image's choice.
fn replace(tree: &Tree<'_>, path: &Path, bytes: &[u8], mode: u32, identity: &Identity) -> Result<()> {
    let (directory, name) = tree.parent(path)?;
    if is_already(&directory, &name, bytes)? {
        return Ok(());
    }
    let fd = create(&directory, &name, identity)?;
    let failed = |call: &str, error: std::io::Error| Error::sys("create a file", call, error);
    let mut file = File::from(fd);
    file.write_all(bytes).map_err(|error| failed("write", error))?;
    let mode = Mode::from_raw_mode(mode & 0o777);
    rustix::fs::fchmod(&file, mode).map_err(|error| failed("fchmod", error.into()))
}

/// The file has this content: a container that is used again, or that runs. There the file may be covered by a mount,
/// which would end if the file was replaced.
fn is_already(directory: &OwnedFd, name: &OsStr, bytes: &[u8]) -> Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(found) = rustix::fs::openat(directory, name, flags, Mode::empty()) else {
        return Ok(false);
    };
    if kind(&found)? != FileType::RegularFile || stat(&found)?.st_size.unsigned_abs() != bytes.len() as u64 {
        return Ok(false);
    }
    Ok(read(&found)? == bytes)
}

fn create(directory: &OwnedFd, name: &OsStr, identity: &Identity) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match unlink(directory, name) {
        Ok(()) => {}
        Err(rustix::io::Errno::ISDIR) => return Err(Error::Image("the image has a directory of this name".into())),
        Err(rustix::io::Errno::OVERFLOW) => {
            return Err(Error::Image(
                "it belongs to somebody who has no id in the container: make the image with files of root's (mksquashfs \
                 -all-root)"
                    .into(),
            ));
        }
        Err(error) => return Err(Error::sys("replace a file", "unlinkat", error)),
    }
    let open = || rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600));
    owned_by_user(identity, open)?.map_err(|error| Error::sys("create a file", "openat(O_CREAT|O_EXCL)", error))
}

#[cfg(test)]
mod tests {
    use super::prepend;

    #[test]
    fn planned_lines_come_first_and_win() {
        let lines = ["me:x:7:7::/:/bin/sh".to_owned(), "root:x:0:0::/root:/bin/sh".to_owned()];
        let image = b"root:*:0:0::/:/bin/false\n_apt:x:42::\n\nbin:x:1:1::/:\nme\n\xff:odd\nlast:no newline";
        let text = prepend(&lines, &["_apt".to_owned()], image);
        assert_eq!(
            text,
            b"me:x:7:7::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\nbin:x:1:1::/:\n\xff:odd\nlast:no newline\n"
        );
        assert_eq!(
            prepend(&lines, &[], b"").iter().filter(|byte| **byte == b'\n').count(),
            2
        );
    }
}
