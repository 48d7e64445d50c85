//! The site's slurm.conf. What Slurm has in memory is no interface: its layout differs from release to release, and the
//! slurmstepd of 24.11 holds half of it, on which the library's own printing function crashes. So the file is read, which
//! the daemon names in `SLURM_CONF`, also where it got it from slurmctld (slurm.conf(5), "configless").

use std::path::{Path, PathBuf};

/// Where it is when nothing is said.
const DEFAULT: &str = "/etc/slurm/slurm.conf";
/// Files in files in files.
const DEPTH: u8 = 8;

/// The value of a key of slurm.conf, if it is set. The last line that sets it counts.
///
/// To be called in slurmstepd, or in a child of it: what is in the environment elsewhere is a user's.
pub fn setting(key: &str) -> Option<String> {
    let path = std::env::var_os("SLURM_CONF").filter(|path| !path.is_empty());
    search(&path.map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from), key, DEPTH)
}

fn search(path: &Path, key: &str, depth: u8) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut found = None;
    for line in lines(&text) {
        match line {
            Line::Include(name) if depth > 0 => {
                let beside = path.parent().unwrap_or(Path::new("/")).join(name);
                found = search(&beside, key, depth - 1).or(found);
            }
            Line::Include(_) => {}
            Line::Value(name, value) if name.eq_ignore_ascii_case(key) => found = Some(value.to_owned()),
            Line::Value(..) => {}
        }
    }
    found.filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("(null)"))
}

/// What a line with one setting says. Lines with several describe nodes and partitions.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Include(&'a str),
    Value(&'a str, &'a str),
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
        let include = line.split_once(char::is_whitespace);
        if let Some((_, name)) = include.filter(|(word, _)| word.eq_ignore_ascii_case("include")) {
            return Some(Line::Include(name.trim()));
        }
        let (name, value) = line.split_once('=')?;
        Some(Line::Value(name.trim(), value.trim().trim_matches('"')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_files() {
        let text = "# TaskProlog=/no\nClusterName=x\n TASKPROLOG = \"/etc/slurm/p\" # why\n\
                    NodeName=a CPUs=3\ninclude more.conf\nbad\n";
        let found: Vec<_> = lines(text).collect();
        assert_eq!(
            found,
            [
                Line::Value("ClusterName", "x"),
                Line::Value("TASKPROLOG", "/etc/slurm/p"),
                Line::Value("NodeName", "a CPUs=3"),
                Line::Include("more.conf"),
            ]
        );
    }

    #[test]
    fn the_last_one_counts_wherever_it_is() {
        let directory = std::env::temp_dir().join(format!("pyxis-settings-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let (main, more) = (directory.join("slurm.conf"), directory.join("more.conf"));
        std::fs::write(&main, "TaskProlog=/first\nInclude more.conf\nInclude /no/such\n").unwrap();
        std::fs::write(&more, "taskprolog=/second\nInclude slurm.conf\n").unwrap();
        let found = search(&main, "TaskProlog", DEPTH);
        let none = search(&main, "Prolog", DEPTH);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found.as_deref(), Some("/first"));
        assert_eq!(none, None);
    }
}
