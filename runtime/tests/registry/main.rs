//! The registry client against registries: a fake one that lies, stalls and drops connections on demand, over plain http
//! and TLS, and the real docker-registry.
#![forbid(unsafe_code)]
// The exemption of tests in clippy.toml does not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod access;
mod fake;
mod honest;
mod image;
mod lies;
mod network;
mod real;
mod server;
mod tls;

use pyxis_runtime::image::RegistryConfig;
use std::time::Duration;

/// Settings for tests: patient with a loaded machine, quick to repeat.
fn settings() -> RegistryConfig {
    RegistryConfig {
        stall_timeout: Duration::from_secs(60),
        retries: 2,
        retry_delay: Duration::from_millis(1),
        ..RegistryConfig::default()
    }
}
