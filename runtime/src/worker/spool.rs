//! The `spool` role: makes of a stream, compressed or not, a plain file in which one can seek. Like the role that unpacks
//! layers it can do nothing else.
#![forbid(unsafe_code)]

use super::protocol::LAYER_OUTPUT;
use super::sandbox;
use crate::error::{Error, Result};
use crate::pack::Inflate;
use crate::sys::exec::take_inherited;
use std::fs::File;
use std::io::Write;

/// Bytes that are moved at a time.
const CHUNK: usize = 256 << 10;

/// `options` is how many bytes there may be. Gives how many there were.
pub(super) fn run(options: &str) -> Result<u64> {
    let most: u64 = options
        .parse()
        .map_err(|error| Error::Host(format!("the spool worker got bad options: {error}")))?;
    let mut output = File::from(take_inherited(LAYER_OUTPUT)?);
    let input = File::from(take_inherited(0)?);
    sandbox::for_layer()?;
    copy(input, &mut output, most).map_err(of_archive)
}

/// Unpacking is made for layers.
fn of_archive(error: Error) -> Error {
    match error {
        Error::Image(text) => Error::Image(text.replacen("the layer", "the archive", 1)),
        other => other,
    }
}

fn copy(input: File, output: &mut File, most: u64) -> Result<u64> {
    let mut inflate = Inflate::open(input)?;
    let mut buffer = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        let count = inflate.fill(&mut buffer)?;
        total = total.saturating_add(count as u64);
        if total > most {
            return Err(Error::Image(format!(
                "the archive is larger than the limit of {most} bytes"
            )));
        }
        output
            .write_all(buffer.get(..count).unwrap_or_default())
            .map_err(|error| Error::sys("copy the archive", "write", error))?;
        if count < CHUNK {
            return Ok(total);
        }
    }
}
