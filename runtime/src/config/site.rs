//! The site's enroot.conf as a layer below pyxis.toml: the same table, with what enroot's keys say in it.
#![forbid(unsafe_code)]

use super::enroot::{Setting, number, switch};
use super::keys::{Key, Who};
use super::squash;
use super::words::Facts;
use super::{CompressionName, NamespaceName};
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

/// What the site's files say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lower {
    /// The sections of pyxis.toml, with what is said in them.
    sections: BTreeMap<&'static str, Table>,
    /// `container.data_path` in it was made for this user: it is his directory, and not one that has his in it.
    pub data_path_is_users: bool,
    /// `ENROOT_CONFIG_PATH`.
    pub config_path: Option<String>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// Builds the layer. What a user may choose may depend on the job's variables; all else depends on the account alone, so
/// that no variable of a job leads to another directory or server.
pub fn lower(settings: &[Setting], job: &Facts, account: &Facts) -> Result<Lower> {
    let mut lower = Lower::default();
    for setting in settings.iter().filter(|setting| setting.spec.key != Key::Meaningless) {
        let facts = match setting.spec.who {
            Who::Site => account,
            Who::Anyone => job,
        };
        if let Some(text) = setting.expand(facts)? {
            lower.take(setting, &text).map_err(|reason| setting.wrong(&reason))?;
        }
    }
    Ok(lower)
}

impl Lower {
    fn take(&mut self, setting: &Setting, text: &str) -> std::result::Result<(), String> {
        match setting.spec.key {
            Key::Meaningless => {}
            Key::ConfigPath => self.config_path = Some(text.to_owned()),
            Key::DataPath => {
                self.set("container", "data_path", absolute(text)?);
                self.data_path_is_users = setting.value.is_per_user();
            }
            Key::RootfsWritable => self.set("container", "writable", switch(text)?),
            Key::RemapRoot => self.set("container", "remap_root", switch(text)?),
            Key::MountHome => self.set("container", "mount_home", switch(text)?),
            Key::RestrictDev => self.set("container", "restrict_dev", switch(text)?),
            Key::UnshareNet => self.unshare(NamespaceName::Net, switch(text)?),
            Key::UnshareIpc => self.unshare(NamespaceName::Ipc, switch(text)?),
            Key::UnshareUts => self.unshare(NamespaceName::Uts, switch(text)?),
            Key::UnsharePid => self.warnings.extend(pid_warning(setting, text)?),
            Key::SquashOptions => self.squash(setting, text)?,
            _ => self.take_registry(setting.spec.key, text)?,
        }
        Ok(())
    }

    fn take_registry(&mut self, key: Key, text: &str) -> std::result::Result<(), String> {
        const SHORT: u32 = u16::MAX as u32;
        const SMALL: u32 = u8::MAX as u32;
        // In enroot 0 is no limit.
        let unlimited = |number: u32, most: u32| if number == 0 { most } else { number };
        let registry = "registry";
        match key {
            Key::MaxProcessors => match number(text, SHORT)? {
                0 => self.unset("store", "threads"),
                number => self.set("store", "threads", i64::from(number)),
            },
            Key::MaxConnections => {
                let number = unlimited(number(text, SMALL)?, SMALL);
                self.set(registry, "max_connections", i64::from(number));
            }
            Key::ConnectTimeout => {
                let number = unlimited(number(text, SHORT)?, SHORT);
                self.set(registry, "connect_timeout", i64::from(number));
            }
            Key::TransferTimeout => {
                self.set(registry, "transfer_timeout", i64::from(number(text, u32::MAX)?));
            }
            Key::TransferRetries => self.set(registry, "retries", i64::from(number(text, SMALL)?)),
            Key::AllowHttp if switch(text)? => self.set(registry, "allow_http", list(["*"])),
            Key::AllowHttp => self.unset(registry, "allow_http"),
            Key::AllProxy => self.set(registry, "all_proxy", text),
            Key::HttpProxy => self.set(registry, "http_proxy", text),
            Key::HttpsProxy => self.set(registry, "https_proxy", text),
            Key::NoProxy => {
                let hosts = text.split([',', ' ']).filter(|host| !host.is_empty());
                self.set(registry, "no_proxy", list(hosts));
            }
            Key::SslCertFile => self.set(registry, "ca_file", absolute(text)?),
            Key::SslCertDir => self.set(registry, "ca_dir", absolute(text)?),
            _ => {}
        }
        Ok(())
    }

