//! A container start, whole: from a request to namespaces that tasks can join. The caller is a single-threaded process
//! that may be killed at any time; nothing outlives it but what the caller gets.
#![forbid(unsafe_code)]

mod data;
mod decide;
mod file;
mod image;
mod join;
mod program;
pub(crate) mod rung;
mod signature;
mod singularity;
mod unpacked;

use crate::config::Config;
use crate::config::enroot::Owner;
use crate::config::load::{self, CONFIG_PATH, Owned, Sources};
use crate::containers::{Description, Held, Kind, Place, Record, Running};
use crate::devices::{Wish, cdi};
use crate::enter::Enter;
use crate::entrypoint::{Entrypoint, Left, Purpose};
use crate::environment::{self, Edit, Layers};
use crate::error::{Error, Result};
use crate::hooks::Hooks;
use crate::import::{Lookup, Workers};
use crate::importer::Importer;
use crate::mount::MountSpec;
use crate::namespaces::{self, user::switched_off};
use crate::plan::{self, Host, Identity, Plan};
use crate::report::{Report, Trace};
use crate::request::Request;
use crate::rootfs::{Lowers, Rung};
use crate::worker::protocol::Accounts;
use decide::{Decision, Origin};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The job that wants a container.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its user.
    pub identity: Identity,
    /// The process that wants it, one of the user's.
    pub task: Option<i32>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// A file that the job executes and that must be there at its own path, as a batch script must.
    pub script: Option<PathBuf>,
    /// The word by which its tasks execute their program, if that is known.
    pub program: Option<String>,
    /// Programs that somebody will execute inside, by these paths, and that have had their say outside: `crate::stand_in` is
    /// there.
    pub stand_ins: Vec<PathBuf>,
    /// Minor numbers of the GPUs that it was given, all tasks of this node together, if somebody has said.
    pub gpus: Option<Vec<u32>>,
    /// Where the container can be found while it runs.
    pub place: Place,
    /// The site's importer, if it has one.
    pub importer: Option<Importer>,
}

/// A started container: what a task needs to join it, and what others need.
#[derive(Debug)]
pub struct Prepared {
    /// The descriptors that keep it alive, its namespaces among them.
    pub held: Held,
    /// What it is, for who joins it or saves it.
    pub description: Description,
    /// Changes to each task's environment.
    pub edits: Vec<Edit>,
    /// How to enter.
    pub how: Enter,
    /// A listening socket: who connects to it asks a [`crate::containers::Question`].
    pub listener: OwnedFd,
}

/// The configuration in a file that the caller has named, without enroot's files.
pub fn load_config(path: &Path) -> Result<Config> {
    let (text, origin) = load::read_policy(path, Owner::User)?;
    Config::parse(&text, &origin)
}

/// The configuration of a job, from the site's files, the user's and the job's variables. The job learns where the user's
/// files are. `report` gets lines for the user.
pub fn configure(job: &mut Job, report: &mut dyn FnMut(String)) -> Result<Config> {
    let owned = Owned {
        identity: &job.identity,
        env: &job.env,
    };
    let loaded = load::load(&Sources::default(), &owned, &mut |worker| {
        let lookup = Workers::open(worker, &job.identity)?.start_lookup(&job.identity)?;
        lookup.finish(&mut |line| match line {
            Report::Progress(text) | Report::Warning(text) | Report::Message(text) | Report::Output(text) => {
                report(text)
            }
            Report::Trace(_) => {}
        })
    })?;
    loaded.warnings.into_iter().for_each(report);
    if let Some(path) = loaded.config_path.as_deref().and_then(Path::to_str) {
        job.env.insert(CONFIG_PATH.to_owned(), path.to_owned());
    }
    Ok(loaded.config)
}

/// What the site says for a user, without anything of a job of his.
pub fn site_config(uid: u32) -> Result<Config> {
    let identity = Identity {
        uid,
        gid: 0,
        groups: Vec::new(),
    };
    let nobody = Owned {
        identity: &identity,
        env: &BTreeMap::new(),
    };
    let loaded = load::load_site(&Sources::default(), &nobody, &mut |worker| {
        let lookup = Workers::open(worker, &identity)?.start_lookup(&identity)?;
        lookup.finish(&mut |_| ())
    })?;
    Ok(loaded.config)
}

/// Makes, or joins, the container of `request` for `job`.
pub fn prepare(request: &Request, job: &Job, config: &Config, report: &mut dyn FnMut(Report)) -> Result<Prepared> {
    let mut trace = Trace::default();
    let start = Start { request, job, config };
    let prepared = start.run(&mut trace, report)?;
    report(Report::Trace(trace.to_json()));
    Ok(prepared)
}

