//! What is known of a step on this node before its tasks start, taken once from Slurm.
#![forbid(unsafe_code)]

use crate::gpus;
use pyxis_runtime::plan::Identity;
use pyxis_runtime::{Error, Result};
use serde::{Deserialize, Serialize};
use spank_sys::Spank;
use std::path::PathBuf;

/// The step number of a batch script (slurm.h, `SLURM_BATCH_SCRIPT`).
const BATCH: u32 = 0xffff_fffb;
/// The step number of a shell that salloc starts on a node (slurm.h, `SLURM_INTERACTIVE_STEP`).
const INTERACTIVE: u32 = 0xffff_fffa;
/// The step number of the step that only holds a job's resources (slurm.h, `SLURM_EXTERN_CONT`).
const EXTERN: u32 = 0xffff_fffc;

/// A step on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Whose job it is.
    pub(crate) identity: Identity,
    /// The job's number.
    pub(crate) job_id: u32,
    /// The step's number.
    pub(crate) step_id: u32,
    /// This node's number in the step.
    pub(crate) node_id: u32,
    /// Nodes of the step.
    pub(crate) nodes: u32,
    /// Tasks of the step on this node.
    pub(crate) local_tasks: u32,
    /// Tasks of the step.
    pub(crate) total_tasks: u32,
    /// Minor numbers of the GPUs of all tasks of the step on this node.
    pub(crate) gpus: Option<Vec<u32>>,
    /// The batch script, when this is its step: a file in slurmd's spool.
    pub(crate) batch_script: Option<PathBuf>,
    /// The first word of the step's command.
    pub(crate) program: Option<String>,
    /// The process of the first task that asks for the container.
    pub(crate) task: Option<i32>,
    /// The environment: at first the step's, then that of the first task that asks for the container.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory of the first task that asks.
    pub(crate) cwd: PathBuf,
}

impl Job {
    /// Asks Slurm; only in slurmstepd.
    pub(crate) fn of(spank: &Spank<'_>, env: Vec<(String, String)>) -> Result<Self> {
        let step_id = number(spank.step_id())?;
        let program = spank.argv().map_err(failed)?.into_iter().next();
        let batch_script = program.as_ref().filter(|_| is_batch(step_id)).map(PathBuf::from);
        Ok(Job {
            identity: Identity {
                uid: number(spank.uid())?,
                gid: number(spank.gid())?,
                groups: spank.supplementary_gids().map_err(failed)?,
            },
            job_id: number(spank.job_id())?,
            step_id,
            node_id: number(spank.node_id())?,
            nodes: number(spank.nodes())?,
            local_tasks: number(spank.local_task_count())?,
            total_tasks: number(spank.total_task_count())?,
            batch_script,
            program,
            task: None,
            gpus: gpus::of_step(&env),
            env,
            cwd: PathBuf::from("/"),
        })
    }
}

/// This is the step of a batch script.
pub(crate) fn is_batch(step_id: u32) -> bool {
    step_id == BATCH
}

/// Slurm's word for a step that has no number.
pub(crate) fn word(step_id: u32) -> Option<&'static str> {
    match step_id {
        BATCH => Some("batch"),
        INTERACTIVE => Some("interactive"),
        EXTERN => Some("extern"),
        _ => None,
    }
}

/// This step runs no command.
pub(crate) fn is_extern(step_id: u32) -> bool {
    step_id == EXTERN
}

fn number(answer: std::result::Result<u32, spank_sys::Error>) -> Result<u32> {
    answer.map_err(failed)
}

fn failed(error: spank_sys::Error) -> Error {
    Error::Host(format!("ask Slurm about the step: {error}"))
}
