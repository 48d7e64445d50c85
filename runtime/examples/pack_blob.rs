//! Converts one layer blob to a pack and tells what it cost, for measurements beside `codec_floor`.
//!
//! Usage: `pack_blob BLOB PACK [THREADS [zstd:LEVEL|lz4|gzip:LEVEL|none]]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use pyxis_runtime::pack::{Compression, Options, pack_layer};
use std::error::Error;
use std::fs::File;
use std::time::Instant;

fn compression(text: &str) -> Result<Compression, Box<dyn Error>> {
    let (name, level) = text.split_once(':').unwrap_or((text, "1"));
    Ok(match name {
        "zstd" => Compression::Zstd { level: level.parse()? },
        "gzip" => Compression::Gzip { level: level.parse()? },
        "lz4" => Compression::Lz4,
        "none" => Compression::None,
        other => return Err(format!("no compressor {other}").into()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: pack_blob BLOB PACK [THREADS [COMPRESSION]]";
    let (blob, pack) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let options = Options {
        threads: arguments.next().as_deref().unwrap_or("1").parse()?,
        compression: compression(arguments.next().as_deref().unwrap_or("zstd:1"))?,
        ..Options::default()
    };
    let output = File::create(pack)?;
    let start = Instant::now();
    let summary = pack_layer(File::open(blob)?, &output, &options)?;
    let packed = start.elapsed().as_secs_f64();
    output.sync_data()?;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    println!("{summary:?}");
    println!("wall_seconds {packed:.3}");
    println!("sync_seconds {:.3}", start.elapsed().as_secs_f64() - packed);
    println!(
        "user_cpu_seconds {:.3}",
        usage.user_time().num_microseconds() as f64 / 1e6
    );
    println!(
        "system_cpu_seconds {:.3}",
        usage.system_time().num_microseconds() as f64 / 1e6
    );
    println!("peak_rss_mib {:.1}", usage.max_rss() as f64 / 1024.0);
    println!("written_bytes {}", usage.block_writes() * 512);
    Ok(())
}
