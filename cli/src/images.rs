//! `pyxis images`: what the store has.
#![forbid(unsafe_code)]

use crate::args::{Global, Images};
use crate::settings;
use pyxis_runtime::store::{Image, Store};
use pyxis_runtime::{Error, Result};
use std::io::Write;

pub fn run(args: &Images, global: &Global) -> Result<()> {
    let config = settings::load(global)?;
    let images = Store::open(&config.store.path)?.images()?;
    let text = if args.json { json(&images)? } else { table(&images) };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::sys("print", "write", error))
}

fn json(images: &[Image]) -> Result<String> {
    let list: Vec<_> = images
        .iter()
        .map(|image| {
            serde_json::json!({
                "reference": image.record.reference,
                "owner": image.record.owner,
                "manifest": image.record.manifest,
                "layers": image.record.layers,
                "imported": image.record.imported,
                "size": image.size,
                "complete": image.complete,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&list).map_err(|error| Error::Host(error.to_string()))?;
    Ok(text + "\n")
}

fn table(images: &[Image]) -> String {
    let names: Vec<_> = images.iter().map(name).collect();
    let width = names.iter().map(String::len).chain([5]).max().unwrap_or(5);
    let mut text = format!(
        "{:width$}  {:12}  {:>6}  {:>10}\n",
        "IMAGE", "MANIFEST", "LAYERS", "SIZE"
    );
    for (image, name) in images.iter().zip(names) {
        let record = &image.record;
        let size = if image.complete {
            mebibytes(image.size)
        } else {
            "incomplete".to_owned()
        };
        let line = format!(
            "{name:width$}  {:12}  {:>6}  {size:>10}\n",
            record.manifest.short(),
            record.layers.len()
        );
        text.push_str(&line);
    }
    text
}

/// The image's name, and whose it is if somebody else's. The directory that it was in is any user's choice: what a terminal
/// would obey is not shown.
fn name(image: &Image) -> String {
    let record = &image.record;
    let reference = record.reference.replace(char::is_control, "?");
    match record.owner {
        Some(uid) if uid != nix::unistd::geteuid().as_raw() => format!("{reference} (uid {uid})"),
        _ => reference,
    }
}

/// A size with one decimal, in MiB.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pyxis_runtime::Digest;
    use pyxis_runtime::store::ImageRecord;

    #[test]
    fn names_do_nothing_to_a_terminal() {
        let record = ImageRecord {
            reference: "oci:/tmp/\u{1b}]0;x\u{7}\n/image".into(),
            owner: Some(u32::MAX - 1),
            manifest: Digest::of(b""),
            config: Digest::of(b""),
            layers: Vec::new(),
            imported: 0,
        };
        let image = Image {
            record,
            size: 0,
            complete: true,
        };
        let text = table(&[image]);
        assert!(text.contains("oci:/tmp/?]0;x??/image (uid 4294967294)"), "{text}");
        assert_eq!((text.lines().count(), text.contains('\u{1b}')), (2, false));
    }
}
