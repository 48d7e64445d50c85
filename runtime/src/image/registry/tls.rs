//! The certificates that registries are checked against. They are read on the first https connection and not before: a
//! start from a registry on this machine must not pay for it.
#![forbid(unsafe_code)]

use super::settings::RegistryConfig;
use crate::error::{Error, Result};
use std::sync::Arc;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// TLS as configured: the named CA files or the system's, and ring for the cryptography.
pub(super) fn load(config: &RegistryConfig) -> Result<TlsConfig> {
    let configured = config.ca_file.is_some() || config.ca_dir.is_some();
    let found = if configured {
        rustls_native_certs::load_certs_from_paths(config.ca_file.as_deref(), config.ca_dir.as_deref())
    } else {
        rustls_native_certs::load_native_certs()
    };
    if found.certs.is_empty() {
        let places = [&config.ca_file, &config.ca_dir];
        let places: Vec<_> = places
            .iter()
            .filter_map(|place| place.as_deref())
            .map(|path| path.display())
            .collect();
        let first = found
            .errors
            .first()
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        return Err(Error::Host(match places.as_slice() {
            [] => format!("no CA certificates on this machine{first}: install the package ca-certificates"),
            [file] => format!("no CA certificates in {file}{first}"),
            places => format!(
                "no CA certificates in {} and {}{first}",
                display(places.first()),
                display(places.last())
            ),
        }));
    }
    let roots: RootCerts = found
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .into();
    Ok(TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

fn display(place: Option<&std::path::Display<'_>>) -> String {
    place.map(ToString::to_string).unwrap_or_default()
}
