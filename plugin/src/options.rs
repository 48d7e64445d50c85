//! Options that Slurm hands on: those of sbatch and salloc reach the commands that run inside in variables, and srun
//! reports them like its own.
#![forbid(unsafe_code)]

use pyxis_runtime::request::{Key, OPTIONS, OptionSpec, Use};

/// The variables in which Slurm hands options of this plugin on.
pub(crate) fn variables() -> impl Iterator<Item = String> {
    OPTIONS.iter().map(variable_of)
}

fn variable_of(option: &OptionSpec) -> String {
    format!(
        "SLURM_SPANK__SLURM_SPANK_OPTION_pyxis_{}",
        option.name.replace('-', "_")
    )
}

/// Inside of salloc srun has salloc's options too: where both speak of the same thing, srun's own count.
pub(crate) fn without_inherited(uses: Vec<Use>, variable: impl Fn(&str) -> Option<String>) -> Vec<Use> {
    let (inherited, own): (Vec<Use>, Vec<Use>) = uses.into_iter().partition(|one| {
        variable(&variable_of(one.option))
            .is_some_and(|value| one.argument.as_ref().is_none_or(|argument| *argument == value))
    });
    let overridden = |one: &Use| own.iter().any(|other| other.option.key == one.option.key);
    let mut uses: Vec<Use> = inherited.into_iter().filter(|one| !overridden(one)).collect();
    uses.extend(own);
    uses
}

/// In this variable srun hands on what `--container-mounts` was given more than once: Slurm keeps only the last argument
/// of an option. `SLURM_` variables travel whatever `--export` says.
pub(crate) const REPEATED_MOUNTS: &str = "SLURM_PYXIS_CONTAINER_MOUNTS";

/// All arguments of `--container-mounts` as one, when there is more than one.
pub(crate) fn repeated_mounts(uses: &[Use]) -> Option<String> {
    let arguments: Vec<&str> = mounts(uses).filter_map(|one| one.argument.as_deref()).collect();
    (arguments.len() > 1).then(|| arguments.join(","))
}

/// On the node: what srun handed on takes the place of the one argument that Slurm kept. That it ends with that argument
/// shows that both come from the same command line.
pub(crate) fn with_repeated_mounts(mut uses: Vec<Use>, handed_on: Option<String>) -> Vec<Use> {
    let last = mounts(&uses).last().and_then(|one| one.argument.clone());
    if let (Some(all), Some(last)) = (handed_on, last)
        && all.strip_suffix(&last).is_some_and(|before| before.ends_with(','))
    {
        for one in uses.iter_mut().filter(|one| one.option.key == Key::Mounts) {
            one.argument = Some(all.clone());
        }
    }
    uses
}

fn mounts(uses: &[Use]) -> impl Iterator<Item = &Use> {
    uses.iter().filter(|one| one.option.key == Key::Mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, argument: Option<&str>) -> Use {
        let option = OPTIONS.iter().find(|option| option.name == name).unwrap();
        Use {
            option,
            argument: argument.map(str::to_owned),
        }
    }

    #[test]
    fn own_options_take_the_place_of_inherited_ones() {
        let variable = |name: &str| match name.strip_prefix("SLURM_SPANK__SLURM_SPANK_OPTION_pyxis_")? {
            "container_image" => Some("outer".to_owned()),
            "container_workdir" => Some("/outer".to_owned()),
            "container_writable" => Some("(null)".to_owned()),
            _ => None,
        };
        let outer = [
            one("container-image", Some("outer")),
            one("container-workdir", Some("/outer")),
            one("container-writable", None),
        ];
        let own = [one("container-image", Some("own")), one("container-readonly", None)];
        let all = without_inherited([outer.to_vec(), own.to_vec()].concat(), variable);
        let expected = [one("container-workdir", Some("/outer")), own[0].clone(), own[1].clone()];
        assert_eq!(all, expected);
        assert_eq!(without_inherited(outer.to_vec(), variable), outer);
        assert_eq!(without_inherited(own.to_vec(), |_| None), own);
    }

    #[test]
    fn mounts_given_more_than_once_arrive_whole() {
        let given = [
            one("container-mounts", Some("/a,/b")),
            one("container-mounts", Some("/c")),
        ];
        let handed_on = repeated_mounts(&given);
        assert_eq!(handed_on.as_deref(), Some("/a,/b,/c"));
        assert_eq!(repeated_mounts(&given[..1]), None);
        let kept = vec![one("container-mounts", Some("/c"))];
        let all = with_repeated_mounts(kept.clone(), handed_on.clone());
        assert_eq!(all, [one("container-mounts", Some("/a,/b,/c"))]);
        let others = vec![one("container-mounts", Some("/d"))];
        assert_eq!(with_repeated_mounts(others.clone(), handed_on), others);
        assert_eq!(with_repeated_mounts(kept.clone(), None), kept);
    }

    #[test]
    fn slurms_variable_of_an_option() {
        let expected = "SLURM_SPANK__SLURM_SPANK_OPTION_pyxis_no_container_mount_home";
        assert_eq!(variable_of(one("no-container-mount-home", None).option), expected);
    }
}
