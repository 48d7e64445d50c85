//! From the words of Singularity to a request.
#![forbid(unsafe_code)]

use super::args::How;
use crate::container::Here;
use pyxis_runtime::mount::{Create, MountOptions, MountSource, MountSpec};
use pyxis_runtime::plan::Unshare;
use pyxis_runtime::request::Request;
use pyxis_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Directories of the machine that are there unless something else was asked for.
const SHOWN: [&str; 2] = ["/tmp", "/var/tmp"];
/// Variables that a clean environment has too.
const ALWAYS: [&str; 5] = ["HOME", "LOGNAME", "TERM", "USER", "LANG"];
/// Variables by which the same can be asked for.
const BINDS: [&str; 4] = [
    "APPTAINER_BIND",
    "SINGULARITY_BIND",
    "APPTAINER_BINDPATH",
    "SINGULARITY_BINDPATH",
];
/// Variables for the container; the later ones count.
const FORWARDED: [&str; 2] = ["SINGULARITYENV_", "APPTAINERENV_"];
/// These are the image's to decide, or have a meaning of their own.
const NOT_FORWARDED: [&str; 4] = ["HOME", "PATH", "PREPEND_PATH", "APPEND_PATH"];
/// Schemes of those whose images are elsewhere.
const ELSEWHERE: [&str; 4] = ["library://", "shub://", "oras://", "instance://"];
/// What is there with a driver, below the directory where devices are looked for.
const NVIDIA: &str = "proc/driver/nvidia";
const AMD: &str = "sys/class/kfd";

