//! Images whose layers are compressed archives.
#![forbid(unsafe_code)]

use super::server::{Layout, OCI_MANIFEST, Registry};
use flate2::Compression;
use flate2::write::GzEncoder;
use pyxis_runtime::Digest;
use pyxis_runtime::image::Platform;
use std::io::Write;

/// A layer: its blob and the digest of what is in it.
#[derive(Clone)]
pub struct Layer {
    blob: Vec<u8>,
    diff_id: Digest,
}

impl Layer {
    /// A layer of one file.
    pub fn new(name: &str, content: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut tar = [&header, content].concat();
        tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar).unwrap();
        Layer {
            blob: gzip.finish().unwrap(),
            diff_id: Digest::of(&tar),
        }
    }

    /// The page of its blob in a registry.
    pub fn page(&self) -> String {
        format!("/v2/library/test/blobs/{}", Digest::of(&self.blob))
    }
}

/// Pushes an image of these layers, the lowest first.
pub fn push(registry: &Registry, name: &str, layers: &[Layer]) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
    let architecture = Platform::host().architecture;
    let config = format!(
        r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let descriptor = |kind: &str, bytes: &[u8]| {
        let (digest, size) = (Digest::of(bytes), bytes.len());
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let list: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("layer.v1.tar+gzip", &layer.blob))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", config.as_bytes()),
        list.join(",")
    );
    let layers: Vec<_> = layers.iter().map(|layer| layer.blob.clone()).collect();
    let layout = Layout {
        manifest: &manifest,
        config: &config,
        layers: &layers,
    };
    registry.push(name, &layout, &["--preserve-digests"]);
}
