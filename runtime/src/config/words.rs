//! The value of a line of enroot.conf: text with quotes and a few expansions, as data. enroot hands such a value to a
//! shell; here everything that would make the shell run something is an error.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// Defaults within defaults deeper than this are no configuration.
const MAX_DEPTH: usize = 8;

/// A parsed value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word(Vec<Piece>);

/// A part of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(Variable),
    Fact(Fact),
}

/// `$NAME`, `${NAME}`, `${NAME:-DEFAULT}`, `${NAME-DEFAULT}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variable {
    name: String,
    default: Option<Word>,
    /// The default also stands for an empty value (`:-`).
    also_empty: bool,
}

/// What may stand in `$( )`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    /// `$(id -u)`
    Uid,
    /// `$(id -un)`
    UserName,
    /// `$(nproc)`
    Processors,
}

/// What expansions are made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Variables, as the user has them.
    pub variables: BTreeMap<String, String>,
    /// The user's number.
    pub uid: u32,
    /// The user's name, where it is known.
    pub user: Option<String>,
    /// Processors of this machine.
    pub processors: usize,
}

/// Variables that a shell has without being told, and those that follow from the account.
const ACCOUNT: [&str; 8] = [
    "HOME",
    "USER",
    "LOGNAME",
    "UID",
    "EUID",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
];

impl Facts {
    /// The same account without what the user says in variables: only those that follow from the account are left.
    #[must_use]
    pub fn of_account(&self, home: Option<&str>) -> Facts {
        let mut variables = BTreeMap::new();
        for name in ["USER", "LOGNAME"] {
            variables.extend(self.user.iter().map(|user| (name.to_owned(), user.clone())));
        }
        if let Some(home) = home {
            let below = |path: &str| format!("{home}{path}");
            let all = [
                ("HOME", ""),
                ("XDG_DATA_HOME", "/.local/share"),
                ("XDG_CONFIG_HOME", "/.config"),
                ("XDG_CACHE_HOME", "/.cache"),
            ];
            variables.extend(all.map(|(name, path)| (name.to_owned(), below(path))));
        }
        Facts {
            variables,
            ..self.clone()
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "UID" | "EUID" => Some(self.uid.to_string()),
            _ => self.variables.get(name).cloned(),
        }
    }
}

impl Word {
    /// Parses a value. An unquoted `#` at the start of a word begins a comment.
    pub fn parse(text: &str) -> Result<Word, String> {
        let mut parser = Parser {
            rest: text.chars().peekable(),
            pieces: Vec::new(),
            text: String::new(),
        };
        parser.value(0, None)?;
        parser.flush();
        Ok(Word(parser.pieces))
    }

    /// This text as it is.
    pub fn literal(text: &str) -> Word {
        Word(vec![Piece::Text(text.to_owned())])
    }

    /// The value for these facts. A variable that is not set is nothing.
    pub fn expand(&self, facts: &Facts) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Fact(fact) => text.push_str(&fact.value(facts)?),
                Piece::Variable(variable) => text.push_str(&variable.value(facts)?),
            }
        }
        Ok(text)
    }

    /// The value needs the user's name, or, where the job's `variables` do not count, his home.
    pub fn needs_account(&self, variables: bool) -> bool {
        let named = |name: &str| !variables && !matches!(name, "UID" | "EUID");
        self.any(&|piece| match piece {
            Piece::Fact(fact) => *fact == Fact::UserName,
            Piece::Variable(variable) => is_account(variable) && named(&variable.name),
            Piece::Text(_) => false,
        })
    }

    /// The value is another one for each user.
    pub fn is_per_user(&self) -> bool {
        self.any(&|piece| match piece {
            Piece::Fact(fact) => *fact != Fact::Processors,
            Piece::Variable(variable) => is_account(variable),
            Piece::Text(_) => false,
        })
    }

    fn any(&self, is: &dyn Fn(&Piece) -> bool) -> bool {
        self.0.iter().any(|piece| {
            let default = match piece {
                Piece::Variable(variable) => variable.default.as_ref(),
                _ => None,
            };
            is(piece) || default.is_some_and(|word| word.any(is))
        })
    }
}

fn is_account(variable: &Variable) -> bool {
    ACCOUNT.contains(&variable.name.as_str())
}

impl Variable {
    fn value(&self, facts: &Facts) -> Result<String, String> {
        let value = facts.variable(&self.name);
        match (&self.default, value) {
            (Some(default), None) => default.expand(facts),
            (Some(default), Some(value)) if self.also_empty && value.is_empty() => default.expand(facts),
            (_, value) => Ok(value.unwrap_or_default()),
        }
    }
}

impl Fact {
    fn value(self, facts: &Facts) -> Result<String, String> {
        match self {
            Fact::Uid => Ok(facts.uid.to_string()),
            Fact::Processors => Ok(facts.processors.to_string()),
            Fact::UserName => {
                let unknown = || format!("$(id -un): uid {} has no name on this node", facts.uid);
                facts.user.clone().ok_or_else(unknown)
            }
        }
    }
}

