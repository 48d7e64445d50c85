//! The side of those who ask: a task for its container, slurmstepd for the end of it. They wait and pass lines on.
#![forbid(unsafe_code)]

use super::control::Control;
use super::protocol::{Answer, Ask, Caller};
use crate::container::Entry;
use pyxis_runtime::containers::{Ending, Held, Place, Question, Running};
use pyxis_runtime::sys::channel;
use pyxis_runtime::{Error, Result};
use rustix::fd::{AsFd, OwnedFd};

/// A container that a task can enter.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Its namespaces.
    pub(crate) held: Held,
    /// How to enter.
    pub(crate) entry: Entry,
}

/// Why a task gets no container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// For this reason, which the user is to be told.
    Told(Error),
    /// For a reason that another task tells.
    Quiet,
}

/// Asks for the step's container and waits for the answer.
pub(crate) fn ask(control: &Control, caller: Caller, tell: impl FnMut(&str)) -> std::result::Result<Ready, Refusal> {
    let answers = send_ask(control, &Ask::Container(caller)).map_err(Refusal::Told)?;
    match hear(&answers, tell, |_| ()) {
        Ok((Answer::Ready(kinds, entry), fds)) => {
            let held = Held::received(kinds, fds).map_err(Refusal::Told)?;
            Ok(Ready { held, entry })
        }
        Ok((Answer::Refused(error), _)) => Err(Refusal::Told(error)),
        Ok((Answer::RefusedQuietly, _)) => Err(Refusal::Quiet),
        Ok((answer, _)) => Err(Refusal::Told(Error::Host(format!(
            "the step's supervisor answered {answer:?} to a task"
        )))),
        Err(error) => Err(Refusal::Told(error)),
    }
}

/// Tells the supervisor that the last task has ended, and waits until it has done what is to be done then. A supervisor
/// that is gone has nothing to do.
pub(crate) fn ended(
    control: &Control,
    place: &Place,
    ending: Ending,
    tell: impl FnMut(&str),
    complain: impl FnMut(&str),
) -> Result<()> {
    let answers = match send_ask(control, &Ask::Ended(ending)) {
        Ok(answers) => answers,
        // With SlurmdParameters=contain_spank the socket is not open here, but the container's own can be found.
        Err(_) => match ask_by_name(place, ending)? {
            Some(socket) => socket,
            None => return Ok(()),
        },
    };
    match hear(&answers, tell, complain) {
        Ok((Answer::Refused(error), _)) => Err(error),
        _ => Ok(()),
    }
}

fn ask_by_name(place: &Place, ending: Ending) -> Result<Option<OwnedFd>> {
    let Some(running) = Running::existing(&place.runtime_path, place.uid)? else {
        return Ok(None);
    };
    let socket = running.connect(place)?;
    if let Some(socket) = &socket {
        channel::send(socket, &Question::Ended(ending), &[])?;
    }
    Ok(socket)
}

/// Passes lines on until the answer comes.
fn hear(
    answers: &OwnedFd,
    mut tell: impl FnMut(&str),
    mut complain: impl FnMut(&str),
) -> Result<(Answer, Vec<OwnedFd>)> {
    loop {
        match channel::recv::<Answer>(answers)? {
            None => return Err(gone()),
            Some(received) => match received.message {
                Answer::Line(line) => tell(&line),
                Answer::Complaint(line) => complain(&line),
                answer => return Ok((answer, received.fds)),
            },
        }
    }
}

fn send_ask(control: &Control, ask: &Ask) -> Result<OwnedFd> {
    let socket = control.socket()?;
    let (ours, theirs) = channel::pair()?;
    match channel::send(socket, ask, &[theirs.as_fd()]) {
        Ok(()) => Ok(ours),
        Err(error) if error.errno() == Some(rustix::io::Errno::PIPE.raw_os_error()) => Err(gone()),
        Err(error) => Err(error),
    }
}

fn gone() -> Error {
    Error::Host("the step's supervisor has ended unexpectedly; was it killed, or is the node out of memory?".into())
}
