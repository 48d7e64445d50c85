//! What a PMIx client in the container needs of its server on the node: the directories in which they meet, and the
//! names of the server's modules in the form that a client takes. All of it is in the environment of a task.
//!
//! The variables are those of the PMIx reference library; see its "Session Directories" for the directories.
#![forbid(unsafe_code)]

use super::{Origin, PlannedMount};
use crate::environment::Edit;
use crate::mount::{Create, MountOptions, MountSource, MountSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Env = BTreeMap<String, String>;

/// The server tells its modules by the names on the left; a client reads those on the right.
const MODULES: [(&str, &str); 3] = [
    ("PMIX_PTL_MODULE", "PMIX_MCA_ptl"),
    ("PMIX_SECURITY_MODE", "PMIX_MCA_psec"),
    ("PMIX_GDS_MODULE", "PMIX_MCA_gds"),
];
/// Set by the server for each of its clients.
const NAMESPACE: &str = "PMIX_NAMESPACE";
/// Where the server keeps what all clients of the node read.
const SERVER: &str = "PMIX_SERVER_TMPDIR";
/// Where directories for the clients may start, in the order in which they are looked for.
const BASES: [&str; 5] = ["SLURM_PMIX_TMPDIR", "PMIX_SYSTEM_TMPDIR", "TMPDIR", "TEMP", "TMP"];

/// Variables that a client needs and does not have.
pub(super) fn env(env: &Env) -> Vec<Edit> {
    let missing = MODULES.iter().filter(|(_, name)| !env.contains_key(*name));
    let found = missing.filter_map(|(from, name)| Some(((*name).to_owned(), Some(env.get(*from)?.clone()))));
    found.collect()
}

/// The server's directory, and the one that it made for the clients of this step, at their own paths.
pub(super) fn mounts(env: &Env) -> Vec<PlannedMount> {
    let Some(server) = absolute(env, SERVER).filter(|_| env.contains_key(NAMESPACE)) else {
        return Vec::new();
    };
    let mut mounts = vec![mount(&server, false)];
    mounts.extend(clients(env, &server).iter().map(|path| mount(path, true)));
    mounts
}

/// Where the directory for the clients may be. The launcher's configuration decides, which a task does not see.
fn clients(env: &Env, server: &Path) -> Vec<PathBuf> {
    let part = |name: &str| {
        env.get(name)
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (Some(job), Some(step)) = (part("SLURM_JOB_ID"), part("SLURM_STEP_ID")) else {
        return Vec::new();
    };
    let names = part("SLURM_JOB_UID").map(|uid| format!("spmix_appdir_{uid}_{job}.{step}"));
    let names: Vec<String> = names
        .into_iter()
        .chain([format!("spmix_appdir_{job}.{step}")])
        .collect();
    let bases = BASES.iter().filter_map(|name| absolute(env, name));
    let beside = server.parent().map(Path::to_owned);
    let mut found: Vec<PathBuf> = Vec::new();
    for base in bases.chain([PathBuf::from("/tmp")]).chain(beside) {
        for path in names.iter().map(|name| base.join(name)) {
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn absolute(env: &Env, name: &str) -> Option<PathBuf> {
    let path: PathBuf = Path::new(env.get(name)?).components().collect();
    path.is_absolute().then_some(path)
}

/// A directory of the user's, opened with his rights: the path came with his environment.
fn mount(path: &Path, optional: bool) -> PlannedMount {
    let options = MountOptions {
        recursive: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        create: Create::Dir,
        nofail: optional,
        silent: optional,
        ..Default::default()
    };
    PlannedMount {
        spec: MountSpec {
            source: MountSource::Path(path.to_owned()),
            target: path.to_owned(),
            options,
        },
        origin: Origin::User,
        judged: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[(&str, &str)]) -> Env {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// As a task of the launcher sees it.
    const TASK: [(&str, &str); 8] = [
        ("PMIX_NAMESPACE", "slurm.pmix.7.0"),
        ("PMIX_SERVER_TMPDIR", "/var/spool/slurmd/pmix.7.0/"),
        ("PMIX_SYSTEM_TMPDIR", "/tmp"),
        ("PMIX_SECURITY_MODE", "munge,native"),
        ("PMIX_GDS_MODULE", "ds21,ds12,hash"),
        ("SLURM_JOB_ID", "7"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_JOB_UID", "1000"),
    ];

    fn targets(env: &Env) -> Vec<(String, bool)> {
        let all = mounts(env);
        assert!(
            all.iter()
                .all(|one| one.origin == Origin::User && one.spec.options.noexec)
        );
        all.iter()
            .map(|one| (one.spec.target.display().to_string(), one.spec.options.nofail))
            .collect()
    }

    #[test]
    fn the_directories_of_a_server() {
        let one = |path: &str, optional| (path.to_owned(), optional);
        let wanted = [
            one("/var/spool/slurmd/pmix.7.0", false),
            one("/tmp/spmix_appdir_1000_7.0", true),
            one("/tmp/spmix_appdir_7.0", true),
            one("/var/spool/slurmd/spmix_appdir_1000_7.0", true),
            one("/var/spool/slurmd/spmix_appdir_7.0", true),
        ];
        assert_eq!(targets(&of(&TASK)), wanted);
        let mut other = of(&TASK);
        other.insert("SLURM_PMIX_TMPDIR".into(), "/fast".into());
        assert_eq!(targets(&other)[1], one("/fast/spmix_appdir_1000_7.0", true));
    }

    #[test]
    fn nothing_without_a_server_or_with_nonsense() {
        for (name, value) in [
            ("PMIX_NAMESPACE", None),
            ("PMIX_SERVER_TMPDIR", None),
            ("PMIX_SERVER_TMPDIR", Some("relative")),
        ] {
            let mut env = of(&TASK);
            env.remove(name);
            env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            assert!(mounts(&env).is_empty(), "{name}");
        }
        let mut climbing = of(&TASK);
        climbing.insert("SLURM_STEP_ID".into(), "0/../../../home".into());
        assert_eq!(targets(&climbing).len(), 1);
    }

    #[test]
    fn the_names_of_modules() {
        let some = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        let mut task = of(&TASK);
        let both = [
            some("PMIX_MCA_psec", "munge,native"),
            some("PMIX_MCA_gds", "ds21,ds12,hash"),
        ];
        assert_eq!(env(&task), both);
        task.insert("PMIX_PTL_MODULE".into(), "usock".into());
        task.insert("PMIX_MCA_gds".into(), "hash".into());
        assert_eq!(
            env(&task),
            [some("PMIX_MCA_ptl", "usock"), some("PMIX_MCA_psec", "munge,native")]
        );
        assert!(env(&Env::new()).is_empty());
    }
}
