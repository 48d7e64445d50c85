//! The supervisor's loop: waits for asks, for the builder, for other steps, and for the end of slurmstepd; answers.
#![forbid(unsafe_code)]

use super::builder::{Builder, News, Recipe};
use super::protocol::{Answer, Ask, Caller};
use super::saving::{Outcome, Saving, Wish};
use crate::container::{self, Prepared};
use pyxis_runtime::containers::{Ending, Kind, Question, accept, withdraw};
use pyxis_runtime::report::PATIENCE;
use pyxis_runtime::rootfs::reader::NAME as READER;
use pyxis_runtime::sys::channel;
use pyxis_runtime::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;

/// Runs until the step is over: until nobody can ask any more, or its owner, slurmstepd, has ended.
pub(super) fn run(control: &OwnedFd, owner: &OwnedFd, recipe: Recipe) {
    let mut supervisor = Supervisor {
        recipe,
        stage: Stage::Idle,
        waiting: Vec::new(),
        visitors: Vec::new(),
        wish: None,
        held_back: false,
        directory: None,
    };
    // An ask that makes no sense is dropped with its socket, which tells its sender; everything else is an answer.
    while let Ok(ready) = supervisor.wait(control, owner) {
        if ready.contains(&Event::OwnerEnded) {
            break;
        }
        // The last ones first, so that the numbers of those before stay.
        for event in ready.into_iter().rev() {
            match event {
                Event::Visit(number) => supervisor.take_question(number),
                Event::Visitor => supervisor.take_visitor(),
                Event::News => supervisor.take_news(),
                Event::Room => supervisor.held_back = false,
                Event::Gone(number) => supervisor.forget(number),
                Event::Ask if supervisor.take_ask(control) == Line::Closed => return supervisor.depart(),
                Event::Ask | Event::OwnerEnded => {}
            }
        }
    }
    supervisor.depart();
}

struct Supervisor {
    recipe: Recipe,
    stage: Stage,
    /// Tasks without an answer yet, in the order of their asking.
    waiting: Vec<OwnedFd>,
    /// Other steps that have connected and not asked yet.
    visitors: Vec<OwnedFd>,
    /// The container is to be saved at the end.
    wish: Option<Wish>,
    /// The lock on the directory of an unpacked image, which goes away with its last holder.
    directory: Option<OwnedFd>,
    /// The builder's next words wait until the first task has read those before.
    held_back: bool,
}

/// How far the container is.
enum Stage {
    /// Nobody has asked.
    Idle,
    /// The builder is at work.
    Building(Builder),
    /// There it is.
    Ready(Box<Prepared>),
    /// There will be none; a task has been told why, if the error is gone.
    Refused(Option<Error>),
    /// All tasks have ended, and it is being saved.
    Saving(Saving),
}

/// Something that can be done without waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The waiting task of this number has ended.
    Gone(usize),
    /// Somebody asks over the step's own socket.
    Ask,
    /// slurmstepd has ended.
    OwnerEnded,
    /// The builder says something.
    News,
    /// The first task has read what it was told.
    Room,
    /// Another step connects.
    Visitor,
    /// The visitor of this number asks, or is gone.
    Visit(usize),
}

/// The shared socket, after a look.
#[derive(PartialEq, Eq)]
enum Line {
    Open,
    Closed,
}

