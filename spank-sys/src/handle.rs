//! The safe handle: what a callback may ask Slurm about the job, the step and the task, and what it may change.

use crate::api::{Api, GetItem, api};
use crate::bindings::{self as c, spank_err_t, spank_item_t, spank_t};
use crate::options::SpankOption;
use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;

/// What Slurm answered instead of doing as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An error of Slurm's, in its own words.
    #[error("{call}: {text}")]
    Slurm {
        /// The function and what it was asked.
        call: String,
        /// Slurm's text.
        text: String,
    },
    /// The host process does not have this function.
    #[error("{0} does not exist in this process")]
    Missing(&'static str),
    /// A text with a NUL byte cannot be passed to C.
    #[error("{0}: the text holds a NUL byte")]
    Nul(String),
}

/// The process that a callback runs in (spank(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// srun.
    Local,
    /// slurmstepd.
    Remote,
    /// sbatch, salloc and scrontab.
    Allocator,
    /// slurmd.
    Slurmd,
    /// A job's prolog or epilog.
    JobScript,
    /// Something that Slurm has no word for.
    Unknown,
}

/// Slurm's handle, valid while a callback runs.
pub struct Spank<'a> {
    raw: spank_t,
    callback: PhantomData<&'a ()>,
}

impl Spank<'_> {
    /// # Safety
    /// `raw` is the handle that Slurm passed to the callback that runs now, or null.
    pub(crate) unsafe fn from_raw(raw: spank_t) -> Self {
        Spank {
            raw,
            callback: PhantomData,
        }
    }

    /// Where this runs.
    pub fn context(&self) -> Context {
        let Some(function) = api().context else {
            return Context::Unknown;
        };
        // SAFETY: takes nothing.
        match unsafe { function() } {
            c::S_CTX_LOCAL => Context::Local,
            c::S_CTX_REMOTE => Context::Remote,
            c::S_CTX_ALLOCATOR => Context::Allocator,
            c::S_CTX_SLURMD => Context::Slurmd,
            c::S_CTX_JOB_SCRIPT => Context::JobScript,
            _ => Context::Unknown,
        }
    }

    /// This is slurmstepd.
    pub fn remote(&self) -> bool {
        // SAFETY: takes the handle that this value was made with.
        api().remote.is_some_and(|function| unsafe { function(self.raw) } == 1)
    }

    /// The job's user.
    pub fn uid(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_UID, "S_JOB_UID")
    }

    /// The primary group of the job's user.
    pub fn gid(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_GID, "S_JOB_GID")
    }

    /// The job's number.
    pub fn job_id(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_ID, "S_JOB_ID")
    }

    /// The step's number; special steps have numbers from `0xffff_fff0` on.
    pub fn step_id(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_STEPID, "S_JOB_STEPID")
    }

    /// How many nodes the step has.
    pub fn nodes(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_NNODES, "S_JOB_NNODES")
    }

    /// Which of them this one is, from 0.
    pub fn node_id(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_NODEID, "S_JOB_NODEID")
    }

    /// How many tasks run on this node.
    pub fn local_task_count(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_LOCAL_TASK_COUNT, "S_JOB_LOCAL_TASK_COUNT")
    }

    /// How many tasks the step has.
    pub fn total_task_count(&self) -> Result<u32, Error> {
        self.number(c::S_JOB_TOTAL_TASK_COUNT, "S_JOB_TOTAL_TASK_COUNT")
    }

    /// The task's number on this node, from 0.
    pub fn task_id(&self) -> Result<i32, Error> {
        self.number(c::S_TASK_ID, "S_TASK_ID")
    }

    /// The task's exit status, as wait(2) gives it; only when it has ended.
    pub fn task_exit_status(&self) -> Result<i32, Error> {
        self.number(c::S_TASK_EXIT_STATUS, "S_TASK_EXIT_STATUS")
    }

    /// The command of the step with its arguments.
    pub fn argv(&self) -> Result<Vec<String>, Error> {
        let function = need(api().get_item, "spank_get_item")?;
        let mut count: c_int = 0;
        let mut argv: *mut *mut c_char = std::ptr::null_mut();
        // SAFETY: this item is stored to an int and a pointer to an array of C strings (spank.h).
        let code = unsafe { function(self.raw, c::S_JOB_ARGV, &raw mut count, &raw mut argv) };
        check(code, || "spank_get_item(S_JOB_ARGV)".into())?;
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: Slurm's array has at least `count` entries, each a C string or null, and does not change during a callback.
        Ok(unsafe { strings(argv, count) })
    }

    /// The job's environment, `NAME=value` each; texts that are not UTF-8 are kept as far as they are.
    pub fn env(&self) -> Result<Vec<(String, String)>, Error> {
        let function = need(api().get_item, "spank_get_item")?;
        let mut env: *mut *mut c_char = std::ptr::null_mut();
        // SAFETY: this item is stored to a pointer to an array of C strings (spank.h).
        let code = unsafe { function(self.raw, c::S_JOB_ENV, &raw mut env) };
        check(code, || "spank_get_item(S_JOB_ENV)".into())?;
        // SAFETY: Slurm's array ends with a null pointer and does not change during a callback.
        let entries = unsafe { strings(env, usize::MAX) };
        Ok(entries
            .into_iter()
            .filter_map(|entry| {
                entry
                    .split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
            })
            .collect())
    }

    /// The supplementary groups of the job's user.
    pub fn supplementary_gids(&self) -> Result<Vec<u32>, Error> {
        let function = need(api().get_item, "spank_get_item")?;
        let mut gids: *mut libc::gid_t = std::ptr::null_mut();
        let mut count: c_int = 0;
        // SAFETY: this item is stored to a pointer to an array of gid_t and its length (spank.h).
        let code = unsafe { function(self.raw, c::S_JOB_SUPPLEMENTARY_GIDS, &raw mut gids, &raw mut count) };
        check(code, || "spank_get_item(S_JOB_SUPPLEMENTARY_GIDS)".into())?;
        if gids.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: Slurm's array has `count` entries and does not change during a callback.
        Ok(unsafe { std::slice::from_raw_parts(gids, usize::try_from(count).unwrap_or(0)) }.to_vec())
    }

    /// Sets a variable of the job's environment, over any value that it had.
    pub fn setenv(&self, name: &str, value: &str) -> Result<(), Error> {
        let function = need(api().setenv, "spank_setenv")?;
        let c_name = c_string(name)?;
        let c_value = c_string(value)?;
        // SAFETY: the handle of this callback and two C strings, which Slurm copies.
        let code = unsafe { function(self.raw, c_name.as_ptr(), c_value.as_ptr(), 1) };
        check(code, || format!("spank_setenv({name})"))
    }

    /// Removes a variable of the job's environment.
    pub fn unsetenv(&self, name: &str) -> Result<(), Error> {
        let function = need(api().unsetenv, "spank_unsetenv")?;
        let c_name = c_string(name)?;
        // SAFETY: the handle of this callback and a C string.
        let code = unsafe { function(self.raw, c_name.as_ptr()) };
        check(code, || format!("spank_unsetenv({name})"))
    }

    /// Registers an option; only in `slurm_spank_init`.
    pub fn register(&self, option: &SpankOption<'_>) -> Result<(), Error> {
        let function = need(api().option_register, "spank_option_register")?;
        let name = c_string(option.name)?;
        let argument = option.argument.map(c_string).transpose()?;
        let usage = c_string(option.usage)?;
        let mut raw = c::spank_option {
            name: name.as_ptr().cast_mut(),
            arginfo: argument
                .as_ref()
                .map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut()),
            usage: usage.as_ptr().cast_mut(),
            has_arg: c_int::from(argument.is_some()),
            val: option.number,
            cb: Some(option.callback),
        };
        // SAFETY: the handle of this callback; Slurm copies the structure and its strings (spank_option_create).
        let code = unsafe { function(self.raw, &raw mut raw) };
        check(code, || format!("spank_option_register({})", option.name))
    }

    /// An item that is one number.
    fn number<T: Default>(&self, item: spank_item_t, name: &'static str) -> Result<T, Error> {
        const { assert!(size_of::<T>() == 4) };
        let function: GetItem = need(api().get_item, "spank_get_item")?;
        let mut value = T::default();
        // SAFETY: the items that this is called with are stored to a 32-bit number (spank.h); T is one.
        let code = unsafe { function(self.raw, item, &raw mut value) };
        check(code, || format!("spank_get_item({name})"))?;
        Ok(value)
    }
}

