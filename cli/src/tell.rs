//! Lines for the caller on standard error, in the words of the name that the command was called by.
#![forbid(unsafe_code)]

use indicatif::{ProgressBar, ProgressStyle};
use pyxis_runtime::report::Report;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How a name begins its lines.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Something happened.
    pub info: &'static str,
    /// Something that was asked for does not happen.
    pub warning: &'static str,
    /// Nothing happens.
    pub error: &'static str,
}

pub const PYXIS: Style = Style {
    info: "pyxis: ",
    warning: "pyxis: ",
    error: "pyxis: ",
};
pub const ENROOT: Style = Style {
    info: "[INFO] ",
    warning: "[WARN] ",
    error: "[ERROR] ",
};
pub const SINGULARITY: Style = Style {
    info: "INFO:    ",
    warning: "WARNING: ",
    error: "FATAL:   ",
};

/// Writes a line.
pub fn line(start: &str, text: &str) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(std::io::stderr(), "{start}{text}");
}

/// What a long work has to say: lines, or one that changes where that is a terminal.
#[derive(Debug)]
pub struct Teller {
    style: Style,
    quiet: bool,
    bar: ProgressBar,
}

impl Teller {
    /// For a process that has one thread, and forks.
    pub fn new(style: Style, quiet: bool) -> Self {
        let bar = match quiet || !std::io::stderr().is_terminal() {
            true => ProgressBar::hidden(),
            false => ProgressBar::new_spinner(),
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Teller { style, quiet, bar }
    }

    /// The same, and the line moves while nothing is told: a thread does that.
    pub fn moving(style: Style, quiet: bool) -> Self {
        let teller = Teller::new(style, quiet);
        if !teller.bar.is_hidden() {
            teller.bar.enable_steady_tick(Duration::from_millis(100));
        }
        teller
    }

    /// Tells.
    pub fn tell(&self, report: Report) {
        match report {
            Report::Progress(text) if !self.bar.is_hidden() => self.bar.set_message(text),
            Report::Progress(text) | Report::Message(text) => self.line(self.style.info, &text),
            Report::Warning(text) => self.line(self.style.warning, &text),
            Report::Output(text) => self.line("", &text),
            Report::Trace(_) => {}
        }
    }

    fn line(&self, start: &str, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| line(start, text));
        }
    }

    /// Takes the line that changes away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
