//! The seam to the runtime: how a container is prepared (by the supervisor's builder, once), and how a task enters it.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::name;
use crate::step::{self, Job};
use crate::task_prolog;
use pyxis_runtime::containers::{Description, Held, Place};
use pyxis_runtime::enter::{self, Enter};
use pyxis_runtime::importer::Importer;
use pyxis_runtime::privilege::as_user;
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::report::Report;
use pyxis_runtime::request::Request;
use pyxis_runtime::save::{self, Destination, Saver};
use pyxis_runtime::{Error, Result, start};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// Asks for the times of a start: `1` for a line of JSON to the user, else the file that it is appended to.
const TRACE: &str = "PYXIS_TRACE";

/// Where the importer finds programs.
const IMPORTER_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a step wants, and what the site says about it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The options.
    pub(crate) request: Request,
    /// The plugin's arguments.
    pub(crate) arguments: Arguments,
}

impl Order {
    /// What the container is called, and where it can be found.
    pub(crate) fn place(&self, job: &Job) -> Place {
        name::place(&self.arguments, job, &self.request)
    }

    /// The importer that plugstack.conf names, if it does. It sees of the job's environment what Slurm says of the job.
    pub(crate) fn importer(&self, job: &Job) -> Option<Importer> {
        let path = self.arguments.importer.clone()?;
        let own = [
            ("PATH", IMPORTER_PATH.to_owned()),
            ("PYXIS_RUNTIME_PATH", self.arguments.runtime_path.display().to_string()),
            ("PYXIS_VERSION", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let slurms = job.env.iter().filter(|(name, _)| name.starts_with("SLURM_"));
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let env = own.chain(slurms.cloned()).collect();
        Some(Importer { path, env })
    }
}

/// A container that tasks can enter.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its descriptors.
    pub(crate) held: Held,
    /// What a task needs to know.
    pub(crate) entry: Entry,
    /// What it is, for other steps.
    pub(crate) description: Description,
    /// Where other steps ask for it.
    pub(crate) listener: OwnedFd,
}

/// What a task needs to know to enter a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Variables to set, or to remove, in order.
    pub(crate) env: Vec<(String, Option<String>)>,
    /// How to enter.
    pub(crate) how: Enter,
}

/// Makes a container: gets the image, builds the root file system, makes the namespaces. May take minutes; runs in a
/// process of its own, as root, in the mount namespace of the task that asked first. `report` tells the user a line.
pub(crate) type Prepare = fn(&Order, &Job, &mut dyn FnMut(String)) -> Result<Prepared>;

/// The runtime's way to do that.
pub(crate) fn prepare(order: &Order, job: &Job, report: &mut dyn FnMut(String)) -> Result<Prepared> {
    let mut runtime_job = start::Job {
        identity: job.identity.clone(),
        task: job.task,
        env: job.env.iter().cloned().collect(),
        cwd: job.cwd.clone(),
        script: job.batch_script.clone(),
        program: job.program.clone(),
        stand_ins: task_prolog::executed(spank_sys::release()),
        gpus: job.gpus.clone(),
        place: order.place(job),
        importer: order.importer(job),
    };
    let config = start::configure(&mut runtime_job, report)?;
    let alone = job.local_tasks == 1 && job.nodes == 1 || step::is_batch(job.step_id);
    let mut traced = Ok(());
    let prepared = start::prepare(&order.request, &runtime_job, &config, &mut |line| match line {
        // Many tasks would make many lines of what one is glad to see.
        Report::Message(text) if alone => report(text),
        Report::Message(_) => {}
        Report::Warning(text) | Report::Progress(text) | Report::Output(text) => report(text),
        Report::Trace(json) => traced = trace(&json, &runtime_job, report),
    })?;
    traced?;
    Ok(Prepared {
        held: prepared.held,
        entry: Entry {
            env: prepared.edits,
            how: prepared.how,
        },
        description: prepared.description,
        listener: prepared.listener,
    })
}

/// Hands the times of a start to whom asked for them. A file is opened with the user's rights.
fn trace(json: &str, job: &start::Job, report: &mut dyn FnMut(String)) -> Result<()> {
    match job.env.get(TRACE).map(String::as_str) {
        None | Some("" | "0") => Ok(()),
        Some("1") => {
            report(format!("trace: {json}"));
            Ok(())
        }
        Some(path) => {
            let failed = |error: std::io::Error| Error::Request(format!("{TRACE}={path}: {}", error.kind()));
            let line = format!("{json}\n");
            // Also written as the user, since some files look at who writes; and nothing is waited for.
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
            as_user(&job.identity, || {
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .custom_flags(flags)
                    .open(job.cwd.join(path))
                    .and_then(|mut file| file.write_all(line.as_bytes()))
                    .map_err(failed)
            })
        }
    }
}

/// Begins to save a container.
pub(crate) fn save(prepared: &Prepared, job: &Job, destination: Destination) -> Result<Saver> {
    let config = start::site_config(job.identity.uid)?;
    let (held, description) = (&prepared.held, &prepared.description);
    Saver::start(&save::of_container(
        held,
        description,
        &job.identity,
        destination,
        &config,
    )?)
}

/// How long removing unpacked images may take.
const REMOVAL: Duration = Duration::from_secs(300);

/// Removes the unpacked images of a user's containers that nobody holds any more.
pub(crate) fn sweep(uid: u32) -> Result<()> {
    start::sweep(uid, Instant::now() + REMOVAL)
}

/// Brings the calling task into the container.
pub(crate) fn enter(held: &Held, how: &Enter) -> Result<()> {
    enter::enter(&held.join()?, how)
}

/// Judges the form of an image's name.
pub(crate) fn check_image(image: &str) -> Result<()> {
    image.parse::<ImageSource>().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_waits_for_no_reader() {
        let directory = tempfile::tempdir().unwrap();
        let (fifo, file) = (directory.path().join("fifo"), directory.path().join("file"));
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let mut job = start::Job {
            identity: pyxis_runtime::plan::Identity {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
                groups: Vec::new(),
            },
            task: None,
            script: None,
            program: None,
            stand_ins: Vec::new(),
            gpus: None,
            env: Default::default(),
            cwd: directory.path().to_owned(),
            place: Place {
                runtime_path: directory.path().to_owned(),
                uid: 0,
                id: String::new(),
                member: String::new(),
            },
            importer: None,
        };
        job.env.insert(TRACE.into(), "fifo".into());
        assert!(trace("{}", &job, &mut |_| ()).is_err());
        job.env.insert(TRACE.into(), "file".into());
        trace("{}", &job, &mut |_| ()).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "{}\n");
    }
}
