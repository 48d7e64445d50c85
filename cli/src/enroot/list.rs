//! `enroot list` and `enroot remove`.
#![forbid(unsafe_code)]

use super::args::{List, Remove};
use super::{here, print};
use crate::container::{Containers, Here, started};
use crate::tell::{self, ENROOT};
use pyxis_runtime::{Error, Result};
use std::io::{IsTerminal, Write};
use std::process::Command;

/// What ps(1) is asked for, with the names of its columns.
const COLUMNS: &str = "pid:10,comm:16,state:6,start:9,time:12,mntns:11,userns:11,command";
const HEADER: &str = "PID        COMM             STATE  STARTED   TIME         MNTNS       USERNS      COMMAND";

pub fn list(args: &List) -> Result<()> {
    let here = here()?;
    let names = Containers::open(&here)?.names()?;
    let text = match args.fancy {
        false => names.iter().map(|name| format!("{name}\n")).collect(),
        true => fancy(&here, names)?,
    };
    print(&text)
}

/// A line for each process that was started, and one for each container where none was.
fn fancy(here: &Here, names: Vec<String>) -> Result<String> {
    let started = started::all(&here.job.place.runtime_path);
    let ids = started.iter().map(|one| one.id.clone());
    let mut all: Vec<String> = names.into_iter().chain(ids).collect();
    all.sort();
    all.dedup();
    let width = all.iter().map(String::len).chain([4]).max().unwrap_or_default();
    let mut text = format!("{:width$}  {HEADER}\n", "NAME");
    for name in &all {
        let mut shown = 0;
        for one in started.iter().filter(|one| one.id == *name) {
            // It may have ended since.
            if let Some(line) = process(one.pid)? {
                text.push_str(&format!("{name:width$}  {line}\n"));
                shown += 1;
            }
        }
        if shown == 0 {
            text.push_str(&format!("{name}\n"));
        }
    }
    Ok(text)
}

fn process(pid: u32) -> Result<Option<String>> {
    let output = Command::new("ps")
        .args(["-ww", "--no-headers", "-o", COLUMNS, "-p", &pid.to_string()])
        .output()
        .map_err(|error| {
            Error::Host(format!(
                "ps cannot be run, which shows processes: {error}: install procps"
            ))
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.trim().replace(char::is_control, "?");
    Ok((!line.is_empty()).then(|| format!("{:<10}{}", line.split(' ').next().unwrap_or_default(), rest(&line))))
}

/// What follows the number, as ps(1) has laid it out.
fn rest(line: &str) -> &str {
    line.find(' ').map_or("", |at| line.get(at..).unwrap_or_default())
}

pub fn remove(args: &Remove) -> Result<()> {
    let here = here()?;
    let containers = Containers::open(&here)?;
    let started = started::all(&here.job.place.runtime_path);
    for name in &args.names {
        let runs = started.iter().find(|one| one.id == *name);
        if let Some(one) = runs.filter(|_| !args.force) {
            let pid = one.pid;
            return Err(Error::Request(format!(
                "container {name} is in use by process {pid}: end that, or use --force"
            )));
        }
        let path = containers.path(name)?;
        if !args.force && !confirm(&format!("Do you really want to delete {}? [y/N] ", path.display()))? {
            tell::line(ENROOT.info, &format!("{name} stays"));
            continue;
        }
        containers.remove(name)?;
    }
    Ok(())
}

fn confirm(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Request(
            "nobody can be asked here: use --force to remove it".into(),
        ));
    }
    let failed = |error| Error::sys("ask", "read", error);
    let mut terminal = std::io::stderr();
    terminal.write_all(question.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
