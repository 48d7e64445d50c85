//! `inspect`: what an image says of itself, in the files that Singularity puts into it.
#![forbid(unsafe_code)]

use super::args::{How, Inspect};
use super::{here, how};
use pyxis_runtime::enter::enter;
use pyxis_runtime::image::printable;
use pyxis_runtime::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;

const ENVIRONMENT: &str = "/.singularity.d/env";
const DEFFILE: &str = "/.singularity.d/Singularity";
const RUNSCRIPT: &str = "/.singularity.d/runscript";

/// What is known of an image.
struct Said {
    labels: BTreeMap<String, String>,
    deffile: Option<String>,
    environment: Map<String, Value>,
    runscript: Option<String>,
}

pub fn inspect(args: &Inspect) -> Result<()> {
    let said = look(&args.image)?;
    let text = match args.json {
        true => as_json(args, said)?,
        false => as_text(args, &said),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::sys("print", "write", error))
}

/// Makes the container and reads the files from inside, where links of the image lead to files of the image.
fn look(image: &str) -> Result<Said> {
    let mut here = here()?;
    let contained = How {
        contain: true,
        no_home: true,
        ..How::default()
    };
    let wanted = how::understand(&contained, image, &here)?;
    let prepared = here.prepare(&wanted.request, &wanted.id, true)?;
    enter(&prepared.held.join()?, &prepared.how)?;
    let mut environment = Map::new();
    for entry in std::fs::read_dir(ENVIRONMENT).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Ok(text) = std::fs::read_to_string(&path) {
            environment.insert(path.display().to_string(), text.into());
        }
    }
    Ok(Said {
        labels: prepared.description.record.config.labels,
        deffile: std::fs::read_to_string(DEFFILE).ok(),
        environment,
        runscript: std::fs::read_to_string(RUNSCRIPT).ok(),
    })
}

/// Which parts were asked for.
fn asked(args: &Inspect) -> [bool; 4] {
    let any = args.deffile || args.environment || args.runscript;
    [args.labels || !any, args.deffile, args.environment, args.runscript]
}

fn as_text(args: &Inspect, said: &Said) -> String {
    let [labels, deffile, environment, runscript] = asked(args);
    let mut text = String::new();
    if labels {
        for (name, value) in &said.labels {
            text.push_str(&format!("{}: {}\n", printable(name), printable(value)));
        }
    }
    let scripts = said
        .environment
        .iter()
        .filter_map(|(name, text)| Some(format!("=== {name} ===\n{}\n", text.as_str()?)));
    let scripts: String = scripts.collect();
    let wanted = [
        (deffile, said.deffile.as_deref()),
        (environment, Some(scripts.as_str())),
        (runscript, said.runscript.as_deref()),
    ];
    for (_, part) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
        text.push_str(part.unwrap_or_default());
    }
    text
}

fn as_json(args: &Inspect, said: Said) -> Result<String> {
    let [labels, deffile, environment, runscript] = asked(args);
    let mut attributes = Map::new();
    let mut add = |wanted: bool, name: &str, value: Value| {
        if wanted {
            attributes.insert(name.to_owned(), value);
        }
    };
    add(labels, "labels", json!(said.labels));
    add(deffile, "deffile", json!(said.deffile.unwrap_or_default()));
    add(environment, "environment", Value::Object(said.environment));
    add(runscript, "runscript", json!(said.runscript.unwrap_or_default()));
    let document = json!({ "data": { "attributes": attributes }, "type": "container" });
    let text = serde_json::to_string_pretty(&document).map_err(|error| Error::Host(error.to_string()))?;
    Ok(text + "\n")
}
