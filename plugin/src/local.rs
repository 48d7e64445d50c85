//! srun, sbatch and salloc: the options are added and judged here, so that nothing starts with bad ones.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::{callbacks, container, message, options, state};
use pyxis_runtime::request::{Merged, Request};
use pyxis_runtime::{Error, Result};
use spank_sys::{Spank, Verdict, set_local_env};

/// srun: the options are added.
pub(crate) fn init(spank: &Spank<'_>, arguments: Result<Arguments>) -> Verdict {
    verdict(arguments.and_then(|_| callbacks::register(spank)))
}

/// sbatch and salloc: the options are added, unless the site does not want that.
pub(crate) fn init_allocator(spank: &Spank<'_>, arguments: Result<Arguments>) -> Verdict {
    verdict(arguments.and_then(|arguments| {
        if arguments.sbatch_support {
            callbacks::register(spank)
        } else {
            Ok(())
        }
    }))
}

/// sbatch and salloc: all options are there.
pub(crate) fn check_options() -> Verdict {
    verdict(judge().map(|_| ()))
}

/// srun: all options of the step are there, or of one more component of a heterogeneous step. Slurm keeps one set of
/// them, so that all components get the container of the last one that named it.
pub(crate) fn check_component() -> Verdict {
    verdict(judge().and_then(|wanted| {
        let before = state::with(|state| state.component.replace(wanted.clone()));
        match (before, wanted) {
            (Some(Some(before)), Some(wanted)) if before != wanted => Err(Error::Request(
                "the components of this step want different containers, and Slurm hands on one: start them as steps of \
                 their own (srun --het-group=NUMBER)"
                    .to_owned(),
            )),
            (Some(Some(_)), None) | (Some(None), Some(_)) => {
                message::user("all components of a heterogeneous step get the container of one");
                Ok(())
            }
            _ => Ok(()),
        }
    }))
}

/// Refuses bad options, and warns of those that mean nothing.
fn judge() -> Result<Option<Request>> {
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let uses = options::without_inherited(state::with(|state| std::mem::take(&mut state.uses)), variable);
    set_local_env(options::REPEATED_MOUNTS, options::repeated_mounts(&uses).as_deref());
    match Request::merge(&uses, variable, container::check_image)? {
        Merged::Container(request) => Ok(Some(*request)),
        Merged::Nothing { warnings } => {
            warnings.iter().for_each(|warning| message::user(warning));
            Ok(None)
        }
    }
}

fn verdict(result: Result<()>) -> Verdict {
    match result {
        Ok(()) => Verdict::Success,
        Err(error) => {
            message::error(&error.to_string());
            Verdict::Failure
        }
    }
}
