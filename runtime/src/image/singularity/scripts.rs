//! What scripts for the environment set, without a shell, when they do nothing but assign: those of images that Apptainer
//! and Singularity have made of a registry's, and most others. Pure.
//!
//! A shell in the container costs as much as the rest of a start. Understood are comments, assignments, `export`, `unset`
//! and `if` with `-z` or `-n`; whatever could mean anything else to some shell makes the whole answer "not known", and then the
//! scripts are run.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Directories that Singularity adds to the search path of an image that was made of a registry's.
const USUAL_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// Scripts of such images.
const OF_REGISTRY: [&str; 2] = ["10-docker2singularity.sh", "10-docker.sh"];
/// Variables in which some shell sees more than a text, or has a text of its own.
const SHELLS_OWN: &str = "\
    COLUMNS COPROC DIRSTACK ENV EUID FUNCNAME GROUPS HOSTNAME HOSTTYPE IFS LINENO LINES MACHTYPE MAPFILE \
    OLDPWD OPTARG OPTERR OPTIND OSTYPE PGRP PIPESTATUS POSIXLY_CORRECT PPID PS2 PS4 PWD RANDOM REPLY \
    SECONDS SHELL SHELLOPTS SHLVL TERM UID";
/// How more of them begin.
const SHELLS_OWN_STARTS: [&str; 8] = ["BASH", "COMP_", "EPOCH", "HIST", "KSH", "READLINE", "SRANDOM", "_"];
/// Bytes that all `$` together may put in: a few lines can make a variable larger than any memory.
const ROOM: usize = 1 << 20;

/// A script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The name of its file.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The environment that these scripts, in this order, leave to what is run behind them, when they are given `given`. None if
/// only a shell knows.
pub fn environment(scripts: &[Script], given: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    if !in_order(scripts) || given.keys().any(|name| name.starts_with("BASH") || name == "ENV") {
        return None;
    }
    let mut shell = Shell::new(given);
    // As the run of the scripts does.
    shell.values.remove("PS1");
    shell.exported.remove("PS1");
    for script in scripts {
        shell.source(&script.text)?;
        if OF_REGISTRY.contains(&script.name.as_str()) {
            shell.complete_path();
        }
    }
    Some(shell.environment())
}

/// Every shell, in every locale, takes them in this order: their first characters differ, and are such that all agree.
fn in_order(scripts: &[Script]) -> bool {
    let start = |script: &Script| script.name.as_bytes().first_chunk::<4>().copied();
    let agreed = |start: [u8; 4]| match start {
        [tens, ones, b'-', next] => {
            tens.is_ascii_digit() && ones.is_ascii_digit() && (next.is_ascii_digit() || next.is_ascii_lowercase())
        }
        _ => false,
    };
    scripts.iter().all(|script| start(script).is_some_and(agreed))
        && scripts.is_sorted_by(|one, next| start(one) < start(next))
}

/// As much of a shell as this takes.
struct Shell {
    values: BTreeMap<String, String>,
    exported: BTreeSet<String>,
    /// What is left of [`ROOM`].
    room: usize,
}

/// Where in an `if` a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    /// In the one that is run.
    Run,
    /// Before it.
    Sought,
    /// Behind it.
    Over,
}

impl Shell {
    fn new(given: &BTreeMap<String, String>) -> Self {
        Self {
            values: given.clone(),
            exported: given.keys().cloned().collect(),
            room: ROOM,
        }
    }

    fn environment(mut self) -> BTreeMap<String, String> {
        self.values.retain(|name, _| self.exported.contains(name));
        self.values
    }

