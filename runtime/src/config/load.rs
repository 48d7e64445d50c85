//! The whole configuration of one job: pyxis.toml over the site's enroot.conf over our defaults, then what the user says
//! in files of his own and in variables, then the files of `environ.d` and `mounts.d`.
#![forbid(unsafe_code)]

use super::choices::{self, Choices};
use super::enroot::{self, Owner, Parsed, Setting};
use super::files::{Place, TextFile};
use super::words::Facts;
use super::{Config, WorkerConfig, environ, fstab, site};
use crate::error::{Error, Result};
use crate::hooks::Hook;
use crate::mount::MountSpec;
use crate::plan::Identity;
use crate::privilege::only_root_can_write;
use crate::worker::protocol::Accounts;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Where the site's `enroot.conf` and its like are.
pub const ENROOT: &str = "/etc/enroot";
/// The variable that says where the user's are.
pub const CONFIG_PATH: &str = "ENROOT_CONFIG_PATH";
/// Mounts of all files together.
const MAX_MOUNTS: usize = 1000;

/// The site's two places.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// `pyxis.toml`.
    pub policy: &'a Path,
    /// The directory of `enroot.conf`.
    pub enroot: &'a Path,
}

impl Default for Sources<'_> {
    fn default() -> Self {
        Sources {
            policy: Path::new(super::POLICY_FILE),
            enroot: Path::new(ENROOT),
        }
    }
}

/// Whose job it is.
#[derive(Debug, Clone, Copy)]
pub struct Owned<'a> {
    /// The user.
    pub identity: &'a Identity,
    /// The job's environment.
    pub env: &'a BTreeMap<String, String>,
}

/// A configuration, and what else came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings for this job.
    pub config: Config,
    /// Where the user's own files are, his passwords among them.
    pub config_path: Option<PathBuf>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// Reads everything. `accounts` asks the name service, and is only called when a value needs the user's name or home: it
/// may take time.
pub fn load(
    sources: &Sources<'_>,
    job: &Owned<'_>,
    accounts: &mut dyn FnMut(&WorkerConfig) -> Result<Accounts>,
) -> Result<Loaded> {
    let SiteLayer {
        mut config,
        mut facts,
        config_path,
        mut warnings,
    } = site_layer(sources, job, accounts)?;
    let config_path = users_directory(job.env, config_path.as_deref())?;
    let users = config_path.as_deref().map(|path| Place {
        path,
        owner: Owner::User,
        identity: job.identity,
    });
    let own = users.as_ref().map(settings_of).transpose()?.unwrap_or_default();
    warnings.extend(own.warnings);
    if facts.user.is_none() && own.settings.iter().any(Setting::needs_account) {
        facts.user = accounts(&config.worker)?.user.map(|user| user.name);
    }
    for settings in [own.settings, choices::of_variables(job.env)] {
        let choices = Choices::of(&settings, &facts)?;
        choices.apply(&mut config.container);
        warnings.extend(choices.warnings);
    }
    let site = site_place(sources, job);
    let container = &mut config.container;
    for place in [Some(site), users].into_iter().flatten() {
        for file in place.files("environ.d", ".env")? {
            let edits = environ::parse(&file, Some(job.env), &mut warnings);
            container.environ.extend(edits);
        }
    }
    if container.hooks {
        let own = users.filter(|_| container.user_hooks);
        for place in [Some(site), own].into_iter().flatten() {
            let paths = place.executables("hooks.d")?.into_iter();
            let site = place.owner == Owner::Site;
            container.hook_files.extend(paths.map(|path| Hook { path, site }));
        }
    }
    container.mounts = mounts(&[Some(site), users], job.env)?;
    Ok(Loaded {
        config,
        config_path,
        warnings,
    })
}

/// The site's part alone: for commands that start no container.
pub fn load_site(
    sources: &Sources<'_>,
    job: &Owned<'_>,
    accounts: &mut dyn FnMut(&WorkerConfig) -> Result<Accounts>,
) -> Result<Loaded> {
    let layer = site_layer(sources, job, accounts)?;
    Ok(Loaded {
        config: layer.config,
        config_path: layer.config_path.map(PathBuf::from),
        warnings: layer.warnings,
    })
}

/// What the site says, and what is known after that.
struct SiteLayer {
    config: Config,
    facts: Facts,
    config_path: Option<String>,
    warnings: Vec<String>,
}

