//! The site's settings (`/etc/pyxis/pyxis.toml`). Parsing is pure; the caller reads the file. What a job cannot change
//! stands here, so an unreadable or wrong file is an error and never a default.
#![forbid(unsafe_code)]

mod choices;
pub(crate) mod enroot;
pub(crate) mod environ;
pub(crate) mod files;
pub(crate) mod fstab;
mod keys;
pub mod load;
mod site;
mod squash;
mod words;

use crate::devices::DevicesConfig;
use crate::environment::Edit;
use crate::error::{Error, Result};
use crate::hooks::Hook;
use crate::image::file::ImagesConfig;
use crate::image::{AllowHttp, Proxies, RegistryConfig};
use crate::mount::MountSpec;
use crate::pack::Compression;
use crate::plan::Unshare;
use crate::policy::PolicyConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toml::{Table, Value};

/// Where the policy file lies.
pub const POLICY_FILE: &str = "/etc/pyxis/pyxis.toml";

/// Everything the administrator decides.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where images are kept and how they are written.
    pub store: StoreConfig,
    /// How registries are reached.
    pub registry: RegistrySection,
    /// What a container is unless the job says otherwise.
    pub container: ContainerConfig,
    /// Whose image files the kernel mounts, and what happens to the others.
    pub images: ImagesConfig,
    /// Where devices and their drivers are looked for.
    pub devices: DevicesConfig,
    /// What no job may have.
    pub policy: PolicyConfig,
    /// The program and the user that imports run as.
    pub worker: WorkerConfig,
}

/// `[store]`: the node's image store.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Directory of the store, owned by root and closed to others.
    pub path: PathBuf,
    /// `zstd`, `lz4`, `gzip` or `none`.
    pub compression: CompressionName,
    /// Compression level; what the compressor calls fast by default.
    pub level: Option<u8>,
    /// Largest uncompressed size of one layer, in bytes.
    pub max_layer_size: u64,
    /// Size of data blocks: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Threads that compress a layer; as many as there are processors by default.
    pub threads: Option<u16>,
}

/// Names of the compressors of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CompressionName {
    Zstd,
    Lz4,
    Gzip,
    None,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            path: PathBuf::from("/var/lib/pyxis"),
            compression: CompressionName::Zstd,
            level: None,
            max_layer_size: 256 << 30,
            block_size: 131_072,
            threads: None,
        }
    }
}

impl StoreConfig {
    /// The compressor with its level, within the compressor's bounds.
    pub fn compression(&self) -> Result<Compression> {
        let level = |default: u8, most: u8| match self.level {
            None => Ok(default),
            Some(level) if (1..=most).contains(&level) => Ok(level),
            Some(level) => Err(Error::Host(format!(
                "store.level = {level} is out of range, 1 to {most} are allowed"
            ))),
        };
        Ok(match self.compression {
            CompressionName::Zstd => Compression::Zstd {
                level: i32::from(level(1, 22)?),
            },
            CompressionName::Gzip => Compression::Gzip {
                level: u32::from(level(1, 9)?),
            },
            CompressionName::Lz4 => Compression::Lz4,
            CompressionName::None => Compression::None,
        })
    }
}

/// `[registry]`: how registries are reached. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// Hosts that may be spoken to without TLS (`HOST`, `HOST:PORT`, `.DOMAIN`, `ADDRESS/LENGTH`, `*`); this machine
    /// without it.
    pub allow_http: Option<Vec<String>>,
    /// CA certificates (PEM) in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Directory of CA certificates (PEM) in place of the system's.
    pub ca_dir: Option<PathBuf>,
    /// Proxy for `http://` registries.
    pub http_proxy: Option<String>,
    /// Proxy for `https://` registries.
    pub https_proxy: Option<String>,
    /// Proxy for both, where the other two say nothing.
    pub all_proxy: Option<String>,
    /// Hosts that are reached without a proxy.
    pub no_proxy: Vec<String>,
    /// How long making a connection may take.
    pub connect_timeout: Option<u16>,
    /// How long a registry may send nothing at all.
    pub stall_timeout: Option<u16>,
    /// How long one layer may take altogether; 0 is no limit.
    pub transfer_timeout: Option<u32>,
    /// How often a request is repeated that failed for a passing reason.
    pub retries: Option<u8>,
    /// Layers that are downloaded at a time.
    pub max_connections: Option<u8>,
}