fn need<F>(function: Option<F>, name: &'static str) -> Result<F, Error> {
    function.ok_or(Error::Missing(name))
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul(text.replace('\0', "\\0")))
}

fn check(code: spank_err_t, call: impl FnOnce() -> String) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    Err(Error::Slurm {
        call: call(),
        text: describe(api(), code),
    })
}

fn describe(api: &Api, code: spank_err_t) -> String {
    let Some(function) = api.strerror else {
        return format!("error {code}");
    };
    // SAFETY: takes a number.
    let text = unsafe { function(code) };
    if text.is_null() {
        return format!("error {code}");
    }
    // SAFETY: not null; a C string that nothing frees.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The strings of a C array, up to `limit` or to a null pointer.
///
/// # Safety
/// `array` is null, or points to `limit` entries or to entries up to a null pointer, each a C string.
unsafe fn strings(array: *mut *mut c_char, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    if array.is_null() {
        return found;
    }
    while found.len() < limit {
        // SAFETY: the caller's promise: neither the limit nor a null pointer was met before this entry.
        let place = unsafe { array.add(found.len()) };
        // SAFETY: as above.
        let entry = unsafe { place.read() };
        if entry.is_null() {
            break;
        }
        // SAFETY: not null, and the caller's promise.
        found.push(unsafe { CStr::from_ptr(entry) }.to_string_lossy().into_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside_of_slurm() -> Spank<'static> {
        // SAFETY: null is allowed, and no function of Slurm exists here that could use it.
        unsafe { Spank::from_raw(std::ptr::null_mut()) }
    }

    #[test]
    fn outside_of_slurm_every_question_is_an_error() {
        let spank = outside_of_slurm();
        assert_eq!(spank.context(), Context::Unknown);
        assert!(!spank.remote());
        assert_eq!(spank.uid(), Err(Error::Missing("spank_get_item")));
        assert_eq!(spank.env(), Err(Error::Missing("spank_get_item")));
        assert_eq!(spank.setenv("A", "b"), Err(Error::Missing("spank_setenv")));
    }

    #[test]
    fn strings_stop_at_null_and_at_the_limit() {
        let mut array = [c"a".as_ptr().cast_mut(), c"b".as_ptr().cast_mut(), std::ptr::null_mut()];
        // SAFETY: three entries, the last one null.
        assert_eq!(unsafe { strings(array.as_mut_ptr(), usize::MAX) }, ["a", "b"]);
        // SAFETY: as above.
        assert_eq!(unsafe { strings(array.as_mut_ptr(), 1) }, ["a"]);
        // SAFETY: null.
        assert!(unsafe { strings(std::ptr::null_mut(), 5) }.is_empty());
    }
}
