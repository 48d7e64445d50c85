//! The one table of enroot.conf's keys: what each is, and who may say it. docs/admin/enroot-conf.md has the same table in
//! words, and a test holds the two together.
#![forbid(unsafe_code)]

/// A key with a meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Key {
    ConfigPath,
    DataPath,
    RootfsWritable,
    RemapRoot,
    MountHome,
    RestrictDev,
    UnshareNet,
    UnshareIpc,
    UnshareUts,
    UnsharePid,
    MaxProcessors,
    MaxConnections,
    ConnectTimeout,
    TransferTimeout,
    TransferRetries,
    AllowHttp,
    SquashOptions,
    AllProxy,
    NoProxy,
    HttpProxy,
    HttpsProxy,
    SslCertFile,
    SslCertDir,
    /// Known, and without any meaning here; the table in the documentation says why.
    Meaningless,
}

/// Who may set a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The site's files only: the setting is about what the service user does, about others, or about the machine.
    Site,
    /// The user's files and the job's environment too: an option says the same, or it restricts him only.
    Anyone,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// As written.
    pub name: &'static str,
    /// What it is.
    pub key: Key,
    /// Who may set it.
    pub who: Who,
}

const fn site(name: &'static str, key: Key) -> KeySpec {
    let who = Who::Site;
    KeySpec { name, key, who }
}

const fn anyone(name: &'static str, key: Key) -> KeySpec {
    let who = Who::Anyone;
    KeySpec { name, key, who }
}

const fn meaningless(name: &'static str) -> KeySpec {
    anyone(name, Key::Meaningless)
}

/// All keys.
pub const KEYS: &[KeySpec] = &[
    anyone("ENROOT_CONFIG_PATH", Key::ConfigPath),
    site("ENROOT_DATA_PATH", Key::DataPath),
    anyone("ENROOT_ROOTFS_WRITABLE", Key::RootfsWritable),
    anyone("ENROOT_REMAP_ROOT", Key::RemapRoot),
    anyone("ENROOT_MOUNT_HOME", Key::MountHome),
    anyone("ENROOT_RESTRICT_DEV", Key::RestrictDev),
    anyone("ENROOT_UNSHARE_NET", Key::UnshareNet),
    anyone("ENROOT_UNSHARE_IPC", Key::UnshareIpc),
    anyone("ENROOT_UNSHARE_UTS", Key::UnshareUts),
    anyone("ENROOT_UNSHARE_PID", Key::UnsharePid),
    site("ENROOT_MAX_PROCESSORS", Key::MaxProcessors),
    site("ENROOT_MAX_CONNECTIONS", Key::MaxConnections),
    site("ENROOT_CONNECT_TIMEOUT", Key::ConnectTimeout),
    site("ENROOT_TRANSFER_TIMEOUT", Key::TransferTimeout),
    site("ENROOT_TRANSFER_RETRIES", Key::TransferRetries),
    site("ENROOT_ALLOW_HTTP", Key::AllowHttp),
    site("ENROOT_SQUASH_OPTIONS", Key::SquashOptions),
    site("all_proxy", Key::AllProxy),
    site("no_proxy", Key::NoProxy),
    site("http_proxy", Key::HttpProxy),
    site("https_proxy", Key::HttpsProxy),
    site("SSL_CERT_FILE", Key::SslCertFile),
    site("SSL_CERT_DIR", Key::SslCertDir),
    meaningless("ENROOT_RUNTIME_PATH"),
    meaningless("ENROOT_CACHE_PATH"),
    meaningless("ENROOT_TEMP_PATH"),
    meaningless("ENROOT_ALLOW_SUPERUSER"),
    meaningless("ENROOT_LOGIN_SHELL"),
    meaningless("ENROOT_LIBRARY_PATH"),
    meaningless("ENROOT_SYSCONF_PATH"),
    meaningless("ENROOT_GZIP_PROGRAM"),
    meaningless("ENROOT_ZSTD_OPTIONS"),
    meaningless("ENROOT_NATIVE_OVERLAYFS"),
    meaningless("ENROOT_BUNDLE_ALL"),
    meaningless("ENROOT_BUNDLE_CHECKSUM"),
    meaningless("ENROOT_FORCE_OVERRIDE"),
    meaningless("ENROOT_SET_USER_GROUPS"),
];

/// The key of this name.
pub fn find(name: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|spec| spec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, spec) in KEYS.iter().enumerate() {
            assert!(
                KEYS[index + 1..].iter().all(|other| other.name != spec.name),
                "{}",
                spec.name
            );
        }
    }

    /// The page lists every key with who may set it, in a row that begins with its name.
    #[test]
    fn the_documentation_has_the_same_table() {
        let page = include_str!("../../../docs/admin/enroot-conf.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').map(str::trim).skip(1).collect())
            .collect();
        for spec in KEYS {
            let name = format!("`{}`", spec.name);
            let row = rows.iter().find(|row| row[0].split(", ").any(|word| word == name));
            let row = row.unwrap_or_else(|| panic!("{name} is not in the page"));
            let expected = match (spec.key, spec.who) {
                (Key::Meaningless, _) => "no effect",
                (_, Who::Site) => "no",
                (_, Who::Anyone) => "yes",
            };
            assert_eq!(row[2], expected, "{name}");
        }
    }
}
