//! The SPANK plugin: it adds the `--container-...` options to srun, sbatch and salloc, and puts the tasks of a step into
//! a container on the nodes.
//!
//! Slurm loads this file into srun, sbatch, salloc, slurmd and slurmstepd. One module for each process that a callback
//! runs in: [`local`] (srun, sbatch, salloc), [`slurmd`], [`job`] (epilog), [`remote`] (slurmstepd), [`task`] (slurmstepd's child that
//! becomes the task), [`supervisor`] (a process of our own, one for each step and node, which makes the container).
//! What each callback may do, and what a failure does, is in docs/callbacks.md.
#![deny(unsafe_code)]

mod arguments;
mod callbacks;
mod container;
mod export;
mod gpus;
mod job;
mod local;
mod message;
mod name;
mod options;
mod pytorch;
mod release;
mod remote;
mod slurmd;
mod state;
mod step;
mod supervisor;
mod task;
mod task_prolog;
