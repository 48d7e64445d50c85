//! Images before they are packs: what a registry says about one, and how it is asked. This code runs in exec'd worker
//! processes: blocking, threads allowed, nothing privileged.
#![forbid(unsafe_code)]

pub mod config;
pub mod credentials;
pub mod file;
pub mod local;
pub mod manifest;
pub mod own_files;
pub mod part;
pub mod platform;
pub mod registry;
pub mod secret;
pub mod singularity;

pub use config::ImageConfig;
pub use credentials::{CredentialQuery, CredentialSource, Credentials, NoCredentials};
pub use manifest::{BlobDescriptor, LayerDescriptor, Manifest, Resolved};
pub use platform::Platform;
pub use registry::{AllowHttp, BlobReader, Client, MAX_CONFIG, Proxies, RegistryConfig, Repository};
pub use secret::Secret;

/// The runtime's result, with room for another error type.
pub(crate) type Result<T, E = crate::error::Error> = std::result::Result<T, E>;

/// Text of a stranger (a registry, an image) made fit for one line of a message: no control characters, not long.
pub fn printable(text: &str) -> String {
    const MAX: usize = 200;
    let mut line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX)
        .collect();
    if text.trim().chars().nth(MAX).is_some() {
        line.push_str("...");
    }
    line
}
