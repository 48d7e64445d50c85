//! `pyxis verify`: the signatures of an image file, as `images.require_signature` checks them.
#![forbid(unsafe_code)]

use crate::args::{Global, Verify};
use crate::settings;
use pyxis_runtime::image::file;
use pyxis_runtime::image::file::keyring;
use pyxis_runtime::image::file::signature::Verified;
use pyxis_runtime::import::{Requester, Workers};
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::io::Write;

pub fn run(args: &Verify, global: &Global) -> Result<()> {
    let config = settings::load(global)?;
    let keyrings = match args.keyring.as_slice() {
        [] => config.images.keyrings.as_slice(),
        given => given,
    };
    if keyrings.is_empty() {
        return Err(Error::Request(
            "there is no key ring: give --keyring FILE, or set images.keyrings".to_owned(),
        ));
    }
    let keyrings = keyrings
        .iter()
        .map(|path| keyring::open(path))
        .collect::<Result<Vec<_>>>()?;
    let image = file::open_as_caller(&args.file)?;
    let requester = Requester {
        task: None,
        env: BTreeMap::new(),
    };
    let workers = Workers::of_this_program(&config.worker)?;
    let verified = workers
        .verify(&image, None, &keyrings, &requester, &mut |_| ())
        .map_err(|error| error.context(&args.file.display().to_string()))?;
    let text = match args.json {
        true => json(&verified)?,
        false => lines(&verified),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::sys("print", "write", error))
}

fn json(verified: &Verified) -> Result<String> {
    let text = serde_json::to_string_pretty(verified).map_err(|error| Error::Host(error.to_string()))?;
    Ok(text + "\n")
}

fn lines(verified: &Verified) -> String {
    let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let good = verified.good.iter().map(|good| {
        let (id, signer) = (good.signature, &good.signer);
        let signed = list(&good.signed);
        format!(
            "signature {id}: good, {} {}, objects {signed}\n",
            signer.fingerprint, signer.name
        )
    });
    let bad = verified
        .bad
        .iter()
        .map(|(id, why)| format!("signature {id}: bad, {why}\n"));
    good.chain(bad).collect()
}