fn site_layer(
    sources: &Sources<'_>,
    job: &Owned<'_>,
    accounts: &mut dyn FnMut(&WorkerConfig) -> Result<Accounts>,
) -> Result<SiteLayer> {
    let (text, origin) = read_policy(sources.policy, Owner::Site)?;
    let Config { worker, policy, .. } = Config::parse(&text, &origin)?;
    let mut parsed = settings_of(&site_place(sources, job))?;
    let mut facts = Facts {
        variables: job.env.clone(),
        uid: job.identity.uid,
        user: None,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut home = None;
    let mut known = Accounts::default();
    if parsed.settings.iter().any(Setting::needs_account) || policy.needs_names() {
        known = accounts(&worker)?;
        home = known.user.as_ref().map(|user| user.home.clone());
        facts.user = known.user.as_ref().map(|user| user.name.clone());
    }
    let lower = site::lower(&parsed.settings, &facts, &facts.of_account(home.as_deref()))?;
    parsed.warnings.extend(lower.warnings.iter().cloned());
    let upper = Config::table(&text, &origin)?;
    let stated = |section: &str, key: &str| upper.get(section).is_some_and(|table| table.get(key).is_some());
    let data_path_is_users = lower.data_path_is_users && !stated("container", "data_path");
    let mut config = Config::over(lower.table(), upper, &origin)?;
    config.container.data_path_is_users = data_path_is_users;
    config.policy = policy.for_user(job.identity, &known);
    Ok(SiteLayer {
        config,
        facts,
        config_path: lower.config_path,
        warnings: parsed.warnings,
    })
}

fn site_place<'a>(sources: &Sources<'a>, job: &Owned<'a>) -> Place<'a> {
    Place {
        path: sources.enroot,
        owner: Owner::Site,
        identity: job.identity,
    }
}

/// The text of the policy file and its path. A file that is not there is a site without wishes; one that cannot be read
/// is an error, since it may forbid what is about to happen; and so is one of the site's that others than root can write.
pub fn read_policy(path: &Path, owner: Owner) -> Result<(String, String)> {
    let origin = path.display().to_string();
    let failed = |error: std::io::Error| Error::Host(format!("{origin} cannot be read: {}", error.kind()));
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((String::new(), origin)),
        opened => opened.map_err(failed)?,
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
    if owner == Owner::Site && !only_root_can_write(&stat) {
        return Err(Error::Host(format!(
            "{origin} can be written by others than root: chown root {origin}; chmod go-w {origin}"
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok((text, origin))
}

/// `enroot.conf`, then `enroot.conf.d/*.conf`.
fn settings_of(place: &Place<'_>) -> Result<Parsed> {
    let mut files = Vec::from_iter(place.file("enroot.conf")?);
    files.extend(place.files("enroot.conf.d", ".conf")?);
    let mut all = Parsed::default();
    for TextFile { path, text } in files {
        let parsed = enroot::parse(&text, &path, place.owner)?;
        all.settings.extend(parsed.settings);
        all.warnings.extend(parsed.warnings);
    }
    Ok(all)
}

/// Where the user's files are: where the job says, else where the site says, else where they usually are.
fn users_directory(env: &BTreeMap<String, String>, by_site: Option<&str>) -> Result<Option<PathBuf>> {
    let said = |name: &str| env.get(name).map(String::as_str).filter(|value| !value.is_empty());
    if let Some(path) = said(CONFIG_PATH) {
        return match Path::new(path).is_absolute() {
            true => Ok(Some(PathBuf::from(path))),
            false => Err(Error::Request(format!("{CONFIG_PATH}={path}: not an absolute path"))),
        };
    }
    if let Some(path) = by_site {
        return Ok(Some(PathBuf::from(path)));
    }
    let usual = said("XDG_CONFIG_HOME").map(PathBuf::from);
    let usual = usual.or_else(|| said("HOME").map(|home| Path::new(home).join(".config")));
    Ok(usual.map(|path| path.join("enroot")).filter(|path| path.is_absolute()))
}

/// The mounts of all files in their order.
fn mounts(places: &[Option<Place<'_>>], env: &BTreeMap<String, String>) -> Result<Vec<MountSpec>> {
    let mut entries = Vec::new();
    for place in places.iter().flatten() {
        for file in place.files("mounts.d", ".fstab")? {
            entries.extend(fstab::parse(&file, Some(env), |text| place.owner.error(text))?);
            if entries.len() > MAX_MOUNTS {
                let text = format!("{}: more than {MAX_MOUNTS} mounts in all files", file.path);
                return Err(place.owner.error(text));
            }
        }
    }
    Ok(fstab::in_order(entries))
}