pub use unpacked::sweep;

/// One start.
#[derive(Clone, Copy)]
struct Start<'a> {
    request: &'a Request,
    job: &'a Job,
    config: &'a Config,
}

/// What a container is made of, at hand.
struct Ingredients {
    record: Record,
    lowers: Lowers,
    /// The answer to who the user is, which is on its way.
    lookup: Lookup,
    workers: Workers,
}

impl Start<'_> {
    fn run(&self, trace: &mut Trace, report: &mut dyn FnMut(Report)) -> Result<Prepared> {
        let running = Running::open(&self.job.place.runtime_path, self.job.identity.uid)?;
        let decision = trace.phase("decide", || decide::decide(self, &running, report))?;
        let ((held, description), lock) = match decision {
            Decision::Join(found) => (self.join(*found, report)?, None),
            Decision::Make(origin, lock) => (self.make(origin, trace, report)?, lock),
        };
        // Who is not found yet is not waited for: the socket comes last.
        let listener = running.listen(&self.job.place)?;
        // Now others can find the container, and need not make it.
        drop(lock);
        Ok(self.prepared(held, description, listener))
    }

    /// Makes namespaces for a container that is new or does not run. One that is new and has a name exists from then on.
    fn make(&self, origin: Origin, trace: &mut Trace, report: &mut dyn FnMut(Report)) -> Result<(Held, Description)> {
        self.check_remapping()?;
        let ingredients = self.ingredients(&origin, trace, report)?;
        let unpacks = matches!(ingredients.lowers.rung, Rung::Unpack(_));
        let made = self.make_of(&origin, ingredients, trace, report);
        let made = made.and_then(|(held, description)| {
            if let Origin::Named(data, key) = &origin {
                data.container(&description.id).keep(key, &description.record)?;
            }
            Ok((held, description))
        });
        match (made, &origin) {
            (Err(first), Origin::Named(data, _)) => {
                // The first error counts. What cannot be removed now is removed by who wants this name next.
                let _ = data.container(&self.job.place.id).discard();
                Err(origin.explain(first))
            }
            (Err(first), Origin::Image) if unpacks => {
                self.clear();
                Err(first)
            }
            (made, _) => made.map_err(|error| origin.explain(error)),
        }
    }

    fn make_of(
        &self,
        origin: &Origin,
        ingredients: Ingredients,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<(Held, Description)> {
        let Ingredients {
            mut record,
            lowers,
            lookup,
            workers,
        } = ingredients;
        // While the name service works.
        let (base, lock) = trace.phase("data", || self.base(origin, &lowers, &mut record, report))?;
        let accounts = trace.phase("lookup", || lookup.finish(report))?;
        let described = cdi::find(&self.request.devices, &self.config.devices, &self.job.identity)?;
        let host = self.host(accounts, described.mounts);
        let mut plan = plan::plan(self.request, &self.config.container, &host);
        plan.mount_sources.clone_from(&self.config.policy.mount_sources);
        self.config.policy.check_plan(&plan)?;
        let layers = self.layers_of(&record, plan.remap_root, &plan.env);
        let edits = environment::edits(&layers);
        plan.devices = Some(Wish {
            also: described.edits,
            gpus: self.request.gpus,
            rocm: self.request.rocm == Some(true),
            granted: self.job.gpus.clone(),
            ..Wish::of(&self.config.devices, &layers)
        });
        plan.program = self.program(&edits);
        plan.hooks = Hooks::of(&self.config.container, &self.job.env, &edits, self.job.task);
        let data = self.data(&plan, &workers, trace, report)?;
        let mut namespaces = trace.phase("container", || {
            namespaces::make(&plan, &base, &data, &mut |text| report(Report::Warning(text)))
        })?;
        plan.env.splice(..0, std::mem::take(&mut namespaces.edits));
        for (name, time) in &namespaces.timings.0 {
            trace.time(name, *time);
        }
        let own_files = namespaces.own_files.take();
        if let Some(own) = &own_files {
            record.config = own.config(&self.job.env)?;
        }
        let (mut held, mut description) = (Held::from(namespaces), self.describe(&plan, record));
        let read = data.read_by_user().into_iter();
        description.data = read.map(|(reader, _)| reader.image().to_owned()).collect();
        if let Some(lock) = lock {
            held.push(Kind::Unpacked, lock);
        }
        description.part = origin.hold_file(lowers, &mut held)?;
        if let Some(singularity) = own_files.and_then(|own| own.singularity) {
            trace.phase("environment", || {
                self.source(&singularity, &mut held, &mut description, report)
            })?;
        }
        let left = trace.phase("entrypoint", || self.run_entrypoint(&held, &description, report))?;
        description.entrypoint = left.edits;
        if let Some(lifeline) = left.lifeline {
            held.push(Kind::Lifeline, lifeline);
        }
        Ok((held, description))
    }

    /// Root inside is made of a user namespace.
    fn check_remapping(&self) -> Result<()> {
        let wanted = self.request.remap_root.unwrap_or(self.config.container.remap_root);
        match wanted && switched_off() {
            false => Ok(()),
            true => Err(Error::Host(
                "--container-remap-root needs user namespaces: set user.max_user_namespaces to more than 0 (sysctl), or \
                 use --no-container-remap-root"
                    .to_owned(),
            )),
        }
    }

    /// Runs the image's entrypoint, if it has one and it is wanted.
    fn run_entrypoint(&self, held: &Held, description: &Description, report: &mut dyn FnMut(Report)) -> Result<Left> {
        let words = &description.record.config.entrypoint;
        if self.request.entrypoint != Some(true) || words.is_empty() {
            return Ok(Left::default());
        }
        let entrypoint = Entrypoint {
            words,
            how: &self.how(description),
            identity: &self.job.identity,
            task: self.job.task,
            show: self.request.entrypoint_log == Some(true),
            purpose: Purpose::Entrypoint,
        };
        entrypoint.run(&held.join()?, &self.layers(description), report)
    }

    /// Everything that has a say in the environment of this step's tasks.
    fn layers<'a>(&'a self, description: &'a Description) -> Layers<'a> {
        Layers {
            entrypoint: &description.entrypoint,
            ..self.layers_of(&description.record, description.remap_root, &description.env)
        }
    }

    /// The same, as long as no entrypoint has run.
    fn layers_of<'a>(&'a self, record: &'a Record, remap_root: bool, plan: &'a [Edit]) -> Layers<'a> {
        Layers {
            job: Some(&self.job.env),
            image: &record.config.env,
            keep: &self.request.env,
            remap_root,
            files: &self.config.container.environ,
            plan,
            entrypoint: &[],
        }
    }

    fn how(&self, description: &Description) -> Enter {
        Enter {
            remap_root: description.remap_root,
            workdir: plan::workdir(self.request, &description.record.config),
            explicit_workdir: self.request.workdir.is_some(),
        }
    }

    /// The image, or what is known of it already; and who the user is.
    fn ingredients(&self, origin: &Origin, trace: &mut Trace, report: &mut dyn FnMut(Report)) -> Result<Ingredients> {
        let workers = Workers::open(&self.config.worker, &self.job.identity)?;
        let (record, lowers, lookup) = match origin {
            Origin::Image | Origin::Named(..) => self.image(&workers, trace, report)?,
            Origin::Kept(_, record) if record.is_unpacked() => {
                self.check_unpacked(record)?;
                let lookup = workers.start_lookup(&self.job.identity)?;
                (Record::clone(record), Lowers::none(), lookup)
            }
            Origin::Kept(_, record) => {
                let (record, mut lowers, lookup) = self.image_of(record, &workers, trace, report)?;
                let id = &self.job.place.id;
                let fits = lowers.go_on_with(record.user_marks);
                fits.map_err(|error| error.context(&format!("container {id}")))?;
                (record, lowers, lookup)
            }
            Origin::Running(found) => {
                let lookup = workers.start_lookup(&self.job.identity)?;
                (found.description.record.clone(), Lowers::none(), lookup)
            }
        };
        Ok(Ingredients {
            record,
            lowers,
            lookup,
            workers,
        })
    }

    fn host(&self, accounts: Accounts, device_mounts: Vec<MountSpec>) -> Host {
        Host {
            identity: self.job.identity.clone(),
            accounts,
            env: self.job.env.clone(),
            cwd: self.job.cwd.clone(),
            script: self.job.script.clone(),
            stand_ins: self.job.stand_ins.clone(),
            localtime: std::fs::read("/etc/localtime").ok(),
            device_mounts,
        }
    }

    fn describe(&self, plan: &Plan, record: Record) -> Description {
        Description {
            id: self.job.place.id.clone(),
            record,
            gid: plan.identity.gid,
            remap_root: plan.remap_root,
            writable: plan.writable,
            mount_home: plan.mount_home,
            unshare: plan.unshare,
            env: plan.env.clone(),
            entrypoint: Vec::new(),
            data: Vec::new(),
            part: None,
        }
    }

    fn prepared(&self, held: Held, description: Description, listener: OwnedFd) -> Prepared {
        Prepared {
            held,
            edits: environment::edits(&self.layers(&description)),
            how: self.how(&description),
            description,
            listener,
        }
    }
}
