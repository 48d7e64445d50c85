//! How registries are spoken to: the site's decisions as a value, so that a worker with an empty environment behaves as
//! configured. Nothing here reads the environment; [`RegistryConfig::with_variables`] takes it as a map.
#![forbid(unsafe_code)]

use super::hosts::{self, Names};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of the registry client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryConfig {
    /// Which registries may be spoken to without TLS.
    pub allow_http: AllowHttp,
    /// A file of CA certificates (PEM) that replaces the system's (`SSL_CERT_FILE`).
    pub ca_file: Option<PathBuf>,
    /// A directory of CA certificates (PEM, hashed names) that replaces the system's (`SSL_CERT_DIR`).
    pub ca_dir: Option<PathBuf>,
    /// Proxies, if any.
    pub proxies: Proxies,
    /// How long making a connection may take, name look-up and TLS included.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing at all.
    pub stall_timeout: Duration,
    /// How long one layer may take altogether; `None` is no limit.
    pub transfer_timeout: Option<Duration>,
    /// How many times a request is repeated that failed for a passing reason (429, 5xx, a lost connection).
    pub retries: u32,
    /// The pause before the first repetition; it doubles each time.
    pub retry_delay: Duration,
    /// The longest pause that a registry may ask for (`Retry-After`); more is an error.
    pub max_retry_after: Duration,
    /// How many layers are fetched at once.
    pub max_connections: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            allow_http: AllowHttp::default(),
            ca_file: None,
            ca_dir: None,
            proxies: Proxies::default(),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            transfer_timeout: None,
            retries: 3,
            retry_delay: Duration::from_millis(500),
            max_retry_after: Duration::from_secs(60),
            max_connections: 10,
        }
    }
}

/// Which registries may be spoken to without TLS.
///
/// A listed host is asked in plain HTTP first and over TLS when it turns out to want that; with `All` it is the other way
/// round, except on this machine. By default only this machine is listed (as Docker has it): TLS adds nothing there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllowHttp {
    /// These: `HOST`, `HOST:PORT`, `.DOMAIN`, `ADDRESS/LENGTH`.
    Hosts(Vec<String>),
    /// Every one (`ENROOT_ALLOW_HTTP=y`).
    All,
}

impl Default for AllowHttp {
    fn default() -> Self {
        AllowHttp::Hosts(["localhost", "127.0.0.0/8", "::1"].map(str::to_owned).to_vec())
    }
}

/// The order in which a registry's schemes are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schemes {
    /// Nothing but TLS.
    HttpsOnly,
    /// Plain first.
    HttpFirst,
    /// TLS first.
    HttpsFirst,
}

impl AllowHttp {
    pub(super) fn schemes(&self, host: &str, port: Option<u16>) -> Schemes {
        match self {
            AllowHttp::All if hosts::is_loopback(host) => Schemes::HttpFirst,
            AllowHttp::All => Schemes::HttpsFirst,
            AllowHttp::Hosts(_) if self.allows(host, port.unwrap_or(80)) => Schemes::HttpFirst,
            AllowHttp::Hosts(_) => Schemes::HttpsOnly,
        }
    }

    /// True if plain HTTP to this host is allowed at all.
    pub(super) fn allows(&self, host: &str, port: u16) -> bool {
        match self {
            AllowHttp::All => true,
            AllowHttp::Hosts(list) => hosts::listed(list.iter().map(String::as_str), host, port, Names::Exact),
        }
    }
}

/// Proxies in the sense of the usual variables.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxies {
    /// For `http://` (`HTTP_PROXY`).
    pub http: Option<String>,
    /// For `https://` (`HTTPS_PROXY`).
    pub https: Option<String>,
    /// For both, where the other two say nothing (`ALL_PROXY`).
    pub all: Option<String>,
    /// Hosts that are spoken to directly (`NO_PROXY`): names with what is below them, addresses, networks, `*`.
    pub no_proxy: Vec<String>,
}