    fn squash(&mut self, setting: &Setting, text: &str) -> std::result::Result<(), String> {
        let squash = squash::parse(text)?;
        for name in ["compression", "level", "block_size"] {
            self.unset("store", name);
        }
        if let Some(compression) = squash.compression {
            self.set("store", "compression", name_of(compression));
        }
        if let Some(level) = squash.level {
            self.set("store", "level", i64::from(level));
        }
        if let Some(size) = squash.block_size {
            self.set("store", "block_size", i64::from(size));
        }
        let place = &setting.place;
        let unknown = squash.unknown.iter();
        self.warnings
            .extend(unknown.map(|word| format!("{place}: unknown word {word} in {}, ignoring", setting.spec.name)));
        Ok(())
    }

    fn unshare(&mut self, name: NamespaceName, on: bool) {
        let word = name.word();
        let mut words: Vec<Value> = match self.section("container").remove("unshare") {
            Some(Value::Array(words)) => words,
            _ => Vec::new(),
        };
        words.retain(|known| known.as_str() != Some(word));
        if on {
            words.push(word.into());
        }
        self.set("container", "unshare", Value::Array(words));
    }

    fn section(&mut self, name: &'static str) -> &mut Table {
        self.sections.entry(name).or_default()
    }

    fn set(&mut self, section: &'static str, name: &str, value: impl Into<Value>) {
        self.section(section).insert(name.to_owned(), value.into());
    }

    fn unset(&mut self, section: &'static str, name: &str) {
        self.section(section).remove(name);
    }

    /// The table that pyxis.toml goes over.
    pub fn table(&self) -> Table {
        let sections = self.sections.iter();
        let named = sections.map(|(name, section)| ((*name).to_owned(), Value::Table(section.clone())));
        named.collect()
    }
}

/// The job's processes are in the host's PID namespace, whatever is asked for.
pub(super) fn pid_warning(setting: &Setting, text: &str) -> std::result::Result<Option<String>, String> {
    let (place, name) = (&setting.place, setting.spec.name);
    let warning = || format!("{place}: {name} has no effect: tasks stay in the node's PID namespace, ignoring");
    Ok(switch(text)?.then(warning))
}

fn name_of(compression: CompressionName) -> &'static str {
    match compression {
        CompressionName::Zstd => "zstd",
        CompressionName::Lz4 => "lz4",
        CompressionName::Gzip => "gzip",
        CompressionName::None => "none",
    }
}

fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(words.into_iter().map(Value::from).collect())
}