/// What is wanted.
#[derive(Debug)]
pub struct Wanted {
    pub request: Request,
    /// What the container is called in lists.
    pub id: String,
    /// The variables that it begins with.
    pub env: BTreeMap<String, String>,
    /// Those over the image's.
    pub over: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

/// Understands.
pub fn understand(how: &How, image: &str, here: &Here) -> Result<Wanted> {
    if how.writable {
        return Err(Error::Request(
            "--writable: what is written here is kept by containers only (enroot create, enroot start --rw); with \
             --writable-tmpfs it is lost"
                .to_owned(),
        ));
    }
    let mut warnings = Vec::new();
    if how.containall {
        let text = "--containall: processes of this machine can be seen inside: there is no PID namespace";
        warnings.push(text.to_owned());
    }
    let home = home(how, &here.env)?;
    let devices = &here.config.devices.root;
    let request = Request {
        image: Some(image_of(image, here)?),
        mounts: mounts(how, home.as_ref(), here)?,
        workdir: how.pwd.clone().or_else(|| match is_contained(how) {
            false => Some(here.job.cwd.clone()),
            true => home.as_ref().map(|(_, target)| target.clone()),
        }),
        mount_home: Some(false),
        remap_root: Some(how.fakeroot),
        writable: Some(how.writable_tmpfs),
        unshare: Unshare {
            net: how.net,
            ipc: how.ipc || how.containall,
            uts: how.uts,
        },
        gpus: driver(how.nv, "--nv", &devices.join(NVIDIA), &mut warnings),
        rocm: driver(how.rocm, "--rocm", &devices.join(AMD), &mut warnings),
        ..Request::default()
    };
    let clean = how.cleanenv || how.containall;
    let taken = here
        .env
        .iter()
        .filter(|(name, _)| !clean || ALWAYS.contains(&name.as_str()));
    let env = taken.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut over = forwarded(&here.env);
    over.extend(variables(how)?);
    over.extend(home.map(|(_, target)| ("HOME".to_owned(), target.display().to_string())));
    Ok(Wanted {
        request,
        id: id_of(image),
        env,
        over,
        warnings,
    })
}

/// Nothing of the machine is there that was not asked for.
fn is_contained(how: &How) -> bool {
    how.contain || how.containall
}

/// What a driver brings is wanted, and there.
fn driver(asked: bool, option: &str, place: &Path, warnings: &mut Vec<String>) -> Option<bool> {
    let found = place.exists();
    if asked && !found {
        warnings.push(format!(
            "{option} has no effect: the driver is not loaded here ({} is missing)",
            place.display()
        ));
    }
    (asked && found).then_some(true)
}

/// The usual directories, and those that were asked for.
fn mounts(how: &How, home: Option<&(PathBuf, PathBuf)>, here: &Here) -> Result<Vec<MountSpec>> {
    let cwd = &here.job.cwd;
    let mut mounts = Vec::new();
    if !is_contained(how) {
        mounts.extend(SHOWN.map(|path| optional(bind(path.into(), path.into()))));
    }
    if let Some((source, target)) = home {
        mounts.push(match (is_contained(how), &how.home) {
            (true, None) => memory(target.clone()),
            (false, None) => optional(bind(source.clone(), target.clone())),
            // It was asked for.
            (_, Some(_)) => bind(source.clone(), target.clone()),
        });
    }
    // Below what is there already it is there too.
    let below = mounts.iter().any(|mount| cwd.starts_with(&mount.target));
    if !is_contained(how) && !below && cwd != Path::new("/") {
        mounts.push(optional(bind(cwd.clone(), cwd.clone())));
    }
    for text in binds(how, &here.env) {
        mounts.push(parse_bind(&text, cwd)?);
    }
    Ok(mounts)
}

/// What the runtime calls it: a path is a path here without a `./`.
pub fn image_of(image: &str, here: &Here) -> Result<String> {
    if let Some(scheme) = ELSEWHERE.iter().find(|scheme| image.starts_with(*scheme)) {
        return Err(Error::Request(format!(
            "{image}: images of {scheme} are not known here: take a file, docker://, oci: or docker-archive:"
        )));
    }
    match image.contains("://") || is_local(image) {
        true => Ok(image.to_owned()),
        false => Ok(here.absolute(Path::new(image)).display().to_string()),
    }
}

fn is_local(image: &str) -> bool {
    ["oci:", "oci-archive:", "docker-archive:"]
        .iter()
        .any(|scheme| image.starts_with(scheme))
}

fn id_of(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.trim_start_matches('.') {
        "" => "container".to_owned(),
        name => name.to_owned(),
    }
}

/// The caller's home directory, or what he says it is; and where it is inside.
fn home(how: &How, env: &BTreeMap<String, String>) -> Result<Option<(PathBuf, PathBuf)>> {
    if how.no_home {
        return Ok(None);
    }
    let pair = match &how.home {
        Some(text) => {
            let (source, target) = text.split_once(':').unwrap_or((text, text));
            (PathBuf::from(source), PathBuf::from(target))
        }
        None => match env.get("HOME") {
            Some(home) if how.fakeroot => (PathBuf::from(home), PathBuf::from("/root")),
            Some(home) => (PathBuf::from(home), PathBuf::from(home)),
            None => return Ok(None),
        },
    };
    match pair.0.is_absolute() && pair.1.is_absolute() {
        true => Ok(Some(pair)),
        false => Err(Error::Request(format!(
            "--home {}: it is no absolute path",
            pair.0.display()
        ))),
    }
}

fn binds(how: &How, env: &BTreeMap<String, String>) -> Vec<String> {
    let of_variables = BINDS
        .iter()
        .filter_map(|name| env.get(*name))
        .flat_map(|text| text.split(','));
    let of_variables = of_variables.filter(|text| !text.is_empty()).map(str::to_owned);
    of_variables.chain(how.binds.iter().cloned()).collect()
}

/// `SRC[:DST[:OPTIONS]]`.
fn parse_bind(text: &str, cwd: &Path) -> Result<MountSpec> {
    let mut words = text.splitn(3, ':');
    let source = words.next().filter(|source| !source.is_empty());
    let source = source.ok_or_else(|| Error::Request(format!("--bind {text:?} has no source")))?;
    let source = cwd.join(source);
    let target = words.next().map_or_else(|| source.clone(), PathBuf::from);
    if !target.is_absolute() {
        return Err(Error::Request(format!("--bind {text:?}: the target must begin with /")));
    }
    let mut mount = bind(source.clone(), target);
    for option in words.next().into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => mount.options.readonly = true,
            "rw" => mount.options.readonly = false,
            "image-src=/" => mount.source = MountSource::Squashfs(source.clone()),
            other => {
                return Err(Error::Request(format!(
                    "--bind {text:?}: unknown option {other:?}: take ro, rw or, for what is in a squashfs file, image-src=/"
                )));
            }
        }
    }
    Ok(mount)
}