impl fmt::Debug for Proxies {
    /// Without the passwords that proxy URLs may have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<String>| proxy.as_deref().map(|proxy| without_password(proxy).to_owned());
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("all", &shown(&self.all))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// A proxy's URL without `user:password@`.
pub(super) fn without_password(proxy: &str) -> &str {
    let proxy = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    proxy
        .rsplit_once('@')
        .map_or(proxy, |(_, rest)| rest)
        .trim_end_matches('/')
}

impl Proxies {
    /// The proxy for a host. This machine is never reached through one.
    pub(super) fn choose(&self, https: bool, host: &str, port: u16) -> Option<&str> {
        let proxy = if https { &self.https } else { &self.http };
        let proxy = proxy
            .as_deref()
            .or(self.all.as_deref())
            .filter(|proxy| !proxy.is_empty())?;
        let exempt = hosts::listed(self.no_proxy.iter().map(String::as_str), host, port, Names::Domains);
        (!exempt && !hosts::is_loopback(host)).then_some(proxy)
    }
}

impl RegistryConfig {
    /// The settings with what these variables say: enroot's (`ENROOT_ALLOW_HTTP`, `ENROOT_CONNECT_TIMEOUT`,
    /// `ENROOT_TRANSFER_TIMEOUT`, `ENROOT_TRANSFER_RETRIES`, `ENROOT_MAX_CONNECTIONS`), `SSL_CERT_FILE`, `SSL_CERT_DIR` and
    /// the proxy variables, lower case before upper case. Whether a job may set them is the caller's decision.
    pub fn with_variables(mut self, variables: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        if let Some(value) = get("ENROOT_ALLOW_HTTP")
            && !matches!(value.to_ascii_lowercase().as_str(), "n" | "no" | "0" | "false")
        {
            self.allow_http = AllowHttp::All;
        }
        if let Some(value) = get("ENROOT_CONNECT_TIMEOUT") {
            self.connect_timeout = Duration::from_secs(number("ENROOT_CONNECT_TIMEOUT", value)?.max(1));
        }
        if let Some(value) = get("ENROOT_TRANSFER_TIMEOUT") {
            let seconds = number("ENROOT_TRANSFER_TIMEOUT", value)?;
            self.transfer_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
        if let Some(value) = get("ENROOT_TRANSFER_RETRIES") {
            self.retries = small_number("ENROOT_TRANSFER_RETRIES", value)?;
        }
        if let Some(value) = get("ENROOT_MAX_CONNECTIONS") {
            self.max_connections = small_number::<u16>("ENROOT_MAX_CONNECTIONS", value)?.max(1).into();
        }
        let path = |name: &str| get(name).map(PathBuf::from);
        self.ca_file = path("SSL_CERT_FILE").or(self.ca_file);
        self.ca_dir = path("SSL_CERT_DIR").or(self.ca_dir);
        let either = |lower: &str| get(lower).or_else(|| get(&lower.to_ascii_uppercase())).cloned();
        self.proxies.http = either("http_proxy").or(self.proxies.http);
        self.proxies.https = either("https_proxy").or(self.proxies.https);
        self.proxies.all = either("all_proxy").or(self.proxies.all);
        if let Some(list) = either("no_proxy") {
            let words = list.split([',', ' ']).filter(|word| !word.is_empty());
            self.proxies.no_proxy = words.map(str::to_owned).collect();
        }
        Ok(self)
    }
}

fn number(name: &str, value: &str) -> Result<u64> {
    // A century is enough, and keeps sums of times from overflowing.
    let number = value.parse::<u64>().ok().filter(|number| *number < 100 * 366 * 86400);
    number.ok_or_else(|| Error::Request(format!("{name}={value}: not a number of seconds")))
}

fn small_number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|_| Error::Request(format!("{name}={value}: not a number, or too large")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_configured() {
        let default = AllowHttp::default();
        assert_eq!(default.schemes("127.0.0.1", Some(5000)), Schemes::HttpFirst);
        assert_eq!(default.schemes("localhost", None), Schemes::HttpFirst);
        assert_eq!(default.schemes("[::1]", Some(5000)), Schemes::HttpFirst);
        assert_eq!(default.schemes("nvcr.io", None), Schemes::HttpsOnly);
        let none = AllowHttp::Hosts(Vec::new());
        assert_eq!(none.schemes("127.0.0.1", Some(5000)), Schemes::HttpsOnly);
        assert_eq!(AllowHttp::All.schemes("nvcr.io", None), Schemes::HttpsFirst);
        assert_eq!(AllowHttp::All.schemes("127.0.0.1", None), Schemes::HttpFirst);
        let one = AllowHttp::Hosts(vec!["registry.cluster:5000".into()]);
        assert_eq!(one.schemes("registry.cluster", Some(5000)), Schemes::HttpFirst);
        assert_eq!(one.schemes("registry.cluster", None), Schemes::HttpsOnly);
        assert_eq!(one.schemes("x.registry.cluster", Some(5000)), Schemes::HttpsOnly);
    }

    #[test]
    fn proxies() {
        let config = RegistryConfig::default()
            .with_variables(&variables(&[
                ("https_proxy", "http://lower:1"),
                ("HTTPS_PROXY", "http://upper:1"),
                ("ALL_PROXY", "http://all:1"),
                ("NO_PROXY", "cluster,10.0.0.0/8 other.org"),
            ]))
            .unwrap();
        let choose = |https, host| config.proxies.choose(https, host, 443);
        assert_eq!(choose(true, "nvcr.io"), Some("http://lower:1"));
        assert_eq!(choose(false, "nvcr.io"), Some("http://all:1"));
        for host in [
            "cluster",
            "r.cluster",
            "10.2.3.4",
            "other.org",
            "127.0.0.1",
            "localhost",
            "[::1]",
        ] {
            assert_eq!(choose(true, host), None, "{host}");
        }
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let proxies = Proxies {
            all: Some("http://joe:hunter2@proxy:3128/".into()),
            ..Proxies::default()
        };
        let shown = format!(
            "{:?}",
            RegistryConfig {
                proxies,
                ..RegistryConfig::default()
            }
        );
        assert!(shown.contains("proxy:3128") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn enroots_variables() {
        let config = RegistryConfig::default()
            .with_variables(&variables(&[
                ("ENROOT_ALLOW_HTTP", "y"),
                ("ENROOT_CONNECT_TIMEOUT", "5"),
                ("ENROOT_TRANSFER_TIMEOUT", "0"),
                ("ENROOT_TRANSFER_RETRIES", "7"),
                ("ENROOT_MAX_CONNECTIONS", "0"),
                ("SSL_CERT_FILE", "/ca.pem"),
            ]))
            .unwrap();
        assert_eq!(config.allow_http, AllowHttp::All);
        assert_eq!(config.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.transfer_timeout, None);
        assert_eq!((config.retries, config.max_connections), (7, 1));
        assert_eq!(config.ca_file.as_deref(), Some(std::path::Path::new("/ca.pem")));
        let unchanged = RegistryConfig::default()
            .with_variables(&variables(&[("ENROOT_ALLOW_HTTP", "")]))
            .unwrap();
        assert_eq!(unchanged, RegistryConfig::default());
        for (name, value) in [("ENROOT_CONNECT_TIMEOUT", "1s"), ("ENROOT_TRANSFER_RETRIES", "-1")] {
            let error = RegistryConfig::default()
                .with_variables(&variables(&[(name, value)]))
                .unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("{name}={value}: not a number")),
                "{error}"
            );
        }
    }
}
