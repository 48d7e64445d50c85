//! What this machine can do for containers, found by trying it: each thing is done once, in a child process with mounts
//! and namespaces of its own that end with it. Nothing is told by version numbers, since distributions backport.
//!
//! Everything here yields [`Finding`]s, which are data. Whoever asks prints them.
#![forbid(unsafe_code)]

mod directories;
mod fuse;
mod kernel;
mod namespaces;
mod overlay;
mod probe;
mod rungs;
mod squashfs;
mod worker;

use crate::config::Config;
use crate::error::Error;
use crate::import::service_user;
use crate::plan::Identity;
use serde::Serialize;
use std::path::Path;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name for programs: it stays the same from release to release.
    pub id: &'static str,
    /// Whether it is as it should be.
    pub status: Status,
    /// Its name for people.
    pub what: &'static str,
    /// What was found.
    pub fact: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is.
    Ok,
    /// Containers start, but something is slower, less safe or missing.
    Warn,
    /// Containers do not start.
    Fail,
    /// It could not be looked at.
    Skip,
}

impl Status {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
            Status::Skip => "skip",
        }
    }
}

/// Something that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// [`Finding::id`].
    pub id: &'static str,
    /// [`Finding::what`].
    pub what: &'static str,
}

impl Subject {
    /// A subject with its two names.
    pub const fn new(id: &'static str, what: &'static str) -> Self {
        Subject { id, what }
    }

    /// It is as it should be.
    pub fn ok(self, fact: impl Into<String>) -> Finding {
        self.finding(Status::Ok, fact.into(), None)
    }

    /// Containers start all the same.
    pub fn warn(self, fact: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Status::Warn, fact.into(), Some(advice.into()))
    }

    /// Containers do not start.
    pub fn fail(self, fact: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.finding(Status::Fail, fact.into(), Some(advice.into()))
    }

    /// Containers do not start, for a reason that says behind its last colon what to do.
    pub fn fail_as(self, error: &Error) -> Finding {
        let (fact, advice) = advised(error);
        self.fail(fact, advice)
    }

    /// It could not be looked at.
    pub fn skip(self, why: impl Into<String>) -> Finding {
        self.finding(Status::Skip, format!("not looked at: {}", why.into()), None)
    }

    /// Looks, or says why not.
    fn look_if(self, can: bool, otherwise: &str, look: impl FnOnce() -> Finding) -> Finding {
        match can {
            true => look(),
            false => self.skip(otherwise),
        }
    }

    fn finding(self, status: Status, fact: String, advice: Option<String>) -> Finding {
        Finding {
            id: self.id,
            status,
            what: self.what,
            fact,
            advice,
        }
    }
}

/// Tells apart what an error of the runtime says that is wrong, and what to do.
fn advised(error: &Error) -> (String, String) {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((fact, advice)) => (fact.to_owned(), advice.to_owned()),
        None => (text, "mend that".to_owned()),
    }
}

/// Why an ordinary user is not told more.
const ROOTS: &str = "only root can";
/// Why something is not tried in a user namespace.
const NO_NAMESPACE: &str = "no user namespace can be made";

/// Who asks, and what the site says.
#[derive(Debug)]
pub struct Node<'a> {
    /// The caller.
    pub caller: &'a Identity,
    /// The site's settings, with the caller's store.
    pub config: &'a Config,
    /// Where running containers are recorded.
    pub runtime_path: &'a Path,
}

impl Node<'_> {
    fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    /// The user that containers are tried with.
    fn somebody(&self) -> Identity {
        match self.is_root() {
            true => service_user(&self.config.worker.user).unwrap_or_else(|_| probe::nobody()),
            false => self.caller.clone(),
        }
    }
}

/// Looks at everything. The caller has one thread.
pub fn look(node: &Node<'_>) -> Vec<Finding> {
    // Where the caller can make none, what is tried in a user namespace fails for that reason alone.
    let user_namespaces = probe::attempt(&[], probe::users_mounts).is_ok();
    let mut findings = kernel::look(node, user_namespaces);
    findings.extend(namespaces::look(node));
    findings.extend(squashfs::look(node));
    findings.extend(overlay::look(node, user_namespaces));
    findings.extend(fuse::look(node, user_namespaces));
    findings.extend(worker::look(node));
    findings.extend(directories::look(node));
    findings.extend(rungs::look(node));
    findings
}
