//! Starts the worker program in its roles, each as the user it is meant for, and hears what it says.
#![forbid(unsafe_code)]

use super::users;
use crate::config::WorkerConfig;
use crate::error::{Error, Result};
use crate::image::file::Part;
use crate::image::file::signature::Verified;
use crate::image::local::Inspected;
use crate::image::{CredentialQuery, Credentials, Manifest, Platform, RegistryConfig};
use crate::pack::Summary;
use crate::plan::Identity;
use crate::privilege;
use crate::reference::Reference;
use crate::report::{PATIENCE, Report, wait_readable};
use crate::sys::cgroup::Groups;
use crate::sys::process::Child;
use crate::worker::program::{self, Program, Start, Started};
use crate::worker::protocol::{
    Accounts, CredentialsRequest, DownloadRequest, FIRST_INPUT, FIRST_KEYRING, FIRST_OUTPUT, InspectRequest,
    KnownCredentials, LAYER_OUTPUT, Line, LookupRequest, Progress, ResolveRequest, Resolved, Role, VERIFY_IMAGE,
    VerifyRequest, read_answer,
};
use rustix::event::Timespec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often a long import is told to the user.
const PROGRESS: Duration = Duration::from_secs(5);

/// Who wants an image.
#[derive(Debug, Clone)]
pub struct Requester {
    /// A process of the requester. What is done for him that takes memory and time is done in its control groups, and so
    /// is what he chose to run for his credentials.
    pub task: Option<i32>,
    /// The environment in which credentials are looked for.
    pub env: BTreeMap<String, String>,
}

/// The worker program and whom it becomes.
#[derive(Debug)]
pub struct Workers {
    program: Program,
    users: Option<Users>,
}

/// The two users of an import that root starts.
#[derive(Debug)]
struct Users {
    /// Owns nothing and parses what comes from outside.
    service: Identity,
    /// Owns the credentials.
    requester: Identity,
}

