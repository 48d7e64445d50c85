//! slurmd: only looks at the configuration, so that the administrator finds a mistake in its log. It never fails:
//! slurmd would not start, for a mistake that concerns containers alone.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use crate::message;
use pyxis_runtime::Result;
use spank_sys::Verdict;

/// Tells a mistake in plugstack.conf.
pub(crate) fn init(arguments: Result<Arguments>) -> Verdict {
    if let Err(error) = arguments {
        message::error(&format!("{error}, ignoring until a container is asked for"));
    }
    Verdict::Success
}
