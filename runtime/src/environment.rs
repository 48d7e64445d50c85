//! The environment of a containerised task: one pure function over everything that has a say. docs/user/environment.md
//! has the same table for people.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// One change to a task's environment: the new value, or `None` to remove the variable.
pub type Edit = (String, Option<String>);

/// Locale variables describe the host's locales, which the image rarely has.
const HOST_LOCALE: [&str; 3] = ["LANG", "LANGUAGE", "LC_ALL"];
/// Where programs are looked for in an image that does not say so: never where the host has them.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables by which the launcher and its PMI talk to each task.
const LAUNCHER: [&str; 5] = ["SLURM_", "SLURMD_", "PMI_", "PMI2_", "PMIX_"];
/// Of these what differs from task to task, so that it is not true for a whole node.
const PER_TASK: [&str; 3] = ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_TASK_PID"];
/// By these the launcher carries soft limits to a task, which it takes away after it has set them.
const LIMIT: &str = "SLURM_RLIMIT_";
/// What a shell keeps for itself.
const SHELLS_OWN: [&str; 4] = ["PWD", "OLDPWD", "SHLVL", "_"];
/// Who the user is and where; an entrypoint gets these from the job.
const USERS_OWN: [&str; 5] = ["HOME", "LOGNAME", "SHELL", "TERM", "USER"];

/// Everything that has a say, from the weakest to the strongest but for the exceptions of [`edits`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Layers<'a> {
    /// The job's variables.
    pub job: Option<&'a BTreeMap<String, String>>,
    /// The image's `NAME=VALUE` list.
    pub image: &'a [String],
    /// Names that keep the job's value over the image's.
    pub keep: &'a [String],
    /// The user is root inside.
    pub remap_root: bool,
    /// The site's and the user's environment files.
    pub files: &'a [Edit],
    /// What follows from the plan: the mounted home, devices, PMI.
    pub plan: &'a [Edit],
    /// What the entrypoint changed, as [`changes`] gives it.
    pub entrypoint: &'a [Edit],
}

impl Layers<'_> {
    fn of_job(&self, name: &str) -> Option<&str> {
        self.job.and_then(|job| job.get(name)).map(String::as_str)
    }

    fn keeps(&self, name: &str) -> bool {
        self.keep.iter().any(|kept| kept == name)
    }
}

/// What must change in a task's environment, which is the job's, so that it is the container's.
pub fn edits(layers: &Layers<'_>) -> Vec<Edit> {
    let mut edits = container(layers);
    for name in HOST_LOCALE {
        if layers.of_job(name).is_some() && !layers.keeps(name) {
            edits.entry(name.to_owned()).or_insert(None);
        }
    }
    for (name, value) in layers.entrypoint {
        match value {
            Some(_) => drop(edits.insert(name.clone(), value.clone())),
            // It took away what the image had set: the job's own value, if any, is left.
            None => drop(edits.remove(name)),
        }
    }
    edits.into_iter().collect()
}

/// An environment as these changes leave it.
pub fn edited(mut env: BTreeMap<String, String>, edits: &[Edit]) -> BTreeMap<String, String> {
    for (name, value) in edits {
        match value {
            Some(value) => env.insert(name.clone(), value.clone()),
            None => env.remove(name),
        };
    }
    env
}

/// The environment that an entrypoint starts with: the container's, who the user is, what the launcher says about the
/// node, and the job's value of each kept name. The job's other variables meet the entrypoint's in the task only.
pub fn for_entrypoint(layers: &Layers<'_>) -> BTreeMap<String, String> {
    let wanted = |name: &str| {
        layers.keeps(name)
            || USERS_OWN.contains(&name)
            || (name.starts_with("SLURM_") && !name.starts_with(LIMIT) && !PER_TASK.contains(&name))
    };
    let job = layers.job.into_iter().flatten().filter(|(name, _)| wanted(name));
    let mut env: BTreeMap<String, String> = job.map(|(name, value)| (name.clone(), value.clone())).collect();
    for (name, value) in container(layers) {
        match value {
            Some(value) => env.insert(name, value),
            None => env.remove(&name),
        };
    }
    env
}

/// The soft limits that a task is about to get: the resource's name in capitals, and the value.
pub fn soft_limits(job: &BTreeMap<String, String>) -> Vec<(String, u64)> {
    let limits = job
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(LIMIT)?, value.parse().ok()?)));
    limits.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What an entrypoint that was given `given` has changed, when the command behind it sees `left`.
pub fn changes(given: &BTreeMap<String, String>, left: &BTreeMap<String, String>) -> Vec<Edit> {
    let ignored = |name: &str| belongs_to_the_launcher(name) || SHELLS_OWN.contains(&name);
    let set = left
        .iter()
        .filter(|(name, value)| given.get(*name) != Some(value))
        .map(|(name, value)| (name, Some(value.clone())));
    let removed = given
        .keys()
        .filter(|name| !left.contains_key(*name))
        .map(|name| (name, None));
    let all = set.chain(removed).filter(|(name, _)| !ignored(name));
    all.map(|(name, value)| (name.clone(), value)).collect()
}

/// The container's own say: the image, files, the plan, and what an image needs that does not say it.
fn container(layers: &Layers<'_>) -> BTreeMap<String, Option<String>> {
    let mut edits: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (name, value) in layers.image.iter().filter_map(|entry| entry.split_once('=')) {
        let jobs_own = layers.of_job(name).is_some() && (layers.keeps(name) || name == "TERM");
        if !name.is_empty() && !jobs_own && !belongs_to_the_launcher(name) {
            edits.insert(name.to_owned(), Some(value.to_owned()));
        }
    }
    for (name, value) in layers.files.iter().chain(layers.plan) {
        edits.insert(name.clone(), value.clone());
    }
    let root_inside: &[(&str, &str)] = if layers.remap_root {
        &[("HOME", "/root"), ("USER", "root")]
    } else {
        &[]
    };
    for (name, value) in root_inside.iter().chain(&[("PATH", DEFAULT_PATH)]) {
        if !(layers.keeps(name) && layers.of_job(name).is_some()) {
            edits
                .entry((*name).to_owned())
                .or_insert_with(|| Some((*value).to_owned()));
        }
    }
    edits
}

/// Variables that are set per task by the launcher and its PMI plugins.
pub(crate) fn belongs_to_the_launcher(name: &str) -> bool {
    LAUNCHER.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests;
