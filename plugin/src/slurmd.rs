//! slurmd: only looks at the configuration and at Slurm's release, so that the administrator finds in its log what is wrong
//! with them. It never fails: slurmd would not start, for a mistake that concerns containers alone.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::{message, release};
use pyxis_runtime::Result;
use spank_sys::Verdict;

/// Tells a mistake in plugstack.conf, or a release that is not known.
pub(crate) fn init(arguments: Result<Arguments>) -> Verdict {
    match arguments {
        Err(error) => message::error(&format!("{error}, ignoring until a container is asked for")),
        Ok(_) => {
            if let Some(text) = release::untested(spank_sys::release()) {
                message::error(&text);
            }
        }
    }
    Verdict::Success
}
