//! What the codecs alone cost for given layers: inflate, sha256 of the blob and of the archive, zstd level 1 of the
//! archive in blocks of 128 KiB, all in one loop for each layer, with the libraries and settings that the import uses. All
//! processors work at once, as in an import: where two share a core, each second of both is worth less.
//! `make bench` divides the CPU time of an import by it (`import_cpu_vs_codecs`).
//!
//! Usage: `codec_floor BLOB...`; prints CPU seconds for each codec and `codec_floor_cpu_seconds` for all.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Mutex;
use std::thread;

const BLOCK: usize = 131_072;

type Failure = Box<dyn Error + Send + Sync>;

/// Of this thread.
fn cpu_seconds() -> nix::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(micros as f64 / 1e6)
}

/// CPU seconds of each part.
#[derive(Default)]
struct Parts {
    inflate: f64,
    sha256_blob: f64,
    sha256_tar: f64,
    zstd: f64,
}

impl Parts {
    fn add(&mut self, other: &Parts) {
        self.inflate += other.inflate;
        self.sha256_blob += other.sha256_blob;
        self.sha256_tar += other.sha256_tar;
        self.zstd += other.zstd;
    }

    fn sum(&self) -> f64 {
        self.inflate + self.sha256_blob + self.sha256_tar + self.zstd
    }
}

/// Counts the time of the blob's digest apart.
struct Hashing<'p> {
    file: File,
    hasher: Sha256,
    seconds: &'p mut f64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let start = cpu_seconds()?;
        self.hasher.update(buffer.get(..read).unwrap_or(&[]));
        *self.seconds += cpu_seconds()? - start;
        Ok(read)
    }
}

fn blob(path: &str, parts: &mut Parts) -> Result<u64, Failure> {
    let mut magic = [0; 4];
    let read = File::open(path)?.read(&mut magic)?;
    let mut blob_seconds = 0.0;
    let hashing = Hashing {
        file: File::open(path)?,
        hasher: Sha256::new(),
        seconds: &mut blob_seconds,
    };
    let input = BufReader::with_capacity(BLOCK, hashing);
    let mut archive: Box<dyn Read + '_> = match magic.get(..read) {
        Some([0x1f, 0x8b, ..]) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => Box::new(zstd::Decoder::with_buffer(input)?),
        _ => Box::new(input),
    };
    let mut hasher = Sha256::new();
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    let mut block = Vec::with_capacity(BLOCK);
    let mut output = Vec::with_capacity(zstd::zstd_safe::compress_bound(BLOCK));
    let mut total = 0;
    loop {
        let start = cpu_seconds()?;
        block.clear();
        archive.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let inflated = cpu_seconds()?;
        hasher.update(&block);
        let hashed = cpu_seconds()?;
        output.clear();
        compressor.compress_to_buffer(&block, &mut output)?;
        parts.inflate += inflated - start;
        parts.sha256_tar += hashed - inflated;
        parts.zstd += cpu_seconds()? - hashed;
        total += block.len() as u64;
        if block.len() < BLOCK {
            break;
        }
    }
    drop(archive);
    std::hint::black_box((hasher.finalize(), &output));
    parts.inflate -= blob_seconds;
    parts.sha256_blob += blob_seconds;
    Ok(total)
}

/// Takes blobs from `queue` until none is left.
fn work(queue: &Mutex<Vec<String>>) -> Result<(Parts, u64), Failure> {
    let (mut parts, mut bytes) = (Parts::default(), 0);
    loop {
        let next = queue.lock().map_err(|_| "another thread failed")?.pop();
        match next {
            Some(path) => bytes += blob(&path, &mut parts)?,
            None => return Ok((parts, bytes)),
        }
    }
}

fn main() -> Result<(), Failure> {
    let queue = Mutex::new(std::env::args().skip(1).collect::<Vec<_>>());
    let (mut all, mut bytes) = (Parts::default(), 0);
    thread::scope(|scope| {
        let threads = thread::available_parallelism()?.get();
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&queue))).collect();
        for thread in threads {
            let (parts, count) = thread.join().map_err(|_| "a thread panicked")??;
            all.add(&parts);
            bytes += count;
        }
        Ok::<(), Failure>(())
    })?;
    println!("tar_bytes {bytes}");
    println!("inflate_cpu_seconds {:.3}", all.inflate);
    println!("sha256_blob_cpu_seconds {:.3}", all.sha256_blob);
    println!("sha256_tar_cpu_seconds {:.3}", all.sha256_tar);
    println!("zstd_cpu_seconds {:.3}", all.zstd);
    println!("codec_floor_cpu_seconds {:.3}", all.sum());
    Ok(())
}
