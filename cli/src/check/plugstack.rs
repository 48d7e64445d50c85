//! Slurm's `slurm.conf` and `plugstack.conf`, as far as the plugin is concerned. Pure: text in, words out.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The plugin's file.
pub const PLUGIN: &str = "spank_pyxis.so";

/// What slurm.conf says of plugins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SlurmConf {
    /// `PluginDir`: where plugins are looked for.
    pub plugin_dirs: Vec<PathBuf>,
    /// `PlugStackConfig`: the plugstack.conf that counts.
    pub plugstack: Option<PathBuf>,
    /// Files that are included.
    pub includes: Vec<String>,
}

/// Reads a slurm.conf. Keys are of any case, and a backslash goes on with the next line.
pub fn slurm_conf(text: &str) -> SlurmConf {
    let mut conf = SlurmConf::default();
    for line in text.replace("\\\n", "").lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(file) = word_after(line, "include") {
            conf.includes.push(file.to_owned());
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "plugindir" => conf.plugin_dirs = value.split(':').map(PathBuf::from).collect(),
            "plugstackconfig" => conf.plugstack = Some(PathBuf::from(value)),
            _ => {}
        }
    }
    conf
}

/// The rest of a line that begins with this word, in any case.
fn word_after<'l>(line: &'l str, word: &str) -> Option<&'l str> {
    let (first, rest) = line.split_once(char::is_whitespace)?;
    first.eq_ignore_ascii_case(word).then_some(rest.trim())
}

/// A line of plugstack.conf.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// `include PATTERN`.
    Include(String),
    /// `required|optional PLUGIN ARGUMENT...`.
    Plugin {
        /// Its file.
        path: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// Reads a plugstack.conf: the lines that mean something, with their numbers.
pub fn plugstack(text: &str) -> Vec<(usize, Line)> {
    let lines = text.lines().enumerate();
    let known = lines.filter_map(|(number, line)| Some((number + 1, plugstack_line(line)?)));
    known.collect()
}

fn plugstack_line(line: &str) -> Option<Line> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    match words.next()?.to_ascii_lowercase().as_str() {
        "include" => Some(Line::Include(words.next()?.to_owned())),
        "required" | "optional" => Some(Line::Plugin {
            path: PathBuf::from(words.next()?),
            arguments: words.map(str::to_owned).collect(),
        }),
        _ => None,
    }
}

/// A pattern as Slurm understands it: below the directory of the file that has it.
pub fn pattern(file: &Path, pattern: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(pattern)
}

/// Where a plugin may be that is named so.
pub fn places(path: &Path, plugin_dirs: &[PathBuf]) -> Vec<PathBuf> {
    match path.is_absolute() {
        true => vec![path.to_owned()],
        false => plugin_dirs.iter().map(|dir| dir.join(path)).collect(),
    }
}

/// The file is called as the plugin is, or as the build leaves it.
pub fn is_named_so(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.strip_prefix("lib").unwrap_or(name) == PLUGIN)
}

/// The value of an argument `key=value`.
pub fn argument<'a>(arguments: &'a [String], key: &str) -> Option<&'a str> {
    let value = |word: &'a String| word.strip_prefix(key)?.strip_prefix('=');
    arguments.iter().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slurm_conf_is_read() {
        let text =
            "# PluginDir=/no\nplugindir = /a:/b # two\nPlugStackConfig=\\\n/c/d.conf\nInclude more.conf\nNodeName=x";
        let wanted = SlurmConf {
            plugin_dirs: vec!["/a".into(), "/b".into()],
            plugstack: Some("/c/d.conf".into()),
            includes: vec!["more.conf".to_owned()],
        };
        assert_eq!(slurm_conf(text), wanted);
        assert_eq!(slurm_conf("includes\ninclude\n= \n"), SlurmConf::default());
    }

    #[test]
    fn a_plugstack_is_read() {
        let text = "# required x.so\n\nrequired spank_pyxis.so a=1 runtime_path=/x runtime_path=/y\ninclude d/*.conf # all\nnonsense\n";
        let lines = plugstack(text);
        assert_eq!(lines.len(), 2);
        let (3, Line::Plugin { path, arguments }) = &lines[0] else {
            panic!("{lines:?}");
        };
        assert_eq!(path, Path::new(PLUGIN));
        assert_eq!(argument(arguments, "runtime_path"), Some("/y"));
        assert_eq!(argument(arguments, "runtime"), None);
        assert_eq!(lines[1], (4, Line::Include("d/*.conf".to_owned())));
    }

    #[test]
    fn relative_names_are_below_something() {
        assert_eq!(
            pattern(Path::new("/etc/slurm/plugstack.conf"), "d/*"),
            Path::new("/etc/slurm/d/*")
        );
        assert_eq!(
            pattern(Path::new("/etc/slurm/plugstack.conf"), "/x/*"),
            Path::new("/x/*")
        );
        let dirs = [PathBuf::from("/a"), PathBuf::from("/b")];
        assert_eq!(
            places(Path::new("p.so"), &dirs),
            [Path::new("/a/p.so"), Path::new("/b/p.so")]
        );
        assert!(is_named_so(Path::new("/x/libspank_pyxis.so")) && is_named_so(Path::new("spank_pyxis.so")));
        assert!(!is_named_so(Path::new("/x/spank_pyxis.so.old")) && !is_named_so(Path::new("/spank_pyxis.so/x.so")));
        assert_eq!(places(Path::new("/c/p.so"), &dirs), [Path::new("/c/p.so")]);
    }
}
