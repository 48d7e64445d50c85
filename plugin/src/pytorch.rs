//! Variables of a distributed PyTorch run (torch.distributed, "Environment variable initialization"), for images that say
//! they are PyTorch's. They are taken from what Slurm tells each task, and never replace one that is set.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// By this variable an image says that it has PyTorch.
const MARK: &str = "PYTORCH_VERSION";
/// Rendezvous ports lie from here on, by job, so that jobs that share a node do not meet.
const FIRST_PORT: u32 = 61_000;
/// How many of them there are.
const PORTS: u32 = 4_536;

/// What a task must get, given its environment as it is in the container.
pub(crate) fn variables(env: &BTreeMap<String, String>) -> Vec<(String, Option<String>)> {
    if !env.contains_key(MARK) {
        return Vec::new();
    }
    let get = |name: &str| env.get(name).cloned();
    let several_here = get("SLURM_STEP_TASKS_PER_NODE")
        .or_else(|| get("SLURM_TASKS_PER_NODE"))
        .is_some_and(|n| n != "1");
    let port = get("SLURM_JOB_ID")
        .and_then(|id| id.parse::<u32>().ok())
        .map(|id| FIRST_PORT + id % PORTS);
    let hosts = get("SLURM_STEP_NODELIST").or_else(|| get("SLURM_JOB_NODELIST"));
    let wanted = [
        ("MASTER_ADDR", hosts.map(|hosts| first_host(&hosts))),
        ("MASTER_PORT", port.map(|port| port.to_string())),
        (
            "WORLD_SIZE",
            get("SLURM_STEP_NUM_TASKS").or_else(|| get("SLURM_NTASKS")),
        ),
        ("RANK", get("SLURM_PROCID")),
        ("LOCAL_RANK", get("SLURM_LOCALID")),
        ("OMP_NUM_THREADS", several_here.then(|| "1".to_owned())),
    ];
    let unset = wanted
        .into_iter()
        .filter(|(name, value)| value.is_some() && !env.contains_key(*name));
    unset.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The first host of a list in Slurm's form: `n1,n2`, `gpu[003-010,020]-ib`, `r[1-2]n[1-4]`.
fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list;
    while let Some(end) = rest.find(['[', ',']) {
        host.push_str(rest.get(..end).unwrap_or_default());
        let Some(ranges) = rest.get(end..).and_then(|tail| tail.strip_prefix('[')) else {
            return host;
        };
        let (inside, after) = ranges.split_once(']').unwrap_or((ranges, ""));
        host.push_str(inside.split(['-', ',']).next().unwrap_or_default());
        rest = after;
    }
    host + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    const TASK: [(&str, &str); 7] = [
        ("PYTORCH_VERSION", "2.9"),
        ("SLURM_JOB_ID", "4537"),
        ("SLURM_STEP_NODELIST", "n[07-09]"),
        ("SLURM_STEP_NUM_TASKS", "6"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x3)"),
        ("SLURM_PROCID", "3"),
        ("SLURM_LOCALID", "1"),
    ];

    #[test]
    fn a_task_of_a_distributed_run() {
        let got: BTreeMap<_, _> = variables(&env(&TASK)).into_iter().collect();
        let value = |name: &str| got.get(name).cloned().flatten().unwrap();
        assert_eq!(
            (value("MASTER_ADDR"), value("MASTER_PORT")),
            ("n07".into(), "61001".into())
        );
        assert_eq!(
            (value("WORLD_SIZE"), value("RANK"), value("LOCAL_RANK")),
            ("6".into(), "3".into(), "1".into())
        );
        assert_eq!(value("OMP_NUM_THREADS"), "1");
    }

    #[test]
    fn nothing_is_replaced_and_nothing_happens_without_pytorch() {
        let mut own = env(&TASK);
        own.insert("MASTER_ADDR".into(), "mine".into());
        own.insert("SLURM_STEP_TASKS_PER_NODE".into(), "1".into());
        let names: Vec<_> = variables(&own).into_iter().map(|(name, _)| name).collect();
        assert!(!names.contains(&"MASTER_ADDR".to_owned()) && !names.contains(&"OMP_NUM_THREADS".to_owned()));
        own.remove("PYTORCH_VERSION");
        assert!(variables(&own).is_empty());
    }

    #[test]
    fn first_hosts() {
        for (list, first) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("gpu[003-010,020]", "gpu003"),
            ("gpu[3,5]-ib,x", "gpu3-ib"),
            ("r[1-2]n[1-4]", "r1n1"),
            ("", ""),
            ("n[", "n"),
        ] {
            assert_eq!(first_host(list), first, "{list}");
        }
    }
}
