//! What tasks, slurmstepd, supervisor and builder say to each other.
#![forbid(unsafe_code)]

use crate::container::Entry;
use pyxis_runtime::Error;
use pyxis_runtime::containers::{Description, Ending, Kind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is asked over the socket that the step shares. The end of the socket that the answers go to travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A task asks for its container: the answer is [`Answer::Ready`], or that it is refused.
    Container(Caller),
    /// slurmstepd says that the last task of this node has ended: the answer, when all is done that was to be done
    /// then, is [`Answer::Done`], or that it was refused.
    Ended(Ending),
}

/// A task that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    /// The task's environment.
    pub(crate) env: Vec<(String, String)>,
    /// The task's working directory.
    pub(crate) cwd: PathBuf,
}

/// An answer. Lines may come before; then one of the others, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// A line for the user.
    Line(String),
    /// A line for the user about something that was killed. It means nothing when the whole step was.
    Complaint(String),
    /// The container; the descriptors that come along are of these kinds.
    Ready(Vec<Kind>, Entry),
    /// It is done.
    Done,
    /// It cannot be, and this is why.
    Refused(Error),
    /// It cannot be, and another task has told why.
    RefusedQuietly,
}

/// What a builder reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A line for the user.
    Line(String),
    /// The container.
    Done(Box<Made>),
    /// It could not be made.
    Failed(Error),
}

/// A container that a builder has made. Its descriptors come along, of these kinds, and then the listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) entry: Entry,
    pub(crate) description: Description,
}
