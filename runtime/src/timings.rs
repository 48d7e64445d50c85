//! Where the time of a start goes: named phases with their durations, for traces and benchmarks.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Phases in the order in which they ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings(pub Vec<(String, Duration)>);

impl Timings {
    /// The sum of all phases.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|(_, duration)| *duration).sum()
    }
}

/// Measures phases: each lasts from the end of the one before.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
    timings: Timings,
}

impl Stopwatch {
    /// The first phase begins now.
    pub fn start() -> Self {
        Stopwatch {
            since: Instant::now(),
            timings: Timings::default(),
        }
    }

    /// The phase `name` ends now, and the next one begins.
    pub fn mark(&mut self, name: &str) {
        let now = Instant::now();
        self.timings
            .0
            .push((name.to_owned(), now.saturating_duration_since(self.since)));
        self.since = now;
    }

    /// What was measured.
    pub fn finish(self) -> Timings {
        self.timings
    }
}