impl RegistrySection {
    /// The settings of the registry client: these, and its own defaults for what is not set.
    pub fn client(&self) -> RegistryConfig {
        let mut client = RegistryConfig {
            ca_file: self.ca_file.clone(),
            ca_dir: self.ca_dir.clone(),
            proxies: Proxies {
                http: self.http_proxy.clone(),
                https: self.https_proxy.clone(),
                all: self.all_proxy.clone(),
                no_proxy: self.no_proxy.clone(),
            },
            ..RegistryConfig::default()
        };
        let seconds = |time: u16| Duration::from_secs(time.max(1).into());
        client.allow_http = match &self.allow_http {
            None => client.allow_http,
            // TLS is still tried first.
            Some(hosts) if hosts.iter().any(|host| host == "*") => AllowHttp::All,
            Some(hosts) => AllowHttp::Hosts(hosts.clone()),
        };
        client.connect_timeout = self.connect_timeout.map_or(client.connect_timeout, seconds);
        client.stall_timeout = self.stall_timeout.map_or(client.stall_timeout, seconds);
        let limit = |time: u32| (time > 0).then(|| Duration::from_secs(time.into()));
        client.transfer_timeout = self.transfer_timeout.map_or(client.transfer_timeout, limit);
        client.retries = self.retries.map_or(client.retries, u32::from);
        client.max_connections = self
            .max_connections
            .map_or(client.max_connections, |most| usize::from(most.max(1)));
        client
    }
}

/// `[container]`: defaults of the options that a job may give, and where containers with a name are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerConfig {
    /// Directory of containers that have a name: below it is a directory for each user.
    pub data_path: PathBuf,
    /// The root file system can be written.
    pub writable: bool,
    /// The user is root inside.
    pub remap_root: bool,
    /// The user's home directory is mounted.
    pub mount_home: bool,
    /// A private `/dev` with the standard nodes only.
    pub restrict_dev: bool,
    /// Namespaces of its own; a job can add to them.
    pub unshare: Vec<NamespaceName>,
    /// The programs of the site's `hooks.d` are run before a container starts.
    pub hooks: bool,
    /// Those of the users' directories too.
    pub user_hooks: bool,
    /// The programs, in order.
    #[serde(skip)]
    pub hook_files: Vec<Hook>,
    /// The site gave `data_path` to this job's user alone: it may lead through directories of his.
    #[serde(skip)]
    pub data_path_is_users: bool,
    /// Mounts of `mounts.d`, in order: after the system's and before the job's, opened with the user's rights.
    #[serde(skip)]
    pub mounts: Vec<MountSpec>,
    /// Variables of `environ.d`, in order: over the job's and the image's.
    #[serde(skip)]
    pub environ: Vec<Edit>,
}

impl Default for ContainerConfig {
    fn default() -> Self {
        ContainerConfig {
            writable: false,
            remap_root: false,
            mount_home: false,
            restrict_dev: false,
            unshare: Vec::new(),
            data_path: PathBuf::from("/var/lib/pyxis-data"),
            hooks: false,
            user_hooks: false,
            hook_files: Vec::new(),
            data_path_is_users: false,
            mounts: Vec::new(),
            environ: Vec::new(),
        }
    }
}

impl ContainerConfig {
    /// The namespaces that the job asks for, and those that every container gets.
    pub fn unshared(&self, job: Unshare) -> Unshare {
        let has = |name| self.unshare.contains(&name);
        Unshare {
            net: job.net || has(NamespaceName::Net),
            ipc: job.ipc || has(NamespaceName::Ipc),
            uts: job.uts || has(NamespaceName::Uts),
        }
    }
}

/// Namespaces that a container can have of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum NamespaceName {
    Net,
    Ipc,
    Uts,
}

impl NamespaceName {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            NamespaceName::Net => "net",
            NamespaceName::Ipc => "ipc",
            NamespaceName::Uts => "uts",
        }
    }
}

/// `[worker]`: who imports.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// The worker program, an absolute path owned by root.
    pub path: PathBuf,
    /// The unprivileged account that parses what comes from registries.
    pub user: String,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        WorkerConfig {
            path: PathBuf::from("/usr/libexec/pyxis/worker"),
            user: "pyxis".to_owned(),
        }
    }
}

