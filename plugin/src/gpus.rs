//! Which GPUs a step has on this node, as Slurm says before its tasks start. Then its variables are about the whole step; a
//! task that is bound to some of the GPUs (`--gpus-per-task`) sees only those in the same variables later. They are
//! numbers of the machine, not of a control group, and Slurm removes what a user has put there ("GRES", srun(1)).
#![forbid(unsafe_code)]

/// Variables that say it, for a step and for a batch script.
const NAMES: [&str; 2] = ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS"];
/// A machine has fewer. Where Slurm knows of no GPUs the text is a user's.
const MOST: usize = 4096;

/// The GPUs of the step with this environment; `None` when Slurm does not say.
pub(crate) fn of_step(env: &[(String, String)]) -> Option<Vec<u32>> {
    let value = |wanted: &str| {
        let mut pairs = env.iter().filter(|(name, value)| name == wanted && !value.is_empty());
        pairs.next().map(|(_, value)| value)
    };
    let text = NAMES.iter().find_map(|name| value(name))?;
    Some(text.split(',').flat_map(numbers).take(MOST).collect())
}

/// `3`, or `4-7`; what is no number is none of a device's.
fn numbers(word: &str) -> Vec<u32> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
        (Ok(first), Ok(last)) if last.saturating_sub(first) < 4096 => (first..=last).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Option<Vec<u32>> {
        let env: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        of_step(&env)
    }

    #[test]
    fn what_slurm_says() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("SLURM_STEP_GPUS", "")]), None);
        assert_eq!(of(&[("SLURM_STEP_GPUS", "0,3")]), Some(vec![0, 3]));
        assert_eq!(of(&[("SLURM_JOB_GPUS", "1"), ("SLURM_STEP_GPUS", "2")]), Some(vec![2]));
        assert_eq!(of(&[("SLURM_JOB_GPUS", "4-6,1")]), Some(vec![4, 5, 6, 1]));
        assert_eq!(of(&[("SLURM_STEP_GPUS", "NoDevFiles")]), Some(Vec::new()));
        assert_eq!(of(&[("SLURM_STEP_GPUS", "0-4294967295,9-1")]), Some(Vec::new()));
        let many = "0-4095,".repeat(10_000);
        assert_eq!(of(&[("SLURM_STEP_GPUS", &many)]).map(|all| all.len()), Some(MOST));
    }
}