    fn source(&mut self, text: &str) -> Option<()> {
        let understood = |char: char| !char.is_control() || matches!(char, '\n' | '\t');
        if !text.chars().all(understood) {
            return None;
        }
        let mut branches: Vec<Branch> = Vec::new();
        // Of `if`s that are skipped with the branch they stand in.
        let mut inner = 0_usize;
        for line in lines(text)? {
            let line = line.trim_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            let runs = branches.iter().all(|branch| *branch == Branch::Run);
            let first = line.split([' ', '\t', ';']).next().unwrap_or_default();
            if !runs && !can_be_skipped(line) {
                return None;
            }
            match first {
                "if" if runs => branches.push(self.branch(line.strip_prefix("if")?)?),
                "if" => inner += 1,
                "fi" if line != "fi" => return None,
                "fi" if inner > 0 => inner -= 1,
                "fi" => drop(branches.pop()?),
                "elif" | "else" if inner > 0 => {}
                "elif" if !can_be_skipped(line) => return None,
                "else" if line != "else" => return None,
                "elif" | "else" => {
                    let next = match (*branches.last()?, first) {
                        (Branch::Sought, "elif") => self.branch(line.strip_prefix("elif")?)?,
                        (Branch::Sought, _) => Branch::Run,
                        (Branch::Run | Branch::Over, _) => Branch::Over,
                    };
                    *branches.last_mut()? = next;
                }
                _ if runs => self.command(line)?,
                _ => {}
            }
        }
        branches.is_empty().then_some(())
    }

    /// Of ` [ -z "$NAME" ]; then`: which branch follows.
    fn branch(&mut self, condition: &str) -> Option<Branch> {
        let condition = condition.strip_prefix(' ')?;
        let test = match condition.strip_prefix("[ ") {
            Some(test) => test.strip_suffix(" ]; then")?,
            None => condition.strip_prefix("test ")?.strip_suffix("; then")?,
        };
        let (operator, operand) = test.split_once(' ')?;
        let (value, rest) = self.quoted(operand.strip_prefix('"')?)?;
        if !rest.is_empty() {
            return None;
        }
        let holds = match operator {
            "-z" => value.is_empty(),
            "-n" => !value.is_empty(),
            _ => return None,
        };
        Some(if holds { Branch::Run } else { Branch::Sought })
    }

    fn command(&mut self, line: &str) -> Option<()> {
        let (word, mut rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        if word == "unset" {
            for name in rest.split_ascii_whitespace() {
                variable(name).filter(|(_, rest)| rest.is_empty())?;
                self.values.remove(name);
                self.exported.remove(name);
            }
            return Some(());
        }
        let export = word == "export";
        if !export {
            rest = line;
        }
        let mut assignments = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                break;
            }
            let (name, behind) = variable(rest)?;
            let value = match behind.strip_prefix('=') {
                Some(value) => {
                    let (value, behind) = self.value(value)?;
                    rest = behind;
                    Some(value)
                }
                None if export => {
                    rest = behind;
                    None
                }
                None => return None,
            };
            if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
                return None;
            }
            assignments.push((name.to_owned(), value));
        }
        // Shells do not agree on whether one assignment of a line sees the one before it.
        if assignments.is_empty() || (assignments.len() > 1 && assignments.iter().any(|(_, value)| value.is_some())) {
            return None;
        }
        for (name, value) in assignments {
            if export {
                self.exported.insert(name.clone());
            }
            if let Some(value) = value {
                self.values.insert(name, value);
            }
        }
        Some(())
    }

    /// What is assigned, up to a blank, and what is behind it.
    fn value<'a>(&mut self, mut text: &'a str) -> Option<(String, &'a str)> {
        let mut value = String::new();
        loop {
            let Some(char) = text.chars().next().filter(|char| !matches!(char, ' ' | '\t')) else {
                return Some((value, text));
            };
            let behind = text.get(char.len_utf8()..)?;
            let (part, rest) = match char {
                '"' => self.quoted(behind)?,
                '\'' => behind.split_once('\'').map(|(part, rest)| (part.to_owned(), rest))?,
                '$' => {
                    let (part, rest) = self.expanded(behind)?;
                    // Some shells split it into words.
                    part.chars().all(is_bare).then_some((part, rest))?
                }
                char if is_bare(char) => (char.to_string(), behind),
                _ => return None,
            };
            value.push_str(&part);
            text = rest;
        }
    }

    /// The value of a text whose opening double quote is behind us, and what is behind its closing one.
    fn quoted<'a>(&mut self, mut text: &'a str) -> Option<(String, &'a str)> {
        let mut value = String::new();
        loop {
            let end = text.find(['"', '$', '`', '\\'])?;
            let (part, rest) = text.split_at_checked(end)?;
            value.push_str(part);
            if let Some(rest) = rest.strip_prefix('"') {
                return Some((value, rest));
            }
            let (part, rest) = self.expanded(rest.strip_prefix('$')?)?;
            value.push_str(&part);
            text = rest;
        }
    }

    /// The value of a variable behind a `$`, and what is behind it.
    fn expanded<'a>(&mut self, text: &'a str) -> Option<(String, &'a str)> {
        let (name, default, rest) = match text.strip_prefix('{') {
            None => variable(text).map(|(name, rest)| (name, "", rest))?,
            Some(braced) => {
                let (name, rest) = variable(braced)?;
                let (default, rest) = match rest.strip_prefix('}') {
                    Some(rest) => ("", rest),
                    None => default(rest.strip_prefix(":-")?)?,
                };
                (name, default, rest)
            }
        };
        let value = self.values.get(name).map(String::as_str);
        let value = value.filter(|value| !value.is_empty()).unwrap_or(default);
        self.room = self.room.checked_sub(value.len())?;
        Some((value.to_owned(), rest))
    }

    fn complete_path(&mut self) {
        let path = self.values.remove("PATH").unwrap_or_default();
        let mut parts: Vec<&str> = if path.is_empty() {
            Vec::new()
        } else {
            path.split(':').collect()
        };
        for directory in USUAL_PATH {
            if !parts.contains(&directory) {
                parts.push(directory);
            }
        }
        self.values.insert("PATH".to_owned(), parts.join(":"));
        self.exported.insert("PATH".to_owned());
    }
}

