//! `pyxis pull`: imports an image as a container start would, without starting one.
#![forbid(unsafe_code)]

use crate::args::{Global, Pull};
use crate::settings;
use indicatif::{ProgressBar, ProgressStyle};
use pyxis_runtime::import::{Import, Remote, Requester, Workers};
use pyxis_runtime::reference::ImageSource;
use pyxis_runtime::report::{Report, Trace};
use pyxis_runtime::store::Store;
use pyxis_runtime::{Error, Result};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

pub fn run(args: &Pull, global: &Global) -> Result<()> {
    let config = settings::load(global)?;
    let source: ImageSource = args.image.parse()?;
    let store = Store::open(&config.store.path)?;
    let workers = Workers::of_this_program(&config.worker)?;
    let requester = Requester {
        task: None,
        env: settings::environment(),
    };
    let registry = config.registry.client().with_variables(&requester.env)?;
    let import = Import {
        store: &store,
        config: &config,
        workers: &workers,
        requester: &requester,
    };
    let bar = progress_bar(args.quiet);
    let mut trace = Trace::default();
    let mut report = |report| match report {
        Report::Progress(text) | Report::Message(text) | Report::Warning(text) if bar.is_hidden() => {
            tell(args.quiet, &text)
        }
        Report::Progress(text) => bar.set_message(text),
        Report::Message(text) | Report::Warning(text) | Report::Output(text) => bar.suspend(|| tell(args.quiet, &text)),
        Report::Trace(_) => {}
    };
    let imported = match &source {
        ImageSource::Registry(reference) => {
            let remote = Remote {
                reference,
                registry: &registry,
            };
            import
                .ask(remote)
                .and_then(|asked| import.run(remote, asked, &mut trace, &mut report))
        }
        ImageSource::Local(local) => import.run_local(local, &working_directory()?, &mut trace, &mut report),
        ImageSource::Client(image) => import.run_client(image, &mut trace, &mut report),
        other => Err(Error::Request(format!("{other} is used where it is, and not imported"))),
    };
    bar.finish_and_clear();
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

/// Where relative paths begin.
fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|error| Error::sys("find the working directory", "getcwd", error))
}

/// A line of its own for somebody who reads the log.
fn tell(quiet: bool, text: &str) {
    if !quiet {
        // Nobody can be told that nobody can be told.
        let _ = writeln!(std::io::stderr(), "pyxis: {text}");
    }
}

/// A spinner on a terminal; where standard error is a file, each report is a line.
fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
