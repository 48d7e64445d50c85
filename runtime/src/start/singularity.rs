//! The environment of an image that Singularity has built: what its scripts set is told from their text, or they are run
//! in the finished container, once, before anything else.
#![forbid(unsafe_code)]

use super::Start;
use crate::containers::{Description, Held, Kind, Layer};
use crate::entrypoint::{Entrypoint, Left, Purpose};
use crate::environment::{self, DEFAULT_PATH};
use crate::error::Result;
use crate::image::singularity::{self, Singularity};
use crate::report::Report;

impl Start<'_> {
    /// Makes what the image's scripts set, and what the user has set for such images, the image's variables.
    pub(super) fn source(
        &self,
        image: &Singularity,
        held: &mut Held,
        description: &mut Description,
        report: &mut dyn FnMut(Report),
    ) -> Result<()> {
        if let [Layer::File(path)] = description.record.layers.as_slice() {
            let names = singularity::names(path);
            description.record.config.env.extend(names);
        }
        let told = image.changes(&environment::for_entrypoint(&self.layers(description)));
        let left = match (told, image.words()) {
            (Some(edits), _) => Left { edits, lifeline: None },
            (None, Some(words)) => self.run_scripts(&words, held, description, report)?,
            (None, None) if image.scripts => {
                let text = "the image has scripts in /.singularity.d/env, and no shell: they are not run";
                report(Report::Warning(text.to_owned()));
                Left::default()
            }
            (None, None) => Left::default(),
        };
        if let Some(lifeline) = left.lifeline {
            held.push(Kind::Lifeline, lifeline);
        }
        let env = &mut description.record.config.env;
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let path = path.unwrap_or(DEFAULT_PATH).to_owned();
        env.extend(singularity::variables(&left.edits, &self.job.env, &path));
        Ok(())
    }

    fn run_scripts(
        &self,
        words: &[String],
        held: &Held,
        description: &Description,
        report: &mut dyn FnMut(Report),
    ) -> Result<Left> {
        let scripts = Entrypoint {
            words,
            how: &self.how(description),
            identity: &self.job.identity,
            task: self.job.task,
            show: false,
            purpose: Purpose::Scripts,
        };
        scripts.run(&held.join()?, &self.layers(description), report)
    }
}