/// Mounts in the form of fstab(5), one for each line, of somebody who starts a container for himself. Errors begin with
/// `origin`.
pub fn mounts_of_lines(text: &str, origin: &str, env: &BTreeMap<String, String>) -> Result<Vec<MountSpec>> {
    let file = files::TextFile {
        path: origin.to_owned(),
        text: text.to_owned(),
    };
    Ok(fstab::in_order(fstab::parse(&file, Some(env), Error::Request)?))
}

impl Config {
    /// Parses the text of a policy file; `origin` is its path, for the error.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| parse_error(text, origin, &error))?;
        config.check().map_err(|error| error.context(origin))?;
        Ok(config)
    }

    /// The table of a policy file.
    fn table(text: &str, origin: &str) -> Result<Table> {
        toml::from_str(text).map_err(|error| parse_error(text, origin, &error))
    }

    /// Puts a policy file over what a lower layer says.
    fn over(lower: Table, upper: Table, origin: &str) -> Result<Self> {
        let config: Self = merge(lower, upper).try_into().map_err(|error: toml::de::Error| {
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            Error::Host(format!("{origin} over the site's enroot.conf: {message}"))
        })?;
        config
            .check()
            .map_err(|error| error.context(&format!("{origin} over the site's enroot.conf")))?;
        Ok(config)
    }

    /// What types do not say.
    fn check(&self) -> Result<()> {
        for (key, path) in [
            ("store.path", &self.store.path),
            ("container.data_path", &self.container.data_path),
            ("worker.path", &self.worker.path),
        ] {
            if !path.is_absolute() {
                return Err(Error::Host(format!("{key} = {path:?} is not an absolute path")));
            }
        }
        self.images.check()?;
        self.devices.check()?;
        self.policy.check()?;
        let block_size = self.store.block_size;
        if !block_size.is_power_of_two() || !(4096..=1 << 20).contains(&block_size) {
            return Err(Error::Host(format!(
                "store.block_size = {block_size} is not a power of two from 4096 to 1048576"
            )));
        }
        if self.container.user_hooks && !self.container.hooks {
            return Err(Error::Host(
                "container.user_hooks = true without container.hooks = true: no hook is run".to_owned(),
            ));
        }
        if self.store.threads == Some(0) {
            return Err(Error::Host("store.threads = 0: no thread is too few".to_owned()));
        }
        self.store.compression().map(drop)
    }
}

fn parse_error(text: &str, origin: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    // A value of the wrong type is told without the key that has it.
    let words = before.rsplit('\n').next().unwrap_or_default();
    let key = words.split_once('=').map(|(key, _)| format!("{}: ", key.trim()));
    Error::Host(format!("{origin}, line {line}: {}{message}", key.unwrap_or_default()))
}

