//! What is kept from one callback to the next, in the memory of the host process. Callbacks run one after the other, on
//! one thread; a forked task sees the copy of its fork.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::supervisor::Control;
use pyxis_runtime::Error;
use pyxis_runtime::containers::Place;
use pyxis_runtime::request::{Request, Use};
use std::sync::{Mutex, PoisonError};

/// The state of the plugin in one process.
#[derive(Default)]
pub(crate) struct State {
    /// The plugin's arguments in plugstack.conf.
    pub(crate) arguments: Arguments,
    /// An error in them, raised when a container is asked for.
    pub(crate) bad_arguments: Option<Error>,
    /// The options that Slurm has reported.
    pub(crate) uses: Vec<Use>,
    /// In srun: the container of the component of a heterogeneous step that was judged last, if it has one.
    pub(crate) component: Option<Option<Request>>,
    /// In slurmstepd: what becomes of the tasks.
    pub(crate) step: Step,
}

/// What becomes of the tasks of a step.
#[derive(Default)]
pub(crate) enum Step {
    /// No container was asked for.
    #[default]
    Plain,
    /// A supervisor makes the container.
    Container(Container),
    /// One was asked for and cannot be: the tasks fail with this error.
    Refused(Error),
}

/// A step with a container.
pub(crate) struct Container {
    /// The way to its supervisor.
    pub(crate) control: Control,
    /// Where the container can be found.
    pub(crate) place: Place,
    /// Tasks on this node that have not ended yet.
    pub(crate) running: u32,
    /// One of them was killed.
    pub(crate) killed: bool,
    /// In a task: it has kept capabilities, as it cannot enter without them.
    pub(crate) keeps: bool,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Runs `action` on the state. The lock is only ever held here and never across a call into Slurm, so that no fork can
/// happen while it is held.
pub(crate) fn with<T>(action: impl FnOnce(&mut State) -> T) -> T {
    // A panic in between leaves plain data that is still whole.
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    action(state.get_or_insert_default())
}
