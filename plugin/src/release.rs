//! Whether this release of Slurm is one that the plugin was tested with. The interface has not changed for years
//! (docs/slurm-abi.md), so a newer release is no reason not to start; but somebody should know.
#![forbid(unsafe_code)]

use crate::arguments::Arguments;
use pyxis_runtime::{Error, Result};

/// The newest release that the tests run on: year and month.
const NEWEST: (u32, u32) = (26, 5);
/// The argument by which a site wants only releases that were tested.
pub(crate) const STRICT: &str = "PYXIS_SLURM_STRICT";

/// Says so if `release` (as in `plugin_version`: `0x1a0505` is 26.05.5) is newer than the newest that was tested.
pub(crate) fn untested(release: u32) -> Option<String> {
    let of = (release >> 16, release >> 8 & 0xff);
    (of > NEWEST).then(|| {
        format!(
            "Slurm {}.{:02} is newer than {}.{:02}, the newest that this plugin was tested with: look for a newer pyxis",
            of.0, of.1, NEWEST.0, NEWEST.1
        )
    })
}

/// Refuses such a release where the site wants that.
pub(crate) fn check(arguments: Arguments, release: u32) -> Result<Arguments> {
    match untested(release).filter(|_| arguments.slurm_strict) {
        None => Ok(arguments),
        Some(text) => Err(Error::Host(format!("{text} ({STRICT} in plugstack.conf)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_releases_are_told_or_refused() {
        let strict = |slurm_strict| Arguments {
            slurm_strict,
            ..Arguments::default()
        };
        for (release, newer) in [
            (0x16_05_08, false),
            (0x1a_05_05, false),
            (0x1a_0b_00, true),
            (0x1b_05_01, true),
        ] {
            assert_eq!(untested(release).is_some(), newer, "{release:x}");
            assert!(check(strict(false), release).is_ok());
            assert_eq!(check(strict(true), release).is_err(), newer, "{release:x}");
        }
        let text = untested(0x1a_0b_00).unwrap();
        assert!(text.starts_with("Slurm 26.11 is newer than 26.05"), "{text}");
    }
}