struct Parser<'t> {
    rest: Peekable<Chars<'t>>,
    pieces: Vec<Piece>,
    /// Literal text that is not a piece yet.
    text: String,
}

impl Parser<'_> {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(Piece::Text(std::mem::take(&mut self.text)));
        }
    }

    fn push(&mut self, piece: Piece) {
        self.flush();
        self.pieces.push(piece);
    }

    /// Up to the end of the text, or to an unquoted `end`.
    fn value(&mut self, depth: usize, end: Option<char>) -> Result<(), String> {
        let mut starts_word = true;
        while let Some(next) = self.rest.next() {
            if Some(next) == end {
                return Ok(());
            }
            match next {
                ' ' | '\t' => self.space(),
                '#' if starts_word && end.is_none() => {
                    self.rest = "".chars().peekable();
                    if self.text.ends_with(' ') {
                        self.text.pop();
                    }
                }
                '~' if starts_word => self.tilde(),
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted(depth)?,
                '\\' => self.text.push(self.rest.next().ok_or("it ends with a backslash")?),
                '$' => self.dollar(depth)?,
                '`' => return Err(command()),
                ';' | '|' | '&' | '<' | '>' | '(' | ')' => {
                    return Err(format!(
                        "an unquoted {next:?}: configuration is not run as a shell, put it in quotes"
                    ));
                }
                other => self.text.push(other),
            }
            starts_word = matches!(next, ' ' | '\t');
        }
        match end {
            None => Ok(()),
            Some(end) => Err(format!("a ${{ without its {end}")),
        }
    }

    /// Any number of blanks between two words is one blank.
    fn space(&mut self) {
        while self.rest.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
        if self.rest.peek().is_some() {
            self.text.push(' ');
        }
    }

    /// `~` alone is the home directory; `~NAME` is what it says.
    fn tilde(&mut self) {
        if matches!(self.rest.peek(), None | Some('/' | ' ' | '\t')) {
            self.push(Piece::Variable(Variable {
                name: "HOME".to_owned(),
                default: None,
                also_empty: false,
            }));
        } else {
            self.text.push('~');
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        for next in self.rest.by_ref() {
            match next {
                '\'' => return Ok(()),
                other => self.text.push(other),
            }
        }
        Err("a quote is not closed".to_owned())
    }

    fn double_quoted(&mut self, depth: usize) -> Result<(), String> {
        while let Some(next) = self.rest.next() {
            match next {
                '"' => return Ok(()),
                '\\' => match self.rest.next_if(|next| matches!(next, '$' | '"' | '\\' | '`')) {
                    Some(escaped) => self.text.push(escaped),
                    None => self.text.push('\\'),
                },
                '$' => self.dollar(depth)?,
                '`' => return Err(command()),
                other => self.text.push(other),
            }
        }
        Err("a quote is not closed".to_owned())
    }

    fn dollar(&mut self, depth: usize) -> Result<(), String> {
        match self.rest.peek().copied() {
            Some('(') => self.substitution(),
            Some('{') => {
                self.rest.next();
                self.braced(depth)
            }
            Some(next) if starts_name(next) => {
                let name = self.name();
                self.push(Piece::Variable(Variable {
                    name,
                    default: None,
                    also_empty: false,
                }));
                Ok(())
            }
            None | Some(' ' | '\t' | '/') => {
                self.text.push('$');
                Ok(())
            }
            Some(next) => Err(format!(
                "\"${next}\" is not known: write ${{NAME}}, or '$' for a dollar sign"
            )),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(next) = self.rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
            name.push(next);
        }
        name
    }

    fn substitution(&mut self) -> Result<(), String> {
        let mut inner = String::new();
        self.rest.next();
        loop {
            match self.rest.next() {
                Some(')') => break,
                Some(next) => inner.push(next),
                None => return Err("a $( without its )".to_owned()),
            }
        }
        let words: Vec<&str> = inner.split_ascii_whitespace().collect();
        let fact = match words.as_slice() {
            ["id", "-u"] => Fact::Uid,
            ["id", "-un" | "-nu"] | ["id", "-u", "-n"] | ["id", "-n", "-u"] => Fact::UserName,
            ["nproc"] => Fact::Processors,
            _ => return Err(command()),
        };
        self.push(Piece::Fact(fact));
        Ok(())
    }

    /// After `${`.
    fn braced(&mut self, depth: usize) -> Result<(), String> {
        let unknown = || "only ${NAME}, ${NAME:-DEFAULT} and ${NAME-DEFAULT} are known".to_owned();
        if depth >= MAX_DEPTH || !self.rest.peek().copied().is_some_and(starts_name) {
            return Err(unknown());
        }
        let name = self.name();
        let also_empty = self.rest.next_if_eq(&':').is_some();
        let default = match self.rest.next() {
            Some('}') if !also_empty => None,
            Some('-') => Some(self.inner(depth.saturating_add(1))?),
            _ => return Err(unknown()),
        };
        self.push(Piece::Variable(Variable {
            name,
            default,
            also_empty,
        }));
        Ok(())
    }

    /// A default, up to its closing brace.
    fn inner(&mut self, depth: usize) -> Result<Word, String> {
        self.flush();
        let outer = std::mem::take(&mut self.pieces);
        self.value(depth, Some('}'))?;
        self.flush();
        Ok(Word(std::mem::replace(&mut self.pieces, outer)))
    }
}