fn absolute(text: &str) -> std::result::Result<&str, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text),
        false => Err(format!("{text:?} is not an absolute path")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::enroot::{self, Owner};
    use super::*;

    fn facts() -> (Facts, Facts) {
        let job = Facts {
            variables: [("HOME", "/evil"), ("USER", "root"), ("CHOICE", "yes")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            uid: 1000,
            user: Some("alice".into()),
            processors: 8,
        };
        let account = job.of_account(Some("/home/alice"));
        (job, account)
    }

    fn of(text: &str) -> Result<Lower> {
        let (job, account) = facts();
        lower(&enroot::parse(text, "x.conf", Owner::Site)?.settings, &job, &account)
    }

    #[test]
    fn each_key_and_the_table_it_makes() {
        for (line, expected) in [
            ("ENROOT_DATA_PATH /d", "container.data_path = '/d'"),
            ("ENROOT_DATA_PATH /d/$(id -u)", "container.data_path = '/d/1000'"),
            (
                "ENROOT_DATA_PATH ${XDG_DATA_HOME}/enroot",
                "container.data_path = '/home/alice/.local/share/enroot'",
            ),
            ("ENROOT_ROOTFS_WRITABLE yes", "container.writable = true"),
            ("ENROOT_REMAP_ROOT y", "container.remap_root = true"),
            ("ENROOT_REMAP_ROOT ${CHOICE:-no}", "container.remap_root = true"),
            ("ENROOT_MOUNT_HOME no", "container.mount_home = false"),
            ("ENROOT_RESTRICT_DEV true", "container.restrict_dev = true"),
            (
                "ENROOT_UNSHARE_NET y\nENROOT_UNSHARE_IPC y",
                "container.unshare = ['net', 'ipc']",
            ),
            ("ENROOT_UNSHARE_UTS y\nENROOT_UNSHARE_UTS n", "container.unshare = []"),
            ("ENROOT_MAX_PROCESSORS $(nproc)", "store.threads = 8"),
            ("ENROOT_MAX_PROCESSORS 0", "[store]"),
            ("ENROOT_MAX_CONNECTIONS 4", "registry.max_connections = 4"),
            ("ENROOT_MAX_CONNECTIONS 0", "registry.max_connections = 255"),
            ("ENROOT_CONNECT_TIMEOUT 0", "registry.connect_timeout = 65535"),
            ("ENROOT_CONNECT_TIMEOUT 9", "registry.connect_timeout = 9"),
            ("ENROOT_TRANSFER_TIMEOUT 600", "registry.transfer_timeout = 600"),
            ("ENROOT_TRANSFER_RETRIES 2", "registry.retries = 2"),
            ("ENROOT_ALLOW_HTTP yes", "registry.allow_http = ['*']"),
            ("ENROOT_ALLOW_HTTP yes\nENROOT_ALLOW_HTTP no", "[registry]"),
            ("ENROOT_ALLOW_HTTP ${CHOICE:-no}", "[registry]"),
            ("all_proxy http://p:1", "registry.all_proxy = 'http://p:1'"),
            ("http_proxy=http://p:1", "registry.http_proxy = 'http://p:1'"),
            ("https_proxy http://p:1", "registry.https_proxy = 'http://p:1'"),
            ("no_proxy a,b c", "registry.no_proxy = ['a', 'b', 'c']"),
            ("SSL_CERT_FILE /ca.pem", "registry.ca_file = '/ca.pem'"),
            ("SSL_CERT_DIR /certs", "registry.ca_dir = '/certs'"),
            (
                "ENROOT_SQUASH_OPTIONS -comp zstd -Xcompression-level 3 -b 1M",
                "store = { compression = 'zstd', level = 3, block_size = 1048576 }",
            ),
            (
                "ENROOT_SQUASH_OPTIONS -comp gzip -Xcompression-level 3\nENROOT_SQUASH_OPTIONS -noD",
                "store.compression = 'none'",
            ),
            (
                "ENROOT_RUNTIME_PATH relative/$(id -u)\nENROOT_CACHE_PATH x\nENROOT_TEMP_PATH ${TMPDIR:-/tmp}",
                "",
            ),
            ("ENROOT_ALLOW_SUPERUSER yes\nENROOT_LOGIN_SHELL whatever", ""),
            ("ENROOT_DATA_PATH\nENROOT_REMAP_ROOT ''", ""),
        ] {
            let lower = of(line).unwrap();
            assert_eq!(lower.table(), toml::from_str::<Table>(expected).unwrap(), "{line}");
            assert!(lower.warnings.is_empty(), "{line}");
        }
    }

    #[test]
    fn a_path_for_one_user_is_told_from_one_for_all() {
        for (value, users) in [
            ("/d", false),
            ("/d/$(id -u)", true),
            ("/d/${UID}", true),
            ("${TMPDIR:-/d}", false),
        ] {
            assert_eq!(
                of(&format!("ENROOT_DATA_PATH {value}")).unwrap().data_path_is_users,
                users,
                "{value}"
            );
        }
    }

    #[test]
    fn wrong_values_name_file_line_and_key() {
        for (line, text) in [
            (
                "ENROOT_REMAP_ROOT perhaps",
                "x.conf, line 1: ENROOT_REMAP_ROOT: \"perhaps\" is not a switch",
            ),
            (
                "ENROOT_CONNECT_TIMEOUT soon",
                "x.conf, line 1: ENROOT_CONNECT_TIMEOUT: \"soon\" is not a number",
            ),
            (
                "ENROOT_DATA_PATH data",
                "x.conf, line 1: ENROOT_DATA_PATH: \"data\" is not an absolute path",
            ),
            (
                "SSL_CERT_FILE ca.pem",
                "x.conf, line 1: SSL_CERT_FILE: \"ca.pem\" is not",
            ),
            (
                "ENROOT_SQUASH_OPTIONS -comp brotli",
                "x.conf, line 1: ENROOT_SQUASH_OPTIONS: -comp brotli",
            ),
        ] {
            let error = of(line).unwrap_err();
            assert!(matches!(error, crate::error::Error::Host(_)), "{error:?}");
            assert!(error.to_string().starts_with(text), "{error}");
        }
    }

    #[test]
    fn what_has_no_effect_is_told() {
        let warned = of("ENROOT_UNSHARE_PID yes\nENROOT_SQUASH_OPTIONS -wildly")
            .unwrap()
            .warnings;
        assert!(
            warned[0].starts_with("x.conf, line 1: ENROOT_UNSHARE_PID has no effect"),
            "{warned:?}"
        );
        assert_eq!(
            warned[1],
            "x.conf, line 2: unknown word -wildly in ENROOT_SQUASH_OPTIONS, ignoring"
        );
        assert!(of("ENROOT_UNSHARE_PID no").unwrap().warnings.is_empty());
    }
}
