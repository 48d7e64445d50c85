//! What the tasks of a container execute first.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A program, as far as it is known before anything is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// As somebody has typed it.
    pub word: String,
    /// Where a name without a directory is looked for, in the container.
    pub path: Vec<PathBuf>,
}

impl Program {
    /// As many bytes of a script as the kernel looks at for its interpreter.
    pub const HEAD: usize = 256;

    /// `word`, which is looked for in the directories of a `PATH`.
    pub fn new(word: String, path: &str) -> Self {
        let path = path.split(':').map(PathBuf::from);
        Program {
            word,
            path: path.filter(|directory| directory.is_absolute()).collect(),
        }
    }

    /// Where it can be in the container, in order. A path that starts at the working directory may be anywhere.
    pub fn places(&self) -> Vec<PathBuf> {
        let word = Path::new(&self.word);
        match self.word.contains('/') {
            true => word.is_absolute().then(|| word.to_owned()).into_iter().collect(),
            false => self.path.iter().map(|directory| directory.join(word)).collect(),
        }
    }

    /// The program that interprets a script which begins with `head`, if that is a script: for one that `env` looks for,
    /// that one.
    pub fn interpreter(&self, head: &[u8]) -> Option<Self> {
        let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
        let (first, second) = (words.next()?, words.next());
        let word = match second {
            Some(name) if Path::new(first).ends_with("env") && !name.starts_with('-') => name,
            _ => first,
        };
        Some(Program {
            word: word.to_owned(),
            path: self.path.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_program_can_be() {
        let places = |word: &str| Program::new(word.to_owned(), "/usr/bin::bin:/bin").places();
        assert_eq!(places("true"), ["/usr/bin/true", "/bin/true"].map(PathBuf::from));
        assert_eq!(places("/opt/x"), [PathBuf::from("/opt/x")]);
        assert!(places("./x").is_empty());
    }

    #[test]
    fn who_interprets_a_script() {
        let script = Program::new("script".to_owned(), "/bin");
        let interpreter = |head: &[u8]| script.interpreter(head).map(|program| program.word);
        assert_eq!(
            interpreter(b"#!/bin/bash -e\n#SBATCH -n1\n").as_deref(),
            Some("/bin/bash")
        );
        assert_eq!(interpreter(b"#! /usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(
            interpreter(b"#!/usr/bin/env -S python3 -u\n").as_deref(),
            Some("/usr/bin/env")
        );
        assert_eq!(interpreter(b"#!/bin/sh").as_deref(), Some("/bin/sh"));
        for head in [&b"#!\n/bin/sh"[..], b"\x7fELF", b"", b"#!\xff\n"] {
            assert_eq!(interpreter(head), None);
        }
    }
}
