//! After a job: what steps that were killed have left behind goes away, and in job scope the job's containers. (Before a job
//! there is nothing to do, and a callback there would cost each job of the node a process that its start waits for.)
//! A mistake is told to slurmd's log and never returned: Slurm would drain the node.
#![forbid(unsafe_code)]

use crate::arguments::{self, Arguments, Scope};
use crate::{container, message, name};
use pyxis_runtime::containers::{Data, Running};
use pyxis_runtime::{Error, Result, start};
use spank_sys::Spank;
use std::time::{Duration, Instant};

/// The node waits for this: the user's processes, of another job, must not make it wait for ever.
const REMOVAL: Duration = Duration::from_secs(300);

/// `slurm_spank_job_epilog`.
pub(crate) fn clean(spank: &Spank<'_>, words: &[String]) {
    let failed = |error: spank_sys::Error| Error::Host(format!("ask Slurm about the job: {error}"));
    let facts = arguments::parse(words).and_then(|arguments| {
        let (job, uid) = (spank.job_id().map_err(failed)?, spank.uid().map_err(failed)?);
        Ok((arguments, job, uid))
    });
    let (arguments, job, uid) = match facts {
        Ok(facts) => facts,
        Err(error) => return complain(&error),
    };
    // The one is done whatever becomes of the other.
    if let Err(error) = clear_sockets(&arguments, job, uid) {
        complain(&error);
    }
    if let Err(error) = container::sweep(uid) {
        complain(&error);
    }
    if arguments.container_scope == Scope::Job
        && let Err(error) = remove_containers(job, uid)
    {
        complain(&error);
    }
}

fn complain(error: &Error) {
    message::error(&format!("clean up after a job: {error}, ignoring"));
}

/// Removes the containers that go away with the job, with the rights of its user.
fn remove_containers(job: u32, uid: u32) -> Result<()> {
    let site = start::site_config(uid)?.container;
    let data = match site.data_path_is_users {
        true => Data::existing_own(&site.data_path, uid)?,
        false => Data::existing(&site.data_path, uid)?,
    };
    let Some(data) = data else {
        return Ok(());
    };
    let prefix = name::prefix_of_job(job);
    let ids = data.ids()?.into_iter().filter(|id| id.starts_with(&prefix));
    // All are tried; the first error is told.
    let until = Instant::now() + REMOVAL;
    ids.map(|id| data.container(&id).remove_until(until))
        .fold(Ok(()), Result::and)
}

/// Removes the sockets of the job's steps that nobody answers at any more.
fn clear_sockets(arguments: &Arguments, job: u32, uid: u32) -> Result<()> {
    let Some(running) = Running::existing(&arguments.runtime_path, uid)? else {
        return Ok(());
    };
    for id in running.ids()? {
        running.clear(&id, |member| name::is_member_of(job, member))?;
    }
    Ok(())
}
