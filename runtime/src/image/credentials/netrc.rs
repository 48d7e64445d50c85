//! enroot's `.credentials`: netrc form (`machine HOST login NAME password PASSWORD`, `default`), where a password that
//! starts with `$` is taken from the environment. enroot runs `$(commands)` in it; here they are refused. Pure.
#![forbid(unsafe_code)]

use super::{CredentialQuery, Credentials, HUB_NAMES, Proof, without_port};
use crate::error::{Error, Result};
use crate::image::Secret;
use std::collections::BTreeMap;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// The host; `None` is the `default` entry.
    machine: Option<String>,
    login: Option<String>,
    password: Option<Password>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Password {
    Literal(Secret),
    /// `$NAME`: its text and line.
    Variable(Secret, usize),
}

/// Reads the file's text; `file` is its name for errors, which never show a word of it: it may be a password.
pub(super) fn parse(text: &str, file: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words = Words { text, line: 1 };
    while let Some(word) = words.next(false) {
        let line = words.line;
        let missing = || Error::Request(format!("{file}:{line}: a value is missing"));
        if word.starts_with('#') {
            words.skip_line();
            continue;
        }
        match word.as_str() {
            "machine" => {
                let machine = words.next(false).ok_or_else(missing)?.to_ascii_lowercase();
                entries.push(Entry {
                    machine: Some(machine),
                    ..Entry::default()
                });
            }
            "default" => entries.push(Entry::default()),
            "macdef" => words.skip_macro(),
            "login" | "password" | "account" => {
                let (value, quoted) = words.value(word == "password").ok_or_else(missing)?;
                let line = words.line;
                let Some(entry) = entries.last_mut() else {
                    return Err(Error::Request(format!(
                        "{file}:{line}: {word} stands before any machine"
                    )));
                };
                match word.as_str() {
                    "login" => entry.login = Some(value),
                    "password" if value.starts_with('$') && !quoted => {
                        entry.password = Some(Password::Variable(Secret::new(value), line));
                    }
                    "password" => entry.password = Some(Password::Literal(Secret::new(value))),
                    _ => {}
                }
            }
            _ => {
                return Err(Error::Request(format!(
                    "{file}:{line}: only machine, default, login, password and account are known here"
                )));
            }
        }
    }
    Ok(entries)
}

/// The first entry that fits: of the registry (its host without the port), of its token service, then the default.
pub(super) fn find(
    entries: &[Entry],
    query: &CredentialQuery,
    file: &str,
    variables: &BTreeMap<String, String>,
) -> Result<Option<Credentials>> {
    let host = without_port(&query.registry);
    let mut names = vec![host];
    if HUB_NAMES.contains(&host) {
        names.extend(HUB_NAMES);
    }
    names.extend(query.token_host.as_deref());
    let named = names.iter().flat_map(|name| {
        entries.iter().filter(move |entry| {
            entry
                .machine
                .as_deref()
                .is_some_and(|machine| machine.eq_ignore_ascii_case(name))
        })
    });
    let defaults = entries.iter().filter(|entry| entry.machine.is_none());
    for entry in named.chain(defaults) {
        let login = match (&entry.login, &query.login) {
            (Some(login), Some(wanted)) if login != wanted => continue,
            (Some(login), _) | (None, Some(login)) => login,
            (None, None) => continue,
        };
        let Some(password) = &entry.password else { continue };
        let password = match password {
            Password::Literal(password) => password.clone(),
            Password::Variable(text, line) => expand(text.expose(), &format!("{file}:{line}"), variables)?,
        };
        return Ok(Some(Credentials {
            login: login.clone(),
            proof: Proof::Password(password),
        }));
    }
    Ok(None)
}

/// Replaces `$NAME` and `${NAME}`. A `$` that starts no name stands for itself.
fn expand(text: &str, place: &str, variables: &BTreeMap<String, String>) -> Result<Secret> {
    if text.contains("$(") || text.contains('`') {
        return Err(Error::Request(format!(
            "{place}: the password is a command, and commands in credentials are not run: put the password into a \
             variable and write password $NAME, or use a docker credential helper"
        )));
    }
    let mut password = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        password.push_str(before);
        let braced = after.strip_prefix('{');
        let name_text = braced.unwrap_or(after);
        let end = name_text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(name_text.len());
        let (name, tail) = name_text.split_at_checked(end).unwrap_or((name_text, ""));
        rest = match (braced, tail.strip_prefix('}')) {
            (Some(_), Some(tail)) => tail,
            (Some(_), None) => {
                return Err(Error::Request(format!(
                    "{place}: only $NAME and ${{NAME}} can stand for a password"
                )));
            }
            (None, _) => tail,
        };
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            password.push('$');
            password.push_str(name);
            continue;
        }
        let Some(value) = variables.get(name) else {
            return Err(Error::Request(format!(
                "{place}: the variable {name}, which holds the password, is not set"
            )));
        };
        password.push_str(value);
    }
    password.push_str(rest);
    Ok(Secret::new(password))
}

/// The file as words, with the line that the last one stands on.
struct Words<'a> {
    text: &'a str,
    line: usize,
}

