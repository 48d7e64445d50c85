//! What a container is called on the node, and where it can be found while it runs.
#![forbid(unsafe_code)]

use crate::arguments::{Arguments, Scope};
use crate::step::{self, Job};
use pyxis_runtime::containers::Place;
use pyxis_runtime::request::Request;

/// What all ids begin with.
const PREFIX: &str = "pyxis_";

/// The id of a step's container: by the name that the user gave, or by the step's number.
pub(crate) fn id(scope: Scope, job: u32, step: u32, name: Option<&str>) -> String {
    let name = name.map_or_else(|| step_name(job, step), str::to_owned);
    match scope {
        Scope::Global => format!("{PREFIX}{name}"),
        Scope::Job => format!("{}{name}", prefix_of_job(job)),
    }
}

/// What the ids of all containers of a job begin with, where containers go away with their jobs.
pub(crate) fn prefix_of_job(job: u32) -> String {
    format!("{PREFIX}{job}_")
}

/// A step as Slurm writes it.
fn step_name(job: u32, step: u32) -> String {
    match step::word(step) {
        Some(word) => format!("{job}.{word}"),
        None => format!("{job}.{step}"),
    }
}

/// The name of a step's socket. A machine may have more than one slurmd, so the node's number is part of it.
fn member(job: &Job) -> String {
    format!("{}.{}", step_name(job.job_id, job.step_id), job.node_id)
}

/// A socket of this name belongs to a step of the job. One that does not listen yet has a dot in front.
pub(crate) fn is_member_of(job: u32, member: &str) -> bool {
    let member = member.trim_start_matches('.');
    member
        .split_once('.')
        .is_some_and(|(first, _)| first == job.to_string())
}

/// Where the container of a step is found.
pub(crate) fn place(arguments: &Arguments, job: &Job, request: &Request) -> Place {
    let name = request.name.as_ref().map(|name| name.name.as_str());
    Place {
        runtime_path: arguments.runtime_path.clone(),
        uid: job.identity.uid,
        id: id(arguments.container_scope, job.job_id, job.step_id, name),
        member: member(job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let batch = 0xffff_fffb;
        for (scope, step, name, expected) in [
            (Scope::Global, 0, Some("x"), "pyxis_x"),
            (Scope::Job, 0, Some("x"), "pyxis_7_x"),
            (Scope::Global, 3, None, "pyxis_7.3"),
            (Scope::Job, 3, None, "pyxis_7_7.3"),
            (Scope::Global, batch, None, "pyxis_7.batch"),
            (Scope::Global, 0xffff_fffa, None, "pyxis_7.interactive"),
        ] {
            assert_eq!(id(scope, 7, step, name), expected);
        }
        // A running container without a name is found by its step.
        assert_eq!(id(Scope::Global, 9, 1, Some("7.3")), id(Scope::Global, 7, 3, None));
        assert!(id(Scope::Job, 7, 0, Some("x")).starts_with(&prefix_of_job(7)));
        assert!(!id(Scope::Job, 71, 0, Some("x")).starts_with(&prefix_of_job(7)));
    }

    #[test]
    fn members_of_a_job() {
        assert!(is_member_of(7, "7.0.1") && is_member_of(7, ".7.batch.0"));
        assert!(!is_member_of(7, "71.0.1") && !is_member_of(7, "7") && !is_member_of(7, "lock"));
    }
}
