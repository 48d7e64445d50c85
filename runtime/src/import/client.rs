//! Images of the local Docker daemon, and of the user's podman. Their own client is run as the user and saves the image as an
//! archive, to a file that has no name.
#![forbid(unsafe_code)]

use super::{Import, Imported};
use crate::errand::{Errand, Outcome, Patience, Rights, open_trusted};
use crate::error::{Error, Result};
use crate::reference::{Client, ClientImage};
use crate::report::{PATIENCE, Report, Trace};
use crate::sys::process::Exit;
use rustix::fd::{AsFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::path::{Path, PathBuf};

impl Client {
    /// Its program.
    fn program(self) -> &'static str {
        match self {
            Client::Docker => "docker",
            Client::Podman => "podman",
        }
    }

    /// What makes it write an image to its output.
    fn save(self, image: &str) -> Vec<&str> {
        match self {
            Client::Docker => vec!["save", image],
            Client::Podman => vec!["save", "--quiet", "--format", "docker-archive", image],
        }
    }
}

impl Import<'_> {
    /// Makes an image of a local daemon or of podman available.
    pub fn run_client(
        &self,
        image: &ClientImage,
        trace: &mut Trace,
        report: &mut dyn FnMut(Report),
    ) -> Result<Imported> {
        let imported = trace
            .phase("client", || self.save(image, report))
            .and_then(|archive| self.provide_saved(image, archive, trace, report));
        imported.map_err(|error| self.store.explain(error))
    }

    /// The archive that the client writes.
    fn save(&self, image: &ClientImage, report: &mut dyn FnMut(Report)) -> Result<OwnedFd> {
        let name = image.client.program();
        let path = find(name, &self.config.images.client_path)?;
        let env: Vec<_> = self.requester.env.clone().into_iter().collect();
        let errand = Errand {
            what: "client",
            program: open_trusted("client", &path)?,
            path,
            env: &env,
            groups: self.workers.groups(self.requester)?,
            user: self.workers.requester(),
            rights: Rights::OfTasks,
        };
        let (read, write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::sys("save an image", "pipe2", error))?;
        let file = self.store.unnamed_file()?;
        let most = self.config.store.max_layer_size;
        let spooling = self.workers.spool(read.as_fd(), &file, most, self.requester)?;
        drop(read);
        let words = image.client.save(&image.image);
        let outcome = errand.run(&words, Some(write), PATIENCE, || {
            let bytes = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size.unsigned_abs());
            let text = format!("waiting for {name} to save {}: {} MiB so far", image.image, bytes >> 20);
            report(Report::Progress(text));
            Patience::Go
        })?;
        let spooled = spooling.finish(&format!("what {name} has saved"), report);
        judge(&errand.path, &outcome, spooled)?;
        Ok(file.into())
    }
}

/// A client that cannot write complains as well: why its output could not be kept is the better reason.
fn judge(client: &Path, outcome: &Outcome, spooled: Result<u64>) -> Result<()> {
    match (outcome.exit, spooled) {
        (_, Err(error @ (Error::Sys { .. } | Error::Host(_) | Error::Denied(_)))) => Err(error),
        (Exit::Code(0), spooled) => spooled.map(drop),
        (exit, _) => Err(Error::Request(format!(
            "{} save ended with {exit}: {}",
            client.display(),
            outcome.last_words()
        ))),
    }
}

/// Where a program is.
fn find(name: &str, directories: &str) -> Result<PathBuf> {
    let paths = directories.split(':').filter(|directory| directory.starts_with('/'));
    let mut paths = paths.map(|directory| Path::new(directory).join(name));
    paths.find(|path| path.exists()).ok_or_else(|| {
        Error::Host(format!(
            "there is no {name} on this node (in {directories}): install it, or set images.client_path"
        ))
    })
}
