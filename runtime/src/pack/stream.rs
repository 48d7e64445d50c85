//! The tar bytes on their way: one thread inflates, one hashes, the reader of the archive takes what they hand over.
//! A few buffers go round, so memory does not grow with the layer.
#![forbid(unsafe_code)]

use super::inflate::Inflate;
use crate::digest::Digest;
use crate::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Bytes of one buffer.
const CHUNK: usize = 256 << 10;
/// Room before the bytes, for what the reader has left of the buffer before.
const HEADROOM: usize = 4 << 10;
/// Buffers that go round.
const CHUNKS: usize = 6;
/// A header with its extensions and sparse map is never larger than this.
const WINDOW_MAX: usize = 8 << 20;

struct Chunk {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// What was hashed: the layer's diff id, and how many bytes.
pub type Hashed = (Digest, u64);

/// The bytes as the reader of the archive sees them.
pub struct Stream {
    full: Receiver<Result<Chunk>>,
    empty: Sender<Vec<u8>>,
    chunk: Chunk,
    ended: bool,
}

/// Starts the two threads. They end when the blob ends, at an error, or soon after the [`Stream`] is dropped.
pub fn start<'s, R: Read + Send + 's>(
    scope: &'s Scope<'s, '_>,
    inflate: Inflate<R>,
    max_bytes: u64,
) -> Result<(Stream, ScopedJoinHandle<'s, Hashed>)> {
    let (empty, empties) = channel();
    for _ in 0..CHUNKS {
        let _ = empty.send(vec![0; HEADROOM + CHUNK]);
    }
    let (inflated, to_hash) = sync_channel(CHUNKS);
    let (hashed, full) = sync_channel(CHUNKS);
    spawn("inflate", scope, move || {
        inflate_all(inflate, max_bytes, &empties, &inflated);
    })?;
    let hasher = spawn("hash", scope, move || hash_all(&to_hash, &hashed))?;
    let chunk = Chunk {
        bytes: Vec::new(),
        start: 0,
        end: 0,
    };
    let stream = Stream {
        full,
        empty,
        chunk,
        ended: false,
    };
    Ok((stream, hasher))
}

fn spawn<'s, T: Send + 's>(
    name: &str,
    scope: &'s Scope<'s, '_>,
    body: impl FnOnce() -> T + Send + 's,
) -> Result<ScopedJoinHandle<'s, T>> {
    Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, body)
        .map_err(|error| Error::sys("start a thread", "clone()", error))
}

fn inflate_all<R: Read>(
    mut inflate: Inflate<R>,
    max_bytes: u64,
    empties: &Receiver<Vec<u8>>,
    inflated: &SyncSender<Result<Chunk>>,
) {
    let mut left = max_bytes;
    while let Ok(mut bytes) = empties.recv() {
        bytes.resize(HEADROOM + CHUNK, 0);
        let filled = inflate
            .fill(bytes.get_mut(HEADROOM..).unwrap_or(&mut []))
            .and_then(|filled| {
                left = left.checked_sub(filled as u64).ok_or_else(|| too_large(max_bytes))?;
                Ok(filled)
            });
        let last = !matches!(filled, Ok(CHUNK));
        let chunk = filled.map(|filled| Chunk {
            bytes,
            start: HEADROOM,
            end: HEADROOM.saturating_add(filled),
        });
        if inflated.send(chunk).is_err() || last {
            return;
        }
    }
}

fn too_large(max_bytes: u64) -> Error {
    Error::Image(format!(
        "the layer is larger than the limit of {max_bytes} bytes when unpacked"
    ))
}

fn hash_all(inflated: &Receiver<Result<Chunk>>, hashed: &SyncSender<Result<Chunk>>) -> Hashed {
    let (mut hasher, mut total) = (Sha256::new(), 0_u64);
    while let Ok(chunk) = inflated.recv() {
        if let Ok(chunk) = &chunk {
            let bytes = chunk.bytes.get(chunk.start..chunk.end).unwrap_or(&[]);
            hasher.update(bytes);
            total = total.saturating_add(bytes.len() as u64);
        }
        if hashed.send(chunk).is_err() {
            break;
        }
    }
    (Digest::from_bytes(hasher.finalize().into()), total)
}

impl Stream {
    /// The bytes that are at hand, some unless the stream has ended.
    pub fn some(&mut self) -> Result<&[u8]> {
        self.at_least(1)
    }

    /// At least `wanted` bytes in one piece; fewer only when the stream ends before.
    pub fn at_least(&mut self, wanted: usize) -> Result<&[u8]> {
        if wanted > WINDOW_MAX {
            return Err(Error::Image(
                "the layer's tar archive has a header that is too large".into(),
            ));
        }
        while self.available().len() < wanted && !self.ended {
            self.next()?;
        }
        Ok(self.available())
    }

    /// Drops the first `size` of the bytes at hand.
    pub fn consume(&mut self, size: usize) {
        self.chunk.start = self.chunk.start.saturating_add(size).min(self.chunk.end);
    }

    /// Reads to the end: the diff id counts every byte, also those behind the archive's end.
    pub fn drain(&mut self) -> Result<()> {
        while !self.ended {
            self.chunk.start = self.chunk.end;
            self.next()?;
        }
        Ok(())
    }

    fn available(&self) -> &[u8] {
        self.chunk.bytes.get(self.chunk.start..self.chunk.end).unwrap_or(&[])
    }

    /// Takes the next buffer and puts what is left of this one in front of its bytes.
    fn next(&mut self) -> Result<()> {
        let Ok(next) = self.full.recv() else {
            self.ended = true;
            return Ok(());
        };
        let mut next = next?;
        let rest = self.available();
        if rest.len() <= next.start {
            let start = next.start.saturating_sub(rest.len());
            if let Some(front) = next.bytes.get_mut(start..next.start) {
                front.copy_from_slice(rest);
            }
            next.start = start;
            let old = std::mem::replace(&mut self.chunk, next);
            self.give_back(old.bytes);
        } else {
            let mut joined = rest.to_vec();
            joined.extend_from_slice(next.bytes.get(next.start..next.end).unwrap_or(&[]));
            let end = joined.len();
            self.give_back(next.bytes);
            self.chunk = Chunk {
                bytes: joined,
                start: 0,
                end,
            };
        }
        Ok(())
    }

    fn give_back(&self, bytes: Vec<u8>) {
        // Buffers that were joined are larger or smaller; those of the round have one size.
        if bytes.len() == HEADROOM + CHUNK {
            let _ = self.empty.send(bytes);
        }
    }
}
