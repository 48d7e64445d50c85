//! The one table of options. The plugin registers it with Slurm; variables, help and the list of tests come from it.
#![forbid(unsafe_code)]

/// What an option is about. Two switches may be about the same thing (`--container-writable`, `--container-readonly`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key {
    Image,
    Mounts,
    Workdir,
    Name,
    Save,
    MountHome,
    RemapRoot,
    Entrypoint,
    EntrypointLog,
    Writable,
    Env,
    Unshare,
    Devices,
    Gpus,
    Rocm,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An argument, called so in the help text.
    Text(&'static str),
    /// Nothing; being there says this.
    Switch(bool),
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Long name without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Help text.
    pub help: &'static str,
    /// The environment variable that says the same; the command line wins.
    pub variable: Option<&'static str>,
    /// What it is about.
    pub key: Key,
}

/// All options, in the order of the help text.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "container-image",
        kind: Kind::Text("[USER@][REGISTRY#]IMAGE[:TAG]|PATH"),
        help: "[pyxis] run the tasks in a container made from this image: a name in a registry, or a .sqsh or .sif \
               file (its path must start with / or .)",
        variable: Some("PYXIS_CONTAINER_IMAGE"),
        key: Key::Image,
    },
    OptionSpec {
        name: "container-mounts",
        kind: Kind::Text("SRC[:DST[:FLAGS]][,...]"),
        help: "[pyxis] show files and directories of the node in the container; SRC may also be tmpfs or umount, flags \
               are joined with +, for example ro+nosuid",
        variable: Some("PYXIS_CONTAINER_MOUNTS"),
        key: Key::Mounts,
    },
    OptionSpec {
        name: "container-workdir",
        kind: Kind::Text("PATH"),
        help: "[pyxis] working directory in the container",
        variable: Some("PYXIS_CONTAINER_WORKDIR"),
        key: Key::Workdir,
    },
    OptionSpec {
        name: "container-name",
        kind: Kind::Text("NAME[:auto|create|exec|no_exec]"),
        help: "[pyxis] keep the container's file system under this name, or use the container that has it: auto joins \
               it when it runs, create needs a new one, exec a running one, no_exec never joins",
        variable: Some("PYXIS_CONTAINER_NAME"),
        key: Key::Name,
    },
    OptionSpec {
        name: "container-save",
        kind: Kind::Text("PATH"),
        help: "[pyxis] write the container's file system to this .sqsh file when the last task of the node has ended",
        variable: Some("PYXIS_CONTAINER_SAVE"),
        key: Key::Save,
    },
    OptionSpec {
        name: "container-mount-home",
        kind: Kind::Switch(true),
        help: "[pyxis] show the user's home directory in the container",
        variable: Some("PYXIS_CONTAINER_MOUNT_HOME"),
        key: Key::MountHome,
    },
    OptionSpec {
        name: "no-container-mount-home",
        kind: Kind::Switch(false),
        help: "[pyxis] do not show the user's home directory in the container",
        variable: None,
        key: Key::MountHome,
    },
    OptionSpec {
        name: "container-remap-root",
        kind: Kind::Switch(true),
        help: "[pyxis] be root inside of the container, which gives no right outside of it",
        variable: Some("PYXIS_CONTAINER_REMAP_ROOT"),
        key: Key::RemapRoot,
    },
    OptionSpec {
        name: "no-container-remap-root",
        kind: Kind::Switch(false),
        help: "[pyxis] keep the user's own id inside of the container",
        variable: None,
        key: Key::RemapRoot,
    },
    OptionSpec {
        name: "container-entrypoint",
        kind: Kind::Switch(true),
        help: "[pyxis] run the image's entrypoint before the tasks",
        variable: Some("PYXIS_CONTAINER_ENTRYPOINT"),
        key: Key::Entrypoint,
    },
    OptionSpec {
        name: "no-container-entrypoint",
        kind: Kind::Switch(false),
        help: "[pyxis] do not run the image's entrypoint",
        variable: None,
        key: Key::Entrypoint,
    },
    OptionSpec {
        name: "container-entrypoint-log",
        kind: Kind::Switch(true),
        help: "[pyxis] show what the image's entrypoint prints",
        variable: Some("PYXIS_CONTAINER_ENTRYPOINT_LOG"),
        key: Key::EntrypointLog,
    },
    OptionSpec {
        name: "container-writable",
        kind: Kind::Switch(true),
        help: "[pyxis] make the container's file system writable",
        variable: Some("PYXIS_CONTAINER_WRITABLE"),
        key: Key::Writable,
    },
    OptionSpec {
        name: "container-readonly",
        kind: Kind::Switch(false),
        help: "[pyxis] make the container's file system read-only",
        variable: Some("PYXIS_CONTAINER_READONLY"),
        key: Key::Writable,
    },
    OptionSpec {
        name: "container-env",
        kind: Kind::Text("NAME[,NAME...]"),
        help: "[pyxis] variables that keep the job's value where the image sets them too",
        variable: Some("PYXIS_CONTAINER_ENV"),
        key: Key::Env,
    },
    OptionSpec {
        name: "container-unshare",
        kind: Kind::Text("net|ipc|uts[,...]"),
        help: "[pyxis] new namespaces for the container",
        variable: Some("PYXIS_CONTAINER_UNSHARE"),
        key: Key::Unshare,
    },
    OptionSpec {
        name: "container-devices",
        kind: Kind::Text("VENDOR.COM/CLASS=NAME[,...]"),
        help: "[pyxis] devices that the node describes in /etc/cdi or /var/run/cdi (Container Device Interface), with \
               what they need in the container",
        variable: Some("PYXIS_CONTAINER_DEVICES"),
        key: Key::Devices,
    },
    OptionSpec {
        name: "container-gpus",
        kind: Kind::Switch(true),
        help: "[pyxis] show the job's GPUs and their driver in the container, also when the image does not ask for them",
        variable: Some("PYXIS_CONTAINER_GPUS"),
        key: Key::Gpus,
    },
    OptionSpec {
        name: "no-container-gpus",
        kind: Kind::Switch(false),
        help: "[pyxis] no GPUs and no driver in the container, whatever the image asks for",
        variable: None,
        key: Key::Gpus,
    },
    OptionSpec {
        name: "container-rocm",
        kind: Kind::Switch(true),
        help: "[pyxis] show the job's AMD GPUs in the container, with the host's ROCm where the image has none",
        variable: Some("PYXIS_CONTAINER_ROCM"),
        key: Key::Rocm,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_fit_slurm() {
        for (index, option) in OPTIONS.iter().enumerate() {
            assert!(option.name.len() <= 75, "{}", option.name);
            for other in &OPTIONS[index + 1..] {
                assert_ne!(option.name, other.name);
                assert!(
                    option.variable.is_none() || option.variable != other.variable,
                    "{}",
                    option.name
                );
            }
        }
    }

    #[test]
    fn options_about_the_same_thing_are_all_switches_or_alone() {
        for option in OPTIONS {
            let about: Vec<_> = OPTIONS.iter().filter(|other| other.key == option.key).collect();
            let switches = about.iter().all(|other| matches!(other.kind, Kind::Switch(_)));
            assert!(about.len() == 1 || switches, "{}", option.name);
        }
    }
}
