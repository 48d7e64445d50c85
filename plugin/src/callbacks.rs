//! The callbacks, each handed on to the module of the process that it runs in. docs/callbacks.md has the table.
#![forbid(unsafe_code)]

use crate::{arguments, job, local, message, release, remote, slurmd, state, task};
use pyxis_runtime::request::{Kind, OPTIONS, Use};
use pyxis_runtime::{Error, Result};
use spank_sys::{Context, Spank, SpankOption, Verdict};
use std::ffi::c_int;

/// `slurm_spank_init`: the first call in every process.
pub(crate) fn init(spank: &Spank<'_>, words: &[String]) -> Verdict {
    let arguments = arguments::parse(words).and_then(|arguments| release::check(arguments, spank_sys::release()));
    match spank.context() {
        Context::Local => local::init(spank, arguments),
        Context::Allocator => local::init_allocator(spank, arguments),
        Context::Slurmd => slurmd::init(arguments),
        Context::Remote => remote::init(spank, arguments),
        Context::JobScript | Context::Unknown => Verdict::Success,
    }
}

/// `slurm_spank_init_post_opt`: all options have been reported.
pub(crate) fn init_post_opt(spank: &Spank<'_>, _words: &[String]) -> Verdict {
    match spank.context() {
        Context::Local => local::check_component(),
        Context::Allocator => local::check_options(),
        Context::Remote => remote::init_post_opt(spank),
        _ => Verdict::Success,
    }
}

/// `slurm_spank_task_init_privileged`: in the task, as root, before slurmstepd makes it the user's.
pub(crate) fn task_init_privileged(_spank: &Spank<'_>, _words: &[String]) -> Verdict {
    task::init_privileged()
}

/// `slurm_spank_task_init`: in the task, as the user, before exec.
pub(crate) fn task_init(spank: &Spank<'_>, _words: &[String]) -> Verdict {
    task::init(spank)
}

/// `slurm_spank_task_exit`: in slurmstepd, when a task has been waited for. Never fails.
pub(crate) fn task_exit(spank: &Spank<'_>, _words: &[String]) -> Verdict {
    if spank.remote() {
        remote::task_exit(spank);
    }
    Verdict::Success
}

/// `slurm_spank_job_epilog`: after a job, in a process of its own. Never fails: the node would be drained.
pub(crate) fn job_epilog(spank: &Spank<'_>, words: &[String]) -> Verdict {
    job::clean(spank, words);
    Verdict::Success
}

/// `slurm_spank_exit`: the process is about to end. Never fails: there is nobody to tell.
pub(crate) fn exit(spank: &Spank<'_>, _words: &[String]) -> Verdict {
    if spank.remote() {
        remote::exit();
    }
    Verdict::Success
}

/// One use of an option. It is only kept: all of them are judged together, in `init_post_opt`.
pub(crate) fn option(number: c_int, argument: Option<&str>) -> Verdict {
    let option = usize::try_from(number).ok().and_then(|index| OPTIONS.get(index));
    let Some(option) = option else {
        message::error(&format!(
            "Slurm reported an option that does not exist (number {number})"
        ));
        return Verdict::Failure;
    };
    // For a switch Slurm passes null, nothing, or "(null)", depending on the process.
    let argument = match option.kind {
        Kind::Text(_) => argument.map(str::to_owned),
        Kind::Switch(_) => None,
    };
    state::with(|state| state.uses.push(Use { option, argument }));
    Verdict::Success
}

/// Adds the options to the process's command line.
pub(crate) fn register(spank: &Spank<'_>) -> Result<()> {
    for (number, option) in (0..).zip(OPTIONS) {
        let spank_option = SpankOption {
            name: option.name,
            argument: match option.kind {
                Kind::Text(what) => Some(what),
                Kind::Switch(_) => None,
            },
            usage: option.help,
            number,
            callback: crate::export::option,
        };
        spank
            .register(&spank_option)
            .map_err(|error| Error::Host(format!("cannot add the option --{}: {error}", option.name)))?;
    }
    Ok(())
}
