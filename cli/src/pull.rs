//! `pyxis pull`: imports an image as a container start would, without starting one.
#![forbid(unsafe_code)]

use crate::args::{Global, Pull};
use crate::settings;
use crate::tell::{PYXIS, Teller};
use pyxis_runtime::config::Config;
use pyxis_runtime::image::Platform;
use pyxis_runtime::import::{Import, Imported, Remote, Requester, Workers};
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::report::Trace;
use pyxis_runtime::store::Store;
use pyxis_runtime::{Error, Result};
use std::io::Write;

pub fn run(args: &Pull, global: &Global) -> Result<()> {
    let config = settings::load(global)?;
    let source: ImageSource = args.image.parse()?;
    let teller = Teller::moving(PYXIS, args.quiet);
    let imported = import(&source, &Platform::host(), &config, &teller);
    teller.finish();
    let imported =
        imported.map_err(|error| error.context(&format!("failed to import docker image: {}", args.image)))?;
    if args.quiet {
        return Ok(());
    }
    let name = match &source {
        ImageSource::Registry(reference) => reference.to_string(),
        other => other.to_string(),
    };
    let (layers, new) = (imported.packs.len(), imported.downloaded);
    writeln!(
        std::io::stdout(),
        "{name} {} ({layers} layers, {new} downloaded)",
        imported.manifest
    )
    .map_err(|error| Error::sys("print", "write", error))
}

/// Imports an image for `platform` into the store that `config` names, with the caller's credentials and variables.
pub fn import(source: &ImageSource, platform: &Platform, config: &Config, teller: &Teller) -> Result<Imported> {
    let requester = Requester {
        task: None,
        env: settings::environment(),
    };
    let registry = config.registry.client().with_variables(&requester.env)?;
    let import = Import {
        store: &Store::open(&config.store.path)?,
        config,
        workers: &Workers::of_this_program(&config.worker)?,
        requester: &requester,
        platform,
    };
    let mut report = |report| teller.tell(report);
    let mut trace = Trace::default();
    match source {
        ImageSource::Registry(reference) => {
            let remote = Remote {
                reference,
                registry: &registry,
            };
            let asked = import.ask(remote)?;
            import.run(remote, asked, &mut trace, &mut report)
        }
        ImageSource::Local(local) => import.run_local(local, &settings::working_directory()?, &mut trace, &mut report),
        ImageSource::Client(image) => import.run_client(image, &mut trace, &mut report),
        other => Err(Error::Request(format!("{other} is used where it is, and not imported"))),
    }
}
