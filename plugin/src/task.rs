//! The task itself, after slurmstepd's fork and as the user: asks the supervisor for the container, enters it, and
//! returns; slurmstepd then looks the command up in the PATH of the environment as it is now, which is the
//! container's, inside of the container, and executes it.
//!
//! A task that cannot enter its container ends here and does not return: after a failure that is returned Slurm writes
//! two lines of its own for each task, and with `optional` instead of `required` in plugstack.conf it would run the
//! command on the host.
#![forbid(unsafe_code)]

use crate::container;
use crate::message;
use crate::options;
use crate::pytorch;
use crate::state::{self, Container, Step};
use crate::step;
use crate::supervisor::{self, Caller, Ready, Refusal};
use crate::task_prolog::{self, Order};
use pyxis_runtime::environment::edited;
use pyxis_runtime::namespaces::user::switched_off;
use pyxis_runtime::privilege;
use pyxis_runtime::stand_in;
use pyxis_runtime::sys::process::{self, exit_now};
use pyxis_runtime::{Error, Result};
use spank_sys::{Spank, Verdict};
use std::io::Write;

/// The exit code of a task that could not enter its container: what slurmstepd itself uses for a failed plugin.
const NOT_ENTERED: u8 = 1;

/// `slurm_spank_task_init_privileged`. Where user namespaces are switched off, a container's mount namespace is the node's, and
/// the user may not enter it: capabilities stay with the task until it has.
pub(crate) fn init_privileged() -> Verdict {
    let kept = state::with(|state| match &mut state.step {
        Step::Container(container) if switched_off() => {
            container.keeps = true;
            privilege::keep_capabilities_over_change_of_user()
        }
        _ => Ok(()),
    });
    kept.map_or_else(|error| end(&error), |()| Verdict::Success)
}

/// `slurm_spank_task_init`.
pub(crate) fn init(spank: &Spank<'_>) -> Verdict {
    // Taken out: from here on nothing of this process needs it, and the lock is not held while we wait.
    let outcome = match state::with(|state| std::mem::take(&mut state.step)) {
        Step::Plain => Ok(()),
        Step::Container(container) => enter_container(spank, &container),
        // Known before any task was there, so nobody counts who is first.
        Step::Refused(error) if spank.task_id() == Ok(0) => Err(Refusal::Told(error)),
        Step::Refused(_) => Err(Refusal::Quiet),
    };
    match outcome.and_then(|()| forget_batch_options(spank).map_err(Refusal::Told)) {
        Ok(()) => Verdict::Success,
        Err(refusal) => {
            if let Refusal::Told(error) = refusal {
                end(&error)
            }
            exit_now(NOT_ENTERED)
        }
    }
}

/// Ends the task.
fn end(error: &Error) -> ! {
    message::error(&error.to_string());
    exit_now(NOT_ENTERED)
}

fn enter_container(spank: &Spank<'_>, step: &Container) -> std::result::Result<(), Refusal> {
    if step.keeps {
        privilege::keep_what_entering_takes().map_err(Refusal::Told)?;
    }
    let env = spank.env().map_err(|error| Refusal::Told(slurm_failed(&error)))?;
    // Slurm's process tracking spares processes called slurmstepd, so that scancel would not end a task that waits for
    // its image until KillWait has passed. exec gives the task its own name.
    let _ = rustix::thread::set_name(c"pyxis-task");
    let mut edits = task_prolog(&env);
    // What the site sets for a task counts like the job's own.
    let env = edited(env.into_iter().collect(), &edits);
    let caller = Caller {
        env: env.clone().into_iter().collect(),
        // A directory that was removed is no reason to fail: only relative mount sources start from it.
        cwd: std::env::current_dir().unwrap_or_else(|_| "/".into()),
    };
    // `--signal` warns the command, which is not there yet; and slurmstepd's own handlers are none of its.
    let Ready { held, entry } = process::before_the_program(|| supervisor::ask(&step.control, caller, message::user))?;
    edits.extend(entry.env);
    edits.extend(pytorch::variables(&edited(env, &edits)));
    edits.push((options::REPEATED_MOUNTS.to_owned(), None));
    for (name, value) in &edits {
        edit_environment(spank, name, value.as_deref()).map_err(Refusal::Told)?;
    }
    // Who has no TaskProlog never needs it.
    if let Err(error) = stand_in::replace_own_program() {
        message::user(&format!("{error}: a TaskProlog cannot be started inside"));
    }
    container::enter(&held, &entry.how).map_err(Refusal::Told)
}

/// Runs the site's TaskProlog. A task that it refuses ends here, with its exit code, as without a container.
fn task_prolog(env: &[(String, String)]) -> Vec<(String, Option<String>)> {
    let Some(program) = task_prolog::path() else {
        return Vec::new();
    };
    let orders = task_prolog::run(&program, env).unwrap_or_else(|failed| {
        message::error(&failed.error.to_string());
        exit_now(failed.code)
    });
    orders.into_iter().filter_map(obey).collect()
}

/// A line is printed here, as the task; what concerns the environment becomes an edit.
fn obey(order: Order) -> Option<(String, Option<String>)> {
    match order {
        Order::Export(name, value) => Some((name, Some(value))),
        Order::Unset(name) => Some((name, None)),
        Order::Print(text) => {
            // Nobody may read it, which is no reason not to run.
            let _ = writeln!(std::io::stdout(), "{text}");
            None
        }
    }
}

fn edit_environment(spank: &Spank<'_>, name: &str, value: Option<&str>) -> Result<()> {
    match value {
        Some(value) => spank.setenv(name, value),
        None => spank.unsetenv(name),
    }
    .map_err(|error| slurm_failed(&error))
}

/// Slurm hands the options of sbatch on to each srun of the batch script, in variables. They were meant for the script.
fn forget_batch_options(spank: &Spank<'_>) -> Result<()> {
    if !spank.step_id().is_ok_and(step::is_batch) {
        return Ok(());
    }
    for variable in options::variables() {
        edit_environment(spank, &variable, None)?;
    }
    Ok(())
}

fn slurm_failed(error: &spank_sys::Error) -> Error {
    Error::Host(format!("change the task's environment: {error}"))
}
