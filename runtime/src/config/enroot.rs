//! The text of an enroot.conf: `KEY value` or `KEY=value` lines, one setting each. Nothing is expanded yet, and nothing is
//! ever run.
#![forbid(unsafe_code)]

use super::keys::{self, Key, KeySpec, Who};
use super::words::{Facts, Word};
use crate::error::{Error, Result};

/// Whose file it is, and so who must mend it and what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The administrator's, below `/etc/enroot`.
    Site,
    /// The user's, below `$ENROOT_CONFIG_PATH`, or a variable of the job.
    User,
}

impl Owner {
    /// An error that the owner of the file must act on.
    pub fn error(self, text: String) -> Error {
        match self {
            Owner::Site => Error::Host(text),
            Owner::User => Error::Request(text),
        }
    }
}

/// One line that sets a known key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which.
    pub spec: &'static KeySpec,
    /// To what.
    pub value: Word,
    /// Where it was said: `FILE, line N`.
    pub place: String,
    /// Who said it.
    pub owner: Owner,
}

impl Setting {
    /// The value for these facts; `None` when nothing is said in the end.
    pub fn expand(&self, facts: &Facts) -> Result<Option<String>> {
        let text = self.value.expand(facts).map_err(|reason| self.wrong(&reason))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The value depends on what the name service knows of the user.
    pub fn needs_account(&self) -> bool {
        let variables = self.spec.who == Who::Anyone;
        self.spec.key != Key::Meaningless && self.value.needs_account(variables)
    }

    /// An error about this line.
    pub fn wrong(&self, reason: &str) -> Error {
        self.owner
            .error(format!("{}: {}: {reason}", self.place, self.spec.name))
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// The settings, in order.
    pub settings: Vec<Setting>,
    /// Lines for the user about what is ignored.
    pub warnings: Vec<String>,
}

/// Parses a file; `origin` is its path.
pub fn parse(text: &str, origin: &str, owner: Owner) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    for (number, line) in (1..).zip(text.lines()) {
        let place = format!("{origin}, line {number}");
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = split(line);
        if !is_name(name) {
            return Err(owner.error(format!(
                "{place}: {name:?} is not the name of a setting: write KEY value"
            )));
        }
        let value = Word::parse(value).map_err(|reason| owner.error(format!("{place}: {name}: {reason}")))?;
        match keys::find(name) {
            Some(spec) => parsed.settings.push(Setting {
                spec,
                value,
                place,
                owner,
            }),
            None => parsed
                .warnings
                .push(format!("{place}: unknown setting {name}, ignoring")),
        }
    }
    Ok(parsed)
}

/// Key and value: blanks lie between them, with or without one `=`.
fn split(line: &str) -> (&str, &str) {
    let end = line.find([' ', '\t', '=']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let blanks = [' ', '\t'];
    let rest = rest.trim_start_matches(blanks);
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    (name, rest.trim_start_matches(blanks))
}

fn is_name(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|next| next.is_ascii_alphanumeric() || next == '_')
}

/// A switch, as people write them.
pub fn switch(text: &str) -> std::result::Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is not a switch: take yes or no")),
    }
}

/// A number that is not negative. `most` is as much as no limit at all.
pub fn number(text: &str, most: u32) -> std::result::Result<u32, String> {
    match text.parse::<u64>() {
        Ok(number) => Ok(u32::try_from(number).unwrap_or(most).min(most)),
        Err(_) => Err(format!("{text:?} is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            uid: 7,
            processors: 2,
            ..Facts::default()
        }
    }

    #[test]
    fn lines_comments_and_separators() {
        let text = "# a comment\n\n  ENROOT_REMAP_ROOT\tyes  \r\nENROOT_MOUNT_HOME=no # why\nENROOT_DATA_PATH = /d/$(id -u)\n\
                    ENROOT_SQUASH_OPTIONS -comp lzo -noD\nENROOT_LOGIN_SHELL\n";
        let parsed = parse(text, "x.conf", Owner::Site).unwrap();
        let found: Vec<_> = parsed
            .settings
            .iter()
            .map(|setting| (setting.spec.key, setting.expand(&facts()).unwrap()))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                (Key::RemapRoot, some("yes")),
                (Key::MountHome, some("no")),
                (Key::DataPath, some("/d/7")),
                (Key::SquashOptions, some("-comp lzo -noD")),
                (Key::Meaningless, None),
            ]
        );
        assert_eq!(parsed.settings[2].place, "x.conf, line 5");
        assert!(parsed.warnings.is_empty());
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_its_place() {
        let parsed = parse("\nENROOT_COLOUR red\nFOO bar\n", "/etc/enroot/enroot.conf", Owner::Site).unwrap();
        assert!(parsed.settings.is_empty());
        assert_eq!(
            parsed.warnings,
            [
                "/etc/enroot/enroot.conf, line 2: unknown setting ENROOT_COLOUR, ignoring",
                "/etc/enroot/enroot.conf, line 3: unknown setting FOO, ignoring",
            ]
        );
    }

    #[test]
    fn a_malformed_line_is_an_error_of_its_owner_with_its_place() {
        for (line, reason) in [
            (
                "ENROOT_DATA_PATH $(reboot)",
                "x, line 2: ENROOT_DATA_PATH: configuration is not run as a shell",
            ),
            (
                "ENROOT_DATA_PATH `reboot`",
                "x, line 2: ENROOT_DATA_PATH: configuration is not run as a shell",
            ),
            (
                "ENROOT_UNKNOWN $(reboot)",
                "x, line 2: ENROOT_UNKNOWN: configuration is not run as a shell",
            ),
            (
                "ENROOT_DATA_PATH \"x",
                "x, line 2: ENROOT_DATA_PATH: a quote is not closed",
            ),
            ("if [ x ]; then", "x, line 2: if: an unquoted ';'"),
            ("-comp lzo", "x, line 2: \"-comp\" is not the name of a setting"),
            ("= value", "x, line 2: \"\" is not the name of a setting"),
        ] {
            let text = format!("# first\n{line}\n");
            match parse(&text, "x", Owner::Site) {
                Err(Error::Host(error)) => assert!(error.starts_with(reason), "{error}"),
                other => panic!("{line}: {other:?}"),
            }
            assert!(
                matches!(parse(&text, "x", Owner::User), Err(Error::Request(_))),
                "{line}"
            );
        }
    }

    #[test]
    fn switches_and_numbers() {
        for yes in ["y", "YES", "true", "1", "on", "T"] {
            assert_eq!(switch(yes), Ok(true), "{yes}");
        }
        for no in ["n", "No", "FALSE", "0", "off", "f"] {
            assert_eq!(switch(no), Ok(false), "{no}");
        }
        assert!(switch("maybe").is_err() && switch("").is_err());
        assert_eq!(number("17", 100), Ok(17));
        assert_eq!(number("99999999999999", 100), Ok(100));
        assert!(number("-1", 100).is_err() && number("1s", 100).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(ENROOT_[A-Z_]{0,9}[ =\t]{0,3}[$(){}a-z'\"#~ ]{0,12}\n){0,4}|\\PC*") {
            let _ = parse(&text, "x", Owner::User);
        }
    }
}
