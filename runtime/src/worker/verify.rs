//! The `verify` role: the signatures of an image file. It parses what a stranger has written, the key rings too, and can do
//! nothing but read the descriptors that it got.
#![forbid(unsafe_code)]

use super::protocol::{FIRST_KEYRING, VERIFY_IMAGE, VerifyRequest};
use crate::error::{Error, Result};
use crate::image::file::signature::{self, OpenPgp, Verified};
use crate::sys::exec::take_inherited;
use std::fs::File;
use std::io::Read;

/// The largest key ring, in bytes.
const MAX_KEYRING: u64 = 16 << 20;

pub(super) fn run(request: &VerifyRequest, open_pgp: OpenPgp) -> Result<Verified> {
    let image = take_inherited(VERIFY_IMAGE)?;
    let keyrings = (FIRST_KEYRING..).take(request.keyrings).map(take_inherited);
    let keyrings = keyrings.collect::<Result<Vec<_>>>()?;
    super::sandbox::for_layer()?;
    let keyrings = keyrings.into_iter().map(|file| read(File::from(file)));
    let keyrings = keyrings.collect::<Result<Vec<_>>>()?;
    signature::verify(&image, request.part, &keyrings, open_pgp)
}

fn read(file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_KEYRING)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::sys("read a key ring", "read", error))?;
    Ok(bytes)
}