fn starts_name(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

fn command() -> String {
    "configuration is not run as a shell: of commands only $(id -u), $(id -un) and $(nproc) are known".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        let variables = [("HOME", "/home/alice"), ("EMPTY", ""), ("A", "a b")];
        Facts {
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            uid: 1000,
            user: Some("alice".to_owned()),
            processors: 8,
        }
    }

    #[test]
    fn what_a_value_is() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("two   words", "two words"),
            ("-comp lzo  -noD  # fast", "-comp lzo -noD"),
            ("a#b", "a#b"),
            ("'# no comment'", "# no comment"),
            ("# all comment", ""),
            ("/run/enroot/user-$(id -u)", "/run/enroot/user-1000"),
            ("/data/$(id -un)/$( nproc )", "/data/alice/8"),
            ("${HOME}/x", "/home/alice/x"),
            ("$HOME/x$A", "/home/alice/xa b"),
            ("\"${HOME}  $(id -u)\"", "/home/alice  1000"),
            ("'${HOME}' '$(reboot)'", "${HOME} $(reboot)"),
            ("\"a\\\"b\\$c\\d\"", "a\"b$c\\d"),
            ("a\\ \\ b\\$c", "a  b$c"),
            ("${NONE}", ""),
            ("${NONE:-/tmp}/y", "/tmp/y"),
            ("${EMPTY:-full}", "full"),
            ("${EMPTY-full}", ""),
            ("${NONE-${EMPTY:-$(id -u)/${HOME}}}", "1000//home/alice"),
            ("${NONE:-'a}b' \"c}\"}d", "a}b c}d"),
            ("/run/${UID}/x", "/run/1000/x"),
            ("~/x ~ a~ ~bob", "/home/alice/x /home/alice a~ ~bob"),
            ("cost 5$", "cost 5$"),
            ("*.org [a-z]? {a,b}", "*.org [a-z]? {a,b}"),
        ] {
            let word = Word::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(word.expand(&facts()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn nothing_is_run() {
        for text in [
            "$(reboot)",
            "$(id -u; reboot)",
            "$(id)",
            "$()",
            "`id -u`",
            "\"`id`\"",
            "\"$(date)\"",
            "${X:-$(date)}",
            "${X:-`date`}",
        ] {
            assert!(Word::parse(text).unwrap_err().contains("not run as a shell"), "{text}");
        }
        for (text, reason) in [
            ("a; b", "not run as a shell"),
            ("a > /etc/passwd", "not run as a shell"),
            ("$((1+1))", "not run as a shell"),
            ("$(id -u", "without its )"),
            ("${HOME", "are known"),
            ("${HOME%/*}", "are known"),
            ("${HOME:+x}", "are known"),
            ("${!HOME}", "are known"),
            ("${X:-a", "without its }"),
            ("$1", "is not known"),
            ("$$", "is not known"),
            ("$'a'", "is not known"),
            ("'open", "not closed"),
            ("\"open", "not closed"),
            ("end\\", "backslash"),
        ] {
            let error = Word::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Word::parse(&"${A:-".repeat(100_000)).unwrap_err().contains("are known"));
    }

    #[test]
    fn who_a_value_is_for() {
        let of = |text: &str| {
            let word = Word::parse(text).unwrap();
            (word.is_per_user(), word.needs_account(false))
        };
        assert_eq!(of("/data/$(nproc)"), (false, false));
        assert_eq!(of("/data/${TMPDIR:-x}"), (false, false));
        assert_eq!(of("/data/$(id -u)"), (true, false));
        assert_eq!(of("/data/${UID}"), (true, false));
        assert_eq!(of("/data/$(id -un)"), (true, true));
        assert_eq!(of("${X:-~/data}"), (true, true));
        assert!(!Word::parse("$HOME").unwrap().needs_account(true));
        assert!(Word::parse("$(id -un)").unwrap().needs_account(true));
    }

    #[test]
    fn the_account_alone_knows_nothing_of_the_jobs_variables() {
        let mut own = facts();
        own.variables.insert("USER".into(), "../../etc".into());
        let account = own.of_account(Some("/nfs/alice"));
        let expand = |text: &str| Word::parse(text).unwrap().expand(&account).unwrap();
        assert_eq!(expand("${USER} ${HOME} ${A:-none}"), "alice /nfs/alice none");
        assert_eq!(expand("${XDG_DATA_HOME}/x"), "/nfs/alice/.local/share/x");
        let nobody = Facts { user: None, ..facts() };
        assert!(
            Word::parse("$(id -un)")
                .unwrap()
                .expand(&nobody)
                .unwrap_err()
                .contains("uid 1000 has no name")
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[$(){}:\\-~'\"\\\\#a-zA-Z_ /`]{0,40}|\\PC*") {
            if let Ok(word) = Word::parse(&text) {
                word.expand(&facts()).unwrap();
            }
        }
    }
}