impl Workers {
    /// The installed worker program, for what root does on behalf of a user. A user's own runtime is its own worker.
    pub fn open(config: &WorkerConfig, requester: &Identity) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Self::of_this_program(config);
        }
        let program = Program::open_trusted(&config.path)?;
        let service = users::service_user(&config.user)?;
        Ok(Workers {
            program,
            users: Some(Users {
                service,
                requester: requester.clone(),
            }),
        })
    }

    /// This program itself. Only root has anybody to become; everybody else imports as what they are.
    pub fn of_this_program(config: &WorkerConfig) -> Result<Self> {
        let program = Program::current()?;
        let me = privilege::caller();
        let users = match me.uid {
            0 => Some(Users {
                service: users::service_user(&config.user)?,
                requester: me,
            }),
            _ => None,
        };
        Ok(Workers { program, users })
    }

    /// Starts to ask the name service about a user.
    pub fn start_lookup(&self, identity: &Identity) -> Result<Lookup> {
        let request = LookupRequest {
            uid: identity.uid,
            gid: identity.gid,
        };
        self.start(Role::Lookup, &request, &self.as_service()).map(Lookup)
    }

    /// Verifies that what is at `part` of an image file was signed with a key of the key rings. It takes the requester's
    /// time and memory.
    pub fn verify(
        &self,
        image: &OwnedFd,
        part: Option<Part>,
        keyrings: &[OwnedFd],
        requester: &Requester,
        report: &mut dyn FnMut(Report),
    ) -> Result<Verified> {
        let groups = self.groups(requester)?;
        let mut start = self.as_service();
        start.groups = groups.as_ref();
        let keyring_fds = keyrings.iter().map(AsFd::as_fd).zip(FIRST_KEYRING..);
        start.files = std::iter::once((image.as_fd(), VERIFY_IMAGE))
            .chain(keyring_fds)
            .collect();
        let request = VerifyRequest {
            part,
            keyrings: keyrings.len(),
        };
        let running = self.start(Role::Verify, &request, &start)?;
        running.answer("the check of the image's signature", report)
    }

    /// Starts to ask a registry for a manifest, at first without credentials.
    pub fn start_resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        registry: &RegistryConfig,
    ) -> Result<Resolving> {
        let request = ResolveRequest {
            reference: reference.clone(),
            platform: platform.clone(),
            registry: registry.clone(),
            credentials: KnownCredentials::NotAsked,
        };
        let running = self.start(Role::Resolve, &request, &self.as_service())?;
        Ok(Resolving { request, running })
    }

    /// Waits for the manifest; asks again with the requester's credentials where the registry wants some.
    pub fn resolve(
        &self,
        resolving: Resolving,
        requester: &Requester,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Manifest, KnownCredentials)> {
        let Resolving { mut request, running } = resolving;
        let registry = format!("registry {}", request.reference.registry());
        let query = match running.answer(&registry, report)? {
            Resolved::Manifest(manifest) => return Ok((manifest, request.credentials)),
            Resolved::NeedCredentials(query) => query,
        };
        request.credentials = KnownCredentials::Asked(self.credentials(query, requester, report)?);
        let running: Running<Resolved> = self.start(Role::Resolve, &request, &self.as_service())?;
        match running.answer(&registry, report)? {
            Resolved::Manifest(manifest) => Ok((manifest, request.credentials)),
            Resolved::NeedCredentials(query) => {
                let registry = query.registry;
                Err(Error::Host(format!(
                    "the worker asks for the credentials of {registry} again"
                )))
            }
        }
    }

    /// Reads the requester's credentials, as the requester.
    fn credentials(
        &self,
        query: CredentialQuery,
        requester: &Requester,
        report: &mut dyn FnMut(Report),
    ) -> Result<Option<Credentials>> {
        let wanted = format!("the credentials of registry {}", query.registry);
        let request = CredentialsRequest {
            query,
            env: requester.env.clone(),
        };
        let user = self.users.as_ref().map(|users| &users.requester);
        let groups = self.groups(requester)?;
        let start = Start {
            groups: groups.as_ref(),
            environment: Some(&requester.env),
            user,
            ..Default::default()
        };
        self.start(Role::Credentials, &request, &start)?.answer(&wanted, report)
    }

    /// Downloads blobs into `files`, or makes them of `inputs`. This is what takes memory and time, so the requester's limits hold for it.
    pub(super) fn download(
        &self,
        request: &DownloadRequest,
        (files, inputs): (&[File], &[OwnedFd]),
        requester: &Requester,
        report: &mut dyn FnMut(Report),
        news: &mut dyn FnMut(News) -> Result<()>,
    ) -> Result<()> {
        let groups = self.groups(requester)?;
        let mut start = self.as_service();
        start.groups = groups.as_ref();
        let outputs = files.iter().map(AsFd::as_fd);
        start.files = outputs
            .chain(inputs.iter().map(AsFd::as_fd))
            .zip(FIRST_OUTPUT..)
            .collect();
        let mut told = Told {
            started: Instant::now(),
            last: Instant::now(),
        };
        let running = self.start::<()>(Role::Download, request, &start)?;
        // It tells each second how far it is.
        let output = BufReader::new(&running.output);
        let answer = read_answer(output, |line| match line {
            Line::Finished { item, summary } => news(News::Finished(item, summary)),
            Line::Progress(progress) => {
                let bytes = progress.bytes;
                told.tell(progress, report);
                news(News::Received(bytes))
            }
            Line::Done(_) => Ok(()),
        })?;
        answer.map_or_else(|| Err(running.ended()), Ok)
    }

    /// The requester, when root works for him.
    pub(super) fn requester(&self) -> Option<&Identity> {
        self.users.as_ref().map(|users| &users.requester)
    }

    /// Looks for an image in `files`. An archive of many members takes its time, which is the requester's if he is named.
    pub(super) fn inspect(
        &self,
        request: &InspectRequest,
        files: &[BorrowedFd<'_>],
        requester: Option<&Requester>,
        report: &mut dyn FnMut(Report),
    ) -> Result<Inspected> {
        let groups = requester.map_or(Ok(None), |requester| self.groups(requester))?;
        let mut start = self.as_service();
        start.groups = groups.as_ref();
        start.files = files.iter().copied().zip(FIRST_INPUT..).collect();
        let wanted = format!("what {} is", request.ask.image);
        self.start(Role::Inspect, request, &start)?.answer(&wanted, report)
    }

    /// Starts to write `input`, unpacked, to `output`; not more than `most` bytes.
    pub(super) fn spool(
        &self,
        input: BorrowedFd<'_>,
        output: &File,
        most: u64,
        requester: &Requester,
    ) -> Result<Spooling> {
        let groups = self.groups(requester)?;
        let most = most.to_string();
        let start = Start {
            argument: Some(&most),
            files: vec![(output.as_fd(), LAYER_OUTPUT)],
            input: Some(input),
            groups: groups.as_ref(),
            ..self.as_service()
        };
        let Started { child, output, .. } = self.program.start(Role::Spool, &start)?;
        Ok(Spooling(Running {
            role: Role::Spool,
            child,
            output,
            answer: PhantomData,
        }))
    }

    /// The control groups of the requester, when root works for him.
    pub(super) fn groups(&self, requester: &Requester) -> Result<Option<Groups>> {
        match (&self.users, requester.task) {
            (Some(users), Some(task)) => Groups::of(task, users.requester.uid).map(Some),
            _ => Ok(None),
        }
    }

    /// A start as the service user, or as the caller where there is nobody to become.
    fn as_service(&self) -> Start<'_> {
        Start {
            user: self.users.as_ref().map(|users| &users.service),
            ..Default::default()
        }
    }

    /// Starts a worker and hands it its request. A worker reads all of it before it answers.
    fn start<T: DeserializeOwned>(
        &self,
        role: Role,
        request: &impl Serialize,
        start: &Start<'_>,
    ) -> Result<Running<T>> {
        let request = serde_json::to_vec(request).map_err(|error| Error::Host(format!("start a worker: {error}")))?;
        let Started {
            child,
            mut input,
            output,
        } = self.program.start(role, start)?;
        match input.write_all(&request) {
            // A worker that is gone already has its reasons; they come with its answer.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::sys("start a worker", "write(request)", error))
            }
            _ => Ok(Running {
                role,
                child,
                output,
                answer: PhantomData,
            }),
        }
    }
}