/// The text behind `:-`, bare or in double quotes, and what is behind the brace that ends it.
fn default(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => {
            let (default, rest) = quoted.split_once("\"}")?;
            (!default.contains(['"', '$', '`', '\\', '\'', '}'])).then_some((default, rest))
        }
        None => text.split_once('}').filter(|(default, _)| default.chars().all(is_bare)),
    }
}

/// A name that is no more than that to a shell, and what is behind it.
fn variable(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let (name, rest) = text.split_at_checked(end.unwrap_or(text.len()))?;
    let shells_own =
        SHELLS_OWN.split(' ').any(|own| name == own) || SHELLS_OWN_STARTS.iter().any(|start| name.starts_with(start));
    let is_name = !name.is_empty() && !name.starts_with(|char: char| char.is_ascii_digit());
    (is_name && !shells_own).then_some((name, rest))
}

/// The lines but for comments, those together that belong together.
fn lines(text: &str) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.split('\n') {
        if begun.is_empty() && line.trim_start_matches([' ', '\t']).starts_with('#') {
            continue;
        }
        begun.push_str(line);
        match begun.pop() {
            Some('\\') if begun.contains(['\'', '"', '#']) => return None,
            Some('\\') => {}
            last => {
                begun.extend(last);
                lines.push(std::mem::take(&mut begun));
            }
        }
    }
    begun.is_empty().then_some(lines)
}

/// It means itself in every place.
fn is_bare(char: char) -> bool {
    char.is_ascii_alphanumeric() || "_./:,+@%=-".contains(char)
}

/// In a branch that is not run: it is one line to every shell, and opens or ends no other `if` than its first word does.
fn can_be_skipped(line: &str) -> bool {
    let even = |quote| line.matches(quote).count().is_multiple_of(2);
    let words = line.split([' ', '\t', ';', '(', ')', '&', '|']).skip(1);
    let mut words = words.filter(|word| !word.is_empty());
    even('"')
        && !line.contains(['\'', '`', '\\', '#'])
        && !line.contains("<<")
        && !words.any(|word| matches!(word, "if" | "fi" | "elif" | "else" | "case" | "esac" | "do" | "done"))
}

#[cfg(test)]
mod tests;