fn bind(source: PathBuf, target: PathBuf) -> MountSpec {
    MountSpec {
        source: MountSource::Path(source),
        target,
        options: MountOptions {
            recursive: true,
            create: Create::Auto,
            nosuid: true,
            nodev: true,
            ..MountOptions::default()
        },
    }
}

fn memory(target: PathBuf) -> MountSpec {
    MountSpec {
        source: MountSource::Tmpfs,
        ..bind(PathBuf::new(), target)
    }
}

/// Nobody has asked for it.
fn optional(mount: MountSpec) -> MountSpec {
    MountSpec {
        options: MountOptions {
            nofail: true,
            silent: true,
            ..mount.options
        },
        ..mount
    }
}

/// Variables that are for the container, by their prefix.
fn forwarded(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let with = |prefix| {
        env.iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
    };
    let all = FORWARDED.into_iter().flat_map(with);
    all.filter(|(name, _)| !NOT_FORWARDED.contains(&name.as_str()))
        .collect()
}

/// Those of the file, and over them those of the command line.
fn variables(how: &How) -> Result<BTreeMap<String, String>> {
    let file = match &how.env_file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Error::Request(format!("--env-file {}: {}", path.display(), error.kind())))?,
    };
    let lines = file
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let all = lines.chain(how.variables.iter().map(String::as_str));
    let parsed = all.map(|word| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::Request(format!("{word:?} is no NAME=VALUE"))),
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn binds_as_singularity_writes_them() {
        let cwd = Path::new("/work");
        let mount = parse_bind("data:/data:ro", cwd).unwrap();
        assert_eq!(
            (mount.source, mount.target),
            (MountSource::Path("/work/data".into()), "/data".into())
        );
        assert!(mount.options.readonly);
        assert_eq!(parse_bind("/a", cwd).unwrap().target, Path::new("/a"));
        let mount = parse_bind("data.sqsh:/data:image-src=/", cwd).unwrap();
        assert_eq!(mount.source, MountSource::Squashfs(cwd.join("data.sqsh")));
        for wrong in ["", ":/a", "/a:b", "/a:/b:no"] {
            assert!(parse_bind(wrong, cwd).is_err(), "{wrong}");
        }
        let how = How {
            binds: vec!["/c".to_owned()],
            ..How::default()
        };
        let env = env(&[("SINGULARITY_BIND", "/a,/b:/b"), ("APPTAINER_BIND", "")]);
        assert_eq!(binds(&how, &env), ["/a", "/b:/b", "/c"]);
    }

    #[test]
    fn variables_of_prefixes_files_and_options() {
        let set = env(&[
            ("SINGULARITYENV_A", "1"),
            ("APPTAINERENV_A", "2"),
            ("APPTAINERENV_HOME", "/x"),
            ("B", "3"),
        ]);
        assert_eq!(forwarded(&set), env(&[("A", "2")]));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "# comment\nA=1\n\nB=2=3\n").unwrap();
        let how = How {
            env_file: Some(file.path().to_owned()),
            variables: vec!["A=4".to_owned()],
            ..How::default()
        };
        assert_eq!(variables(&how).unwrap(), env(&[("A", "4"), ("B", "2=3")]));
        let how = How {
            variables: vec!["A".to_owned()],
            ..How::default()
        };
        assert!(variables(&how).is_err());
    }

    #[test]
    fn home_directories() {
        let set = env(&[("HOME", "/home/alice")]);
        let of = |how: How| home(&how, &set);
        let pair = |source: &str, target: &str| Some((source.into(), target.into()));
        assert_eq!(of(How::default()).unwrap(), pair("/home/alice", "/home/alice"));
        let fakeroot = How {
            fakeroot: true,
            ..How::default()
        };
        assert_eq!(of(fakeroot).unwrap(), pair("/home/alice", "/root"));
        let said = |text: &str| How {
            home: Some(text.to_owned()),
            ..How::default()
        };
        assert_eq!(of(said("/a")).unwrap(), pair("/a", "/a"));
        assert_eq!(of(said("/a:/b")).unwrap(), pair("/a", "/b"));
        assert!(of(said("a:/b")).is_err());
    }
}
