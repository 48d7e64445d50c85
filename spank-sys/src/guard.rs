//! The C border. A panic that crosses it aborts slurmstepd, and then srun hangs and the node stays in "completing"; so
//! every function that Slurm calls runs under a guard here, which turns a panic into one log line and a failure.

use crate::bindings::spank_t;
use crate::handle::Spank;
use crate::log;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What a callback tells Slurm. Releases differ in what they take for a failure, but agree on 0 and -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 0.
    Success,
    /// -1: what that does depends on the callback and on the release.
    Failure,
}

impl Verdict {
    fn code(self) -> c_int {
        match self {
            Verdict::Success => 0,
            Verdict::Failure => -1,
        }
    }
}

/// Runs a callback's Rust function.
///
/// # Safety
/// `spank` is the handle that Slurm passed, or null; `argv` points to `argc` C strings.
pub unsafe fn guard(
    callback: &str,
    spank: spank_t,
    argc: c_int,
    argv: *mut *mut c_char,
    function: fn(&Spank<'_>, &[String]) -> Verdict,
) -> c_int {
    catch(callback, || {
        // SAFETY: the caller's promise.
        let arguments = unsafe { strings(argc, argv) };
        // SAFETY: the caller's promise; the handle does not outlive this call.
        let spank = unsafe { Spank::from_raw(spank) };
        function(&spank, &arguments)
    })
}

/// Runs the function behind an option callback: `argument` is a C string or null.
///
/// # Safety
/// `argument` is null or a C string.
pub unsafe fn guard_option(
    name: &str,
    argument: *const c_char,
    function: impl FnOnce(Option<&str>) -> Verdict,
) -> c_int {
    catch(name, || {
        let text = (!argument.is_null()).then(|| {
            // SAFETY: not null, and the caller's promise.
            unsafe { CStr::from_ptr(argument) }.to_string_lossy()
        });
        function(text.as_deref())
    })
}

fn catch(what: &str, body: impl FnOnce() -> Verdict) -> c_int {
    hook_panics();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(verdict) => verdict.code(),
        Err(payload) => {
            // The payload's own drop could panic again; its text was logged by the hook.
            std::mem::forget(payload);
            log::debug(&format!("{what} failed after a panic"));
            Verdict::Failure.code()
        }
    }
}

/// One line through Slurm's log in place of the standard library's report, which would go to the job's standard error.
/// The hook is this plugin's own: every cdylib has its own copy of the standard library.
pub(crate) fn hook_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let payload = info.payload();
            let text = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let place = info
                .location()
                .map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
            log::error(&format!("internal error: {text}{place}"));
        }));
    });
}

/// # Safety
/// `argv` points to `argc` C strings, or `argc` is not positive.
unsafe fn strings(argc: c_int, argv: *mut *mut c_char) -> Vec<String> {
    let count = usize::try_from(argc).unwrap_or(0);
    if argv.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    let pointers = unsafe { std::slice::from_raw_parts(argv, count) };
    pointers
        .iter()
        .filter(|pointer| !pointer.is_null())
        // SAFETY: not null, and the caller's promise.
        .map(|pointer| unsafe { CStr::from_ptr(*pointer) }.to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(_: &Spank<'_>, _: &[String]) -> Verdict {
        panic!("on purpose")
    }

    fn counts(_: &Spank<'_>, arguments: &[String]) -> Verdict {
        if arguments == ["a=b", "c"] {
            Verdict::Success
        } else {
            Verdict::Failure
        }
    }

    #[test]
    fn a_panic_becomes_a_failure() {
        // SAFETY: a null handle and no arguments.
        let code = unsafe { guard("test", std::ptr::null_mut(), 0, std::ptr::null_mut(), panics) };
        assert_eq!(code, -1);
        // SAFETY: no argument.
        let code = unsafe { guard_option("test", std::ptr::null(), |_| panic!("again")) };
        assert_eq!(code, -1);
    }

    #[test]
    fn arguments_arrive() {
        let mut argv = [c"a=b".as_ptr().cast_mut(), c"c".as_ptr().cast_mut()];
        // SAFETY: a null handle and two C strings.
        let code = unsafe { guard("test", std::ptr::null_mut(), 2, argv.as_mut_ptr(), counts) };
        assert_eq!(code, 0);
        // SAFETY: a C string.
        let code = unsafe {
            guard_option("test", c"value".as_ptr(), |text| {
                if text == Some("value") {
                    Verdict::Success
                } else {
                    Verdict::Failure
                }
            })
        };
        assert_eq!(code, 0);
    }
}
