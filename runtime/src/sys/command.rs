//! The calling process becomes a command, looked up as a shell does.

use super::process::{action, replace_action};
use crate::error::{Error, Result, words};
use nix::unistd::execve;
use rustix::io::Errno;
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What an error says was being done when the command itself could not be executed.
pub const RUN_COMMAND: &str = "run the command";

/// Executes `command`, its name first, found in `path` if the name has no slash; returns when it cannot be. What the command
/// inherits are standard input, output and error, and descriptors that are not close-on-exec.
pub fn become_command(command: &[String], path: &str, environment: &[CString]) -> Error {
    match try_to(command, path, environment) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn try_to(command: &[String], path: &str, environment: &[CString]) -> Result<Infallible> {
    let Some(name) = command.first() else {
        return Err(Error::Request("there is no command to run".into()));
    };
    let arguments = command.iter().map(|word| c_string(OsStr::new(word)));
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    // The standard library has this process ignore it, which a command would inherit.
    replace_action(libc::SIGPIPE, &action(libc::SIG_DFL));
    let mut denied = false;
    for file in candidates(name, path) {
        match execve(&c_string(file.as_os_str())?, &arguments, environment) {
            Ok(never) => match never {},
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            Err(nix::Error::EACCES) => denied = true,
            Err(error) => return Err(Error::sys(RUN_COMMAND, format!("execve({})", file.display()), error)),
        }
    }
    let errno = if denied { Errno::ACCESS } else { Errno::NOENT };
    let text = match (denied, name.contains('/')) {
        (false, false) => format!("{name}: no such command in the container's PATH ({path})"),
        _ => format!("{name}: {}", words(errno)),
    };
    Err(Error::sys(RUN_COMMAND, text, errno))
}

/// Where the command may be.
fn candidates(name: &str, path: &str) -> Vec<std::path::PathBuf> {
    if name.contains('/') {
        return vec![name.into()];
    }
    // An empty entry is the working directory.
    let directories = path.split(':').map(|entry| if entry.is_empty() { "." } else { entry });
    directories.map(|directory| Path::new(directory).join(name)).collect()
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Error::Request(format!("{}: it holds a NUL character", text.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Exit, fork};

    #[test]
    fn a_command_is_found_in_its_path_or_the_error_says_why_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = format!("/no-such-directory:{}:/bin", directory.path().display());
        std::fs::write(directory.path().join("not-executable"), "").unwrap();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let child = fork(&[], || {
            let _ = become_command(&["sh".into(), "-c".into(), "exit $A".into()], &path, &[c"A=7".into()]);
            1
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(7));
        for (command, errno) in [
            ("no-such-command a", libc::ENOENT),
            ("not-executable", libc::EACCES),
            ("/no/such", libc::ENOENT),
        ] {
            let error = become_command(&words(command), &path, &[]);
            assert_eq!(error.errno(), Some(errno), "{error}");
            assert!(
                error.to_string().contains(command.split(' ').next().unwrap()),
                "{error}"
            );
        }
    }
}
