//! Slurm's log. The text is always an argument of the fixed format "%s", never the format itself.

use crate::api::{Log, api};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on nothing is written. For a process that was forked from the host without exec: a thread that does not
/// exist in it may have held the log's lock.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// An error: srun shows it as `srun: error: ...`, slurmstepd as `slurmstepd-NODE: error: ...` on srun's standard error,
/// slurmd's log has it too.
pub fn error(text: &str) {
    write(api().error, text);
}

/// A line for the user, without any prefix of Slurm's: on srun's standard error from the task's callbacks on, whatever
/// the log level, and in slurmd's log.
pub fn user(text: &str) {
    write(api().spank_log, text);
}

/// For slurmd's log at its usual level.
pub fn info(text: &str) {
    write(api().info, text);
}

/// For slurmd's log at level verbose.
pub fn verbose(text: &str) {
    write(api().verbose, text);
}

/// For slurmd's log at level debug.
pub fn debug(text: &str) {
    write(api().debug, text);
}

fn write(function: Option<Log>, text: &str) {
    let Some(function) = function.filter(|_| !SILENT.load(Ordering::Relaxed)) else {
        return;
    };
    let Ok(line) = CString::new(one_line(text)) else {
        return;
    };
    // SAFETY: a printf-like function with a fixed format that takes one C string, which lives until the call returns.
    unsafe { function(c"%s".as_ptr(), line.as_ptr()) }
}

/// One message is one line, and a C string; and it may hold what a user wrote, so it says nothing to a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_message_is_one_line_of_text() {
        assert_eq!(one_line("a\nb\0c\r\x1b[2Jd\u{9b}e \u{e4}"), "a b c  [2Jd e \u{e4}");
    }
}
