//! slurmstepd before the tasks: the request is built, and the supervisor started when a container was asked for. Nothing
//! fails here: a failure would be a launch error without a reason for the user, and before Slurm 24.11 srun would even
//! exit with 0. Errors are kept for the tasks.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::container::Order;
use crate::state::{self, Container, Step};
use crate::step::{self, Job};
use crate::{callbacks, container, message, options, supervisor};
use pyxis_runtime::containers::{Ending, withdraw};
use pyxis_runtime::request::{Merged, Request};
use pyxis_runtime::{Error, Result};
use rustix::process::Signal;
use spank_sys::{Spank, Verdict};

/// Adds the options, so that slurmstepd knows what srun sends.
pub(crate) fn init(spank: &Spank<'_>, arguments: Result<Arguments>) -> Verdict {
    let arguments = arguments.and_then(|arguments| callbacks::register(spank).map(|()| arguments));
    state::with(|state| match arguments {
        Ok(arguments) => state.arguments = arguments,
        Err(error) => state.bad_arguments = Some(error),
    });
    Verdict::Success
}

/// All options are there.
pub(crate) fn init_post_opt(spank: &Spank<'_>) -> Verdict {
    let step = match start(spank) {
        Ok(None) => Step::Plain,
        Ok(Some(container)) => Step::Container(container),
        Err(error) => Step::Refused(error),
    };
    state::with(|state| state.step = step);
    Verdict::Success
}

/// Starts the supervisor, if there is anything for it to do.
fn start(spank: &Spank<'_>) -> Result<Option<Container>> {
    if spank.step_id().is_ok_and(step::is_extern) {
        return Ok(None);
    }
    let (uses, arguments, bad_arguments) = state::with(|state| {
        let uses = std::mem::take(&mut state.uses);
        (uses, state.arguments.clone(), state.bad_arguments.take())
    });
    let env = spank
        .env()
        .map_err(|error| Error::Host(format!("ask Slurm for the environment: {error}")))?;
    let variable = |name: &str| {
        env.iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
    };
    let uses = options::without_inherited(uses, variable);
    let uses = options::with_repeated_mounts(uses, variable(options::REPEATED_MOUNTS));
    let mut request = match Request::merge(&uses, variable, container::check_image)? {
        Merged::Container(request) => request,
        Merged::Nothing { .. } => return Ok(None),
    };
    if let Some(error) = bad_arguments {
        return Err(error);
    }
    request.entrypoint.get_or_insert(arguments.execute_entrypoint);
    let job = Job::of(spank, env)?;
    let order = Order {
        request: *request,
        arguments,
    };
    let place = order.place(&job);
    let running = job.local_tasks;
    let control = supervisor::start(order, job, container::prepare)?;
    Ok(Some(Container {
        control,
        place,
        running,
        killed: false,
        keeps: false,
    }))
}

/// A task has ended. When it was the last one of this node the supervisor is told, and what is to be done then is waited
/// for: srun does not return before.
pub(crate) fn task_exit(spank: &Spank<'_>) {
    let killed = spank.task_exit_status().is_ok_and(was_killed);
    let container = state::with(|state| match &mut state.step {
        Step::Container(container) => {
            container.running = container.running.saturating_sub(1);
            container.killed |= killed;
            (container.running == 0).then(|| std::mem::take(&mut state.step))
        }
        Step::Plain | Step::Refused(_) => None,
    });
    // Taken out, so that the lock is not held while we wait; and put back for the end of the step.
    let Some(Step::Container(container)) = container else {
        return;
    };
    let ending = Ending {
        killed: container.killed,
    };
    let complain = |line: &str| {
        if !container.killed {
            message::error(line);
        }
    };
    if let Err(error) = supervisor::ended(&container.control, &container.place, ending, message::user, complain) {
        message::error(&error.to_string());
    }
    state::with(|state| state.step = Step::Container(container));
}

/// Somebody wants the step to end now: scancel, the time limit, the memory limit, another task's failure.
fn was_killed(status: i32) -> bool {
    let signal = status & 0x7f;
    [Signal::TERM, Signal::KILL].map(Signal::as_raw).contains(&signal)
}

/// The step is over: the supervisor is told so by the end of its socket. If it was killed, nobody else takes its name
/// away.
pub(crate) fn exit() {
    let step = state::with(|state| std::mem::take(&mut state.step));
    if let Step::Container(container) = step {
        container.control.close();
        if let Err(error) = withdraw(&container.place) {
            message::error(&format!("{error}, ignoring"));
        }
    }
}