/// A worker that is at work.
#[derive(Debug)]
struct Running<T> {
    role: Role,
    child: Child,
    output: File,
    answer: PhantomData<T>,
}

impl<T: DeserializeOwned> Running<T> {
    /// Waits for the answer, and says every few seconds whose it is (`wanted`).
    fn answer(self, wanted: &str, report: &mut dyn FnMut(Report)) -> Result<T> {
        let patient = Patient {
            output: &self.output,
            patience: PATIENCE,
            silent: || report(Report::Progress(format!("waiting for {wanted}"))),
        };
        let answer = read_answer(BufReader::new(patient), |_| Ok(()))?;
        answer.map_or_else(|| Err(self.ended()), Ok)
    }

    /// The error for a worker that ended without a word.
    fn ended(self) -> Error {
        program::obituary(self.role, self.child)
    }
}

/// A worker's output that calls `silent` whenever nothing has come for a while.
struct Patient<'f, F> {
    output: &'f File,
    patience: Timespec,
    silent: F,
}

impl<F: FnMut()> Read for Patient<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        wait_readable(self.output, self.patience, &mut self.silent)?;
        self.output.read(buffer)
    }
}

/// What a download has to say.
#[derive(Debug)]
pub(super) enum News {
    /// An item is whole and verified.
    Finished(usize, Option<Summary>),
    /// So many bytes have come.
    Received(u64),
}

/// A question to a registry on its way.
#[derive(Debug)]
pub struct Resolving {
    request: ResolveRequest,
    running: Running<Resolved>,
}

/// A stream on its way to a file.
#[derive(Debug)]
pub(super) struct Spooling(Running<u64>);

impl Spooling {
    /// Waits for the end; `doing` says of what.
    pub fn finish(self, doing: &str, report: &mut dyn FnMut(Report)) -> Result<u64> {
        self.0.answer(doing, report)
    }
}

/// A name service question on its way.
#[derive(Debug)]
pub struct Lookup(Running<Accounts>);

impl Lookup {
    /// Waits for the answer.
    pub fn finish(self, report: &mut dyn FnMut(Report)) -> Result<Accounts> {
        self.0.answer("the name service", report)
    }
}

/// When the user was last told how far the download is.
struct Told {
    started: Instant,
    last: Instant,
}

impl Told {
    fn tell(&mut self, progress: Progress, report: &mut dyn FnMut(Report)) {
        if self.last.elapsed() < PROGRESS {
            return;
        }
        self.last = Instant::now();
        let (bytes, total) = (progress.bytes >> 20, progress.total >> 20);
        let rate = progress.bytes as f64 / f64::from(1 << 20) / self.started.elapsed().as_secs_f64();
        report(Report::Progress(format!(
            "importing: {bytes} of {total} MiB, {rate:.0} MiB/s"
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_until_something_comes() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (output, mut input) = (File::from(reader), File::from(writer));
        let mut told = 0;
        let mut patient = Patient {
            output: &output,
            patience: Timespec { tv_sec: 0, tv_nsec: 0 },
            silent: || {
                told += 1;
                if told == 3 {
                    input.write_all(b"word").unwrap();
                }
            },
        };
        let mut word = [0; 4];
        patient.read_exact(&mut word).unwrap();
        assert_eq!((&word, told), (b"word", 3));
    }
}
