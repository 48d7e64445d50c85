//! What people read: one line each, with the prefix that scripts look for.
#![forbid(unsafe_code)]

use spank_sys::log;

/// The prefix of every line.
const PREFIX: &str = "pyxis: ";

/// An error: `srun: error: pyxis: ...`, or `slurmstepd-NODE: error: pyxis: ...` from the task's callbacks.
pub(crate) fn error(text: &str) {
    log::error(&format!("{PREFIX}{}", line(text)));
}

/// A line for the user: `pyxis: ...`.
pub(crate) fn user(text: &str) {
    log::user(&format!("{PREFIX}{}", line(text)));
}

/// Names of files, and what foreign programs say, are in these lines: they neither drive a terminal nor begin a line of
/// a log.
fn line(text: &str) -> String {
    let tame = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(tame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_harmless() {
        assert_eq!(
            line("cannot open x\n\u{1b}[2Jerror: y\r"),
            "cannot open x  [2Jerror: y "
        );
        assert_eq!(line("größer"), "größer");
    }
}
