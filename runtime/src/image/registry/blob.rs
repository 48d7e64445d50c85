//! A blob as a stream: size and digest are checked while it is read, and a connection that is lost on the way is taken up
//! again at the first byte that is missing. Whoever reads to the end without an error has the right bytes.
#![forbid(unsafe_code)]

use super::Repository;
use super::failure::{Kind, seconds};
use super::origin::Origin;
use super::transport::{Answer, Ask};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Result;
use crate::image::manifest::BlobDescriptor;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use std::time::Instant;
use ureq::BodyReader;

/// After this much progress a lost connection counts as the first one again.
const PROGRESS: u64 = 1 << 20;

/// Reads one blob.
///
/// The last bytes are handed out only when the whole is right: a reader that stops at the size of the descriptor is as
/// safe as one that reads on to the end. Errors carry the runtime's own ([`BlobReader::error`]).
pub struct BlobReader<'a> {
    repository: &'a Repository<'a>,
    kind: &'static str,
    digest: Digest,
    size: u64,
    hasher: Sha256,
    done: u64,
    state: State,
    /// Times that the connection was lost since `resumed_at`.
    losses: u32,
    resumed_at: u64,
    deadline: Option<Instant>,
}

enum State {
    Streaming(Box<(Origin, BodyReader<'static>)>),
    Verified,
    Failed(Error),
}

/// Why one read of the connection did not give bytes.
enum Trouble {
    Lost(Error),
    Final(Error),
}

impl<'a> BlobReader<'a> {
    pub(super) fn open(repository: &'a Repository<'a>, kind: &'static str, blob: &BlobDescriptor) -> Result<Self> {
        let limit = repository.client.config().transfer_timeout;
        let mut reader = BlobReader {
            repository,
            kind,
            digest: blob.digest,
            size: blob.size,
            hasher: Sha256::new(),
            done: 0,
            state: State::Verified,
            losses: 0,
            resumed_at: 0,
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
        };
        let answer = reader.ask()?;
        reader.state = State::Streaming(Box::new((answer.origin, answer.body)));
        Ok(reader)
    }

    /// The runtime's error out of an I/O error that reading a blob gave.
    pub fn error(error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::Image(format!("reading from the registry failed: {error}")),
        }
    }

    /// How many bytes were handed out.
    pub fn position(&self) -> u64 {
        self.done
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> String {
        format!("{} {}", self.kind, self.digest)
    }

    /// Asks the registry for the bytes from `done` on, and checks that its answer is about those.
    fn ask(&self) -> Result<Answer> {
        let what = format!("{} of {}", self.name(), self.repository.reference.image());
        let path = format!("blobs/{}", self.digest);
        let answer = self.repository.get(
            &path,
            &Ask {
                what: &what,
                from: self.done,
                ..Ask::default()
            },
        )?;
        match answer.status {
            200 => self.check_length(answer, 0),
            206 if self.done > 0 && content_range_start(&answer) == Some(self.done) => {
                self.check_length(answer, self.done)
            }
            416 if self.done > 0 => Err(self.truncated()),
            404 => {
                let (registry, image) = (self.repository.reference.registry(), self.repository.reference.image());
                Err(Error::Image(format!(
                    "registry {registry} does not have {} of {image}",
                    self.name()
                )))
            }
            _ => Err(self.repository.unexpected(answer, &what)),
        }
    }

    /// Compares the announced length with the descriptor's, and skips what is there already.
    fn check_length(&self, mut answer: Answer, start: u64) -> Result<Answer> {
        let length = answer
            .header("content-length")
            .and_then(|text| text.parse::<u64>().ok());
        match length.map(|length| length.saturating_add(start)) {
            Some(total) if total > self.size => return Err(self.larger()),
            Some(total) if total < self.size => {
                return Err(Error::Image(format!("{}: the registry has {total}", self.short_of())));
            }
            _ => {}
        }
        let skip = self.done - start;
        if skip > 0 {
            let skipped = io::copy(&mut (&mut answer.body).take(skip), &mut io::sink());
            if skipped.ok() != Some(skip) {
                return Err(self.truncated());
            }
        }
        Ok(answer)
    }

    fn short_of(&self) -> String {
        format!("{} is truncated: its descriptor says {} bytes", self.name(), self.size)
    }

    fn truncated(&self) -> Error {
        Error::Image(format!("{}, {} came", self.short_of(), self.done))
    }

    fn larger(&self) -> Error {
        Error::Image(format!(
            "{} is larger than its descriptor says ({} bytes)",
            self.name(),
            self.size
        ))
    }

    /// The next bytes of the connection; 0 is its orderly end.
    fn read_connection(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let limit = self.repository.client.config().transfer_timeout.unwrap_or_default();
            return Err(Trouble::Final(Error::Image(format!(
                "{} is not complete after {} (the time limit for one transfer)",
                self.name(),
                seconds(limit)
            ))));
        }
        let State::Streaming(stream) = &mut self.state else {
            return Ok(0);
        };
        let (origin, body) = stream.as_mut();
        let error = match body.read(buffer) {
            Ok(count) => return Ok(count),
            Err(error) => ureq::Error::from(error),
        };
        let origin = origin.clone();
        let failure = self.repository.client.transport.explain(&origin, &self.name(), error);
        Err(match failure.kind {
            Kind::Lost | Kind::Stalled => Trouble::Lost(failure.error),
            _ => Trouble::Final(failure.error),
        })
    }

    /// Opens a new connection for the rest after one was lost, if that has not happened too often in a row.
    fn resume(&mut self, lost: Error) -> Result<()> {
        if self.done >= self.resumed_at.saturating_add(PROGRESS) {
            self.losses = 0;
        }
        let config = self.repository.client.config();
        if self.losses >= config.retries {
            return Err(lost.context(&format!("{} of {} bytes came", self.done, self.size)));
        }
        let transport = &self.repository.client.transport;
        transport.wait(&lost, transport.backoff(self.losses));
        self.losses += 1;
        self.resumed_at = self.done;
        let answer = self.ask()?;
        self.state = State::Streaming(Box::new((answer.origin, answer.body)));
        Ok(())
    }

    /// Reads what must be the end: no byte more, and the right digest.
    fn finish(&mut self) -> Result<()> {
        let mut one = [0];
        match self.read_connection(&mut one) {
            Ok(0) => {}
            Ok(_) => return Err(self.larger()),
            Err(Trouble::Final(error)) => return Err(error),
            // All bytes are there; how the connection ended does not matter.
            Err(Trouble::Lost(_)) => {}
        }
        let found = Digest::from_bytes(self.hasher.finalize_reset().into());
        if found != self.digest {
            return Err(Error::Image(format!(
                "{} does not match its digest: got {found}",
                self.name()
            )));
        }
        self.state = State::Verified;
        Ok(())
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if self.done == self.size {
                self.finish()?;
                return Ok(0);
            }
            let count = match self.read_connection(buffer) {
                Ok(0) => return Err(self.truncated()),
                Ok(count) => count,
                Err(Trouble::Lost(error)) => {
                    self.resume(error)?;
                    continue;
                }
                Err(Trouble::Final(error)) => return Err(error),
            };
            let total = self.done.saturating_add(count as u64);
            if total > self.size {
                return Err(self.larger());
            }
            self.hasher.update(buffer.get(..count).unwrap_or_default());
            self.done = total;
            if self.done == self.size {
                self.finish()?;
            }
            return Ok(count);
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.state {
            State::Verified => return Ok(0),
            State::Failed(error) => return Err(io::Error::other(error.clone())),
            State::Streaming(_) if buffer.is_empty() => return Ok(0),
            State::Streaming(_) => {}
        }
        self.advance(buffer).map_err(|error| {
            self.state = State::Failed(error.clone());
            io::Error::other(error)
        })
    }
}

/// The first byte of a `Content-Range: bytes FIRST-LAST/TOTAL`.
fn content_range_start(answer: &Answer) -> Option<u64> {
    let range = answer.header("content-range")?.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}