impl Supervisor {
    fn wait(&self, control: &OwnedFd, owner: &OwnedFd) -> Result<Vec<Event>> {
        let mut sources = Vec::new();
        if let Stage::Building(_) = self.stage {
            // Of one that waits for an answer, only its end is of interest.
            let waiting = self.waiting.iter().enumerate();
            sources.extend(waiting.map(|(number, task)| (Event::Gone(number), task.as_fd(), PollFlags::empty())));
        }
        sources.push((Event::Ask, control.as_fd(), PollFlags::IN));
        sources.push((Event::OwnerEnded, owner.as_fd(), PollFlags::IN));
        match &self.stage {
            Stage::Building(builder) => sources.push(match self.waiting.first() {
                Some(reader) if self.held_back => (Event::Room, reader.as_fd(), PollFlags::OUT),
                _ => (Event::News, builder.reports(), PollFlags::IN),
            }),
            Stage::Ready(prepared) => sources.push((Event::Visitor, prepared.listener.as_fd(), PollFlags::IN)),
            Stage::Saving(saving) => sources.push((Event::News, saving.news(), PollFlags::IN)),
            Stage::Idle | Stage::Refused(_) => {}
        }
        let visitors = self.visitors.iter().enumerate();
        sources.extend(visitors.map(|(number, visitor)| (Event::Visit(number), visitor.as_fd(), PollFlags::IN)));
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let saving = match &self.stage {
            Stage::Saving(saving) => Some(saving),
            _ => None,
        };
        let patience = saving.map(|_| PATIENCE);
        let count = rustix::io::retry_on_intr(|| poll(&mut fds, patience.as_ref()))
            .map_err(|error| Error::sys("wait for tasks", "poll", error))?;
        if let (0, Some(saving)) = (count, saving) {
            send(saving.asker(), &saving.so_far(), &[]);
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((event, ..), _)| *event).collect())
    }

    /// Forgets a waiting task that has ended. When nobody waits any more, nobody shall work: the builder is killed, and
    /// a task that asks later starts anew.
    fn forget(&mut self, number: usize) {
        if let Stage::Building(_) = self.stage {
            self.waiting.remove(number);
            if self.waiting.is_empty() {
                self.stage = Stage::Idle;
            }
        }
    }

    /// Takes one ask in.
    fn take_ask(&mut self, control: &OwnedFd) -> Line {
        let received = match channel::recv::<Ask>(control) {
            Ok(Some(received)) => received,
            Ok(None) | Err(Error::Sys { .. }) => return Line::Closed,
            Err(_) => return Line::Open,
        };
        let Some(socket) = received.fds.into_iter().next() else {
            return Line::Open;
        };
        // A task that does not read must not make the others wait.
        if rustix::fs::fcntl_setfl(&socket, OFlags::NONBLOCK).is_err() {
            return Line::Open;
        }
        match received.message {
            Ask::Container(caller) => self.take_caller(caller, received.sender, socket),
            Ask::Ended(ending) => self.end(socket, ending),
        }
        Line::Open
    }

    /// A task waits for the container; the first one starts it.
    fn take_caller(&mut self, caller: Caller, sender: Option<i32>, socket: OwnedFd) {
        if matches!(self.stage, Stage::Idle) {
            let wish = Wish::of(&self.recipe.order.request, &self.recipe.job, &caller, sender);
            let started = wish.and_then(|wish| {
                self.wish = wish;
                Builder::start(&self.recipe, caller, sender)
            });
            self.stage = match started {
                Ok(builder) => Stage::Building(builder),
                Err(error) => Stage::Refused(Some(error)),
            };
        }
        self.waiting.push(socket);
        self.answer_all();
    }

    /// The last task has ended: nobody finds the container through this step any more, and it is saved or let go.
    fn end(&mut self, asker: OwnedFd, ending: Ending) {
        self.complain(&asker);
        self.leave();
        let stage = std::mem::replace(&mut self.stage, Stage::Refused(None));
        match (stage, self.wish.take()) {
            (Stage::Ready(prepared), Some(wish)) => match wish.begin(&prepared, &self.recipe.job, ending, asker) {
                Outcome::Begun(saving) => self.stage = Stage::Saving(saving),
                Outcome::Failed(asker, error) => drop(send(&asker, &Answer::Refused(error), &[])),
            },
            // First the answer: srun waits for it, and letting go of a file system may write to a disk.
            (stage, _) => {
                send(&asker, &Answer::Done, &[]);
                drop(stage);
            }
        }
    }

    /// Takes one piece of news of the saving in.
    fn take_progress(&mut self) {
        let Stage::Saving(saving) = &mut self.stage else { return };
        let Some(answers) = saving.progress() else { return };
        for answer in answers {
            send(saving.asker(), &answer, &[]);
        }
        self.stage = Stage::Refused(None);
    }

    /// Tells of readers of the image, and of files with data, that have ended although the container was in use.
    fn complain(&self, asker: &OwnedFd) {
        let Stage::Ready(prepared) = &self.stage else { return };
        let (held, description) = (&prepared.held, &prepared.description);
        let image = held.lost(Kind::Reader).next().map(|_| &description.record.image);
        let data = held
            .lost(Kind::DataReader)
            .filter_map(|number| description.data.get(number));
        for file in image.into_iter().chain(data) {
            let line = format!("{READER}, which read {file} for this step, was killed or has crashed; out of memory?");
            send(asker, &Answer::Complaint(line), &[]);
        }
    }

    /// Takes the container's socket away, if there is one, and tells the site's importer. An error has nobody to go to;
    /// the end of the job looks again.
    fn leave(&mut self) {
        let recipe = &self.recipe;
        if let Stage::Ready(_) = self.stage {
            let _ = withdraw(&recipe.order.place(&recipe.job));
        }
        if matches!(self.stage, Stage::Ready(_) | Stage::Building(_)) {
            // A builder that asks the importer at this moment is ended first.
            self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
                Stage::Building(_) => Stage::Refused(None),
                other => other,
            };
            if let Some(importer) = recipe.order.importer(&recipe.job) {
                let call = importer.call(&recipe.job.identity, None);
                let _ = call.and_then(|call| call.release());
            }
        }
    }

    /// The step is over. An unpacked image goes away with the last who held it.
    fn depart(&mut self) {
        self.leave();
        if self.directory.take().is_some() {
            // The container has it too.
            self.stage = Stage::Idle;
            let _ = container::sweep(self.recipe.job.identity.uid);
        }
    }

    /// Lets one other step in.
    fn take_visitor(&mut self) {
        if let Stage::Ready(prepared) = &self.stage
            && let Ok(Some(visitor)) = accept(&prepared.listener)
        {
            self.visitors.push(visitor);
        }
    }

    /// Takes one question of another step in. A visitor has one, and then goes.
    fn take_question(&mut self, number: usize) {
        let visitor = self.visitors.swap_remove(number);
        match (channel::recv::<Question>(&visitor), &self.stage) {
            (Ok(Some(received)), Stage::Ready(prepared)) => match received.message {
                Question::Join => {
                    let (kinds, fds) = prepared.held.for_steps();
                    // One that is gone, or does not read, sees the end of its socket.
                    let _ = channel::send(&visitor, &(kinds, &prepared.description), &fds);
                }
                Question::Ended(ending) => self.end(visitor, ending),
            },
            _ => drop(visitor),
        }
    }

    /// Takes one piece of the builder's news in.
    fn take_news(&mut self) {
        let Stage::Building(builder) = &self.stage else {
            return self.take_progress();
        };
        // An entrypoint may say more than a socket holds, and the last words are the ones that matter.
        if self.waiting.first().is_some_and(|reader| !has_room(reader)) {
            self.held_back = true;
            return;
        }
        match builder.news() {
            News::Line(line) => self.tell(&line),
            News::Outcome(outcome) => self.finish(outcome),
            News::Ended => {
                if let Stage::Building(builder) = std::mem::replace(&mut self.stage, Stage::Idle) {
                    self.finish(Err(builder.obituary()));
                }
            }
        }
    }

    /// The builder is done, one way or the other.
    fn finish(&mut self, outcome: Result<Box<Prepared>>) {
        self.stage = match outcome {
            Ok(prepared) => {
                let lock = prepared.held.get(Kind::Unpacked);
                self.directory = lock.and_then(|lock| lock.try_clone_to_owned().ok());
                Stage::Ready(prepared)
            }
            Err(error) => Stage::Refused(Some(error)),
        };
        self.answer_all();
    }

    /// Sends a line to the first task that is still there.
    fn tell(&self, line: &str) {
        let answer = Answer::Line(line.to_owned());
        for socket in &self.waiting {
            match send(socket, &answer, &[]) {
                Sent::Yes | Sent::Full => break,
                Sent::Gone => {}
            }
        }
    }

    /// Answers all waiting tasks, if there is an answer.
    fn answer_all(&mut self) {
        match &mut self.stage {
            Stage::Idle | Stage::Building(_) | Stage::Saving(_) => {}
            Stage::Ready(prepared) => {
                let (kinds, fds) = prepared.held.for_tasks();
                let answer = Answer::Ready(kinds, prepared.entry.clone());
                for socket in self.waiting.drain(..) {
                    // A task that is gone, or that does not read, sees the end of its socket.
                    send(&socket, &answer, &fds);
                }
            }
            Stage::Refused(reason) => {
                for socket in self.waiting.drain(..) {
                    let Some(error) = reason.take() else {
                        send(&socket, &Answer::RefusedQuietly, &[]);
                        continue;
                    };
                    let answer = Answer::Refused(error.clone());
                    if send(&socket, &answer, &[]) != Sent::Yes {
                        *reason = Some(error);
                    }
                }
            }
        }
    }
}

/// Something can be sent, or nobody is there to read it.
fn has_room(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::OUT)];
    rustix::io::retry_on_intr(|| poll(&mut ready, Some(&Timespec::default()))).is_ok_and(|count| count > 0)
}

#[derive(PartialEq, Eq)]
enum Sent {
    Yes,
    Full,
    Gone,
}

fn send(socket: &OwnedFd, answer: &Answer, fds: &[BorrowedFd<'_>]) -> Sent {
    match channel::send(socket, answer, fds) {
        Ok(()) => Sent::Yes,
        Err(error) if error.errno() == Some(rustix::io::Errno::AGAIN.raw_os_error()) => Sent::Full,
        Err(_) => Sent::Gone,
    }
}
