//! The one error type of the runtime. Its variants say who must act; its text is one line that says what failed, on
//! what, and what to do. Errors cross process borders whole (worker, builder, supervisor, task), so they are plain data.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What went wrong, sorted by who can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The user asked for something that cannot be: a bad option value, a missing file, an unknown image.
    #[error("{0}")]
    Request(String),
    /// The site's policy says no. The text names the rule.
    #[error("{0}")]
    Denied(String),
    /// The image, or the registry that serves it, is wrong: bad digest, truncated layer, lying header.
    #[error("{0}")]
    Image(String),
    /// The machine is not set up for this, or is out of something. The administrator must act.
    #[error("{0}")]
    Host(String),
    /// A system call failed where nothing better is known about the reason.
    #[error("{doing}: {call}: {message}")]
    Sys {
        /// What we were doing, in the user's words ("mount the image").
        doing: String,
        /// The call with its arguments ("mount_setattr(4, MOUNT_ATTR_IDMAP)").
        call: String,
        /// The kernel's answer in words, with its own mount log where there was one.
        message: String,
        /// The errno value, for callers that fall back on some of them.
        errno: i32,
    },
}

/// Result with the runtime's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the system call `call` while `doing` something.
    pub fn sys(doing: impl Into<String>, call: impl Into<String>, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        Error::Sys {
            doing: doing.into(),
            call: call.into(),
            errno: error.raw_os_error().unwrap_or(0),
            message: words(error),
        }
    }

    /// The errno value of a system call's error.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Sys { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Adds what we were doing to the front of the text; the variant stays.
    #[must_use]
    pub fn context(self, doing: &str) -> Self {
        match self {
            Error::Request(text) => Error::Request(format!("{doing}: {text}")),
            Error::Denied(text) => Error::Denied(format!("{doing}: {text}")),
            Error::Image(text) => Error::Image(format!("{doing}: {text}")),
            Error::Host(text) => Error::Host(format!("{doing}: {text}")),
            Error::Sys {
                doing: inner,
                call,
                message,
                errno,
            } => Error::Sys {
                doing: format!("{doing}: {inner}"),
                call,
                message,
                errno,
            },
        }
    }
}

/// The kernel's words for an error, without Rust's "(os error N)" tail.
pub(crate) fn words(error: impl Into<std::io::Error>) -> String {
    let text = error.into().to_string();
    match text.find(" (os error ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sys_error_names_the_call_and_the_kernels_words() {
        let error = Error::sys(
            "mount the image",
            "fsopen(squashfs)",
            std::io::Error::from_raw_os_error(libc::ENODEV),
        );
        assert_eq!(error.to_string(), "mount the image: fsopen(squashfs): No such device");
        assert_eq!(error.errno(), Some(libc::ENODEV));
    }

    #[test]
    fn context_keeps_the_variant() {
        let error = Error::Image("layer is truncated".into()).context("import x");
        assert_eq!(error, Error::Image("import x: layer is truncated".into()));
    }
}
