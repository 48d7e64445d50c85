//! Containers that others can find: those that run, through sockets, and those that have a name, through the data path.
//!
//! ```text
//! RUNTIME/<uid>/lock             a lock per container: who decides what becomes of it, and makes it, holds it
//! RUNTIME/<uid>/<id>/<member>    a socket; who connects gets the container's descriptors (only root can get there)
//! DATA/<uid>/<id>/upper, work    what was written to a container that has a name; the user's
//! DATA/<uid>/<id>/container.json what it is made of, sealed with the node's key
//! DATA/<uid>/.unpacked.<id>.<n>/ the unpacked image of a container that has no name, with a lock
//! ```
//!
//! Each process that holds a container for a step (its member) has a socket: the one that made it, and those whose
//! steps joined. So the container is there for others as long as one of them is.
#![forbid(unsafe_code)]

mod data;
mod description;
mod held;
mod remove;
mod running;
mod seal;
mod unpacked;

pub use data::{Data, Kept};
pub use description::{Description, Layer, Record};
pub use held::{Held, Kind};
pub use running::{Ending, Found, Question, Running, accept, withdraw};
pub use seal::Key;
pub use unpacked::Unnamed;

use std::path::PathBuf;

/// Where a container can be found while it runs, and as whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory of running containers; root's.
    pub runtime_path: PathBuf,
    /// Whose container it is.
    pub uid: u32,
    /// The container's id: a file name that does not begin with a dot.
    pub id: String,
    /// The name of this step's socket: one of its own on the machine.
    pub member: String,
}
