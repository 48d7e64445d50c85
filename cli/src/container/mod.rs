//! Containers without a workload manager: the caller's own, made with his rights, of which this process becomes the command.
#![forbid(unsafe_code)]

mod command;
mod file;
mod kept;
mod places;
mod running;
pub mod started;

pub use command::{Entering, Words, execute};
pub use file::platform;
pub use kept::Containers;
pub use running::Running;

use crate::settings;
use crate::tell::{Style, Teller};
use pyxis_runtime::config::Config;
use pyxis_runtime::containers::{Place, withdraw};
use pyxis_runtime::privilege::caller;
use pyxis_runtime::report::Report;
use pyxis_runtime::request::Request;
use pyxis_runtime::start::{self, Job, Prepared};
use pyxis_runtime::sys::command::RUN_COMMAND;
use pyxis_runtime::{Error, Result, rootless};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Asks for the times of a start, as jobs can; here only as a line.
const TRACE: &str = "PYXIS_TRACE";

/// The caller, and what the site and he have set.
pub struct Here {
    /// What a start needs to know of him; the container's id is still to be given.
    pub job: Job,
    /// The variables that this process was started with.
    pub env: BTreeMap<String, String>,
    /// The settings.
    pub config: Config,
    /// Where the node's plugin keeps the caller's containers, if it does not keep them where this command does.
    pub node_data: Option<PathBuf>,
    /// How lines are written.
    pub style: Style,
}

impl Here {
    /// Reads the settings.
    pub fn read(style: Style) -> Result<Self> {
        let identity = caller();
        let env = settings::environment();
        let place = Place {
            runtime_path: places::runtime(&identity, &env)?,
            uid: identity.uid,
            id: String::new(),
            member: std::process::id().to_string(),
        };
        let mut job = Job {
            identity,
            task: None,
            env: env.clone(),
            cwd: settings::working_directory()?,
            script: None,
            program: None,
            stand_ins: Vec::new(),
            gpus: None,
            place,
            importer: None,
        };
        let mut config = start::configure(&mut job, &mut |text| crate::tell::line(style.warning, &text))?;
        let node_data = match job.identity.uid {
            0 => None,
            _ => places::of_caller(&mut config, &env)?,
        };
        Ok(Here {
            job,
            env,
            config,
            node_data,
            style,
        })
    }

    /// This process enters namespaces of the caller's own, in which he may mount. Root needs none.
    pub fn in_own_namespaces(mut self) -> Result<Self> {
        if self.job.identity.uid != 0 {
            rootless::enter()?;
            // Groups look different from inside.
            self.job.identity = caller();
        }
        Ok(self)
    }

    /// Makes a container that is called `id`.
    pub fn prepare(&mut self, request: &Request, id: &str, quiet: bool) -> Result<Prepared> {
        id.clone_into(&mut self.job.place.id);
        let teller = Teller::new(self.style, quiet);
        let trace = self.env.get(TRACE).is_some_and(|value| value == "1");
        let prepared = start::prepare(request, &self.job, &self.config, &mut |report| match report {
            // One who waits for a command to start wants to see what that prints.
            Report::Message(_) => {}
            Report::Trace(json) if trace => crate::tell::line(self.style.info, &format!("trace: {json}")),
            report => teller.tell(report),
        });
        teller.finish();
        let prepared = prepared?;
        // Nobody is there who would answer.
        withdraw(&self.job.place)?;
        Ok(prepared)
    }

    /// An absolute path of the caller's.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.job.cwd.join(path)
    }
}

/// The exit code of a command that could not be run, as shells have it; of everything else 1.
pub fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Sys { doing, errno, .. } if doing == RUN_COMMAND => match *errno {
            nix::libc::ENOENT => ExitCode::from(127),
            _ => ExitCode::from(126),
        },
        _ => ExitCode::FAILURE,
    }
}

/// The word that options end with, and those behind it, which are a command's. An option that nobody knows has come here too.
pub fn first_of(words: Vec<String>, what: &str) -> Result<(String, Vec<String>)> {
    let mut words = words.into_iter();
    match words.next() {
        Some(first) if first.starts_with('-') => Err(Error::Request(format!("unknown option {first}: see --help"))),
        Some(first) => Ok((first, words.collect())),
        None => Err(Error::Request(format!("{what} is missing: see --help"))),
    }
}
