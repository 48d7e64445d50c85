//! The `layer` role: one layer's blob on standard input, its pack into the file with descriptor [`LAYER_OUTPUT`].
//! This process alone inflates and parses what an image author wrote, and it can do nothing else (see `sandbox`).
#![forbid(unsafe_code)]

use super::protocol::LAYER_OUTPUT;
use crate::error::{Error, Result};
use crate::pack::{self, Options, Summary};
use crate::sys::exec::take_inherited;
use std::fs::File;

/// `options` came as the program's argument, since standard input is the blob.
pub(super) fn run(options: &str) -> Result<Summary> {
    let mut options: Options = serde_json::from_str(options)
        .map_err(|error| Error::Host(format!("the layer worker got bad options: {error}")))?;
    // Those of the job, whose control groups this process is in, may be fewer than the node has.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    options.threads = options.threads.min(processors);
    let output = File::from(take_inherited(LAYER_OUTPUT)?);
    let blob = File::from(take_inherited(0)?);
    super::sandbox::for_layer()?;
    pack::pack_layer(blob, &output, &options)
}