/// The lower table with the upper one's values over it, key by key.
fn merge(mut lower: Table, upper: Table) -> Table {
    // A level belongs to its compressor.
    if let (Some(Value::Table(below)), Some(Value::Table(above))) = (lower.get_mut("store"), upper.get("store"))
        && ["compression", "level"].iter().any(|name| above.contains_key(*name))
    {
        below.remove("compression");
        below.remove("level");
    }
    for (name, value) in upper {
        match (lower.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => below.extend(above),
            (_, value) => {
                lower.insert(name, value);
            }
        }
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", "x").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_names_file_line_and_what_is_allowed() {
        let error = Config::parse("[store]\npath = \"/x\"\ncolour = 1\n", "/etc/pyxis/pyxis.toml").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("/etc/pyxis/pyxis.toml, line 3: unknown field `colour`"),
            "{text}"
        );
        assert!(text.contains("compression") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let wrong = |text: &str| Config::parse(text, "x").unwrap_err().to_string();
        assert_eq!(
            wrong("[container]\nwritable = \"perhaps\"\n"),
            "x, line 2: writable: invalid type: string \"perhaps\", expected a boolean"
        );
        assert!(wrong("[store]\n\n[stor]\n").starts_with("x, line 3: unknown field `stor`"));
    }

    #[test]
    fn levels_are_bounded() {
        let error = Config::parse("[store]\ncompression = \"gzip\"\nlevel = 12\n", "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "x: store.level = 12 is out of range, 1 to 9 are allowed"
        );
    }

    #[test]
    fn paths_are_absolute() {
        let error = Config::parse("[worker]\npath = \"worker\"\n", "x").unwrap_err();
        assert_eq!(error.to_string(), "x: worker.path = \"worker\" is not an absolute path");
    }

    /// The installed file says in comments what the defaults are.
    #[test]
    fn the_packaged_file_shows_the_defaults() {
        let text = include_str!("../../packaging/pyxis.toml");
        assert_eq!(Config::parse(text, "x").unwrap(), Config::default());
        let settings: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("# ")
                    .filter(|line| line.contains(" = "))
                    .or(line.starts_with('[').then_some(line))
            })
            .collect();
        let shown = Config::parse(&settings.join("\n"), "x").unwrap();
        let default = StoreConfig::default();
        assert_eq!(
            (&shown.store.path, shown.store.max_layer_size, shown.store.block_size),
            (&default.path, default.max_layer_size, default.block_size)
        );
        assert_eq!(
            shown.store.compression().unwrap(),
            StoreConfig::default().compression().unwrap()
        );
        assert_eq!(
            (shown.container, shown.worker),
            (ContainerConfig::default(), WorkerConfig::default())
        );
        let (client, default) = (shown.registry.client(), RegistryConfig::default());
        assert_eq!(
            (client.allow_http, client.retries, client.max_connections),
            (default.allow_http, default.retries, default.max_connections)
        );
        assert_eq!(
            (client.connect_timeout, client.stall_timeout, client.transfer_timeout),
            (default.connect_timeout, default.stall_timeout, default.transfer_timeout)
        );
    }

    fn over(lower: &str, upper: &str) -> Result<Config> {
        let table = |text| Config::table(text, "x");
        Config::over(table(lower)?, table(upper)?, "x")
    }

    #[test]
    fn the_upper_layer_wins_key_by_key() {
        let lower = "[registry]\nretries = 7\nconnect_timeout = 7\n[container]\nwritable = true\nunshare = [\"net\"]\n";
        let config = over(
            lower,
            "[registry]\nretries = 1\n[container]\nremap_root = true\nunshare = []\n",
        )
        .unwrap();
        assert_eq!(
            (config.registry.retries, config.registry.connect_timeout),
            (Some(1), Some(7))
        );
        assert!(config.container.writable && config.container.remap_root && config.container.unshare.is_empty());
        assert_eq!(over("", "").unwrap(), Config::default());
    }

    #[test]
    fn a_level_goes_with_its_compressor() {
        let lower = "[store]\ncompression = \"zstd\"\nlevel = 19\nblock_size = 4096\n";
        let store = over(lower, "[store]\ncompression = \"gzip\"\n").unwrap().store;
        assert_eq!(
            (store.compression().unwrap(), store.block_size),
            (Compression::Gzip { level: 1 }, 4096)
        );
        assert_eq!(
            over(lower, "").unwrap().store.compression().unwrap(),
            Compression::Zstd { level: 19 }
        );
    }

    #[test]
    fn every_registry_without_tls() {
        let client = over("[registry]\nallow_http = [\"*\"]\n", "")
            .unwrap()
            .registry
            .client();
        assert_eq!(client.allow_http, AllowHttp::All);
        let client = over(
            "[registry]\nallow_http = [\"*\"]\n",
            "[registry]\nallow_http = [\"x\"]\n",
        )
        .unwrap();
        assert_eq!(client.registry.client().allow_http, AllowHttp::Hosts(vec!["x".into()]));
    }

    #[test]
    fn namespaces_add_up() {
        let site = over("[container]\nunshare = [\"net\"]\n", "").unwrap().container;
        let job = Unshare {
            uts: true,
            ..Unshare::default()
        };
        let expected = Unshare {
            net: true,
            ipc: false,
            uts: true,
        };
        assert_eq!(site.unshared(job), expected);
    }

    #[test]
    fn blocks_and_threads_are_bounded() {
        for (text, reason) in [
            (
                "block_size = 100000",
                "x: store.block_size = 100000 is not a power of two",
            ),
            ("block_size = 2097152", "x: store.block_size = 2097152 is not"),
            ("threads = 0", "x: store.threads = 0"),
            (
                "[container]\nuser_hooks = true",
                "x: container.user_hooks = true without",
            ),
        ] {
            let error = Config::parse(&format!("[store]\n{text}\n"), "x")
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
