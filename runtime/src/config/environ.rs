//! Files of `environ.d`: `NAME=VALUE` lines, with `${NAME}` of the job's environment.
#![forbid(unsafe_code)]

use super::files::TextFile;
use crate::environment::{Edit, belongs_to_the_launcher};
use std::collections::BTreeMap;

/// Bytes of variables that one file may make. No program can be started with more (execve(2)), and a short file that names a
/// long variable often must not fill the memory.
pub const ROOM: usize = 2 << 20;

/// Replaces each `${NAME}` by the job's variable, or by nothing. Everything else stays as it is, and without `env`
/// everything. `None` when the result takes more than `room` bytes.
pub fn substitute(text: &str, env: Option<&BTreeMap<String, String>>, room: usize) -> Option<String> {
    let Some(env) = env else {
        return Some(text.to_owned());
    };
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if result.len() > room {
            return None;
        }
        result.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if is_variable(name) => {
                result.push_str(env.get(name).map_or("", String::as_str));
                rest = behind;
            }
            _ => {
                result.push_str("${");
                rest = after;
            }
        }
    }
    result.push_str(rest);
    (result.len() <= room).then_some(result)
}

/// It can be the name of a variable.
pub fn is_variable(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|next| next.is_ascii_alphanumeric() || next == '_')
}

/// The variables of a file, in order. A line that sets none is a warning, as enroot leaves it out. Nothing of enroot's own
/// and nothing that the launcher sets for each task is taken.
pub fn parse(file: &TextFile, env: Option<&BTreeMap<String, String>>, warnings: &mut Vec<String>) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut room = ROOM;
    for (number, line) in (1..).zip(file.text.lines()) {
        let line = line.trim_start().trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(line) = substitute(line, env, room) else {
            warnings.push(format!(
                "{}, line {number}: more variables than fit, ignoring the rest",
                file.path
            ));
            break;
        };
        room = room.saturating_sub(line.len());
        match line.split_once('=') {
            Some((name, _)) if name.starts_with("ENROOT_") || belongs_to_the_launcher(name) => {}
            Some((name, value)) if is_variable(name) && !value.contains('\0') => {
                edits.push((name.to_owned(), Some(unquoted(value).to_owned())));
            }
            _ => warnings.push(format!("{}, line {number}: not NAME=VALUE, ignoring", file.path)),
        }
    }
    edits
}

/// Without the quotes around it, if there are any.
fn unquoted(value: &str) -> &str {
    let trimmed = value.trim_end();
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let inner = trimmed.strip_prefix(quote)?;
        inner.strip_suffix(quote)
    });
    quoted.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> BTreeMap<String, String> {
        [
            ("HOME", "/home/alice"),
            ("DISPLAY", ":0"),
            ("EVIL", "x\nLD_PRELOAD=/evil"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn lines() {
        let text = "# comment\n\n  A=1\nB=\nC=\"two words\" \nD='x'\nE=\"x'\nDISPLAY=${DISPLAY}\nP=${HOME}/a:${NONE}:$HOME\n\
                    ENROOT_X=1\nSLURM_PROCID=7\nno value\n1A=x\nexport G=1\nF=${EVIL}\nlast=${open\n";
        let file = TextFile {
            path: "x.env".into(),
            text: text.into(),
        };
        let mut warnings = Vec::new();
        let edits = parse(&file, Some(&env()), &mut warnings);
        let expected = [
            ("A", "1"),
            ("B", ""),
            ("C", "two words"),
            ("D", "x"),
            ("E", "\"x'"),
            ("DISPLAY", ":0"),
            ("P", "/home/alice/a::$HOME"),
            ("F", "x\nLD_PRELOAD=/evil"),
            ("last", "${open"),
        ];
        let expected: Vec<Edit> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect();
        assert_eq!(edits, expected);
        let lines = [11, 12, 13].map(|line| format!("x.env, line {}: not NAME=VALUE, ignoring", line + 1));
        assert_eq!(warnings, lines);
    }
}
