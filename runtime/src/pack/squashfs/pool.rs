//! The threads that compress blocks. Blocks come back in any order and carry their number, so that the writer can put
//! them in order again: the image is the same whatever the number of threads.
#![forbid(unsafe_code)]

use super::compress::{Compression, Compressor};
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

/// A block on its way. The buffers travel with it and are used again.
#[derive(Default)]
pub struct Block {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// The data.
    pub input: Vec<u8>,
    /// The compressed data, where there is any.
    pub output: Vec<u8>,
    /// How much of `output` counts; nothing when `input` is to be stored as it is.
    pub compressed: Option<usize>,
}

impl Block {
    /// The bytes to store, and whether they are compressed.
    pub fn stored(&self) -> (&[u8], bool) {
        match self.compressed.and_then(|size| self.output.get(..size)) {
            Some(bytes) => (bytes, true),
            None => (&self.input, false),
        }
    }
}

/// What a thread does first.
pub type ThreadStart = fn() -> Result<()>;

/// A set of compressing threads. They end when it is dropped.
pub struct Pool {
    jobs: Option<Sender<Block>>,
    done: Receiver<Result<Block>>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads (at least one); each begins with `start`, and ends if that fails.
    pub fn new(compression: Compression, threads: usize, start: ThreadStart) -> Result<Self> {
        let (jobs, queue) = channel();
        let (results, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Pool {
            jobs: Some(jobs),
            done,
            workers: Vec::new(),
        };
        for number in 0..threads.max(1) {
            let compressor = Compressor::new(compression)?;
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let worker = Builder::new()
                .name(format!("compress-{number}"))
                .spawn(move || match start() {
                    Ok(()) => work(compressor, &queue, &results),
                    Err(error) => drop(results.send(Err(error))),
                })
                .map_err(|error| Error::sys("start a compressing thread", "clone()", error))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Hands a block over. The caller bounds how many are under way.
    pub fn submit(&self, block: Block) -> Result<()> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(block));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(gone()),
        }
    }

    /// Waits for the next finished block, whichever it is.
    pub fn wait(&self) -> Result<Block> {
        self.done.recv().map_err(|_| gone())?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn gone() -> Error {
    Error::Host("the compressing threads ended early".into())
}

fn work(mut compressor: Compressor, queue: &Mutex<Receiver<Block>>, results: &Sender<Result<Block>>) {
    loop {
        let Ok(Ok(mut block)) = queue.lock().map(|queue| queue.recv()) else {
            return;
        };
        let result = compressor.compress(&block.input, &mut block.output).map(|compressed| {
            block.compressed = compressed;
            block
        });
        if results.send(result).is_err() {
            return;
        }
    }
}
