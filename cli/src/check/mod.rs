//! `pyxis check`: what this machine can do for containers. The runtime looks at the machine; here are the site's files, Slurm,
//! a registry if one is named, and how all of it is printed.
#![forbid(unsafe_code)]

mod image;
mod plugstack;
mod show;
mod slurm;

use crate::args::{Check, Global};
use crate::settings;
use pyxis_runtime::check::{Finding, Node, Status, Subject, look};
use pyxis_runtime::config::Config;
use pyxis_runtime::config::load::Sources;
use pyxis_runtime::privilege::caller;
use pyxis_runtime::{Error, Result};
use std::io::Write;
use std::process::ExitCode;

const SETTINGS: Subject = Subject::new("settings", "settings");

pub fn run(args: &Check, global: &Global) -> Result<ExitCode> {
    let (settings, config) = read_settings(global);
    let slurm = slurm::look();
    let caller = caller();
    let mut findings = settings;
    findings.extend(look(&Node {
        caller: &caller,
        config: &config,
        runtime_path: &slurm.runtime_path,
    }));
    findings.extend(slurm.findings);
    if let Some(image) = &args.image {
        findings.extend(image::look(image, &config));
    }
    let text = match args.json {
        true => show::json(&findings)?,
        false => show::lines(&findings),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::sys("print", "write", error))?;
    Ok(match show::will_start(&findings) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The site's settings, or the defaults when they cannot be read, so that the rest can be looked at.
fn read_settings(global: &Global) -> (Vec<Finding>, Config) {
    let mut warnings = Vec::new();
    let read = settings::site(global, &mut |warning| warnings.push(warning));
    let mut findings = Vec::new();
    let mut config = match read {
        Ok(config) => {
            findings.push(SETTINGS.ok(where_from(global)));
            config
        }
        Err(error) => {
            let advice = "mend that: no container starts until then; what follows is about the default settings";
            findings.push(SETTINGS.fail(error.to_string(), advice));
            Config::default()
        }
    };
    let warned = warnings
        .into_iter()
        .map(|warning| SETTINGS.warn(warning, "mend that in the file"));
    findings.extend(warned);
    match settings::store(global) {
        Ok(Some(store)) => config.store.path = store,
        Ok(None) => {}
        Err(error) => findings.push(SETTINGS.warn(error.to_string(), "what follows is about the node's store")),
    }
    (findings, config)
}

/// The files that hold settings.
fn where_from(global: &Global) -> String {
    let sources = Sources::default();
    let files = match &global.config {
        Some(path) => vec![path.clone()],
        None => vec![sources.policy.to_owned(), sources.enroot.join("enroot.conf")],
    };
    let there = files
        .iter()
        .filter(|path| path.exists())
        .map(|path| path.display().to_string());
    match there.collect::<Vec<_>>() {
        there if there.is_empty() => format!("the defaults: there is no {}", sources.policy.display()),
        there => there.join(", "),
    }
}
