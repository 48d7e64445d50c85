//! The `download` role: gets blobs from the registry or from files, verifies each against its digest, and feeds layers to
//! `layer` workers, several at a time. It parses HTTP, TLS and JSON; it never inflates or unpacks anything.
#![forbid(unsafe_code)]

use super::program::{self, Program, Start};
use super::protocol::{
    DownloadRequest, FIRST_OUTPUT, Item, ItemKind, LAYER_OUTPUT, Line, Progress, Role, Supply, read_answer, write_line,
};
use super::resolve::Given;
use super::sandbox;
use crate::error::{Error, Result};
use crate::image::part::PartReader;
use crate::image::{BlobDescriptor, BlobReader, Client, RegistryConfig, Repository};
use crate::pack::Summary;
use crate::sys::exec::take_inherited;
use crate::sys::process::exit_now;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// Bytes moved at a time from the registry to a layer worker.
const CHUNK: usize = 256 << 10;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// Blobs on their way.
struct Download<'a> {
    request: &'a DownloadRequest,
    source: Source<'a>,
    worker: Program,
    /// Output files by item, taken by whoever works on the item.
    outputs: Vec<Mutex<Option<OwnedFd>>>,
    next: AtomicUsize,
    received: AtomicU64,
}

/// Where blobs are read.
enum Source<'a> {
    Registry(Repository<'a>),
    /// A file and a place in it for each item.
    Files(Vec<(OwnedFd, u64)>),
}

impl Source<'_> {
    fn open(&self, index: usize, blob: &BlobDescriptor) -> Result<Box<dyn Read + '_>> {
        match self {
            Source::Registry(repository) => Ok(Box::new(repository.open_blob(blob)?)),
            Source::Files(files) => {
                let (file, offset) = files
                    .get(index)
                    .ok_or_else(|| Error::Host(format!("download item {index} has no input file")))?;
                Ok(Box::new(PartReader::new(file.as_fd(), *offset, blob)))
            }
        }
    }
}

pub(super) fn run(request: DownloadRequest) -> Result<()> {
    let mut numbers = FIRST_OUTPUT..;
    let outputs = numbers
        .by_ref()
        .take(request.items.len())
        .map(|number| take_inherited(number).map(|fd| Mutex::new(Some(fd))))
        .collect::<Result<Vec<_>>>()?;
    let worker = Program::current()?;
    let download = |source| {
        Download {
            source,
            worker,
            outputs,
            next: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            request: &request,
        }
        .run()
    };
    match &request.supply {
        Supply::Registry {
            reference,
            registry,
            credentials,
        } => {
            sandbox::for_network(registry)?;
            let client = Client::new(RegistryConfig::clone(registry));
            let credentials = Given::new(credentials.clone());
            download(Source::Registry(client.repository(reference, &credentials)))
        }
        Supply::Files(offsets) => {
            let inputs = numbers
                .zip(offsets)
                .map(|(number, offset)| Ok((take_inherited(number)?, *offset)));
            let inputs = inputs.collect::<Result<_>>()?;
            sandbox::for_files()?;
            download(Source::Files(inputs))
        }
    }
}

impl Download<'_> {
    /// Starts a thread per connection and tells what they finish; the first error ends everything.
    fn run(&self) -> Result<()> {
        let total = self.request.items.iter().map(|item| item.descriptor.size).sum();
        let threads = self.request.connections.clamp(1, self.request.items.len().max(1));
        let (sender, finished) = mpsc::channel::<Result<(usize, Option<Summary>)>>();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(move || self.work(&sender));
            }
            drop(sender);
            let mut told = Instant::now();
            loop {
                // Many small items that finish one after the other must not keep it from telling how far it is.
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    let bytes = self.received.load(Ordering::Relaxed);
                    tell(&Line::Progress(Progress { bytes, total }))?;
                }
                match finished.recv_timeout(PROGRESS.saturating_sub(told.elapsed())) {
                    Ok(Ok((item, summary))) => tell(&Line::Finished { item, summary })?,
                    // The others may wait for a slow registry: this process is done, and its children go with it.
                    Ok(Err(error)) => {
                        tell(&Line::Done(Err(error)))?;
                        exit_now(1);
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        })
    }

    /// Takes item after item until none is left or one fails.
    fn work(&self, sender: &mpsc::Sender<Result<(usize, Option<Summary>)>>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = self.request.items.get(index) else {
                return;
            };
            let result = self.get(index, item);
            let failed = result.is_err();
            if sender.send(result.map(|summary| (index, summary))).is_err() || failed {
                return;
            }
        }
    }

    fn get(&self, index: usize, item: &Item) -> Result<Option<Summary>> {
        let output = self
            .outputs
            .get(index)
            .and_then(|output| output.lock().ok().and_then(|mut output| output.take()))
            .ok_or_else(|| Error::Host(format!("download item {index} has no output file")))?;
        let mut blob = self.source.open(index, &item.descriptor)?;
        match item.kind {
            ItemKind::Config => self.copy(&mut blob, &mut File::from(output)).map(|()| None),
            ItemKind::Layer => {
                let layer = format!("layer {}", item.descriptor.digest.short());
                self.pack(&mut blob, output)
                    .map(Some)
                    .map_err(|error| error.context(&layer))
            }
        }
    }

    /// Feeds a blob to a layer worker. The blob is read to its end, where its digest is checked, before the worker's
    /// answer counts.
    fn pack(&self, blob: &mut impl Read, output: OwnedFd) -> Result<Summary> {
        let options = serde_json::to_string(&self.request.pack).map_err(|error| Error::Host(error.to_string()))?;
        let start = Start {
            argument: Some(&options),
            files: vec![(output.as_fd(), LAYER_OUTPUT)],
            ..Default::default()
        };
        let mut worker = self.worker.start(Role::Layer, &start)?;
        drop(output);
        let fed = self.copy(blob, &mut worker.input);
        drop(worker.input);
        if let Err(error @ (Error::Image(_) | Error::Request(_) | Error::Host(_))) = fed {
            return Err(error);
        }
        let answer = read_answer::<Summary>(BufReader::new(worker.output), |_| Ok(()));
        match (fed, answer?) {
            (Ok(()), Some(summary)) => Ok(summary),
            // The worker ended before the blob did, and without a word.
            (Err(Error::Sys { errno: libc::EPIPE, .. }) | Ok(()), None) => {
                Err(program::obituary(Role::Layer, worker.child))
            }
            (Err(error), _) => Err(error),
        }
    }

    fn copy(&self, blob: &mut impl Read, output: &mut impl Write) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = match blob.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(BlobReader::error(error)),
            };
            self.received.fetch_add(length as u64, Ordering::Relaxed);
            let chunk = buffer.get(..length).unwrap_or_default();
            output
                .write_all(chunk)
                .map_err(|error| Error::sys("write a blob", "write", error))?;
        }
    }
}

fn tell(line: &Line<()>) -> Result<()> {
    write_line(&mut std::io::stdout().lock(), line)
}