impl Words<'_> {
    fn skip_space(&mut self) {
        let word = self.text.trim_start();
        let space = self.text.get(..self.text.len() - word.len()).unwrap_or_default();
        self.line += space.matches('\n').count();
        self.text = word;
    }

    /// The next word; with `to_line_end`, all of the rest of its line.
    fn next(&mut self, to_line_end: bool) -> Option<String> {
        self.skip_space();
        let ends = |c: char| if to_line_end { c == '\n' } else { c.is_whitespace() };
        let end = self.text.find(ends).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at_checked(end)?;
        self.text = rest;
        (!word.is_empty()).then(|| word.trim_end().to_owned())
    }

    /// A value, and whether it was quoted. A password that starts with `$` goes on to the end of the line, as in enroot.
    fn value(&mut self, is_password: bool) -> Option<(String, bool)> {
        self.skip_space();
        let Some(quoted) = self.text.strip_prefix('"') else {
            return Some((self.next(is_password && self.text.starts_with('$'))?, false));
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\n' => return None,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        self.text = chars.as_str();
        Some((value, true))
    }

    fn skip_line(&mut self) {
        let end = self.text.find('\n').unwrap_or(self.text.len());
        self.text = self.text.get(end..).unwrap_or_default();
    }

    /// A macro goes up to the next empty line.
    fn skip_macro(&mut self) {
        let end = self.text.find("\n\n").unwrap_or(self.text.len());
        let (skipped, rest) = self.text.split_at_checked(end).unwrap_or((self.text, ""));
        self.line += skipped.matches('\n').count();
        self.text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(text: &str, registry: &str, login: Option<&str>) -> Result<Option<(String, String)>> {
        let query = CredentialQuery {
            registry: registry.into(),
            repository: "a/b".into(),
            token_host: Some("auth.example.org".into()),
            login: login.map(Into::into),
        };
        let variables = [("PW", "from-env"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = find(&parse(text, "F")?, &query, "F", &variables.into())?;
        Ok(found.map(|found| match found.proof {
            Proof::Password(password) => (found.login, password.expose().to_owned()),
            Proof::IdentityToken(_) => panic!("netrc has no tokens"),
        }))
    }

    const FILE: &str = "# NGC\nmachine nvcr.io login $oauthtoken password secret1\n\n\
        machine nvcr.io login joe password \"with \\\"quotes\\\" and $PW\"\n\
        machine 10.0.0.1\n  login bob\n  password $PW\n\
        machine auth.example.org login eve password ${PW}-x\n\
        machine auth.docker.io login hub password #hash\n\
        machine cmd.org login a password $(gcloud auth print-access-token)\n\
        machine unset.org login a password $NOPE\n\
        machine odd.org login a password $5 $\n\
        machine nothing.org login a\n\
        default login any password last\n";

    #[test]
    fn entries() {
        for (registry, login, expected) in [
            ("nvcr.io", None, ("$oauthtoken", "secret1")),
            ("nvcr.io:443", None, ("$oauthtoken", "secret1")),
            ("nvcr.io", Some("joe"), ("joe", "with \"quotes\" and $PW")),
            ("10.0.0.1:5000", None, ("bob", "from-env")),
            ("registry.example.org", None, ("eve", "from-env-x")),
            ("registry-1.docker.io", None, ("hub", "#hash")),
            ("odd.org", None, ("a", "$5 $")),
            ("nothing.org", Some("any"), ("any", "last")),
            ("auth.example.org", Some("any"), ("any", "last")),
        ] {
            let found = ask(FILE, registry, login).unwrap();
            assert_eq!(
                found,
                Some((expected.0.into(), expected.1.into())),
                "{registry} {login:?}"
            );
        }
        assert_eq!(ask(FILE, "nvcr.io", Some("nobody")).unwrap(), None);
        assert_eq!(ask("", "nvcr.io", None).unwrap(), None);
    }

    #[test]
    fn errors_name_file_and_line_and_no_word_of_it() {
        for (text, registry, expected) in [
            (
                FILE,
                "cmd.org",
                "F:10: the password is a command, and commands in credentials are not run",
            ),
            (
                FILE,
                "unset.org",
                "F:11: the variable NOPE, which holds the password, is not set",
            ),
            ("machine a.b login x password `id`", "a.b", ""),
            (
                "machine a.b login x password $A`id`",
                "a.b",
                "F:1: the password is a command",
            ),
            (
                "machine a.b login x password ${A:-b}",
                "a.b",
                "F:1: only $NAME and ${NAME} can stand",
            ),
            ("\nlogin x", "a.b", "F:2: login stands before any machine"),
            ("machine", "a.b", "F:1: a value is missing"),
            ("machine a.b login x password", "a.b", "F:1: a value is missing"),
            (
                "machine a.b\nlogin x password \"open\n\"",
                "a.b",
                "F:2: a value is missing",
            ),
            (
                "machine a.b login x password hunter2 hunter3",
                "a.b",
                "F:1: only machine, default",
            ),
        ] {
            match ask(text, registry, None) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(!expected.is_empty() && error.starts_with(expected), "{error}");
                    assert!(!error.contains("hunter"), "{error}");
                }
                // A password of backticks does not start with $: it is a password.
                Ok(found) => assert!(expected.is_empty() && found.is_some(), "{text}"),
            }
        }
    }

    #[test]
    fn macros_and_accounts_are_skipped() {
        let text = "macdef init\nmachine x.org login m password m\n\nmachine a.b account z login x password y";
        assert_eq!(ask(text, "a.b", None).unwrap(), Some(("x".into(), "y".into())));
        assert_eq!(ask(text, "x.org", None).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = parse(&text, "F");
        }

        #[test]
        fn files_of_keywords_are_read_or_refused(
            words in proptest::collection::vec("(machine|login|password|default|macdef|a\\.b|\"|\\$PW|\\$\\(|\\$\\{|#|\n)", 0..20)
        ) {
            let _ = ask(&words.join(" "), "a.b", None);
        }

        #[test]
        fn quoted_passwords_come_back(password in "[ -~]{0,30}") {
            let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
            let found = ask(&format!("machine a.b login x password \"{quoted}\"\n"), "a.b", None).unwrap();
            prop_assert_eq!(found, Some(("x".into(), password)));
        }
    }
}
