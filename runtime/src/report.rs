//! What a start tells while it runs: lines for the user, and how long each phase took.
#![forbid(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::time::Instant;

/// How long nothing may happen before the user is told what is waited for.
pub const PATIENCE: Timespec = Timespec { tv_sec: 8, tv_nsec: 0 };

/// Waits until `fd` can be read, and calls `silent` each time that `patience` is over.
pub fn wait_readable(fd: impl AsFd, patience: Timespec, mut silent: impl FnMut()) -> rustix::io::Result<()> {
    while !is_readable(&fd, patience)? {
        silent();
    }
    Ok(())
}

/// Waits until `fd` can be read, but not longer than `patience`.
pub fn is_readable(fd: impl AsFd, patience: Timespec) -> rustix::io::Result<bool> {
    let mut ready = [PollFd::new(&fd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut ready, Some(&patience)))? != 0)
}

/// A line for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Something happened that the user may want to know.
    Message(String),
    /// Something that the user asked for does not happen.
    Warning(String),
    /// How far a long phase is.
    Progress(String),
    /// What a program of the image printed, for the user to see.
    Output(String),
    /// The trace of a finished start, one JSON object.
    Trace(String),
}

/// Times and counts of one start.
#[derive(Debug)]
pub struct Trace {
    started: Instant,
    fields: Vec<(String, f64)>,
    notes: Vec<(String, String)>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace {
            started: Instant::now(),
            fields: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Trace {
    /// Runs `work` and notes how long it took.
    pub fn phase<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.time(name, started.elapsed());
        result
    }

    /// Notes a time, in milliseconds.
    pub fn time(&mut self, name: &str, time: std::time::Duration) {
        self.fields
            .push((format!("{name}_ms"), (time.as_secs_f64() * 1e6).round() / 1e3));
    }

    /// Notes a count.
    pub fn count(&mut self, name: &str, value: u64) {
        self.fields.push((name.to_owned(), value as f64));
    }

    /// Notes a decision.
    pub fn note(&mut self, name: &str, text: &str) {
        self.notes.push((name.to_owned(), text.to_owned()));
    }

    /// One JSON object: times in milliseconds, sizes in bytes.
    pub fn to_json(&self) -> String {
        let total = (
            "total_ms".to_owned(),
            (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
        );
        let numbers = self.fields.iter().chain([&total]);
        let numbers = numbers.map(|(name, value)| (name.clone(), number(*value)));
        let notes = self.notes.iter();
        let notes = notes.map(|(name, text)| (name.clone(), serde_json::json!(text)));
        let fields: serde_json::Map<_, _> = numbers.chain(notes).collect();
        serde_json::Value::Object(fields).to_string()
    }
}

/// Whole numbers without a fraction.
fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 {
        serde_json::json!(value as u64)
    } else {
        serde_json::json!(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_one_json_object() {
        let mut trace = Trace::default();
        assert_eq!(trace.phase("resolve", || 7), 7);
        trace.count("bytes", 10);
        let json: serde_json::Value = serde_json::from_str(&trace.to_json()).unwrap();
        assert_eq!(json["bytes"], 10);
        assert!(json["resolve_ms"].is_number() && json["total_ms"].is_number());
    }
}
